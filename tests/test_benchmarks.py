"""What the benchmarks share: rows that resume, and the table of run times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import runs
from latency_tables import measured_points

from benchmarks import (
    differentiable,
    edges,
    inference,
    input_words,
    kernels,
    latency_model,
    many_labels,
    run_time,
    strategies,
    teachers,
    threads,
    transforms,
)
from lpgnas.bench import PREPARED
from lpgnas.calibration import Stopwatch
from lpgnas.cost_models.latency import LatencyTable
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.graph import Graph
from lpgnas.pipeline import Run
from lpgnas.rows import Rows, key_of
from lpgnas.strategy import SearchSettings


def test_rows_resume(tmp_path: Path) -> None:
    key = key_of({"a": 1, "b": "x"})
    assert key == key_of({"b": "x", "a": 1}) != key_of({"a": 2, "b": "x"})
    rows = Rows(tmp_path / "made" / "rows.csv")
    assert key not in rows
    rows.add({"key": key, "seed": 0, "value": 0.5})
    again = Rows(tmp_path / "made" / "rows.csv")
    assert key in again
    again.add({"key": "other", "seed": 1, "value": 1.5})
    assert (tmp_path / "made/rows.csv").read_text() == f"key,seed,value\n{key},0,0.5\nother,1,1.5\n"


def test_run_times_take_turns_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def timing(what: str, seconds: float) -> Any:
        def measure(dataset: str, seed: int, data_root: Path | None) -> dict[str, float]:
            calls.append((what, seed))
            return {"whole_seconds": seconds + seed, "work_seconds": seconds / 2, "test_accuracy": 0.875}

        return measure

    monkeypatch.setattr(run_time, "time_run", timing("ours", 30.0))
    monkeypatch.setattr(run_time, "time_pyg", timing("theirs", 10.0))
    for seeds in (1, 3):
        rows = run_time.run(["cora"], seeds, None, tmp_path / "rows.csv")
    assert calls == [(what, seed) for seed in range(3) for what in ("ours", "theirs")]
    text = run_time.summary(rows)
    assert "cora, split full, 3KiB of weights and 60KiB of buffers:" in text
    assert "| lpgnas run | 3 | 31.0 (30.0 to 32.0) | 15.0 (15.0 to 15.0) | 87.5 ± 0.0 |" in text
    assert "| ratio of the medians |  | 2.82 | 3.00 |  |" in text


def test_strategies_are_compared_in_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[str, ...], int]] = []

    def measure(dataset: str, names: list[str], seed: int, data_root: Path | None) -> dict[str, dict[str, float]]:
        calls.append((tuple(names), seed))
        gain = {"feasible": 0.01, "random": 0.0, "lpgnas": 0.005, "lpgnas-textbook": -0.02}
        return {
            name: {"steps": 100, "score": 0.9 + gain[name], "test_accuracy": 0.8 + 0.01 * seed + gain[name] * seed}
            for name in names
        }

    monkeypatch.setattr(strategies, "measure", measure)
    for seeds in (1, 3, 3):
        rows = strategies.run(["cora"], seeds, None, tmp_path / "rows.csv")
    assert calls == [(tuple(strategies.STRATEGIES), seed) for seed in range(3)]
    text = strategies.summary(rows)
    monkeypatch.setattr(strategies, "RETRAININGS", strategies.RETRAININGS + 1)
    assert len(strategies.run(["cora"], 1, None, tmp_path / "rows.csv")) == len(
        strategies.STRATEGIES
    )  # not the old ones
    assert len(pd.read_csv(tmp_path / "rows.csv")) == 4 * len(strategies.STRATEGIES)
    assert "| cora | random | 3 | 100 | 90.00 | 81.00 |" in text
    assert "| cora | feasible - random, paired | 3 |  | +1.00 (+1.00 to +1.00) | +1.00 (-1.48 to +3.48) |" in text
    assert (
        "| cora | lpgnas-textbook - random, paired | 3 |  | -2.00 (-2.00 to -2.00) | -2.00 (-6.97 to +2.97) |" in text
    )
    steps = {settings.steps() for settings in strategies.STRATEGIES.values()}
    assert max(steps) - min(steps) <= 40


def test_teachers_are_compared_in_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def measure(graph: Graph, labels: int, kind: str, seed: int) -> dict[str, float]:
        calls.append((kind, seed))
        result = {"teacher": 0.7 + 0.01 * list(teachers.KINDS).index(kind) * (seed + 1)}
        if kind == "APPNP":
            result |= {name: 0.8 for name in teachers.STUDENTS}
            result |= {f"{name}, {teachers.FLAT}": 0.75 + 0.01 * seed for name in teachers.STUDENTS}
        return result

    monkeypatch.setattr(teachers, "measure", measure)
    monkeypatch.setattr(teachers, "load_dataset", lambda name, data_root: runs.small_graph())
    monkeypatch.setattr(teachers, "DATASETS", ("cora",))
    monkeypatch.setattr(teachers, "LABELS", (20,))
    for seeds in (1, 2, 2):
        rows = teachers.run(seeds, None, tmp_path / "rows.csv")
    assert calls == [(kind, seed) for seed in range(2) for kind in teachers.KINDS]
    text = teachers.summary(rows)
    assert "| cora | 20 | 2 | 70.0 | 71.5 | 73.0 | 74.5 | +1.5 ± 0.5 | +1.5 ± 0.5 | +3.0 ± 1.0 |" in text
    assert "| cora | 20 | APPNP | 2 | 80.0 | 80.0 | +4.5 ± 0.5 | +4.5 ± 0.5 |" in text
    part = rows[(rows["seed"] == 0) | (rows["kind"] == "APPNP")]
    assert "| cora | 20 | 1 | 70.0 | 71.0 | 72.0 | 73.0 | +1.0 | +1.0 | +2.0 |" in teachers.summary(
        part
    )  # whole splits


def test_teachers_of_many_labels_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_labels, "DATASETS", ("cora",))
    monkeypatch.setattr(many_labels, "load_dataset", lambda name, data_root: runs.small_graph())
    monkeypatch.setattr(many_labels, "TEACHER", replace(teachers.TEACHER, epochs=2))
    monkeypatch.setattr(many_labels, "SETTINGS", replace(teachers.SETTINGS, epochs=2))
    rows = many_labels.run(2, None, tmp_path / "rows.csv")
    assert list(rows["run"]) == ["GCN", "GCN"]  # labels are few here
    columns = [many_labels.student(name, kind) for name in many_labels.STUDENTS for kind in many_labels.KINDS]
    assert ((rows[[*many_labels.KINDS, *columns]] >= 0) & (rows[[*many_labels.KINDS, *columns]] <= 1)).all(axis=None)
    assert many_labels.run(2, None, tmp_path / "rows.csv").equals(rows)
    part = rows.assign(GCN=0.5, GraphSAGE=[0.6, 0.8])
    assert "| cora | 2 | 50.0 | 70.0 | +20.0 ± 10.0 |" in many_labels.summary(part)
    assert "| GCN (2) |" in many_labels.summary(part)


def test_search_rounds_are_compared_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, str]] = []

    class Setting:
        def __init__(self, split: int) -> None:
            self.split = split

        @classmethod
        def of(cls, dataset: str, split_seed: int, seed: int, data_root: Path | None) -> Setting:
            return cls(split_seed)

        def searched(self, settings: SearchSettings) -> dict[str, float]:
            calls.append((self.split, settings.strategy))
            return {"steps": settings.steps(), "seconds": 2.0, "score": 0.9, "test_accuracy": 0.8} | {
                "weight_bits": 8 << 10, "buffer_bits": 16 << 10,
            }  # fmt: skip

    monkeypatch.setattr(differentiable, "Setting", Setting)
    for seeds in (1, 2, 2):
        rows = differentiable.run(["textbook", "feasible"], ["cora"], seeds, None, tmp_path / "rows.csv")
    assert calls == [(split, name) for split in (11, 12) for name in ("lpgnas", "feasible")]
    text = differentiable.summary(rows)
    assert "| cora | textbook | 2 | 2240 | 2 | 90.00 | 80.00 | 1 KiB | 2 KiB |" in text
    assert {settings.steps() for name, settings in differentiable.VARIANTS.items() if name != "random"} == {2240}


def test_input_words_resume_and_summarise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[input_words.Model] = []

    class Setting:
        def __init__(self, dataset: str, split_seed: int, data_root: Path | None) -> None:
            self.bonus = 0.01 * (split_seed - 12)

        def measure(self, model: input_words.Model) -> dict[str, float]:
            calls.append(model)
            bits = int(8192 * model.hidden * model.share)
            return {"weight_bits": bits, "selection_accuracy": 0.5 + model.share / 4 + self.bonus}

    monkeypatch.setattr(input_words, "Setting", Setting)
    for _ in range(2):
        input_words.run(None, tmp_path / "rows.csv")
    assert len(calls) == 6 * len(list(input_words.models()))
    text = input_words.summary(pd.read_csv(tmp_path / "rows.csv"))
    assert "| cora | yes | labels | 75.0 | 62.5 | 56.2 | 53.1 |" in text
    assert "| planetoid/CiteSeer | no | frequency | 75.0 | 62.5 | 56.2 | 53.1 |" in text
    assert "| cora | 8 | 0.5 | 4.000 | 62.5 |" in text


def test_a_model_of_the_input_words_benchmark() -> None:
    """One training for real, on the embedded graph: the orders are permutations, and the size counts the index."""
    setting = input_words.Setting("cora", 11, None)
    for rank in ("frequency", "labels"):
        assert sorted(setting.ranked(rank)) == list(range(1433))
    spec = setting.spec(input_words.Model("labels", 8, 0.5, distilled=False))
    assert (spec.input_words, spec.layers[0].width) == (716, 8)
    size = setting.prepared.size
    whole = setting.spec(input_words.Model("labels", 8, 1.0, distilled=False))
    assert spec_cost(whole, size).weight_bits - spec_cost(spec, size).weight_bits == 717 * 8 - 1433


def test_transforms_are_timed_beside_float_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "load_dataset", lambda name, data_root: runs.small_graph())
    cases = [transforms.dense_case("small", 40, 9, 5), transforms.sparse_case("small", 5, None)]
    rows = transforms.measure(cases, 2)
    ours, torch, scipy = transforms.OURS, transforms.TORCH, transforms.SCIPY
    named = [(ours, torch, transforms.CEILING), (ours, torch, scipy, transforms.ROUNDING)]
    assert rows["contender"].tolist() == [name for names in named for name in names]
    torch_rows = rows[rows["contender"] == transforms.TORCH]
    assert (torch_rows["times_torch"] == 1.0).all()
    assert (rows["median_ms"] > 0).all()
    text = transforms.summary(rows, 2)
    assert "| small, 40 x 9 x 5 | ours, int8 |" in text
    assert f"| small, 60 x 12, {int(runs.small_graph().x.sum())} ones, x 5 | scipy, float32 |" in text


def test_kernels_take_turns_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small comparisons for real; then the table of made-up times."""
    target = tmp_path / "rows.csv"
    rows = kernels.run(kernels.QUICK, None, target)
    assert len(rows) == sum(len(kernels.CONTENDERS[one.kind]) for one in kernels.QUICK)
    assert (rows["median_ms"] > 0).all()
    assert (rows["q1_ms"] <= rows["q3_ms"]).all()
    before = target.read_text()
    kernels.run(kernels.QUICK, None, target)
    assert target.read_text() == before

    def measure(comparison: kernels.Comparison, graph: object) -> list[dict[str, object]]:
        facts = {"kind": comparison.kind, "graph": comparison.graph, "columns": comparison.columns}
        times = {"int8": 2.0, "int4": 1.0, "int2": 0.8, kernels.FLOOR: 1.9, kernels.TORCH: 30.0, kernels.SIMD: 9.0}
        return [
            {"key": comparison.key(name), **facts, "contender": name, "q1_ms": 1.0, "q3_ms": 40.0}
            | {"median_ms": times.get(name, 20.0)}
            for name in kernels.CONTENDERS[comparison.kind]
        ]

    monkeypatch.setattr(kernels, "measure", measure)
    monkeypatch.setattr(kernels, "read_graph", lambda name, data_root: None)
    text = kernels.summary(kernels.run(kernels.COMPARISONS, None, tmp_path / "other.csv"))
    assert "| amazon/Computers | 256 | torch.sparse.mm | 30.000 (1.000 to 40.000) | 15.00 |" in text
    assert "| their geometric mean | 9 | 15.0 |" in text
    assert "| Computers, 128 columns, int8 over int4, over int2 | 1.6, 2 | 2.00, 2.50 |" in text
    assert "| random graph, 64 columns, int8 over one word of every message | at most 1.15 | 1.05 |" in text


def test_contenders_of_a_comparison_agree() -> None:
    """The integers are the rounded sums of the floats."""
    for kind in ("sum", "weighted sum"):
        comparison = kernels.Comparison(kind, "cora", 16, 1)
        task = kernels.Task(comparison, kernels.read_graph("cora", None))
        calls = task.calls()
        sums = np.asarray(calls[kernels.TORCH]())
        assert np.array_equal(np.asarray(calls[kernels.SCIPY]()), sums)
        calls[kernels.OURS]()
        shift = 5 if kind == "sum" else 12
        assert np.array_equal(task.out, np.clip(np.rint(np.ldexp(sums.astype(np.float64), -shift)), -128, 127))


def test_threads_are_timed_on_equal_codes() -> None:
    rows = pd.DataFrame([threads.measure(case) for case in threads.QUICK])
    for what in ("wall", "longest"):
        for count in (1, 2):
            assert (rows[f"{what}_{count}_q1_ms"] > 0).all()
    row = rows.iloc[0].copy()
    row["wall_1_median_ms"], row["wall_2_median_ms"], row["longest_2_median_ms"] = 3.0, 2.0, row["longest_1_median_ms"]
    text = threads.summary(pd.DataFrame([row]))
    assert "| second-level cache | 500 | 5,000 | 0.031 MiB | 3.000 (" in text
    assert "| 1.50 |" in text
    assert text.rstrip().endswith("| 1.00 |")


def test_time_grows_with_edges() -> None:
    measured = pd.DataFrame(edges.measure(edges.QUICK[0]))
    assert list(measured["edges"]) == [1000, 2000, 3000]
    assert measured[["median_ms"]].gt(0).all(axis=None)
    assert edges.figure(measured).startswith(b"\x89PNG")
    table = measured.assign(median_ms=[1.5, 2.5, 3.5], checks_ms=[np.nan, np.nan, 0.07], wide_ms=[np.nan, np.nan, 7.0])
    assert np.allclose(edges.fit(table), (1000.0, 0.5, 1.0))
    assert "| second-level cache | 300 | 0.018 MiB | 1,000 to 3,000 | 1.500 to 3.500 | 1000.00 | 0.500 | 1.0000 |" in (
        text := edges.summary(table)
    )
    assert "| second-level cache | 3,000 | 0.070 | 3.500 | 7.000 | 2.0 % | 1.0 % |" in text
    assert edges.fit(table.assign(median_ms=[1.0, 2.0, 1.0]))[2] == pytest.approx(0.0)


def test_whole_inferences_are_timed(small_run: Path) -> None:
    run = Run(small_run)
    rows = pd.DataFrame(inference.rows_of("cora", "searched", run, 2))
    assert list(rows[rows["kind"] == "inference"]["what"]) == [inference.WHOLE, PREPARED, inference.TORCH]
    assert len(rows) == 3 + len(run.program().operations)
    assert (rows[["q1_ms", "median_ms", "q3_ms"]] > 0).all(axis=None)
    rows.loc[rows["what"] == PREPARED, "median_ms"] = 2.0
    rows.loc[rows["what"] == inference.TORCH, "median_ms"] = 9.0
    rows.loc[rows["kind"] == "operation", "median_ms"] = 0.5
    text = inference.summary(rows, 2, inference.QUICK)
    assert "| 4.5 | 8 |" in text
    assert text.count("| 25 % |") == len(run.program().operations)


def test_predicted_latencies_stand_beside_measured_ones() -> None:
    graph, table = runs.small_graph(), LatencyTable("any", 1, measured_points(np.random.default_rng(0)))
    named = list(latency_model.models(graph, draws=2))
    assert len(named) == len(latency_model.MODELS) + 2
    assert {len(spec.layers) for _, spec in named} == {1, 2, 3}
    watch = Stopwatch()
    rows = latency_model.measure(table, graph, named[-3:], watch, 2)
    for row, (name, spec) in zip(rows.itertuples(), named[-3:], strict=True):
        assert row.model == name and row.ratio_to_reference > 0
        assert row.predicted_ns == spec_cost(spec, GraphSize.of(graph), latency=table).latency_ns
    rows = pd.DataFrame(
        {
            "graph": ["a", "a", "b", "b"],
            "model": ["one", "two", "one", "winner of a search"],
            "predicted_ns": [900_000, 1_300_000, 1_000_000, 2_000_000],
            "measured_ns": [1_000_000, 1_000_000, 1_000_000, 1_900_000],
            "ratio": [0.9, 1.3, 1.0, 1.0526],
            "limit_ns": [np.nan, np.nan, np.nan, 2_100_000],
        }
    )
    text = latency_model.summary(rows)
    assert "| a | 2 | 50 % | 20.0 % | 1.30 (two) |" in text
    assert "| all | 3 | 67 % | 10.0 % | 1.30 |" in text
    assert "| b | 2.100 | 2.000 | 1.900 | 1.05 |" in text
    assert "winner of a search on" not in latency_model.summary(rows.iloc[:3].drop(columns="limit_ns"))
