"""Disks that are full or read-only: a named error, exit code 2, and only whole files under final names."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import runs

from lpgnas.pipeline import Run

NAMESPACE = ("unshare", "--user", "--mount", "--map-root-user")
MOUNTED = """
import contextlib, io, json, shutil, subprocess, sys
from pathlib import Path
from lpgnas.cli import main

folder, finished, *command = sys.argv[1:]
base, results = Path(folder), {}

def mount(name, *options):
    place = base / name
    place.mkdir()
    subprocess.run(["mount", *options, str(place)], check=True)
    return place

def keep(name, place, *arguments):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main([*arguments])
    shutil.copytree(place, base / f"{name}-kept")
    results[name] = code, errors.getvalue()

for size in ("4k", "24k", "64k"):
    place = mount(f"full-{size}", "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    (place / "filler").write_bytes(bytes(4096) if size == "4k" else b"")
    keep(f"full-{size}", place, *command, "--out", str(place / "run"))
place = mount("read-only", "-t", "tmpfs", "-o", "ro", "tmpfs")
keep("read-only", place, *command, "--out", str(place / "run"))
place = mount("finished", "--bind", finished)
subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
keep("finished", place, "lower", str(place))
print(json.dumps(results))
"""
"""Mounts small, full and read-only file systems that only this process sees, and runs commands on them."""


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes in this process, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("failing", ["config.toml", "candidates.csv", "model.safetensors", "model.int.onnx"])
def test_a_run_on_a_disk_that_fills_up(failing: str, small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ("--quiet", "--dataset", small_npz, *runs.QUICK, *runs.BUDGETS, "--out", folder)
    limit = (small_run / failing).stat().st_size - 1
    with files_of_at_most(limit):
        done = runs.lpgnas("run", *options)
    assert done.code == 2
    assert done.err.startswith(f"RunFolderError: cannot write {folder}/")
    assert done.err.endswith(": File too large; choose a folder with room\n")
    assert folder.exists() == (failing != "config.toml")
    runs.check_whole(folder, small_run)
    assert all(path.stat().st_size <= limit for path in tmp_path.rglob("*") if path.is_file())
    Run(folder, Run(small_run).config).run_all("export")
    assert runs.bytes_of(folder, runs.FINAL) == runs.bytes_of(small_run, runs.FINAL)


def test_full_and_read_only_file_systems(small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], check=False).returncode:
        pytest.skip("this system lets nobody mount a file system of their own")
    command = ("run", "--quiet", "--dataset", small_npz, *runs.QUICK, *runs.BUDGETS)
    made = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", MOUNTED, tmp_path, small_run, *command],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    results = json.loads(made.stdout)
    assert len(results) == 5
    for name, (code, error) in results.items():
        assert code == 2, name
        reason = "No space left on device" if name.startswith("full") else "Read-only file system"
        assert error.startswith("RunFolderError: cannot write "), name
        assert error.endswith(f": {reason}; choose a folder with room\n"), name
        runs.check_whole(tmp_path / f"{name}-kept/run", small_run)
    assert not (tmp_path / "full-4k-kept/run").exists()
    assert not list((tmp_path / "read-only-kept").iterdir())
    runs.check_whole(tmp_path / "finished-kept", small_run)
