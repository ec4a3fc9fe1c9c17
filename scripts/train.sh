#!/usr/bin/env bash
# Train: config=configs/stage1/smoke/shapes.yaml gpus=0,1 bash scripts/train.sh
# Relative paths start at the checkout. Without gpus: the first GPU, or the CPU where there is none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ! -x .venv/bin/python ]]; then
  echo "train: there is no environment yet; run: bash scripts/setup.sh" >&2
  exit 2
fi
exec "$PWD/.venv/bin/python" -m coordexp.entrypoints.launch "$@"
