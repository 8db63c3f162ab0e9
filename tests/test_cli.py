"""The command line: every command on small graphs, and every bad input refused by name before anything is written."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
from export_cases import extreme_program

from lpgnas.budget import QUANTITIES, Quantity
from lpgnas.components import Component
from lpgnas.config import RunConfig
from lpgnas.number_formats import FLOAT32
from lpgnas.program_file import to_bytes
from lpgnas.results import read_record
from lpgnas.spec import ModelSpec
from lpgnas.verification import NO_COMPILER

Arrays = dict[str, Any]


# --- commands ---


def test_report_prints_and_writes(small_run: Path, tmp_path: Path) -> None:
    run = runs.copied(small_run, tmp_path / "run")
    for name in runs.REPORTS:
        (run / name).unlink()
    done = runs.lpgnas("report", run)
    assert (done.code, done.err) == (0, "")
    assert done.out == (run / "report.md").read_text()
    assert runs.bytes_of(run, runs.REPORTS) == runs.bytes_of(small_run, runs.REPORTS)


def test_cost_of_a_spec_and_of_a_program(small_run: Path, small_npz: Path) -> None:
    lowered = json.loads((small_run / "record.json").read_text())["stages"]["lower"]
    totals = {}
    for name in ("spec.json", "program.npz"):
        done = runs.lpgnas("cost", small_run / name, "--dataset", small_npz, "--json")
        assert (done.code, done.err) == (0, "")
        totals[name] = json.loads(done.out)["totals"]
        table = runs.lpgnas("cost", small_run / name, "--dataset", small_npz)
        assert table.out.split()[:3] == ["layer", "what", "bits"]
        assert "linear_weight" in table.out
    for name in ("weight_bits", "buffer_bits", "peak_bits", "macs", "bops"):
        assert totals["program.npz"][name] == lowered[name]
    assert totals["spec.json"]["weight_bits"] >= lowered["weight_bits"]  # the softmax table at its largest
    assert totals["spec.json"]["buffer_bits"] == lowered["buffer_bits"]


def test_cost_with_a_latency_table(small_run: Path, small_npz: Path, table_file: Path) -> None:
    options, times = ("--dataset", small_npz, "--latency-table", table_file), set()
    for name in ("spec.json", "program.npz"):
        done = runs.lpgnas("cost", small_run / name, *options, "--json")
        assert (done.code, done.err) == (0, "")
        report = json.loads(done.out)
        times.add(report["totals"]["latency_ns"])
        assert sum(row.get("latency_ns", 0) for row in report["rows"]) == report["totals"]["latency_ns"] > 0
        assert (
            f"latency_ns {report['totals']['latency_ns']:>16,}" in runs.lpgnas("cost", small_run / name, *options).out
        )
    assert len(times) == 1


def test_datasets_lists_every_name(tmp_path: Path) -> None:
    done = runs.lpgnas("datasets", "--data-root", tmp_path)
    assert done.code == 0
    for name in ("cora", "planetoid/PubMed", "ogbn-arxiv"):
        assert f" {name} " in done.out


def test_predict_needs_no_labels(small_run: Path, tmp_path: Path) -> None:
    arrays = {name: runs.small_arrays()[name] for name in ("x", "edge_index")}
    np.savez(tmp_path / "unlabelled.npz", allow_pickle=False, **arrays)
    options = ("--dataset", tmp_path / "unlabelled.npz", "--out", tmp_path / "made" / "out.npz")
    done = runs.lpgnas("predict", small_run / "program.npz", *options)
    assert (done.code, done.out, done.err) == (0, "", "")
    with np.load(tmp_path / "made/out.npz") as made:
        assert made["codes"].shape == (runs.NODES, runs.CLASSES)
    assert runs.lpgnas("cost", small_run / "program.npz", "--dataset", tmp_path / "unlabelled.npz").code == 0


def test_export_of_a_program_writes_the_files_of_the_run(small_run: Path, tmp_path: Path) -> None:
    done = runs.lpgnas("export", small_run / "program.npz", "--out", tmp_path / "made")
    assert (done.code, done.err) == (0, runs.TOLD_UNCHECKED)
    assert runs.paths_of(tmp_path / "made").keys() == set(runs.EXPORTED)
    assert runs.bytes_of(tmp_path / "made", runs.EXPORTED) == runs.bytes_of(small_run, runs.EXPORTED)


@pytest.mark.parametrize(
    ("target", "files"),
    [("onnx-int", ("model.int.onnx",)), ("qonnx", ("model.qonnx.onnx",)), ("c", runs.C_FILES)],
)
def test_export_of_one_target(small_run: Path, tmp_path: Path, target: str, files: tuple[str, ...]) -> None:
    done = runs.lpgnas("export", small_run / "program.npz", "--target", target, "--out", tmp_path / "made")
    assert (done.code, done.err) == (0, runs.TOLD_UNCHECKED if target == "c" else "")
    assert runs.paths_of(tmp_path / "made").keys() == set(files)
    assert runs.bytes_of(tmp_path / "made", files) == runs.bytes_of(small_run, files)


def test_export_of_a_run_writes_its_c_code_again(small_run: Path, tmp_path: Path) -> None:
    folder = runs.copied(small_run, tmp_path / "run")
    for name in runs.C_FILES:
        (folder / name).unlink()
    assert runs.lpgnas("export", "--quiet", folder, "--target", "c").code == 0
    assert runs.bytes_of(folder) == runs.bytes_of(small_run)
    stages = read_record(folder / "record.json")["stages"]
    assert (
        stages.keys() == read_record(small_run / "record.json")["stages"].keys()
    )  # equal bytes: what came later still holds
    assert (stages["export"]["refused"], stages["export"]["c_unchecked"]) == ({}, runs.UNCHECKED)
    forms = {entry["form"] for entry in stages["verify"]["comparisons"]}
    assert "C code, gcc" in forms


def test_export_of_c_code_for_a_graph(small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    command = ("export", small_run / "program.npz", "--target", "c", "--out")
    assert runs.lpgnas(*command, tmp_path / "fixed", "--max-nodes", 100).code == 0
    assert "#define LPGNAS_MAX_NODES 100\n" in (tmp_path / "fixed/c/lpgnas_model.h").read_text()
    done = runs.lpgnas(*command, tmp_path / "within", "--graph", small_npz)
    assert (done.code, done.err) == (0, runs.TOLD_UNCHECKED)
    header = (tmp_path / "within/c/lpgnas_model.h").read_text()
    assert f"#define LPGNAS_NUM_NODES {runs.NODES}\n" in header
    assert "lpgnas_graph" not in header


def test_c_code_without_a_compiler(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runs.copied(small_run, tmp_path / "run")
    monkeypatch.setenv("PATH", "")
    done = runs.lpgnas("export", small_run / "program.npz", "--target", "c", "--out", tmp_path / "made")
    assert (done.code, done.err) == (0, f"C code not checked: {NO_COMPILER}\n")
    assert runs.bytes_of(tmp_path / "made", runs.C_FILES) == runs.bytes_of(small_run, runs.C_FILES)
    done = runs.lpgnas("export", "--quiet", folder)
    assert (done.code, done.err) == (0, f"C code not checked: {NO_COMPILER}\n")
    assert runs.lpgnas("verify", "--quiet", folder).code == 0
    stages = read_record(folder / "record.json")["stages"]
    assert stages["export"]["c_unchecked"] == NO_COMPILER
    notes = [entry["note"] for entry in stages["verify"]["comparisons"] if entry["form"] == "C code, gcc"]
    assert notes == [f"not run: {NO_COMPILER}"]


def test_export_of_some_targets_of_a_program(small_run: Path, tmp_path: Path) -> None:
    done = runs.lpgnas("export", small_run / "program.npz", "--out", tmp_path / "made", "--target", "onnx-qdq", "qonnx")
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["model.qdq.onnx", "model.qonnx.onnx"]
    assert runs.bytes_of(tmp_path / "made", ("model.qdq.onnx",)) == runs.bytes_of(small_run, ("model.qdq.onnx",))


def test_a_target_that_cannot_hold_a_program_is_left_out_or_refused(tmp_path: Path) -> None:
    """By default its reason is told; asked for by name, it is an error and nothing is written."""
    program = tmp_path / "program.npz"
    program.write_bytes(to_bytes(extreme_program(600, input_bits=8, weight_bits=8)))
    done = runs.lpgnas("export", program, "--out", tmp_path / "made")
    assert (done.code, done.out) == (0, "")
    told = done.err.removeprefix(runs.TOLD_UNCHECKED).splitlines()
    assert [line.split(":")[0] for line in told] == ["no onnx-qdq", "no qonnx"]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["c", "model.int.onnx"]
    done = runs.lpgnas("export", program, "--out", tmp_path / "none", "--target", "onnx-int", "qonnx")
    assert done.code == 2
    assert done.err.startswith("ExportError: target qonnx: layer 0 transform: its sums may reach")
    assert not (tmp_path / "none").exists()
    done = runs.lpgnas("export", program, "--out", tmp_path / "none", "--target", "qonx")
    assert done.code == 2
    assert done.err.startswith("UnknownName: unknown target 'qonx'. Did you mean 'qonnx'?")


def test_export_of_one_target_leaves_the_others_in_place(small_run: Path, tmp_path: Path) -> None:
    """Also the accuracies, which are the program's; what no longer holds is that all files were verified."""
    run = runs.copied(small_run, tmp_path / "run", qonnx=False)
    before = json.loads((run / "record.json").read_text())["stages"]
    assert runs.lpgnas("export", run, "--target", "onnx-int").code == 0
    after = json.loads((run / "record.json").read_text())["stages"]
    assert after["export"]["files"] == before["export"]["files"]
    assert after["verify"] == before["verify"]
    assert runs.lpgnas("export", run, "--target", "qonnx").code == 0
    after = json.loads((run / "record.json").read_text())["stages"]
    assert set(after["export"]["files"]) == set(runs.EXPORTED)
    assert set(before) - set(after) == {"verify"}
    assert runs.bytes_of(run) == runs.bytes_of(small_run)
    assert runs.lpgnas("verify", "--quiet", run).code == 0
    (run / "model.qdq.onnx").write_bytes(b"of something else")
    assert runs.lpgnas("export", run, "--target", "onnx-int").code == 0
    assert not (run / "model.qdq.onnx").exists()


def test_a_target_of_several_files_is_kept_whole_or_not_at_all(small_run: Path, tmp_path: Path) -> None:
    run = runs.copied(small_run, tmp_path / "run")
    (run / runs.C_FILES[0]).write_text("of something else")
    assert runs.lpgnas("export", "--quiet", run, "--target", "qonnx").code == 0
    assert not any((run / name).exists() for name in runs.C_FILES)
    assert not set(runs.C_FILES) & json.loads((run / "record.json").read_text())["stages"]["export"]["files"].keys()
    assert runs.lpgnas("export", "--quiet", run).code == 0
    assert runs.bytes_of(run) == runs.bytes_of(small_run)


def test_stages_one_by_one_are_a_run(small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ("--quiet", "--dataset", small_npz, *runs.QUICK, *runs.BUDGETS)
    assert runs.lpgnas("search", *options, "--out", folder).code == 0
    for stage in ("train", "lower", "export", "verify", "evaluate"):
        done = runs.lpgnas(stage, "--quiet", folder)
        assert done.code == 0, done.err
        assert (done.out == f"{stage}: done\n") == (stage != "export")
    assert runs.bytes_of(folder) == runs.bytes_of(small_run)


def test_flags_win_over_a_config_file(small_npz: Path, tmp_path: Path) -> None:
    config = RunConfig(str(small_npz), epochs=10, candidates=3, seed=4, weight_budget="1KiB", max_degree=40)
    (tmp_path / "config.toml").write_text(config.to_toml())
    options = ("--config", tmp_path / "config.toml", "--seed", 5, "--no-distillation", "--out", tmp_path / "run")
    done = runs.lpgnas("search", "--quiet", *options)
    assert done.code == 0, done.err
    kept = RunConfig.from_toml((tmp_path / "run/config.toml").read_text())
    assert kept == replace(config, seed=5, distillation=False)


def test_progress_goes_to_standard_error(small_npz: Path, tmp_path: Path) -> None:
    options = ("--dataset", small_npz, *runs.QUICK, "--no-distillation")
    loud = runs.lpgnas("search", *options, "--out", tmp_path / "loud")
    assert "search: 100 %" in loud.err
    quiet = runs.lpgnas("search", "--quiet", *options, "--out", tmp_path / "quiet")
    assert (loud.out, quiet.out, quiet.err) == ("", "", "")


@pytest.mark.parametrize("flags", [("--inductive",), ("--no-distillation",)])
def test_other_ways_to_train(flags: tuple[str, ...], small_npz: Path, tmp_path: Path) -> None:
    options = ("--quiet", "--dataset", small_npz, *runs.QUICK, *flags)
    done = runs.lpgnas("run", *options, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert record["dataset"]["inductive"] == ("--inductive" in flags)
    distilled = "gcn16_fp32_distilled" in record["stages"]["evaluate"]["references"]
    assert distilled == ("--no-distillation" not in flags)
    assert ("inductive" in done.out.split("## Model")[0].split(";")[-1]) == ("--inductive" in flags)


@pytest.mark.parametrize("strategy", ["lpgnas", "uniform"])
def test_other_strategies_run_through(strategy: str, small_npz: Path, tmp_path: Path) -> None:
    options = ("--quiet", "--dataset", small_npz, *runs.QUICK, "--strategy", strategy, "--no-distillation")
    extra = ("--architecture", "graphsage", "--hidden", 4, "--weight-format", "ternary", "--activation-bits", 6)
    done = runs.lpgnas("run", *options, *(extra if strategy == "uniform" else runs.BUDGETS), "--out", tmp_path / "run")
    assert done.code == 0, done.err
    spec = ModelSpec.from_json((tmp_path / "run/spec.json").read_text())
    if strategy == "uniform":
        assert [layer.width for layer in spec.layers] == [4, runs.CLASSES]
        formats = {str(choice) for layer in spec.layers for choice in layer.formats.values()}
        assert formats == {"ternary", "fixed6"}
        assert not (tmp_path / "run/candidates.csv").exists()


@pytest.mark.parametrize(
    ("option", "strategy"),
    [
        ("--supernet-file", "feasible"),
        *(("--teacher-file", one) for one in ("feasible", "random", "uniform", "lpgnas")),
    ],
)
def test_a_given_file_that_is_missing_is_refused(option: str, strategy: str, small_npz: Path, tmp_path: Path) -> None:
    options = ("--quiet", "--dataset", small_npz, "--strategy", strategy, option, tmp_path / "none")
    assert "none" in refuse("run", *options, error="RunFolderError", out=tmp_path / "run")


def test_a_uniform_model_over_its_budget_is_refused(small_npz: Path, tmp_path: Path) -> None:
    options = ("--quiet", "--dataset", small_npz, "--strategy", "uniform", "--weight-budget", "10B")
    message = refuse("run", *options, error="InfeasibleBudget", out=tmp_path / "run")
    assert "the uniform gcn does not fit the budget (weights 10 B): it needs --weight-budget " in message


def test_a_float_search_is_refused(small_npz: Path, tmp_path: Path) -> None:
    options = ("--quiet", "--dataset", small_npz, "--strategy", "pdnas")
    assert "`lpgnas reproduce` runs it" in refuse("run", *options, error="ConfigError", out=tmp_path / "run")


def test_a_given_spec_is_trained_and_reported(rich_run: Path) -> None:
    assert (rich_run / "spec.json").read_text() == runs.rich_spec().to_json()
    report = (rich_run / "report.md").read_text()
    assert "| 0 | x | gcn | sum | tanh | 8 |" in report
    assert "## Candidates" not in report
    assert not (rich_run / "candidates.csv").exists()


def test_a_process_of_its_own(small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    options = ("--quiet", "--dataset", small_npz, *runs.QUICK, *runs.BUDGETS, "--out", tmp_path / "run")
    made = runs.python("-m", "lpgnas.cli", "search", *options)
    assert (made.returncode, made.stderr) == (0, "")
    for name in ("spec.json", "candidates.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (small_run / name).read_bytes()
    refused = runs.python("-m", "lpgnas.cli", "report", tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == f"RunFolderError: cannot read {tmp_path / 'record.json'}: No such file or directory\n"


def test_every_option_is_a_flag_and_a_key(small_npz: Path, tmp_path: Path) -> None:
    keys = {name.replace("_", "-") for name in RunConfig("cora").__dict__}
    for command in ("run", "search"):
        flags = set(re.findall(r"--([a-z-]+)", runs.lpgnas(command, "--help").out.split("options:")[1]))
        flags -= {"help", "config", "out", "data-root", "quiet"}  # of where things are, not of what is computed
        assert flags == keys | {"no-inductive", "no-distillation", "no-routes"}


def test_relative_paths_are_kept_whole(small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    shutil.copy(small_npz, tmp_path / "configs/graph.npz")
    (tmp_path / "configs/spec.json").write_text(runs.rich_spec().to_json())
    config = RunConfig("graph.npz", spec="spec.json", epochs=5)
    (tmp_path / "configs/run.toml").write_text(config.to_toml())
    monkeypatch.chdir(tmp_path)
    options = ("--quiet", "--dataset", "configs/graph.npz", "--spec", "configs/spec.json", "--epochs", 5)
    assert runs.lpgnas("search", *options, "--out", "flags").code == 0
    monkeypatch.chdir(tmp_path / "flags")
    assert runs.lpgnas("search", "--quiet", "--config", "../configs/run.toml", "--out", "../file").code == 0
    kept = RunConfig.from_toml(Path("config.toml").read_text())
    assert kept.located(Path("elsewhere")) == kept == config.located(tmp_path / "configs")
    assert runs.lpgnas("search", "--quiet", "--out", ".").code == 0  # found again from another folder
    assert runs.lpgnas("search", "--quiet", "--config", tmp_path / "configs/run.toml", "--out", ".").code == 0


# --- bad input ---


def refuse(*arguments: object, error: str, out: Path) -> str:
    """The message of a command that must refuse with code 2, in one line, before it makes `out`."""
    done = runs.lpgnas(*arguments, "--out", out)
    assert done.code == 2, (done.code, done.err)
    assert done.err.startswith(f"{error}: "), done.err
    assert done.err.count("\n") == 1
    assert not out.exists()
    return done.err


def with_changes(path: Path, **changes: Any) -> Path:
    """A graph file with other arrays; None leaves one out."""
    arrays = {name: value for name, value in {**runs.small_arrays(), **changes}.items() if value is not None}
    np.savez(path, allow_pickle=False, **arrays)
    return path


def changed(name: str, place: Any, value: Any) -> Any:
    array = runs.small_arrays()[name].copy()
    array[place] = value
    return array


NO_TRAIN = {
    "train_mask": np.zeros(runs.NODES, bool),
    "val_mask": np.arange(runs.NODES) < 30,
    "test_mask": np.arange(runs.NODES) >= 30,
}
NO_NODE = {"x": np.zeros((0, 12)), "edge_index": np.zeros((2, 0), int), "y": np.zeros(0, int)}
GRAPHS: dict[str, tuple[Arrays, str, str]] = {
    "NaN features": ({"x": changed("x", (3, 2), np.nan)}, "GraphError", "not finite, the first at (3, 2)"),
    "index too high": ({"edge_index": changed("edge_index", (1, 0), 60)}, "GraphError", "edge_index[1, 0] = 60"),
    "index negative": ({"edge_index": changed("edge_index", (0, 2), -1)}, "GraphError", "edge_index[0, 2] = -1"),
    "float edges": ({"edge_index": runs.small_arrays()["edge_index"] * 1.0}, "GraphError", "of an integer type"),
    "transposed edges": ({"edge_index": runs.small_arrays()["edge_index"].T}, "GraphError", "shape [2, num_edges]"),
    "no labels": ({"y": None, "num_classes": None}, "DatasetError", "array y is missing"),
    "label beyond the classes": ({"y": changed("y", 7, 3)}, "GraphError", "y[7] = 3 is not a class"),
    "negative label": ({"y": changed("y", 7, -1)}, "GraphError", "y[7] = -1 is negative"),
    "labels of another length": ({"y": runs.small_arrays()["y"][:-1]}, "GraphError", "y must be int64 of shape [60]"),
    "empty graph": (NO_NODE, "GraphError", "the graph is empty"),
    "no training node": (NO_TRAIN, "DatasetError", "no train"),
    "overlapping masks": ({**NO_TRAIN, "train_mask": np.ones(runs.NODES, bool)}, "GraphError", "overlap"),
    "unknown array": ({"edge_attr": np.ones(3)}, "DatasetError", "unknown array edge_attr"),
    "one-dimensional features": ({"x": np.ones(60)}, "GraphError", "x must have shape"),
    "text features": ({"x": np.full((60, 12), "a")}, "GraphError", "x must hold real numbers"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_that_are_refused(name: str, tmp_path: Path) -> None:
    changes, error, message = GRAPHS[name]
    path = with_changes(tmp_path / "graph.npz", **changes)
    assert message in refuse("run", "--dataset", path, *runs.QUICK, error=error, out=tmp_path / "run")


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no zip archive")
    for name, message in (("text.npz", "not an npz file"), ("none.npz", "no such file")):
        assert message in refuse("run", "--dataset", tmp_path / name, error="DatasetError", out=tmp_path / "run")


def test_names_that_are_refused(small_npz: Path, tmp_path: Path) -> None:
    options: tuple[object, ...]
    out = tmp_path / "run"
    assert "Did you mean 'cora'?" in refuse("run", "--dataset", "coraa", error="UnknownName", out=out)
    options = ("--dataset", small_npz, "--protocol", "publik")
    assert "'public'" in refuse("run", *options, error="UnknownName", out=out)
    options = ("--dataset", small_npz, "--protocol", "own")
    assert "came without 'own' masks" in refuse("run", *options, error="DatasetError", out=out)
    assert "--dataset is missing" in refuse("run", "--epochs", 10, error="ConfigError", out=out)
    assert "not a run folder" in refuse("run", error="RunFolderError", out=out)


def test_a_missing_data_folder_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr("torch_geometric.io.fs.cp", no_network)
    (tmp_path / "data").mkdir()
    options = ("--dataset", "planetoid/Cora", "--data-root", tmp_path / "data")
    assert "planetoid/Cora" in refuse("run", *options, error="DatasetError", out=tmp_path / "run")


@pytest.mark.parametrize("one", QUANTITIES, ids=lambda one: str(one.what))
def test_budgets_that_are_refused(one: Quantity, small_npz: Path, tmp_path: Path) -> None:
    what, noun = f"{one.what} budget", one.scale.noun
    unit = list(one.scale.units)[1]
    for text, message in (
        (f"0{unit}", f"{what}: '0{unit}' is not a positive {noun}"),
        (f"-1{unit}", f"{what}: '-1{unit}' is not a positive {noun}"),
        ("3 parsecs", f"{what}: cannot read '3 parsecs' as a {noun}; {one.scale.advice}"),
        (f"1e3{unit}", f"{what}: cannot read '1e3{unit}' as a {noun}"),
        ("", f"{one.flag} is empty; {one.scale.advice}"),
    ):
        options = ("--dataset", small_npz, f"{one.flag}={text}")
        assert message in refuse("run", *options, error="ConfigError", out=tmp_path / "run")


def test_a_size_has_a_unit(small_npz: Path, tmp_path: Path) -> None:
    options = ("--dataset", small_npz, "--weight-budget", "0")
    message = refuse("run", *options, error="ConfigError", out=tmp_path / "run")
    assert "weight budget: cannot read '0' as a size" in message


def test_a_latency_budget_needs_a_table(small_npz: Path, table_file: Path, tmp_path: Path) -> None:
    options: tuple[object, ...] = ("--quiet", "--dataset", small_npz, *runs.QUICK, "--latency-budget", "1s")
    message = refuse("search", *options, error="ConfigError", out=tmp_path / "run")
    assert "latency_budget is '1s' without a latency_table; give one with --latency-table" in message
    (tmp_path / "no.json").write_text("{}")
    for name, text in (("no.json", "lacks the key 'format'"), ("none.json", "cannot read the latency table")):
        message = refuse(
            "search", *options, "--latency-table", tmp_path / name, error="LatencyTableError", out=tmp_path / "run"
        )
        assert text in message
    short = json.loads(table_file.read_text())
    short["points"] = [point for point in short["points"] if point["operation"] != "lookup"]
    (tmp_path / "short.json").write_text(json.dumps(short))
    message = refuse(
        "search", *options, "--latency-table", tmp_path / "short.json", error="LatencyTableError", out=tmp_path / "run"
    )
    assert "has no point of lookup; measure it" in message


def test_an_infeasible_budget_names_a_feasible_one(small_npz: Path, table_file: Path, tmp_path: Path) -> None:
    options = ("--quiet", "--dataset", small_npz, *runs.QUICK, "--latency-table", table_file)
    all_least = [text for one in QUANTITIES for text in (one.flag, f"1{next(iter(one.scale.units))}")]
    message = refuse("run", *options, *all_least, error="InfeasibleBudget", out=tmp_path / "run")
    assert "too small: weight, buffer, peak, mac, bop, latency." in message
    named = message.rsplit("The smallest feasible budget is ")[1].split()
    assert named[::2] == [one.flag for one in QUANTITIES]
    done = runs.lpgnas("search", *options, *named, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    for position, one in enumerate(QUANTITIES):  # one byte, operation or nanosecond less is infeasible
        less = [*named]
        unit = next(iter(one.scale.units))
        less[2 * position + 1] = f"{int(less[2 * position + 1].removesuffix(unit)) - 1}{unit}"
        refuse("search", *options, *less, error="InfeasibleBudget", out=tmp_path / "less")
    message = refuse("run", *options, "--weight-budget", "1B", error="InfeasibleBudget", out=tmp_path / "less")
    assert message.rsplit("The smallest feasible budget is ")[1].split() == named[:2]


def test_degrees_that_are_refused(small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    options: tuple[object, ...]
    for degree, message in ((1, "below the largest in-degree"), (1 << 20, "beyond 1048575"), (-1, "not be negative")):
        options = ("--dataset", small_npz, "--max-degree", degree)
        assert message in refuse("run", *options, error="ConfigError", out=tmp_path / "run")
    hub = np.stack([np.arange(41), np.zeros(41, dtype=int)])
    path = with_changes(tmp_path / "hub.npz", edge_index=hub)
    options = (small_run / "program.npz", "--dataset", path)
    message = refuse("predict", *options, error="DegreeError", out=tmp_path / "out.npz")
    assert "node 0 has 41 incoming edges" in message


def test_specs_that_are_refused(small_npz: Path, tmp_path: Path) -> None:
    options: tuple[object, ...]
    spec = runs.rich_spec()
    first = replace(spec.layers[0], formats={**spec.layers[0].formats, Component.MESSAGE: FLOAT32})
    texts: dict[str, tuple[str | bytes, str, str]] = {
        "newer": (spec.to_json().replace('"schema_version": 3', '"schema_version": 4'), "SpecError", "update lpgnas"),
        "float": (replace(spec, layers=(first, *spec.layers[1:])).to_json(), "LoweringError", "layer 0 message"),
        "features": (replace(spec, num_features=13).to_json(), "SpecError", "is for 13 features"),
        "text": ("no JSON", "SpecError", "JSON"),
        "binary": (b"\xff\xfe", "RunFolderError", "not a text file"),
    }
    for name, (text, error, message) in texts.items():
        path = tmp_path / f"{name}.json"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        options = ("--dataset", small_npz, "--spec", path)
        assert message in refuse("run", *options, error=error, out=tmp_path / "run")
    options = ("--dataset", small_npz, "--spec", tmp_path / "none.json")
    assert "cannot read" in refuse("run", *options, error="RunFolderError", out=tmp_path / "run")
    good = tmp_path / "good.json"
    good.write_text(spec.to_json())
    options = ("--dataset", small_npz, "--spec", good, "--weight-budget", "100B")
    assert "does not fit" in refuse("run", *options, error="InfeasibleBudget", out=tmp_path / "run")


def test_configs_that_are_refused(small_npz: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for text, message in (
        (b'dataset = "cora"\nlearning_speed = 3\n', "unknown keys in the config: learning_speed"),
        (b"dataset = cora\n", "is not TOML"),
        (b"epochs = 10\n", "lacks the key 'dataset'"),
        (b'dataset = "cora"\nepochs = "10"\n', "epochs must be of type int"),
        (b'dataset = "cora"\nepochs = 4\n', "epochs is 4"),
    ):
        path.write_bytes(text)
        assert message in refuse("run", "--config", path, error="ConfigError", out=tmp_path / "run")
    path.write_bytes(b"\xff")
    refuse("run", "--config", path, error="RunFolderError", out=tmp_path / "run")
    refuse("run", "--config", tmp_path, error="RunFolderError", out=tmp_path / "run")
    for flags in (("--epochs", "0"), ("--candidates", "0"), ("--restarts", "0"), ("--threads", "0"), ("--seed", "-1")):
        refuse("run", "--dataset", small_npz, *flags, error="ConfigError", out=tmp_path / "run")


def test_out_folders_that_are_refused(small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    run = runs.copied(small_run, tmp_path / "run")
    before = runs.bytes_of(run, runs.FILES)
    done = runs.lpgnas("run", "--dataset", small_npz, *runs.QUICK, *runs.BUDGETS, "--seed", 9, "--out", run)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "holds another run: seed differ" in done.err
    assert runs.bytes_of(run, runs.FILES) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("more work")
    for out in (foreign, file, file / "below"):
        done = runs.lpgnas("run", "--dataset", small_npz, *runs.QUICK, "--out", out)
        assert done.code == 2
        assert done.err.startswith("RunFolderError: ")
    assert runs.lpgnas("run", "--dataset", small_npz, *runs.QUICK, "--out", tmp_path / ("x" * 300)).code == 2
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    assert file.read_text() == "more work"


def test_programs_that_are_refused(small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    options: tuple[object, ...]
    spoiled = bytearray((small_run / "program.npz").read_bytes())
    spoiled[100] ^= 1
    (tmp_path / "spoiled.npz").write_bytes(spoiled)
    for name in ("spoiled.npz", "none.npz"):
        refuse("export", tmp_path / name, error="ProgramError", out=tmp_path / "run")
        refuse("predict", tmp_path / name, "--dataset", small_npz, error="ProgramError", out=tmp_path / "out.npz")
    other = with_changes(tmp_path / "other.npz", x=np.ones((60, 5), np.float32))
    options = (small_run / "program.npz", "--dataset", other)
    assert "reads 12" in refuse("predict", *options, error="GraphError", out=tmp_path / "out.npz")
    done = runs.lpgnas("export", small_run / "program.npz")
    assert (done.code, done.err.split(":")[0]) == (2, "ConfigError")
    refuse("export", small_run, error="ConfigError", out=tmp_path / "run")
    for option in (("--max-nodes", "3"), ("--graph", "cora")):
        assert "--target c" in runs.lpgnas("export", small_run / "program.npz", *option).err
        assert "--target c" in runs.lpgnas("export", small_run, "--target", "c", *option).err


def test_a_spec_is_costed_only_if_it_is_one(small_npz: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_bytes(b"\xff")
    done = runs.lpgnas("cost", tmp_path / "spec.json", "--dataset", small_npz)
    assert (done.code, done.err.split(":")[0]) == (2, "RunFolderError")


@pytest.mark.parametrize("arguments", [(), ("fly",), ("run",), ("run", "--out", "x", "--epochs", "ten")])
def test_usage_errors_have_code_2(arguments: tuple[str, ...]) -> None:
    done = runs.lpgnas(*arguments)
    assert done.code == 2
    assert done.err.startswith("usage: ")


def test_help_and_version() -> None:
    assert runs.lpgnas("--version").out.startswith("lpgnas ")
    helped = runs.lpgnas("run", "--help")
    assert helped.code == 0
    assert "--weight-budget" in helped.out


def test_an_interrupt_has_its_own_code(small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lpgnas.pipeline.search", interrupted)
    options = ("--quiet", "--dataset", small_npz, *runs.QUICK, "--no-distillation", "--out", tmp_path / "run")
    done = runs.lpgnas("run", *options)
    assert (done.code, done.err) == (130, "interrupted; the same command goes on where it stopped\n")


def test_a_spec_file_round_trips(rich_run: Path) -> None:
    assert ModelSpec.from_json((rich_run / "spec.json").read_text()) == runs.rich_spec()
