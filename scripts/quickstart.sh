#!/usr/bin/env bash
# From nothing to a tiny Qwen3-VL fine-tuned by stage 1, another by stage 2 against a live server, and their mAP before
# and after. --stage1-only keeps the short form.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh"
cd "$root"
exec "$root/.venv/bin/python" -m coordexp.entrypoints.quickstart "$@"
