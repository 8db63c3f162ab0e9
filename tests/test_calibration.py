"""Calibration: its synthetic graphs, its stopwatch, and tables of a few places that are whole, resume and predict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import runs
import samples

from lpgnas import calibration
from lpgnas.calibration import (
    Cell,
    Grid,
    Stopwatch,
    Timed,
    calibrate,
    spread_counts,
    synthetic_edges,
    synthetic_program,
    synthetic_words,
)
from lpgnas.cost_models.latency import LatencyTable, Point, known_kinds, space_kinds
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.kernels.executor import Executor
from lpgnas.search_space import SearchSpace

TINY = Grid(
    rows=(40, 80),
    dense_rows=(40,),
    words=(3,),
    inputs=(4,),
    degrees=(1, 4),
    widths=(4,),
    columns=(4, 8),
    head_columns=(8,),
    input_bits=(8,),
    message_bits=(8,),
    turns=2,
)


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return calibrate(grid=TINY)


def test_every_operation_is_measured(table: LatencyTable) -> None:
    assert (table.version, table.threads) == (2, 1)
    assert {point.operation for point in table.points} == set(known_kinds())
    assert all(point.nanoseconds >= 1 for point in table.points)
    by_kind = {kind: [one for one in table.points if one.operation == kind] for kind in known_kinds()}
    assert {one.size for one in by_kind["aggregate/gat/sum"]} == {40, 160, 80, 320}
    assert {one.size for one in by_kind["aggregate/self/sum"]} == {40, 80}  # whatever the edges
    assert {(one.size, one.bits) for one in by_kind["transform/sparse"]} == {(120, 8), (240, 8)}
    assert {(one.rows, one.columns) for one in by_kind["head/cos"]} == {(40, 8), (80, 8)}
    assert LatencyTable.from_json(table.to_json()).points == table.points


def test_models_are_timed_by_it(table: LatencyTable) -> None:
    space = SearchSpace(12, 3, attentions=("gcn", "gat", "cos"), widths=(4, 8))
    size = GraphSize(60, 200, 150)
    table.require(space_kinds(space, size))
    for seed in range(20):
        spec, program = samples.random_program(np.random.default_rng(seed), 12, 5, 40)
        planned, lowered = spec_cost(spec, size, latency=table), program_cost(program, size, latency=table)
        assert planned.latency_ns == lowered.latency_ns
        assert planned.quantity("latency_ns") > 0


def test_a_calibration_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Cell] = []
    measure = calibration._measured

    def interrupted(cell: Cell, watch: Stopwatch, turns: int) -> list[tuple[Point, float]]:
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(cell)
        return measure(cell, watch, turns)

    grid, out = replace(TINY, columns=(4,)), tmp_path / "table.json"
    monkeypatch.setattr(calibration, "_measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(out, grid=grid)
    part = tmp_path / "table.json.part"
    assert part.exists() and not out.exists()
    kept = json.loads(part.read_text())
    assert list(kept["ratios"]) == [cell.name for cell in measured] and kept["reference"] > 0

    def noted(cell: Cell, watch: Stopwatch, turns: int) -> list[tuple[Point, float]]:
        measured.append(cell)
        return measure(cell, watch, turns)

    monkeypatch.setattr(calibration, "_measured", noted)
    whole = calibrate(out, grid=grid)
    assert measured == list(grid.cells())  # every place once
    assert LatencyTable.load(out).points == whole.points and not part.exists()
    first = [round(ratio * kept["reference"]) for _, ratio in kept["ratios"][measured[0].name]]
    assert whole.points[0].nanoseconds == pytest.approx(first[0], rel=0.5)  # a shorter reference may have been seen


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"key": "of another grid", "ratios": {"a": 1}}'])
def test_what_others_left_is_not_read(text: str, tmp_path: Path) -> None:
    grid = replace(TINY, rows=(40,), degrees=(1,), columns=(4,))
    (tmp_path / "table.json.part").write_text(text)
    calibrate(tmp_path / "table.json", grid=grid).require(known_kinds())
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "QUICK", replace(TINY, rows=(40,)))
    out = runs.lpgnas("calibrate", "--out", tmp_path / "made/table.json", "--quick", "--quiet").out
    kinds = len(known_kinds())
    assert ", 1 thread: " in out and f" times of {kinds} operations" in out
    LatencyTable.load(tmp_path / "made/table.json").require(known_kinds())
    (tmp_path / "file").write_text("")
    refused = runs.lpgnas("calibrate", "--out", tmp_path / "file/table.json", "--quick")
    assert refused.code == 2 and "file" in refused.err


def ticks(step: int) -> Iterator[int]:
    """A clock that moves by `step` nanoseconds whenever it is read."""
    return count(0, step)


def test_times_are_relative_to_the_reference() -> None:
    ticking = ticks(50)
    watch, calls = Stopwatch(lambda: next(ticking)), []
    assert watch.reference == 50
    timed = [
        Timed(lambda: calls.append("timed"), Point("lookup", 1, 1, 1, 1, 1), (lambda: calls.append("before"),)),
        Timed(lambda: [next(ticking) for _ in range(3)], Point("lookup", 1, 1, 1, 1, 1)),
    ]
    assert watch.ratios(timed, 4) == [1.0, 4.0]
    assert calls == ["before", "timed"] * 4
    slow = ticks(10**9)
    assert Stopwatch(lambda: next(slow)).ratios(timed[:1] * 2, 50, 10**6) == [1.0, 1.0]
    assert len(calls) == 8 + 2 * 2 * calibration.FEWEST_TURNS  # long operations are not repeated


def test_synthetic_graphs() -> None:
    rng = np.random.default_rng(0)
    counts = spread_counts(rng, 1000, 5000, 12)
    assert counts.sum() == 5000 and counts.max() == 12 and counts.min() == 0
    edges = synthetic_edges(rng, 500, 3000)
    assert edges.shape == (2, 3000) and edges.dtype == np.int64
    for ends in edges:
        degrees = np.bincount(ends, minlength=500)
        assert degrees.size == 500 and 1.0 < degrees.std() / degrees.mean() < 2.0  # 1.2 to 2 on graphs of citations
    assert synthetic_edges(rng, 7, 0).shape == (2, 0)
    x = synthetic_words(rng, 300, 4000)
    assert x.nnz == 4000 and x.has_canonical_format and set(x.data) == {1.0}


def test_synthetic_programs_hold_any_spec() -> None:
    for seed in range(12):
        spec = samples.random_spec(np.random.default_rng(seed), 12, 5)
        program = synthetic_program(spec, 40)
        graph = samples.random_graph(np.random.default_rng(seed), 20, 60, 12)
        assert Executor(program).run(graph.x, graph.edge_index).codes.shape == (20, 5)
