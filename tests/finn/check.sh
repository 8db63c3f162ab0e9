#!/usr/bin/env bash
# FINN's own conversion of our finn/model.onnx, in an environment of its own: every product becomes an MVAU, and the model
# gives the kernels' codes before, between and after the conversions. Minutes; not part of tests/check.sh.
#   bash tests/finn/check.sh [FOLDER]    the environment and the models (default: build/finn)
# FOLDER/table.md is what benchmarks/results/finn.md holds.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-build/finn}
python=${PYTHON:-.venv/bin/python}

if [ ! -f "$folder/venv/complete" ]; then
  python3 -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r tests/finn/requirements.txt
  touch "$folder/venv/complete"
fi
rm -rf "$folder/models"
"$python" -m benchmarks.finn_check write "$folder/models"
"$folder/venv/bin/python" benchmarks/finn_check.py read "$folder/models" | tee "$folder/table.md"
