"""Aggregation in register tiles = plain loops = the definition in Python integers, to the last code."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st

from lpgnas.errors import GraphError, KernelError
from lpgnas.integer_program import INT32_LIMIT, MAX_TOTAL
from lpgnas.kernels.aggregation import ROW_EDGES, Bounds, aggregate, row_blocks, short_sums
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.spmm import Epilogue, aggregate_max, aggregate_sum
from lpgnas.number_formats import Rounding
from lpgnas.requantize import rescale

WIDTHS = (1, 2, 3, 5, 7, 8, 10, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 200, 257)
"""Every tile, and what falls between them."""
WITHOUT_JIT = """
import numpy as np, test_aggregation as t
for seed in range(60):
    rng = np.random.default_rng(seed)
    dtype = str(rng.choice(["int8", "uint8", "int16", "uint16"]))
    case = t.random_case(rng, int(rng.choice(t.WIDTHS[:10])), dtype, weighted=dtype == "int8")
    t.check(case, counts=seed % 2 == 1)
"""


@dataclass
class Case:
    graph: CsrGraph
    message: np.ndarray
    epilogue: Epilogue
    rounding: Rounding
    shift: int
    bounds: Bounds
    out: np.ndarray
    maximum: bool = False
    weights: np.ndarray | None = None


NO_LIMIT = 1 << 100


def rounded(case: Case) -> np.ndarray:
    """The definition in Python integers, before the clamp."""
    graph, epilogue, rows = case.graph, case.epilogue, []
    for node in range(graph.num_nodes):
        edges = range(int(graph.indptr[node]), int(graph.indptr[node + 1]))
        row = []
        for c in range(case.message.shape[1]):
            weights = [1 if case.weights is None else int(case.weights[e]) for e in edges]
            terms = [p * int(case.message[graph.sources[e], c]) for p, e in zip(weights, edges, strict=True)]
            term = max(terms, default=0) if case.maximum else sum(terms)
            assert abs(term) <= case.bounds.accumulator
            factor = int(epilogue.factor[node]) if epilogue.factor.size else 1
            total = (term * factor << epilogue.term_shift) + int(epilogue.bias[c])
            if epilogue.shortcut.size:
                total += int(epilogue.shortcut[node, c]) << epilogue.shortcut_shift
            bound = abs(total) << -case.shift if case.shift < 0 else abs(total) + (1 << case.shift >> 1)
            assert bound <= case.bounds.total
            row.append(naive.requantize(total, case.shift, -NO_LIMIT, NO_LIMIT, str(case.rounding)))
        rows.append(row)
    return np.array(rows, dtype=object)


def expected(case: Case) -> np.ndarray:
    """The definition in Python integers."""
    return np.asarray(np.clip(rounded(case), case.epilogue.by.low, case.epilogue.by.high), dtype=np.int64)


def clipped(case: Case) -> list[int]:
    """How many results the clamp raises and lowers."""
    by, values = case.epilogue.by, rounded(case)
    return [int((values < by.low).sum()), int((values > by.high).sum())]


def counting(case: Case) -> Case:
    return replace(case, epilogue=case.epilogue._replace(clipped=np.zeros(2, dtype=np.int64)))


def run(case: Case, threads: int = 1) -> np.ndarray:
    case.out[:] = 77
    rest = (case.graph, case.message, case.epilogue, case.bounds, case.out)
    aggregate(*rest, maximum=case.maximum, weights=case.weights, threads=threads)
    return case.out


def check(case: Case, *, counts: bool = False) -> None:
    wanted, bounds = expected(case), case.bounds
    proved = [replace(bounds, total=total) for total in (bounds.total, max(bounds.total, INT32_LIMIT))]
    if case.weights is None:
        proved.append(replace(bounds, accumulator=INT32_LIMIT))  # the plain loops; before in int32 and in float64
    for one in proved:
        proven = replace(counting(case) if counts else case, bounds=one)
        assert np.array_equal(run(proven), wanted)
        assert proven.epilogue.clipped.tolist() == (clipped(case) if counts else [])


def random_graph(rng: np.random.Generator) -> CsrGraph:
    """Empty rows, duplicates, and now and then a hub; sources and targets differ in number."""
    nodes, rows = int(rng.integers(1, 7)), int(rng.integers(1, 9))
    edges = int(rng.choice([0, 1, 5, 20, 40]))
    targets = rng.integers(0, nodes, edges)
    if rng.random() < 0.2:
        targets = np.concatenate([targets, np.zeros(int(rng.integers(1, 400)), dtype=np.int64)])
    return samples.rectangular_graph(targets, rng.integers(0, rows, targets.size), nodes, rows)


def random_codes(rng: np.random.Generator, shape: tuple[int, int], dtype: Any, bits: int) -> np.ndarray:
    """Codes of `bits` bits: any, or in whole columns the smallest or the largest."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if np.dtype(dtype).kind == "i" else (0, (1 << bits) - 1)
    codes = rng.integers(low, high + 1, shape)
    extreme = rng.random(shape[1]) < 0.5
    return np.where(extreme[None, :], rng.choice([low, high], shape[1])[None, :], codes).astype(dtype)


def random_case(rng: np.random.Generator, width: int, dtype: str = "int8", *, weighted: bool | None = None) -> Case:
    graph, size = random_graph(rng), 8 * np.dtype(dtype).itemsize
    bits = int(rng.integers(2, 9)) if dtype == "int8" else size  # a kernel less to compile for each other dtype
    message = random_codes(rng, (graph.message_rows, width), dtype, bits)
    magnitude = 1 << bits - 1 if dtype[0] == "i" else (1 << bits) - 1
    weighted = bool(rng.random() < 0.4) if weighted is None else weighted
    maximum = bool(rng.random() < 0.3)
    weights = None
    if weighted:
        low = 0 if rng.random() < 0.5 else 127
        weights = rng.integers(low, 128, graph.sources.size).astype(np.uint8)
    accumulator = magnitude * (127 if weighted else 1) * (1 if maximum else int(graph.degree.max()))
    largest = int(rng.choice([1, 1 << 15, 1 << (20 if size == 8 else 15)]))
    factor = rng.integers(1, largest + 1, graph.num_nodes) if rng.random() < 0.6 else np.zeros(0, dtype=np.int64)
    term_shift = int(rng.choice([0, 0, 1, 5]))
    total = accumulator * (largest if factor.size else 1) << term_shift
    bias = rng.integers(-(1 << 20), 1 << 20, width) * int(rng.integers(0, 2))
    total += 1 << 20
    shortcut, shortcut_shift = np.zeros((graph.num_nodes, 0), dtype=np.int8), int(rng.integers(0, 16))
    if rng.random() < 0.5:
        shortcut = random_codes(rng, (graph.num_nodes, width), "int8", 8)
        total += 128 << shortcut_shift
    rounding, unsigned = Rounding(rng.choice([str(mode) for mode in Rounding])), bool(rng.integers(2))
    shift = int(rng.integers(-3, max(2, total.bit_length() - 6)))
    total = total << -shift if shift < 0 else total + (1 << shift >> 1)
    low, high = (0, 255) if unsigned else (-128, 127)
    epilogue = Epilogue(factor, term_shift, bias, shortcut, shortcut_shift, rescale(shift, rounding, low, high))
    out = np.empty((graph.num_nodes, width), dtype="uint8" if unsigned else "int8")
    bounds = Bounds(magnitude, accumulator, total)
    return Case(graph, message, epilogue, rounding, shift, bounds, out, maximum, weights)


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 1 << 30), width=st.sampled_from(WIDTHS[:14]))
def test_equal_to_the_definition(seed: int, width: int) -> None:
    case = random_case(np.random.default_rng(seed), width)
    assert case.bounds.total < MAX_TOTAL
    check(case)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 1 << 30), width=st.sampled_from(WIDTHS[:18]))
def test_saturations_are_counted(seed: int, width: int) -> None:
    """Every column once, also where tiles overlap; with several threads too, and on top of what is there."""
    case = counting(random_case(np.random.default_rng(seed), width))
    check(case, counts=True)
    assert case.epilogue.clipped.tolist() == [0, 0]  # the check counts elsewhere
    once = clipped(case)
    for threads in (1, 3):
        run(case, threads)
        assert case.epilogue.clipped.tolist() == [(1 + (threads > 1)) * number for number in once]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_other_dtypes(dtype: str) -> None:
    """Messages and results of other dtypes, and shortcuts; one arithmetic, so that little is compiled."""
    for seed in range(12):
        case = random_case(np.random.default_rng(seed), 21, dtype, weighted=False)
        shortcut = random_codes(np.random.default_rng(seed), (case.graph.num_nodes, 21), dtype, 8)
        total = case.bounds.total + (65535 << 23) + INT32_LIMIT
        epilogue = case.epilogue._replace(shortcut=shortcut, shortcut_shift=3)
        if dtype == "uint16":
            epilogue = epilogue._replace(by=epilogue.by._replace(low=300, high=65000))
            case.out = case.out.astype(dtype)
        case = replace(case, epilogue=epilogue, bounds=replace(case.bounds, total=total))
        assert np.array_equal(run(case), expected(case))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("maximum", [False, True])
def test_every_width_equals_plain_loops(width: int, maximum: bool) -> None:
    rng = np.random.default_rng(width)
    nodes = 40
    targets = np.concatenate([rng.integers(0, nodes - 5, 200), np.zeros(1500, dtype=np.int64)])
    graph = samples.rectangular_graph(targets, rng.integers(0, nodes, targets.size), nodes, nodes)
    message = random_codes(rng, (nodes, width), np.int8, 8)
    nothing = np.zeros((nodes, 0), dtype=np.int8)
    by = rescale(3, Rounding.HALF_EVEN, -128, 127)
    epilogue = Epilogue(np.zeros(0, np.int64), 0, np.arange(width), nothing, 0, by)
    plain = np.empty((nodes, width), np.int8)
    kernel = aggregate_max if maximum else aggregate_sum
    kernel(graph.indptr, graph.sources, message, epilogue, np.empty(width, np.int64), plain)
    for guard in (0, 1):  # aligned, and not; bytes around the result stay as they are
        memory = np.full(plain.size + 2, 99, dtype=np.int8)
        out = memory[guard : guard + plain.size].reshape(plain.shape)
        aggregate(graph, message, epilogue, Bounds(128, 1 << 20, 1 << 21), out, maximum=maximum)
        assert np.array_equal(out, plain)
        assert (memory[:guard] == 99).all() and (memory[guard + plain.size :] == 99).all()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1 << 30), width=st.sampled_from(WIDTHS[:14]), threads=st.integers(2, 9))
def test_threads_give_the_same(seed: int, width: int, threads: int) -> None:
    """More of them than nodes too; with and without factors, shortcuts and weights, in rows and in plain loops."""
    case = random_case(np.random.default_rng(seed), width)
    bounds = replace(case.bounds, accumulator=INT32_LIMIT)
    for one in (case, *([] if case.weights is not None else [replace(case, bounds=bounds)])):
        assert np.array_equal(run(one, threads), expected(case))


def test_rows_are_shared_out_by_their_edges() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        degree = rng.integers(0, 50, int(rng.integers(1, 60))) ** int(rng.integers(1, 3))
        indptr = np.concatenate([[0], np.cumsum(degree)])
        count = int(rng.integers(1, 9))
        blocks = row_blocks(indptr, count)
        assert 1 <= len(blocks) <= count
        assert [blocks[0][0], *(last for _, last in blocks)] == [*(first for first, _ in blocks), degree.size]
        work = [int((degree[first:last] + ROW_EDGES).sum()) for first, last in blocks]
        assert max(work) <= sum(work) / count + int(degree.max()) + ROW_EDGES
        assert min(work) > 0


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_at_their_boundary(sign: int, bits: int, weighted: bool) -> None:
    """A hub with as many edges as a block holds, one less, one more, and more than a thousand; all codes extreme."""
    code = -(1 << bits - 1) if sign < 0 else (1 << bits - 1) - 1
    block = short_sums(1 << bits - 1, np.dtype(np.int8), 127 if weighted else 1).block
    for degree in (block - 1, block, block + 1, 2 * block + 1, 1031):
        graph = samples.rectangular_graph(np.zeros(degree, dtype=np.int64), np.zeros(degree, dtype=np.int64), 1, 1)
        weights = np.full(degree, 127, dtype=np.uint8) if weighted else None
        total = degree * code * (127 if weighted else 1)
        nothing, bias = np.zeros((1, 0), dtype=np.int8), np.full(9, -total)
        epilogue = Epilogue(np.zeros(0, np.int64), 0, bias, nothing, 0, rescale(0, Rounding.FLOOR, -100, 100))
        out = np.full((1, 9), 1, dtype=np.int8)
        message = np.full((1, 9), code, dtype=np.int8)
        aggregate(graph, message, epilogue, Bounds(1 << bits - 1, abs(total), 2 * abs(total)), out, weights=weights)
        assert out.tolist() == [[0] * 9], (degree, block)


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("bound", [INT32_LIMIT - 1, INT32_LIMIT, MAX_TOTAL - 1])
def test_totals_at_their_boundary(rounding: Rounding, bound: int) -> None:
    """Totals that reach the last value of int32 and of exact float64, ties among them."""
    graph = samples.rectangular_graph(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 1, 1)
    shift = bound.bit_length() - 7
    top = bound - (1 << shift >> 1)
    ties = [(k << shift) + (1 << shift >> 1) for k in (-3, -2, -1, 0, 1, 2)]
    bias = np.array([top, -top, *ties, *(tie - 1 for tie in ties), *(tie + 1 for tie in ties)])
    nothing = np.zeros((1, 0), dtype=np.int8)
    epilogue = Epilogue(np.zeros(0, np.int64), 0, bias, nothing, 0, rescale(shift, rounding, -128, 127))
    out = np.empty((1, bias.size), dtype=np.int8)
    message = np.zeros((1, bias.size), dtype=np.int8)
    aggregate(graph, message, epilogue, Bounds(128, 128, bound), out)
    assert out[0].tolist() == [naive.requantize(int(total), shift, -128, 127, str(rounding)) for total in bias]


def test_without_edges_and_with_one_node() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        case = random_case(rng, 9)
        empty = CsrGraph(np.zeros(2, dtype=np.int64), np.zeros(0, dtype=np.int32), self_loops=False, num_sources=0)
        epilogue = case.epilogue._replace(factor=case.epilogue.factor[:1], shortcut=case.epilogue.shortcut[:1])
        weights = None if case.weights is None else np.zeros(0, dtype=np.uint8)
        message, out = np.ascontiguousarray(case.message[:0]), np.empty((1, 9), case.out.dtype)
        check(replace(case, graph=empty, message=message, epilogue=epilogue, out=out, weights=weights))


def test_bad_arrays_are_refused() -> None:
    def make(seed: int) -> Case:
        return random_case(np.random.default_rng(seed), 9)

    case = next(c for c in map(make, range(99)) if c.graph.num_nodes > 1 < c.graph.message_rows)
    nodes, rows = case.graph.num_nodes, case.graph.message_rows
    shared = np.zeros((max(nodes, rows), 9), np.int8)
    bad: list[tuple[str, dict[str, Any]]] = [
        ("message must be C-contiguous", {"message": np.zeros((rows + 1, 9), np.int8)}),
        ("message must hold integers", {"message": np.zeros((rows, 9), np.float32)}),
        ("message must hold integers", {"message": np.zeros((rows, 9), np.int32)}),
        ("message must be C-contiguous", {"message": np.zeros((9, rows), np.int8).T}),
        ("message must have shape", {"message": np.zeros(9, np.int8)}),
        ("out must be C-contiguous", {"out": np.zeros((nodes, 8), np.int8)}),
        ("bias must be", {"epilogue": case.epilogue._replace(bias=np.zeros(8, np.int64))}),
        ("factor must be", {"epilogue": case.epilogue._replace(factor=np.zeros(nodes + 1, np.int64))}),
        ("shortcut must be", {"epilogue": case.epilogue._replace(shortcut=np.zeros((nodes, 8), np.int8))}),
        ("weights must be", {"weights": np.zeros(case.graph.sources.size + 1, np.uint8)}),
        ("weights must be 0 to 127, got 128", {"weights": np.full(case.graph.sources.size, 128, np.uint8)}),
        ("message shares memory with out", {"message": shared[:rows], "out": shared[:nodes]}),
        (
            "shortcut shares memory with out",
            {"epilogue": case.epilogue._replace(shortcut=shared[:nodes]), "out": shared[:nodes]},
        ),
        ("is not exact", {"bounds": Bounds(128, 128, MAX_TOTAL)}),
        ("clipped must be", {"epilogue": case.epilogue._replace(clipped=np.zeros(3, np.int64))}),
        ("clipped must be", {"epilogue": case.epilogue._replace(clipped=np.zeros(2, np.int32))}),
        ("clipped is read-only", {"epilogue": case.epilogue._replace(clipped=np.broadcast_to(np.int64(0), 2).copy())}),
        ("clipped shares memory", {"epilogue": case.epilogue._replace(clipped=case.epilogue.bias[:2])}),
    ]
    bad[-2][1]["epilogue"].clipped.flags.writeable = False
    for message, change in bad:
        with pytest.raises(KernelError, match=message):
            run(replace(case, **change))
    with pytest.raises(GraphError, match="must lie in"):
        CsrGraph(np.array([0, 1]), np.array([2], dtype=np.int32), self_loops=False, num_sources=2)


def test_results_in_the_memory_of_edges_or_weights_are_refused() -> None:
    case = next(c for c in (random_case(np.random.default_rng(seed), 9) for seed in range(99)) if c.graph.sources.size)
    nodes, edges = case.graph.num_nodes, case.graph.sources.size
    memory = np.zeros(max(nodes * 9, edges), np.int8)
    weights, out = memory[:edges].view(np.uint8), memory[: nodes * 9].reshape(nodes, 9)
    with pytest.raises(KernelError, match="weights shares memory with out"):
        run(replace(case, weights=weights, out=out))
    graph = CsrGraph(np.array([0, 3]), np.zeros(3, np.int32), self_loops=False)
    for array in (graph.sources, graph.indptr):
        inside = array.view(np.int8)[:4].reshape(1, 4)
        epilogue = case.epilogue._replace(
            bias=np.zeros(4, np.int64), shortcut=np.zeros((1, 0), np.int8), factor=np.zeros(0, np.int64)
        )
        with pytest.raises(KernelError, match="the graph shares memory with out"):
            aggregate(graph, np.ones((1, 4), np.int8), epilogue, case.bounds, inside)


def test_a_graph_keeps_what_was_checked() -> None:
    indptr, sources = np.array([0, 1, 2]), np.array([0, 1], dtype=np.int32)
    graph = CsrGraph(indptr, sources, self_loops=False)
    indptr[1], sources[1] = 1 << 40, 1 << 30
    assert graph.indptr.tolist() == [0, 1, 2]
    assert graph.sources.tolist() == [0, 1]


def test_threads_work_in_a_forked_process() -> None:
    program = """
import os, sys
from lpgnas.kernels.aggregation import run_together
run_together([lambda: None, lambda: None])
child = os.fork()
if child == 0:
    run_together([lambda: None, lambda: None])
    os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    paths = os.pathsep.join(str(Path(__file__).parents[level]) for level in (0, 1, 2))
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 7, done.stderr


def test_without_compilation() -> None:
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests"), str(root / "tests/kernels")])
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-W", "error", "-c", WITHOUT_JIT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
