"""Sweeps: their files, what their runs share, that they resume to the byte, and what they refuse."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st

import lpgnas
from lpgnas.budget import QUANTITIES, Budget
from lpgnas.config import RunConfig
from lpgnas.errors import ConfigError, RunFolderError, UnknownName
from lpgnas.results import sealed
from lpgnas.sweeps import DONE, SweepConfig, list_key, sweep_figure, sweep_report, sweep_table
from lpgnas.teacher_file import read_teacher

LIMITS = ("--weight-budgets", "20B", "100B", "400B", "--buffer-budgets", "3KiB", "--peak-budgets", "2.5KiB")
"""One limit that nothing fits, one that is tight, and that of `small_run`."""
TIGHT, LOOSE, TOO_SMALL = (f"weight-{text}_buffer-3KiB_peak-2560B_seed-0" for text in ("100B", "400B", "20B"))
TEACHER_OF_ANOTHER = "holds the teacher of another graph, split, seed, training or version"
SHARED = ("teacher-0.npz", "supernet-0.csv")
OUTPUTS = ("sweep.toml", "sweep.csv", "sweep.md", "sweep.json", "pareto.png", *SHARED)


def swept(npz: Path, out: Path, *more: object) -> runs.Result:
    return runs.lpgnas("sweep", "--quiet", "--dataset", npz, *runs.QUICK, *LIMITS, *more, "--out", out)


@pytest.fixture(scope="module")
def small_sweep(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two feasible points, made by the command line; to be looked at only."""
    folder = tmp_path_factory.mktemp("sweep") / "sweep"
    done = swept(small_npz, folder)
    assert done.code == 0, done.err
    assert done.out == (folder / "sweep.md").read_text()
    return folder


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}


def test_a_sweep_leaves_its_files(small_sweep: Path) -> None:
    assert {path.name for path in small_sweep.iterdir()} == {*OUTPUTS, TIGHT, LOOSE}
    for name in (TIGHT, LOOSE):
        assert runs.paths_of(small_sweep / name).keys() == set(runs.FILES)


def test_rows_are_those_of_the_runs(small_sweep: Path) -> None:
    rows = rows_of(small_sweep)
    assert list(rows) == [TOO_SMALL, TIGHT, LOOSE]
    assert [row["status"] for row in rows.values()] == ["infeasible", "done", "done"]
    assert [int(row["limit_weight_bits"]) for row in rows.values()] == [160, 800, 3200]
    for name in (TIGHT, LOOSE):
        stages = json.loads((small_sweep / name / "record.json").read_text())["stages"]
        row = rows[name]
        for what in ("weight_bits", "buffer_bits", "peak_bits", "macs", "bops"):
            assert int(row[what]) == stages["lower"][what]
        assert all(int(row[what]) <= int(row[f"limit_{what}"]) for what in ("weight_bits", "buffer_bits", "peak_bits"))
        assert float(row["selection_accuracy"]) == stages["train"]["selection_accuracy"]
        for column, nodes in (("validation_accuracy", "val"), ("test_accuracy", "test")):
            assert float(row[column]) == stages["evaluate"]["accuracy"][nodes]
    report = (small_sweep / "sweep.md").read_text()
    assert all(f"| {name} |" in report for name in rows)


def test_an_infeasible_point_says_what_would_fit(small_sweep: Path, small_npz: Path, tmp_path: Path) -> None:
    smallest = rows_of(small_sweep)[TOO_SMALL]["smallest_feasible"]
    assert smallest.split()[::2] == ["--weight-budget", "--buffer-budget", "--peak-budget"]
    assert f"infeasible: smallest {smallest} |" in (small_sweep / "sweep.md").read_text()
    options = ("--quiet", "--dataset", small_npz, *runs.QUICK, "--no-distillation", *smallest.split())
    assert runs.lpgnas("search", *options, "--out", tmp_path / "run").code == 0


def test_the_loosest_point_is_a_run_of_its_own(small_sweep: Path, small_run: Path) -> None:
    """Teacher and supernet are those that a run with the loosest budget trains for itself."""
    names = (*runs.REPEATABLE, "candidates.csv", "supernet.csv", "costs.csv")
    assert runs.bytes_of(small_sweep / LOOSE, names) == runs.bytes_of(small_run, names)


def test_runs_share_teacher_and_supernet(small_sweep: Path) -> None:
    for name in (TIGHT, LOOSE):
        assert (small_sweep / name / "supernet.csv").read_bytes() == (small_sweep / "supernet-0.csv").read_bytes()
        config = RunConfig.from_toml((small_sweep / name / "config.toml").read_text())
        assert (config.teacher_file, config.supernet_file) == ("../teacher-0.npz", "../supernet-0.csv")
    record = json.loads((small_sweep / "sweep.json").read_text())
    assert set(record["shared"]) == set(SHARED)
    soft = read_teacher(small_sweep / "teacher-0.npz", record["shared"]["teacher-0.npz"]["key"])
    assert soft is not None and soft.shape == (runs.NODES, runs.CLASSES)
    assert np.allclose(soft.sum(dim=1).numpy(), 1.0)
    assert read_teacher(small_sweep / "teacher-0.npz", "another") is None


def states(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_finished_sweep_is_left_alone(small_sweep: Path, small_npz: Path) -> None:
    before = states(small_sweep)
    done = swept(small_npz, small_sweep)
    assert (done.code, done.out) == (0, (small_sweep / "sweep.md").read_text())
    assert states(small_sweep) == before


def test_a_sweep_that_was_killed_resumes(small_sweep: Path, small_npz: Path, tmp_path: Path) -> None:
    """In the search of its second run, with a spoiled teacher and a supernet of something else."""
    folder = tmp_path / "sweep"
    shutil.copytree(small_sweep, folder)
    second = runs.first_stages(folder / LOOSE, 0)
    for name, path in runs.paths_of(second).items():
        if name not in ("config.toml", "record.json", "candidates.csv", "supernet.csv"):
            path.unlink()
    rows = (second / "candidates.csv").read_text().splitlines(keepends=True)
    (second / "candidates.csv").write_text("".join(rows[:3]))
    (folder / "teacher-0.npz").write_bytes(b"spoiled")
    record = json.loads((folder / "sweep.json").read_text())
    record["shared"]["supernet-0.csv"]["key"] = "another"
    (folder / "sweep.json").write_text(sealed(record))
    (folder / "sweep.csv").unlink()
    done = swept(small_npz, folder)
    assert done.code == 0, done.err
    assert runs.bytes_of(folder, OUTPUTS) == runs.bytes_of(small_sweep, OUTPUTS)
    for name in (TIGHT, LOOSE):
        assert runs.bytes_of(folder / name, runs.FINAL) == runs.bytes_of(small_sweep / name, runs.FINAL)


def test_a_run_of_a_sweep_wants_its_shared_files(small_sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(small_sweep, folder)
    config = RunConfig.from_toml((folder / LOOSE / "config.toml").read_text())
    cases = (
        ("teacher-0.npz", replace(config, seed=1), TEACHER_OF_ANOTHER),
        ("supernet-0.csv", replace(config, supernet_steps=13), "does not hold 13 supernet steps of this search space"),
    )
    for name, changed, message in cases:
        (tmp_path / "run.toml").write_text(changed.to_toml())
        shutil.rmtree(folder / LOOSE)
        (folder / LOOSE).mkdir()
        shutil.copy(tmp_path / "run.toml", folder / LOOSE / "config.toml")
        done = runs.lpgnas("search", "--quiet", "--out", folder / LOOSE)
        assert (done.code, done.err) == (2, f"RunFolderError: {folder / name} {message}\n")
        assert [path.name for path in (folder / LOOSE).iterdir()] == ["config.toml"]
    (folder / "supernet-0.csv").unlink()
    done = runs.lpgnas("search", "--quiet", "--out", folder / LOOSE)
    assert (done.code, done.err.split(":")[0]) == (2, "RunFolderError")


# --- bad input ---


def refuse(error: str, out: Path, *arguments: object) -> str:
    done = runs.lpgnas("sweep", "--quiet", *arguments, "--out", out)
    assert done.code == 2, (done.code, done.err)
    assert done.err.startswith(f"{error}: ")
    return done.err


def test_a_sweep_of_a_uniform_model_weighs_that_model(small_npz: Path, tmp_path: Path) -> None:
    uniform = ("--strategy", "uniform", "--hidden", 4, "--epochs", 5, "--restarts", 1, "--reference-seeds", 0)
    options = (*uniform, "--no-distillation", "--max-degree", 40, "--weight-budgets", "40B", "1KiB")
    done = runs.lpgnas("sweep", "--quiet", "--dataset", small_npz, *options, "--out", tmp_path / "sweep")
    assert done.code == 0, done.err
    assert "share" not in done.out
    small, large = rows_of(tmp_path / "sweep").values()
    assert (small["status"], large["status"]) == ("infeasible", "done")
    smallest = small["smallest_feasible"].removeprefix("--weight-budget ")
    assert Budget(weights=smallest)["weight_bits"] - int(large["weight_bits"]) in range(8)


def test_other_settings_are_refused(small_sweep: Path, small_npz: Path, tmp_path: Path) -> None:
    before = states(small_sweep)
    options = ("--dataset", small_npz, *runs.QUICK, *LIMITS)
    message = refuse("RunFolderError", small_sweep, *options, "--seeds", 0, 1, "--epochs", 11)
    assert "holds another sweep: epochs, seeds differ; choose another folder with --out" in message
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file"):
        assert "is not a sweep folder" in refuse("RunFolderError", out, *options)
    assert "it has no sweep.toml" in refuse("RunFolderError", tmp_path / "none")
    assert "--dataset is missing" in refuse("ConfigError", tmp_path / "none", *LIMITS)
    assert states(small_sweep) == before


def test_a_sweep_without_a_feasible_point_writes_nothing(small_npz: Path, tmp_path: Path) -> None:
    options = ("--dataset", small_npz, *runs.QUICK, "--mac-budgets", "1", "2", "--seeds", 3, 4)
    message = refuse("InfeasibleBudget", tmp_path / "sweep", *options)
    assert "none of the 4 points of the sweep is feasible; mac-1_seed-3 needs --mac-budget " in message
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_budget": "1KiB"}, "a sweep takes the list weight_budgets, not weight_budget"),
        ({"seed": 1}, "a sweep takes the list seeds, not seed"),
        ({"spec": "spec.json"}, "a sweep does not take spec"),
        ({"seeds": []}, "a sweep needs at least one of its seeds"),
        ({"seeds": [1, 1]}, "seeds of the sweep: 1, 1 holds a value twice"),
        ({"seeds": 3}, "seeds of a sweep must be a list of int, got 3"),
        ({"seeds": [True]}, "seeds of a sweep must be a list of int"),
        ({"seeds": [-1]}, "seed is -1; it must not be negative"),
        ({"weight_budgets": ["1KiB", "1024B"]}, "weight_bits of the sweep: 1KiB, 1KiB holds a value twice"),
        ({"bop_budgets": ["many"]}, "bop budget: cannot read 'many' as a count"),
        ({"latency_budgets": ["1ms"]}, "latency_budget is '1ms' without a latency_table"),
        ({"buffer_budgets": [1.5]}, "buffer_budgets of a sweep must be a list of str or int"),
        ({"epoch": 3}, "unknown keys in the config: epoch"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SweepConfig.of({"dataset": "cora", **options})


def test_a_config_names_its_graph() -> None:
    with pytest.raises(ConfigError, match="lacks the key 'dataset'"):
        SweepConfig.from_toml("seeds = [1]")


# --- configs and tables ---


@settings(max_examples=10)
@given(
    st.dictionaries(st.sampled_from(QUANTITIES), st.lists(st.integers(1, 10**9), min_size=1, max_size=3, unique=True)),
    st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
)
def test_points_are_every_combination(limits: dict[Any, list[int]], seeds: list[int]) -> None:
    options = {"dataset": "cora", "latency_table": "table.json", "seeds": seeds}
    config = SweepConfig.of(options | {list_key(one): amounts for one, amounts in limits.items()})
    assert SweepConfig.from_toml(config.to_toml()) == config
    points = config.points()
    wanted = [Budget()]
    for one in (one for one in QUANTITIES if one in limits):
        keywords = {other.name: other.keyword for other in QUANTITIES}
        wanted = [
            Budget(**{keywords[name]: limit for name, limit in budget.items()} | {one.keyword: amount})
            for budget in wanted
            for amount in limits[one]
        ]
    assert [(point.budget, point.seed) for point in points] == [(budget, seed) for budget in wanted for seed in seeds]
    assert len({point.name for point in points}) == len(points)
    assert config.loosest() == Budget(**{one.keyword: max(amounts) for one, amounts in limits.items()})
    for point in points:
        made = config.run_config(point)
        assert (made.budget(), made.seed) == (point.budget, point.seed)
        assert made.teacher_file == f"../teacher-{point.seed}.npz"
        assert made.supernet_file == f"../supernet-{point.seed}.csv"


def test_a_config_file_and_flags(small_npz: Path, tmp_path: Path) -> None:
    shutil.copy(small_npz, tmp_path / "graph-of-mine.npz")
    (tmp_path / "sweep.toml").write_text(
        'dataset = "graph-of-mine.npz"\nepochs = 5\ncandidates = 1\nsupernet_steps = 4\nmax_degree = 40\n'
        "distillation = false\nreference_seeds = 0\nrestarts = 1\nweight_budgets = [1]\nseeds = [0, 1]\n"
    )
    options = ("--config", tmp_path / "sweep.toml", "--weight-budgets", "3B", "--out", tmp_path / "out")
    assert "none of the 2 points" in runs.lpgnas("sweep", *options).err
    (tmp_path / "sweep.toml").write_text("dataset = cora")
    assert "is not TOML" in runs.lpgnas("sweep", *options).err


def test_every_option_of_a_run_is_one_of_a_sweep() -> None:
    helped = runs.lpgnas("sweep", "--help").out
    for name in RunConfig("cora").__dict__:
        single = name in {*(one.option for one in QUANTITIES), "seed"}
        own = name in ("spec", "teacher_file", "supernet_file")
        flag = f"--{name.replace('_', '-')}{'s' if single else ''} "
        assert (flag in helped) != own, flag


def row(name: str, seed: int, weights: int, **accuracies: float | None) -> dict[str, Any]:
    sizes = {one.name: None for one in QUANTITIES} | {"weight_bits": weights, "buffer_bits": 8 * weights}
    given = {"selection_accuracy": 0.5, "validation_accuracy": None, "test_accuracy": None} | accuracies
    limits = {f"limit_{one.name}": None for one in QUANTITIES}
    return {"name": name, "seed": seed, "status": DONE, "smallest_feasible": ""} | limits | sizes | given


def test_means_over_seeds_and_missing_test_nodes() -> None:
    config = SweepConfig.of({"dataset": "cora", "weight_budgets": ["1KiB"], "seeds": [0, 1, 2]})
    rows = [row(point.name, point.seed, 800) for point in config.points()]
    for one, accuracy in zip(rows, (0.5, 0.7, 0.9), strict=True):
        one["selection_accuracy"] = accuracy
    rows[2]["status"] = "pending"
    report = sweep_report(config, rows)
    assert "| weights 1 KiB | 2 | 60.0 % ± 14.1 |  |  |" in report
    assert "| pending |" in report
    drawn = [sweep_figure([one | {"test_accuracy": value} for one in rows[:2]]) for value in (0.8, None)]
    assert drawn[0] != drawn[1]
    table = sweep_table(rows)
    assert str(table["weight_bits"].dtype) == "Int64"


# --- Python ---

BRIEF: dict[str, Any] = {
    "epochs": 5, "candidates": 1, "supernet_steps": 4, "restarts": 1, "reference_seeds": 0, "max_degree": 40,
    "distillation": False,
}  # fmt: skip


def test_a_sweep_in_python_on_a_graph_in_memory(tmp_path: Path) -> None:
    budgets: dict[str, list[str | int]] = {"weights": ["100B"], "macs": [10**6]}
    made = lpgnas.sweep(runs.small_graph(), budgets, seeds=(4,), out=tmp_path / "sweep", **BRIEF)
    name = "weight-100B_mac-1M_seed-4"
    assert list(made.runs) == [name]
    assert made.table["weight_bits"][0] == made.runs[name].record["stages"]["lower"]["weight_bits"] <= 800
    assert {path.name for path in made.folder.iterdir()} == {*OUTPUTS[:5], "graph.npz", "supernet-4.csv", name}
    moved = made.folder.rename(tmp_path / "moved")
    before = states(moved)
    again = lpgnas.sweep(runs.small_graph(), budgets, seeds=(4,), out=moved, **BRIEF)
    assert repr(again) == f"<SweepResult in '{moved}': 1 runs>"
    assert states(moved) == before
    assert runs.lpgnas("lower", "--quiet", moved / name).code == 0
    with pytest.raises(RunFolderError, match="holds a sweep on another graph"):
        lpgnas.sweep(runs.small_graph(seed=6), budgets, seeds=(4,), out=moved, **BRIEF)


def test_python_refuses_by_name(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"budgets": {"weight": ["1KiB"]}}, UnknownName, "unknown limit 'weight'"),
        ({"seed": 3}, ConfigError, "takes the list seeds, not seed"),
        ({"weight_budget": "3KiB"}, ConfigError, "give weight_budget as budget"),
        ({"dataset": "cora"}, ConfigError, "give dataset as data"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            lpgnas.sweep("cora", out=tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep").exists()
