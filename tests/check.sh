#!/usr/bin/env bash
# Everything that must hold: style, types, layers, tests. Makes its own environment in .venv on first use.
#   bash tests/check.sh          the everyday suite
#   bash tests/check.sh --all    the slow tests too
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
[ -x "$python" ] || python3 -m venv .venv
"$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
.venv/bin/lint-imports

"$python" -m pytest -m "not slow" -n 2
if [ "${1:-}" = "--all" ]; then
  "$python" -m pytest -m slow -n 2
fi
