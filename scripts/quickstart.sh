#!/usr/bin/env bash
# From nothing to a fine-tuned tiny Qwen3-VL with its mAP before and after.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh"
cd "$root"
exec "$root/.venv/bin/python" -m coordexp.entrypoints.quickstart
