#!/usr/bin/env bash
# Stage 2 with a rollout server: config=configs/stage2_two_channel/smoke/ab_mixed.yaml server_gpus=0 train_gpus=1 bash scripts/train_stage2.sh
# Relative paths start at the checkout. On a CPU neither list of devices is set. preflight=only prints the plan and stops.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ! -x .venv/bin/python ]]; then
  echo "train_stage2: there is no environment yet; run: bash scripts/setup.sh" >&2
  exit 2
fi
exec "$PWD/.venv/bin/python" -m coordexp.entrypoints.launch_stage2 "$@"
