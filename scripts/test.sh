#!/usr/bin/env bash
# Set up when needed, then run the README's test command: both tiers that a CPU can run, whatever the first came to.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh"
cd "$root"
# A tier that stops before it opens its log must not be counted by an earlier one.
rm -f .audit/results.jsonl .audit/server.jsonl
status=0
.venv/bin/tox -e contracts,server || status=$?
.venv/bin/python -m audit.tally || status=$?
exit "$status"
