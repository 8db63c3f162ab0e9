"""What runs without torch, and under which names the linked packages may be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITHOUT_TORCH = """
import importlib, pkgutil, sys
import lpgnas, lpgnas.lowering, lpgnas.program_file
for name in ("kernels", "export", "cost_models"):
    package = importlib.import_module(f"lpgnas.{name}")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "__main__":
            importlib.import_module(f"lpgnas.{name}.{module.name}")
heavy = sorted({"torch", "torch_geometric", "brevitas"} & set(sys.modules))
assert not heavy, heavy
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def test_kernels_export_and_cost_models_do_not_import_torch() -> None:
    done = python(WITHOUT_TORCH)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["kernels", "export", "cost_models"])
def test_linked_packages_refuse_another_name(name: str) -> None:
    done = python(f"import {name}")
    assert f"import this package as lpgnas.{name}" in done.stderr
