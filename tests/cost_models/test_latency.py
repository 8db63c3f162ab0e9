"""Latency tables: against NumPy and SciPy, rising in everything, and refused by name where they are malformed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import samples
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_tables import measured_points, random_points, random_table
from scipy.interpolate import RegularGridInterpolator

from lpgnas.cost_models.latency import (
    DENSE,
    LOGITS,
    LOOKUP,
    ONES,
    SCORE,
    SPARSE,
    LatencyTable,
    Point,
    Work,
    aggregate_kind,
    known_kinds,
    not_above,
    space_kinds,
)
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import LatencyTableError
from lpgnas.integer_program import Score
from lpgnas.number_formats import FormatChoice
from lpgnas.operators import AGGREGATIONS, ATTENTIONS
from lpgnas.search_space import SearchSpace

DOCS = Path(__file__).parents[2] / "docs/budgets.md"
SIZE = GraphSize(60, 200, 150)


def work(kind: str, size: int, columns: int, bits: int) -> Work:
    """The work at a place of version 1, which knows no rows and no heads."""
    return Work(kind, 1, size, columns, bits)


def expected(points: list[Point], kind: str, place: tuple[int, int, int]) -> float:
    """The time of one kind by NumPy's running maxima and SciPy's interpolation."""
    own = [point for point in points if point.operation == kind]
    axes = [sorted({getattr(point, name) for point in own}) for name in ("size", "columns", "bits")]
    times = np.empty([len(axis) for axis in axes])
    for point in own:
        where = tuple(
            axis.index(getattr(point, name)) for axis, name in zip(axes, ("size", "columns", "bits"), strict=True)
        )
        times[where] = point.nanoseconds
    for axis in range(3):
        times = np.maximum.accumulate(times, axis=axis)
    inside = [min(max(value, axis[0]), axis[-1]) for value, axis in zip(place, axes, strict=True)]
    beyond = np.prod([max(1.0, value / axis[-1]) for value, axis in zip(place, axes, strict=True)])
    for axis, values in enumerate(axes):
        if len(values) == 1:  # SciPy wants two
            times, axes[axis] = np.repeat(times, 2, axis=axis), [values[0], values[0] + 1]
    return float(beyond * RegularGridInterpolator(tuple(map(np.array, axes)), times)(inside).item())


@given(st.integers(0, 10**6), st.tuples(st.integers(0, 10**6), st.integers(1, 500), st.integers(1, 500)))
def test_times_are_those_of_scipy(seed: int, place: tuple[int, int, int]) -> None:
    points = random_points(np.random.default_rng(seed), (DENSE, "aggregate/gat/mean"))
    table = LatencyTable("any", 1, points)
    for kind in (DENSE, "aggregate/gat/mean"):
        assert table.nanoseconds(work(kind, *place)) == pytest.approx(expected(points, kind, place), rel=1e-9, abs=1.0)


@given(st.integers(0, 10**6), st.data())
def test_more_never_costs_less(seed: int, data: st.DataObject) -> None:
    table = random_table(np.random.default_rng(seed))
    amounts = st.tuples(st.integers(0, 10**6), st.integers(1, 500), st.integers(1, 500))
    small, more = data.draw(amounts), data.draw(amounts)
    large = tuple(one + other for one, other in zip(small, more, strict=True))
    for kind in known_kinds(1):
        time = table.nanoseconds(work(kind, *large))
        assert all(1 <= table.nanoseconds(work(less, *small)) <= time for less in not_above(kind))


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.data())
def test_more_never_costs_less_in_version_2(seed: int, data: st.DataObject) -> None:
    """More rows of as many entries each, more entries, columns, bits or heads."""
    kinds = ("aggregate/self/sum", *(f"aggregate/{one}/{kind}" for one in ("const", "gat") for kind in ("sum", "max")))
    kinds = (DENSE, SCORE, LOGITS, "head/gat", *kinds)
    table = LatencyTable("any", 1, measured_points(np.random.default_rng(seed), kinds))
    rows, share = data.draw(st.integers(1, 5000)), data.draw(st.integers(0, 60))
    more_rows, more_share = data.draw(st.integers(0, 5000)), data.draw(st.integers(0, 60))
    amounts = st.tuples(st.integers(1, 70), st.integers(1, 16), st.integers(1, 16), st.integers(1, 4))
    few, more = data.draw(amounts), data.draw(amounts)
    many = [one + other for one, other in zip(few, more, strict=True)]
    for kind in kinds:
        small = Work(kind, rows, rows * share, *few)
        large = Work(kind, rows + more_rows, (rows + more_rows) * (share + more_share), *many)
        time = table.nanoseconds(large)
        assert all(1 <= table.nanoseconds(replace(small, kind=less)) <= time for less in not_above(kind) & set(kinds))


def test_what_a_kind_contains() -> None:
    assert not_above(SCORE) == {SCORE}
    assert not_above("aggregate/self/sum") == {"aggregate/self/sum"}
    plain = {"aggregate/self/sum", "aggregate/const/sum", "aggregate/gcn/sum"}
    assert not_above("aggregate/gcn/sum") == not_above("aggregate/const/sum") == plain
    assert not_above("aggregate/const/mean") == {*plain, "aggregate/const/mean"}
    assert not_above("aggregate/gat/sum") == {*plain, "aggregate/gat/sum"}
    heads = {f"head/{one}" for one in ATTENTIONS if ATTENTIONS.get(one).learned}
    assert set(known_kinds()) == {*known_kinds(1), *heads, ONES, LOGITS}
    assert len(known_kinds(1)) == 4 + sum(len(ATTENTIONS.get(one).aggregations) for one in ATTENTIONS)


def test_points_are_met_and_gaps_are_linear() -> None:
    points = [Point(LOOKUP, size, 4, 8, time) for size, time in ((10, 100), (20, 300), (40, 200))]
    table = LatencyTable("any", 1, points)
    times = {1: 100, 10: 100, 15: 200, 20: 300, 30: 300, 40: 300, 41: 308, 80: 600}  # 307.5 is rounded up
    assert {size: table.nanoseconds(work(LOOKUP, size, 4, 8)) for size in times} == times
    assert table.nanoseconds(work(LOOKUP, 80, 6, 1)) == 900
    one = LatencyTable("any", 1, points[:1])
    assert one.nanoseconds(work(LOOKUP, 30, 1, 24)) == 900
    assert one.nanoseconds(work(LOGITS, 30, 1, 24)) == 0  # version 1 has none
    with pytest.raises(LatencyTableError, match="of 'any' has no point of score; measure it"):
        one.nanoseconds(work(SCORE, 1, 1, 1))


def measured_by(kind: str, time: Callable[[int, int, int, int], int]) -> list[Point]:
    """Points of version 2 on 2 rows, 2 sizes a row, 2 columns and 2 bits."""
    axes = product((10, 20), (1, 5), (4, 8), (8, 16))
    return [
        Point(kind, rows * share, columns, bits, time(rows, share, columns, bits), rows)
        for rows, share, columns, bits in axes
    ]


def test_places_of_version_2() -> None:
    """A time that is linear in rows and entries is met between the points, whatever the sizes."""
    table = LatencyTable(
        "any", 1, measured_by(DENSE, lambda rows, share, columns, bits: 1000 + 10 * rows + 3 * rows * share + columns)
    )
    assert table.version == 2
    for rows, size in ((10, 10), (15, 40), (20, 33), (13, 52)):
        wanted = 1000 + 10 * rows + 3 * size + 6
        assert table.nanoseconds(Work(DENSE, rows, size, 6, 8)) == pytest.approx(wanted, abs=1)
    assert table.nanoseconds(Work(DENSE, 40, 40, 4, 8)) == 2 * (1000 + 200 + 60 + 4)  # proportional beyond
    # the wider operand of a transform counts, whatever the product
    assert table.nanoseconds(Work(DENSE, 10, 10, 4, 2, 8)) == table.nanoseconds(Work(DENSE, 10, 10, 4, 8, 8))


def test_heads_and_own_messages() -> None:
    points = measured_by("aggregate/gat/sum", lambda rows, share, columns, bits: 100 * columns)
    points += measured_by("head/gat", lambda rows, share, columns, bits: columns)
    points += measured_by("aggregate/self/sum", lambda rows, share, columns, bits: 10 * rows)
    table = LatencyTable("any", 1, points)

    def time(columns: int, heads: int) -> int:
        return table.nanoseconds(Work("aggregate/gat/sum", 10, 20, columns, 8, 7, heads))

    assert (time(8, 1), time(8, 2), time(8, 4), time(16, 2)) == (800, 808, 824, 1616)
    # it reads no edges: its time is that of its rows, however many edges an aggregation of neighbours has
    assert table.nanoseconds(Work("aggregate/self/sum", 20, 20, 4, 8)) == 200
    assert table.nanoseconds(Work("aggregate/gat/sum", 20, 2000, 4, 8)) == 400 * 20
    falling = LatencyTable("any", 1, [Point(LOGITS, 10, columns, 8, ns, 10) for columns, ns in ((1, 90), (2, 50))])
    assert falling.nanoseconds(Work(LOGITS, 10, 10, 1, 8)) == falling.nanoseconds(Work(LOGITS, 10, 10, 2, 8)) == 70


def test_spec_and_program_take_equally_long() -> None:
    seen: set[str] = set()
    for seed in range(150):
        rng = np.random.default_rng(seed)
        spec, program = samples.random_program(rng, 12, 5, 40)
        size = GraphSize(int(rng.integers(1, 60)), int(rng.integers(0, 300)), [None, 33][seed % 2])
        table = random_table(rng) if seed % 3 else LatencyTable("any", 1, measured_points(rng))
        planned, lowered = spec_cost(spec, size, latency=table), program_cost(program, size, latency=table)
        assert (
            planned.latency_ns == lowered.latency_ns == lowered.totals()["latency_ns"] == planned.quantity("latency_ns")
        )
        timed = [
            sorted((row.layer, row.what, row.latency_ns) for row in one.rows if row.latency_ns)
            for one in (planned, lowered)
        ]
        assert timed[0] == timed[1]
        assert len(timed[0]) == sum(len(op.products()) if isinstance(op, Score) else 1 for op in program.operations)
        assert sum(time for *_, time in timed[0]) == planned.latency_ns
        seen |= {f"{layer.attention}/{layer.aggregation}" for layer in spec.layers}
        without = spec_cost(spec, size)
        assert without.latency_ns is None and "latency_ns" not in without.totals()
        assert "latency_ns" not in without.table().columns
        assert "latency_ns" in planned.table().columns
        assert "latency_ns" not in without.to_json()
    assert len(seen) > 15


def test_a_model_by_hand() -> None:
    places = {DENSE: (1, 1, 1), SPARSE: (1, 1, 1), LOOKUP: (1, 1, 1), SCORE: (1, 1, 1)}
    kinds = {**places, "aggregate/gcn/sum": (1, 1, 1), "aggregate/gat/sum": (1, 1, 1)}
    table = LatencyTable("unit", 1, [Point(kind, *place, 1) for kind, place in kinds.items()])
    cost = spec_cost(
        runs.rich_spec(), SIZE, latency=table
    )  # gcn/sum/tanh of 8 columns, then gat/sum to 3 with a shortcut
    first = 150 * 8 * (4 * 1) + 260 * 8 * 6 + 60 * 8 * 6
    second = 2 * (60 * 8) * 3 * (4 * 6) + 2 * 60 * 3 * (4 * 6) + 260 * 3 * (7 * 6)
    assert cost.latency_ns == first + second
    dense = spec_cost(runs.rich_spec(), GraphSize(60, 200), latency=table)
    assert dense.latency_ns == first + second + (60 * 12 - 150) * 8 * 4


def test_every_kind_of_a_space_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    space = SearchSpace(12, 3, attentions=("const", "gcn", "cos", "linear"), aggregations=("sum", "max"), blocks=(3,))
    kinds = space_kinds(space, SIZE)
    assert set(kinds) == {
        ONES, LOGITS, DENSE, SCORE, LOOKUP, "head/cos", "head/linear", "aggregate/gcn/sum",
        *(aggregate_kind(one, kind) for one in ("const", "cos", "linear") for kind in ("sum", "max")),
    }  # fmt: skip
    mapped = tuple(SPARSE if kind == ONES else kind for kind in kinds if kind in (*known_kinds(1), ONES))
    table = LatencyTable("those", 1, random_points(rng, mapped))
    table.require(kinds)
    for _ in range(100):
        spec_cost(space.spec(space.draw(rng)), SIZE, latency=table)
    assert SPARSE in space_kinds(replace(space, input_format=FormatChoice("fixed", 8)), SIZE)
    assert DENSE in space_kinds(space, GraphSize(3, 4)) and ONES not in space_kinds(space, GraphSize(3, 4))
    flat = replace(space, blocks=(1,))
    assert {ONES, SCORE} < set(space_kinds(flat, SIZE)) and LOOKUP not in space_kinds(flat, SIZE)
    assert set(AGGREGATIONS.names()) == {"sum", "mean", "max"}


# --- the file ---


def test_a_file_round_trips() -> None:
    table = random_table(np.random.default_rng(1))
    text = table.to_json()
    again = LatencyTable.from_json(text)
    assert again.to_json() == text
    assert (again.device, again.threads, again.points) == (table.device, table.threads, table.points)
    assert "rows" not in text and again.version == 1
    newer = LatencyTable("any", 1, measured_points(np.random.default_rng(1)))
    read = LatencyTable.from_json(newer.to_json())
    assert read.points == newer.points and read.version == 2 and read.to_json() == newer.to_json()


def test_the_table_of_the_documentation() -> None:
    text = re.search(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert text is not None
    table = LatencyTable.from_json(text[1])
    assert table.nanoseconds(work("transform/dense", 43328, 16, 32)) > 0
    space = SearchSpace(1433, 7, attentions=("gcn",), activations=("relu",))
    table.require(space_kinds(space, GraphSize(2708, 10_556, 49_216)))


GOOD = {"format": "lpgnas latency table", "schema_version": 1, "device": "any", "threads": 1}
POINT: dict[str, Any] = {"operation": LOOKUP, "size": 10, "columns": 4, "bits": 8, "nanoseconds": 100}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "the latency table is not JSON"),
        ([], "the latency table must be a JSON object, got list"),
        ({**GOOD, "points": []}, "the latency table has no points"),
        ({**GOOD, "points": [POINT], "note": ""}, "the latency table has unknown keys: note"),
        ({**GOOD, "points": [POINT], "format": "csv"}, "has the format 'csv', not 'lpgnas latency table'"),
        ({**GOOD, "points": [POINT], "schema_version": 3}, "has schema version 3, this lpgnas reads 1 and 2"),
        ({**GOOD, "points": [POINT], "schema_version": 2}, "points[0] lacks the key 'rows'"),
        ({**GOOD, "points": [{**POINT, "operation": LOGITS}]}, "points[0]: unknown operation 'logits'; known: tr"),
        (
            {**GOOD, "schema_version": 2, "points": [{**POINT, "rows": 10}, {**POINT, "rows": 5, "bits": 9}]},
            "lacks lookup with rows 5, size a row 1, columns 4 and bits 8: the points",
        ),
        ({**GOOD, "points": [POINT], "schema_version": True}, "schema_version must be int, got True"),
        ({**GOOD, "points": [POINT], "threads": 0}, "states 0 threads; it must be at least 1"),
        ({**GOOD, "points": [POINT], "device": 3}, "device must be str, got 3"),
        ({"points": [POINT]}, "the latency table lacks the key 'format'"),
        ({**GOOD, "points": [[]]}, "points[0] must be a JSON object, got list"),
        ({**GOOD, "points": [POINT, {**POINT, "rows": 3}]}, "points[1] has unknown keys: rows"),
        ({**GOOD, "points": [{**POINT, "nanoseconds": -1}]}, "points[0]: nanoseconds is -1; it must be at least 1"),
        ({**GOOD, "points": [{**POINT, "nanoseconds": float("nan")}]}, "points[0]: nanoseconds must be int, got nan"),
        ({**GOOD, "points": [{**POINT, "nanoseconds": 1e9}]}, "points[0]: nanoseconds must be int, got 1000000000.0"),
        ({**GOOD, "points": [{**POINT, "size": 0}]}, "points[0]: size is 0; it must be at least 1"),
        ({**GOOD, "points": [{**POINT, "operation": "lookups"}]}, "points[0]: unknown operation 'lookups'; known: tr"),
        ({**GOOD, "points": [POINT, {**POINT, "nanoseconds": 5}]}, "lookup with size 10, columns 4 and bits 8 stands"),
        (
            {**GOOD, "points": [POINT, {**POINT, "size": 20, "bits": 4}]},
            "lacks lookup with size 10, columns 4 and bits 4: the points of an operation lie on every combination",
        ),
    ],
)  # fmt: skip
def test_files_that_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(LatencyTableError, match=re.escape(f"{path}: ") + ".*" + re.escape(message)):
        LatencyTable.load(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    for name in ("none", "binary", "."):
        with pytest.raises(LatencyTableError, match="cannot read the latency table"):
            LatencyTable.load(tmp_path / name)
