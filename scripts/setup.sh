#!/usr/bin/env bash
# Make .venv from the lock (requirements/cpu.txt, or gpu.txt where there is an NVIDIA driver); quick when it is current.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
for python in python3.11 python3.12 python3; do
  if command -v "$python" >/dev/null; then exec "$python" "$root/scripts/setup_env.py"; fi
done
echo "set-up: Python 3.11 or 3.12 is needed, and no python3 is on PATH" >&2
exit 1
