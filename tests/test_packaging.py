"""The wheel: it holds every linked package once, and runs away from the repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import runs


@pytest.mark.slow
def test_the_wheel_holds_everything_and_runs(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    build = (*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(runs.ROOT))
    subprocess.run(build, check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("lpgnas-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "attentions/gat.py",
        "kernels/executor.py",
        "export/files.py",
        "cost_models/rows.py",
        "data/cora.npz",
        "py.typed",
        "cli.py",
    ):
        assert f"lpgnas/{name}" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lpgnas"}
    assert not any("test" in name for name in names)
    target = tmp_path / "target"
    install = (*pip, "install", "--quiet", "--no-deps", "--target", str(target), str(wheel))
    subprocess.run(install, check=True, capture_output=True, cwd=tmp_path)
    code = "import lpgnas, lpgnas.cli as c; print(lpgnas.__file__); raise SystemExit(c.main(['datasets']))"
    done = runs.python("-c", code, folder=tmp_path, path=target)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[0]) == target / "lpgnas/__init__.py"
    assert "planetoid/Cora" in done.stdout
