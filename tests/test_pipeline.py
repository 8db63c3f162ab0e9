"""Whole runs: what they leave, that they repeat and resume to the byte, and that their budgets hold."""

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
from counting import counted_bits, header_of
from latency_tables import random_table

from lpgnas.budget import QUANTITIES, parse_size
from lpgnas.config import RunConfig
from lpgnas.cost_models.latency import LatencyTable
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import CheckFailed, RunFolderError
from lpgnas.input_words import rank_words
from lpgnas.pipeline import Run
from lpgnas.preparation import default_search_space
from lpgnas.program_file import load_program
from lpgnas.report_files import write_reports
from lpgnas.results import STAGES, sealed
from lpgnas.spec import ModelSpec
from lpgnas.splits import make_split
from lpgnas.trials import TrialTable

LIMITS = dict(zip(("weight_bits", "buffer_bits", "peak_bits"), map(parse_size, runs.BUDGETS[1::2]), strict=True))


def config_of(run: Path) -> RunConfig:
    return RunConfig.from_toml((run / "config.toml").read_text())


def record_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "record.json").read_text())
    return content


def test_a_run_leaves_every_file(small_run: Path) -> None:
    assert sorted(runs.paths_of(small_run)) == sorted(runs.FILES)


def test_the_record_says_what_was_done(small_run: Path) -> None:
    record = record_of(small_run)
    assert record["dataset"] | {"graph_sha256": ""} == {
        "name": "small",
        "protocol": "full",
        "split_seed": 0,
        "inductive": False,
        "num_nodes": 60,
        "num_edges": runs.small_graph().num_edges,
        "num_features": 12,
        "num_classes": 3,
        "train_nodes": 36,
        "validation_nodes": 12,
        "test_nodes": 12,
        "graph_sha256": "",
    }
    assert set(record["stages"]) == set(STAGES)
    assert RunConfig.of(record["config"]) == config_of(small_run)
    verify, evaluate = record["stages"]["verify"], record["stages"]["evaluate"]
    assert verify["passed"]
    assert len(verify["comparisons"]) == (8 * 7 + 1 if runs.UNCHECKED else 9 * 7)  # forms, graphs
    assert not any(item["mismatches"] or item["failed"] for item in verify["comparisons"])
    assert set(evaluate["accuracy"]) == {"train", "val", "test"}
    assert set(evaluate["references"]) == {"gcn16_fp32", "gcn16_fp32_distilled"}
    assert record["stages"]["search"]["steps"] == 12 + 3 * 2 + 3 * 5 + 2 * 10 * 2


def test_accuracies_are_those_of_the_program(small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    done = runs.lpgnas("predict", small_run / "program.npz", "--dataset", small_npz, "--out", tmp_path / "out.npz")
    assert done.code == 0, done.err
    with np.load(tmp_path / "out.npz") as prediction:
        codes, logits, classes = (prediction[name] for name in ("codes", "logits", "classes"))
    header = header_of(small_run / "program.npz")
    fraction = next(one["fraction"] for one in header["tensors"] if one["name"] == "logits")
    assert np.array_equal(logits, (codes * 2.0**-fraction).astype(np.float32))
    assert np.array_equal(classes, codes.argmax(axis=1))
    right = int((classes == runs.small_graph().y).sum())
    accuracy = record_of(small_run)["stages"]["evaluate"]["accuracy"]
    assert right == round(36 * accuracy["train"] + 12 * accuracy["val"] + 12 * accuracy["test"])


# --- budgets ---


def test_budgets_hold_by_the_cost_model(small_run: Path) -> None:
    graph = runs.small_graph()
    cost = program_cost(load_program(small_run / "program.npz"), GraphSize(graph.num_nodes, graph.num_edges))
    lowered = record_of(small_run)["stages"]["lower"]
    for name, limit in LIMITS.items():
        assert 0 < getattr(cost, name) <= limit
        assert lowered[name] == getattr(cost, name)


def test_budgets_hold_when_counted_from_the_file(small_run: Path, rich_run: Path) -> None:
    for run in (small_run, rich_run):
        counted = counted_bits(header_of(run / "program.npz"), runs.NODES)
        recorded = record_of(run)["stages"]["lower"]
        assert counted == {name: recorded[name] for name in LIMITS}
    counted = counted_bits(header_of(small_run / "program.npz"), runs.NODES)
    assert all(counted[name] <= limit for name, limit in LIMITS.items())


def test_every_candidate_fits(small_run: Path) -> None:
    lines = (small_run / "candidates.csv").read_text().splitlines()
    names = lines[0].split(",")
    assert len(lines) == 1 + 3 + 3 + 2  # candidates on 3 rungs
    for line in lines[1:]:
        row = dict(zip(names, line.split(","), strict=False))
        assert {name for name, limit in LIMITS.items() if int(row[name]) > limit} == set(), line


def test_every_limit_holds_and_is_reported(small_npz: Path, table_file: Path, tmp_path: Path) -> None:
    space, table = default_search_space(runs.small_graph()), LatencyTable.load(table_file)
    size = GraphSize.of(runs.small_graph())
    least = spec_cost(space.spec(space.smallest()), size, latency=table)
    limits = {one: 3 * least.quantity(one.name) for one in QUANTITIES}
    options: dict[str, Any] = {one.option: one.scale.text(limit) for one, limit in limits.items()}
    moved = shutil.copy(table_file, tmp_path / "table.json")
    config = RunConfig(
        str(small_npz), epochs=5, candidates=3, supernet_steps=5, restarts=1, distillation=False, max_degree=40,
        latency_table=str(moved), **options,
    )  # fmt: skip
    Run(tmp_path / "run", config).run_stage("search")
    (tmp_path / "table.json").unlink()  # the run has a copy
    run = Run(tmp_path / "run")
    run.run_all("lower")
    assert (run.folder / "latency_table.json").read_text() == table.to_json()
    cost = program_cost(run.program(), size, latency=table)
    lowered = record_of(run.folder)["stages"]["lower"]
    with (run.folder / "costs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with (run.folder / "candidates.csv").open(newline="") as stream:
        trials = list(csv.DictReader(stream))
    written = write_reports(run.folder)
    page = (run.folder / "report.html").read_text()
    for one, limit in limits.items():
        assert 0 < lowered[one.name] == cost.quantity(one.name) <= limit
        assert all(0 < int(trial[one.name]) <= limit for trial in trials)
        share = f"{100 * lowered[one.name] / limit:.1f} %"
        assert f"| {one.title} | {one.format(lowered[one.name])} | {one.format(limit)} | {share} |" in written
        assert f"{one.format(lowered[one.name])} of {one.format(limit)}" in page
        if one.name != "peak_bits":
            assert sum(int(row[one.name] or 0) for row in rows) == lowered[one.name]


def test_a_changed_latency_table_starts_a_search_anew(small_npz: Path, table_file: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copy(table_file, tmp_path / "table.json"))
    config = RunConfig(
        str(small_npz), epochs=5, candidates=2, supernet_steps=5, distillation=False, latency_table=str(moved)
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("lpgnas.strategy._Halving.halve", lambda *arguments: 1 / 0)
        Run(tmp_path / "run", config).run_stage("search")
    key = record_of(tmp_path / "run")["search_key"]
    moved.write_text(random_table(np.random.default_rng(8)).to_json())
    Run(tmp_path / "run", config).run_stage("search")
    assert record_of(tmp_path / "run")["search_key"] != key
    assert (tmp_path / "run/latency_table.json").read_text() == moved.read_text()


# --- repeating and resuming ---


def new_run(small_run: Path, folder: Path) -> Run:
    return Run(folder, config_of(small_run))


def test_one_seed_repeats_to_the_byte(small_run: Path, tmp_path: Path) -> None:
    run = new_run(small_run, tmp_path / "again")
    for stage in STAGES[:4]:
        run.run_stage(stage)
    assert runs.bytes_of(run.folder) == runs.bytes_of(small_run)


def test_another_seed_differs(small_run: Path, tmp_path: Path) -> None:
    changed = RunConfig(**{**config_of(small_run).__dict__, "seed": 1})
    run = Run(tmp_path / "other", changed)
    for stage in STAGES[:3]:
        run.run_stage(stage)
    assert (run.folder / "program.npz").read_bytes() != (small_run / "program.npz").read_bytes()


@pytest.mark.parametrize("last", range(4), ids=STAGES[:4])
def test_a_run_that_stopped_after_a_stage_resumes(last: int, small_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for stage in STAGES[: last + 1]:
        new_run(small_run, folder).run_stage(stage)
    made = {path: path.stat().st_mtime_ns for name, path in runs.paths_of(folder).items() if name != "record.json"}
    resumed = new_run(small_run, folder)
    resumed.run_all("export")
    assert runs.bytes_of(folder) == runs.bytes_of(small_run)
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_a_search_that_was_killed_resumes(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, trained = TrialTable.add, []

    def dies(self: TrialTable, *trial: Any) -> None:
        add(self, *trial)
        trained.append(trial)
        if len(trained) == 4:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrialTable, "add", dies)
        with pytest.raises(KeyboardInterrupt):
            new_run(small_run, folder).run_stage("search")
    kept = (folder / "candidates.csv").read_text()
    assert kept.count("\n") == 5
    assert record_of(folder)["stages"] == {}
    run = new_run(small_run, folder)
    with monkeypatch.context() as patch:
        patch.delattr("lpgnas.strategy.train_supernet")  # its steps are kept
        run.run_stage("search")
    for stage in STAGES[1:4]:
        run.run_stage(stage)
    assert runs.bytes_of(folder) == runs.bytes_of(small_run)
    assert (folder / "candidates.csv").read_bytes() == (small_run / "candidates.csv").read_bytes()
    assert (folder / "candidates.csv").read_text().startswith(kept)


def test_kept_words_go_through_the_whole_line(small_npz: Path, tmp_path: Path) -> None:
    """A search among shares below one ends in a program whose index is counted, without a teacher as well."""
    shares = ("--kept-words", "1/4,1/2", "--no-distillation", "--strategy", "random")
    quick = (*runs.QUICK, "--weight-budget", "34B")
    done = runs.lpgnas("run", "--quiet", "--dataset", small_npz, *quick, *shares, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    spec = ModelSpec.from_json((tmp_path / "run/spec.json").read_text())
    program = load_program(tmp_path / "run/program.npz")
    assert spec.input_words == 3
    assert program.index is not None
    ranks = rank_words(runs.small_graph(), make_split(runs.small_graph(), "full", 0).train)
    assert np.flatnonzero(program.index.values).tolist() == sorted(ranks[: spec.input_words])
    costs = (tmp_path / "run/costs.csv").read_text().splitlines()
    assert "-1,input_words,1,12,0,0,0,0.0,0" in costs
    for report in ("report.md", "report.html"):
        text = (tmp_path / "run" / report).read_text()
        assert f"{spec.input_words} of 12 words kept" in text or f"{spec.input_words} words kept, 0 bits" in text
        assert "input words" in text.replace("_", " ")
    whole = ("--weight-budget", "34B", "--kept-words", "1", "--out", tmp_path / "no")
    refused = runs.lpgnas("run", "--dataset", small_npz, *whole)
    assert refused.code == 2
    assert "InfeasibleBudget" in refused.err


def test_the_random_strategy_trains_no_supernet(small_run: Path, tmp_path: Path) -> None:
    config = replace(config_of(small_run), strategy="random", epochs=5, distillation=False)
    Run(tmp_path / "run", config).run_stage("search")
    search = record_of(tmp_path / "run")["stages"]["search"]
    assert (search["strategy"], search["steps"]) == ("random", 3 * 1 + 3 * 2 + 2 * 5 * 2)
    assert not (tmp_path / "run/supernet.csv").exists()


def test_a_search_round_that_was_killed_starts_again(small_run: Path, tmp_path: Path) -> None:
    """The round leaves nothing to go on from; done again it ends in the same bytes."""
    config = replace(config_of(small_run), strategy="lpgnas", epochs=5, distillation=False)
    files = ("supernet.csv", "candidates.csv", "spec.json")
    whole = Run(tmp_path / "whole", config)
    whole.run_stage("search")
    search = record_of(whole.folder)["stages"]["search"]
    assert (search["strategy"], search["steps"]) == ("lpgnas", 12 + 3 * 1 + 3 * 2 + 2 * 5 * 2)
    assert set(files) <= set(search["files"])
    add = TrialTable.add
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(TrialTable, "add", lambda *arguments: (add(*arguments), 1 / 0))
        Run(tmp_path / "killed", config).run_stage("search")
    assert (tmp_path / "killed/candidates.csv").exists()
    Run(tmp_path / "killed").run_stage("search")
    assert runs.bytes_of(tmp_path / "killed", files) == runs.bytes_of(whole.folder, files)


def test_steps_of_another_supernet_are_not_taken(small_run: Path, tmp_path: Path) -> None:
    """Neither a part of it, nor one without the key of this search."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(small_run / "config.toml", folder)
    key = record_of(small_run)["search_key"]
    rows = (small_run / "supernet.csv").read_text().splitlines(keepends=True)
    for kept, record in ((rows[:-3], {"search_key": key}), (rows[::-1], {"search_key": "other"}), (rows[:1], {})):
        (folder / "supernet.csv").write_text("".join(kept))
        (folder / "record.json").write_text(sealed({"schema_version": 1, "stages": {}} | record))
        Run(folder).run_stage("search")
        for name in ("supernet.csv", "candidates.csv", "spec.json"):
            assert (folder / name).read_bytes() == (small_run / name).read_bytes()


def test_a_search_on_a_changed_graph_starts_anew(tmp_path: Path) -> None:
    """Interrupted, its graph mended, and called again: nothing of the old graph decides."""
    config = RunConfig("graph.npz", epochs=5, candidates=2, supernet_steps=5, distillation=False, max_degree=40)
    arrays = runs.small_arrays()
    for name, y in (("old", arrays["y"]), ("new", (arrays["y"] + 1) % runs.CLASSES)):
        np.savez(tmp_path / f"{name}.npz", **(arrays | {"y": y}))
    options = {key: getattr(config, key) for key in ("epochs", "candidates", "supernet_steps", "distillation")}

    def searched(folder: Path, graph: str, patch: pytest.MonkeyPatch | None = None) -> None:
        shutil.copy(tmp_path / f"{graph}.npz", tmp_path / "mine.npz")
        made = Run(folder, RunConfig(str(tmp_path / "mine.npz"), max_degree=40, **options))
        if patch is not None:
            patch.setattr("lpgnas.strategy._Halving.halve", lambda *arguments: 1 / 0)
        made.run_stage("search")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        searched(tmp_path / "run", "old", patch)
    searched(tmp_path / "run", "new")
    searched(tmp_path / "fresh", "new")
    for name in ("supernet.csv", "candidates.csv", "spec.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_finished_stages_are_not_done_again(small_run: Path, tmp_path: Path) -> None:
    folder = runs.copied(small_run, tmp_path / "run")
    before = {name: path.stat().st_mtime_ns for name, path in runs.paths_of(folder).items() if name not in runs.REPORTS}
    done = runs.lpgnas("run", "--quiet", "--out", folder)
    assert done.code == 0, done.err
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert done.out == (folder / "report.md").read_text() == (small_run / "report.md").read_text()


def test_a_spoiled_file_is_made_again_by_run(small_run: Path, tmp_path: Path) -> None:
    folder = runs.copied(small_run, tmp_path / "run")
    for name in ("program.npz", "candidates.csv", "supernet.csv"):
        (folder / name).write_bytes(b"spoiled")
    assert runs.lpgnas("run", "--quiet", "--out", folder).code == 0
    assert runs.bytes_of(folder) == runs.bytes_of(small_run)


def test_stages_need_the_ones_before(small_run: Path, tmp_path: Path) -> None:
    run = new_run(small_run, tmp_path / "run")
    for stage in STAGES[1:]:
        with pytest.raises(RunFolderError, match=f"stage '{stage}' needs 'search' to be done first"):
            run.run_stage(stage)
    assert not run.folder.exists()


def test_training_again_forgets_what_came_from_the_old_model(small_run: Path, tmp_path: Path) -> None:
    folder = runs.copied(small_run, tmp_path / "run")
    (folder / "model.safetensors").write_bytes(b"spoiled")
    run = Run(folder)
    with pytest.raises(CheckFailed, match=r"model\.safetensors was changed"):
        run.run_stage("lower")
    run.run_stage("train")
    assert set(record_of(folder)["stages"]) == set(STAGES)  # the same bytes: what came later is still true
    changed = ModelSpec.from_json((folder / "spec.json").read_text())
    runs.replace_file(folder, "spec.json", changed.to_json().replace("half_even", "floor").encode())
    run.run_stage("train")
    assert set(record_of(folder)["stages"]) == {"search", "train"}


def test_a_run_belongs_to_its_graph(small_run: Path, tmp_path: Path) -> None:
    folder = runs.copied(small_run, tmp_path / "run")
    other = runs.write_small(tmp_path / "small.npz", seed=6)
    moved = RunConfig(**{**config_of(folder).__dict__, "dataset": str(other)})
    runs.replace_file(folder, "config.toml", moved.to_toml().encode())
    with pytest.raises(CheckFailed, match="the graph small is not the one"):
        Run(folder)
