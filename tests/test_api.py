"""The Python API: the same bytes as the command line, from names, files and graphs in memory."""

from __future__ import annotations

import doctest
import gc
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from torch_geometric.data import Data

import lpgnas
import lpgnas.api
import lpgnas.budget
from lpgnas.errors import (
    CheckFailed,
    ConfigError,
    DatasetError,
    GraphError,
    InfeasibleBudget,
    RunFolderError,
    UnknownName,
)
from lpgnas.results import STAGES

BUDGET = lpgnas.Budget(weights="400B", buffers="3KiB", peak="2.5KiB")
QUICK: dict[str, Any] = {
    "epochs": 10, "candidates": 3, "supernet_steps": 12, "restarts": 1, "reference_seeds": 1, "max_degree": 40,
}  # fmt: skip
BRIEF: dict[str, Any] = {**QUICK, "epochs": 5, "candidates": 2, "distillation": False}
"""A search of a blink."""


def as_pyg() -> Data:
    arrays = {name: torch.from_numpy(array) for name, array in runs.small_arrays().items() if name != "num_classes"}
    return Data(**arrays)


def test_a_run_is_that_of_the_command_line(
    small_run: Path, small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_npz.parent)
    result = lpgnas.search(small_npz.name, BUDGET, out=tmp_path / "run", **QUICK)
    assert result.files.keys() == {"config.toml", "candidates.csv", "supernet.csv", "record.json", "spec.json"}
    with pytest.raises(RunFolderError, match=r"has no program\.npz yet; make it with \.lower\(\)"):
        _ = result.program
    assert result.train().lower().export() is result
    assert runs.bytes_of(result.folder) == runs.bytes_of(small_run)
    monkeypatch.chdir(tmp_path)  # its relative path is still found
    again = lpgnas.open_run("run")
    monkeypatch.chdir(small_npz.parent)
    assert again.spec == result.spec
    assert again.program.num_classes == runs.CLASSES
    assert repr(again) == f"<RunResult in '{tmp_path / 'run'}': search, train, lower, export done>"


def test_a_finished_run_is_opened_and_left_alone(small_run: Path, tmp_path: Path) -> None:
    folder = runs.copied(small_run, tmp_path / "run")
    for name in runs.REPORTS:  # they are written again; all else is left alone
        (folder / name).unlink()
    before = {name: path.stat().st_mtime_ns for name, path in runs.paths_of(folder).items()}
    result = lpgnas.open_run(folder).evaluate().report()
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert result.files.keys() == set(runs.FILES)
    assert result.files["report.md"].read_text() == (small_run / "report.md").read_text()
    assert set(result.record["stages"]) == set(STAGES)


@pytest.mark.parametrize("kind", ["graph", "pyg"])
def test_a_graph_in_memory_is_kept_in_the_folder(kind: str, tmp_path: Path) -> None:
    data = as_pyg() if kind == "pyg" else runs.small_graph()
    result = lpgnas.run(data, BUDGET, out=tmp_path / "run", **BRIEF)
    assert set(result.record["stages"]["search"]["files"]) == {
        "config.toml",
        "graph.npz",
        "candidates.csv",
        "supernet.csv",
        "spec.json",
    }
    assert result.record["dataset"]["name"] == "graph"
    assert '\ndataset = "graph.npz"\n' in "\n" + result.files["config.toml"].read_text()
    made = runs.bytes_of(result.folder)
    assert runs.bytes_of(lpgnas.run(data, BUDGET, out=tmp_path / "run", **BRIEF).folder) == made
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert runs.lpgnas("lower", moved).code == 0
    assert lpgnas.open_run(moved).files.keys() == set(runs.FILES) | {"graph.npz"}
    other = runs.small_graph(seed=6)
    with pytest.raises(RunFolderError, match="holds a run on another graph"):
        lpgnas.run(other, BUDGET, out=moved, **BRIEF)
    runs.write_small(moved / "graph.npz", seed=6)
    with pytest.raises(CheckFailed, match="the graph graph is not the one"):
        lpgnas.open_run(moved)


def test_a_graph_that_was_not_kept_before_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lpgnas.search(runs.small_graph(), out=tmp_path / "whole", **BRIEF)
    with monkeypatch.context() as patch:
        patch.setattr("lpgnas.pipeline.Run._save_inputs", lambda run: run._save("config.toml", run.config.to_toml()))
        patch.setattr("lpgnas.pipeline.search", lambda *arguments, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lpgnas.search(runs.small_graph(), out=tmp_path / "run", **BRIEF)
    with pytest.raises(DatasetError, match=r"graph\.npz: there is no such file"):
        lpgnas.open_run(tmp_path / "run")
    again = lpgnas.search(runs.small_graph(), out=tmp_path / "run", **BRIEF)
    for name in ("graph.npz", "spec.json", "candidates.csv", "supernet.csv"):
        assert again.files[name].read_bytes() == whole.files[name].read_bytes()


def test_a_config_of_a_run_folder_can_be_given_again(tmp_path: Path) -> None:
    first = lpgnas.search(runs.small_graph(), out=tmp_path / "first", **BRIEF)
    for folder in (first.folder, tmp_path / "second"):
        done = runs.lpgnas("search", "--quiet", "--config", first.files["config.toml"], "--out", folder)
        assert (done.code, done.err) == (0, "")
        assert (folder / "spec.json").read_bytes() == first.files["spec.json"].read_bytes()


def test_a_folder_that_nobody_named_lives_as_long_as_the_result(small_npz: Path) -> None:
    result = lpgnas.search(small_npz, seed=1, **BRIEF).lower()
    folder = result.folder
    assert (folder / "program.npz").exists()
    del result
    gc.collect()
    assert not folder.exists()


def test_progress_is_shown_on_demand(small_npz: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lpgnas.search(small_npz, **BRIEF)
    assert capsys.readouterr().err == ""
    lpgnas.search(small_npz, progress=True, **BRIEF)
    assert "search: 100 %" in capsys.readouterr().err


def test_bad_input_is_refused_by_name_before_anything_is_written(small_npz: Path, tmp_path: Path) -> None:
    unlabelled = lpgnas.Graph("bare", runs.small_graph().x, runs.small_graph().edge_index)
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (small_npz, {"epoch": 3}, ConfigError, "unknown keys in the config: epoch"),
        (small_npz, {"epochs": "3"}, ConfigError, "epochs must be of type int"),
        (small_npz, {"dataset": "cora"}, ConfigError, "give dataset as data"),
        (small_npz, {"weight_budget": "3KiB"}, ConfigError, r"give weight_budget as budget=lpgnas\.Budget"),
        (
            small_npz,
            {"budget": lpgnas.Budget(weights="1B")},
            InfeasibleBudget,
            "smallest feasible budget is --weight-budget",
        ),
        (small_npz, {"spec": tmp_path / "none.json"}, RunFolderError, "cannot read"),
        (tmp_path / "none.npz", {}, DatasetError, "there is no such file"),
        (3, {}, GraphError, "data is a int; give a dataset's name"),
        (Data(edge_index=torch.zeros((2, 0), dtype=torch.int64)), {}, GraphError, "has no x, y"),
        (unlabelled, {}, GraphError, "bare has no labels"),
    ]
    for data, options, error, message in cases:
        with pytest.raises(error, match=message):
            lpgnas.search(data, out=tmp_path / "run", **options)
    with pytest.raises(RunFolderError, match="is not a run folder"):
        lpgnas.open_run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_check_is_raised_and_reported(small_run: Path, tmp_path: Path) -> None:
    folder = runs.copied(small_run, tmp_path / "run", qonnx=False)
    runs.replace_file(folder, "model.int.onnx", b"spoiled")
    run = lpgnas.open_run(folder)
    assert run._run.is_done("verify")
    with pytest.raises(CheckFailed):
        run._run.run_stage("verify")
    with pytest.raises(CheckFailed):
        run.report()
    assert "failed" in (folder / "report.md").read_text()


def test_some_targets_are_exported_again(small_run: Path, tmp_path: Path) -> None:
    folder = runs.copied(small_run, tmp_path / "run", qonnx=False)
    run = lpgnas.open_run(folder)
    assert (
        run.export("onnx-qdq", "qonnx").files["model.qonnx.onnx"].read_bytes()
        == (small_run / "model.qonnx.onnx").read_bytes()
    )
    with pytest.raises(UnknownName, match="unknown target 'tflite'"):
        run.export("tflite")
    for name in runs.EXPORTED:
        (folder / name).unlink()
    run.export("onnx-int")
    assert set(runs.EXPORTED) & run.files.keys() == {"model.int.onnx"}
    assert set(runs.EXPORTED) <= run.export().files.keys()  # all that can be
    (folder / ".hidden").mkdir()
    (folder / ".hidden/spec.json").write_text("{}")
    assert ".hidden/spec.json" not in run.files


def test_names_are_there_without_torch() -> None:
    code = """
import sys, lpgnas
assert {"Budget", "Graph", "open_run", "run", "search"} <= set(dir(lpgnas)) & set(lpgnas.__all__)
assert lpgnas.Budget(weights="3KiB")["weight_bits"] == 24576
assert not hasattr(lpgnas, "missing")
assert "torch" not in sys.modules
import lpgnas.strategy, lpgnas.pipeline
assert lpgnas.search.__module__ == lpgnas.run.__module__ == "lpgnas.api"
assert callable(lpgnas.search)
"""
    done = runs.python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", [lpgnas.api, lpgnas.budget], ids=["api", "budget"])
def test_examples_run(module: Any) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
