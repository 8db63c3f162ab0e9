"""What runs where torch, PyG and brevitas cannot be imported."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import runs

BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torch_geometric", "brevitas"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from lpgnas.cli import main
code = main(sys.argv[1:])
assert not {"torch", "torch_geometric", "brevitas"} & set(sys.modules)
raise SystemExit(code)
"""


def without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    return runs.python("-c", BLOCKED, *arguments)


def test_predict_export_and_cost(small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    program = small_run / "program.npz"
    options = (program, "--dataset", small_npz)
    done = without_torch("predict", *options, "--out", tmp_path / "without.npz")
    assert (done.returncode, done.stderr) == (0, "")
    assert runs.lpgnas("predict", *options, "--out", tmp_path / "with.npz").code == 0
    with np.load(tmp_path / "without.npz") as one, np.load(tmp_path / "with.npz") as other:
        for name in ("codes", "logits", "classes"):
            assert np.array_equal(one[name], other[name])
    done = without_torch("export", program, "--out", tmp_path / "made")
    assert (done.returncode, done.stderr) == (0, runs.TOLD_UNCHECKED)
    for name in runs.EXPORTED:
        assert (tmp_path / "made" / name).read_bytes() == (small_run / name).read_bytes()
    done = without_torch("cost", *options, "--json")
    assert (done.returncode, done.stdout) == (0, runs.lpgnas("cost", *options, "--json").out)


def test_datasets_and_report(small_run: Path, tmp_path: Path) -> None:
    done = without_torch("datasets", "--data-root", tmp_path)
    assert (done.returncode, done.stdout) == (0, runs.lpgnas("datasets", "--data-root", tmp_path).out)
    run = runs.copied(small_run, tmp_path / "run")
    done = without_torch("report", run)
    assert (done.returncode, done.stdout) == (0, (small_run / "report.md").read_text())


def test_what_needs_torch_says_so(small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    for arguments in (
        ("verify", small_run),
        ("bench", small_run),
        ("run", "--dataset", small_npz, "--out", tmp_path / "run"),
    ):
        done = without_torch(*arguments)
        assert done.returncode == 2
        assert (
            done.stderr == "ImportError: this command needs torch, which cannot be imported: No module named 'torch'\n"
        )
    assert not (tmp_path / "run").exists()
