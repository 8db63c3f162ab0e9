"""What the executor and the reference refuse, and how features become codes."""

from __future__ import annotations

from dataclasses import replace

import naive
import numpy as np
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from lpgnas.errors import DegreeError, GraphError, ProgramError
from lpgnas.graph import Features
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.executor import Executor
from lpgnas.kernels.quantize import SparseCodes, code_dtype, quantize_features, quantize_input
from lpgnas.kernels.reference import run_reference
from lpgnas.number_formats import FixedPoint, Rounding, quantize_array

NO_EDGES = np.zeros((2, 0), dtype=np.int64)
ONES = np.ones((3, 4), dtype=np.float32)


def program() -> IntegerProgram:
    return samples.random_program(np.random.default_rng(1), 4, 3, 5)[1]


def csr(indices: list[int], shape: tuple[int, int]) -> sparse.csr_array:
    """A CSR array whose indices scipy does not check."""
    indptr = np.array([0, len(indices)] + [len(indices)] * (shape[0] - 1))
    return sparse.csr_array((np.ones(len(indices), dtype=np.float32), np.array(indices), indptr), shape=shape)


@pytest.mark.parametrize(
    ("x", "edge_index", "message"),
    [
        (np.ones((3, 5), np.float32), NO_EDGES, "x has 5 columns, but the program reads 4"),
        (np.ones((3, 4)), NO_EDGES, "x must be float32, got float64"),
        (np.ones(4, np.float32), NO_EDGES, "must have shape"),
        (np.ones((0, 4), np.float32), NO_EDGES, "0 nodes"),
        (np.full((3, 4), np.nan, np.float32), NO_EDGES, "not finite"),
        (ONES, np.array([[0], [3]]), "out of range"),
        (ONES, np.array([[-1], [0]]), "out of range"),
        (ONES, np.array([[0], [1]], dtype=np.int32), "int64"),
        (ONES, np.zeros((3, 1), dtype=np.int64), "must have shape"),
        (csr([0, 9], (3, 4)), NO_EDGES, "malformed CSR"),
        (csr([-1], (3, 4)), NO_EDGES, "malformed CSR"),
    ],
)
def test_bad_graphs_are_refused(x: Features, edge_index: np.ndarray, message: str) -> None:
    for execute in (Executor(program()).run, lambda x, edges: run_reference(program(), x, edges)):
        with pytest.raises(GraphError, match=message):
            execute(x, edge_index)


def test_executor_refuses_a_program_without_proof() -> None:
    with pytest.raises(ProgramError, match="max_degree"):
        Executor(replace(program(), max_degree=-1))


def test_duplicates_and_unsorted_sparse_features_are_summed_first() -> None:
    for seed in range(5):
        made = samples.random_program(np.random.default_rng(seed), 4, 3, 5)[1]
        x = csr([2, 0, 2], (3, 4))
        x.data *= np.float32(0.3)
        expected = naive.run(made, x.toarray(), NO_EDGES)
        assert np.array_equal(Executor(made).run(x, NO_EDGES).codes, expected)
        assert np.array_equal(run_reference(made, x, NO_EDGES), expected)
        assert x.nnz == 3  # the caller's array is left alone


@settings(deadline=None)  # the first call compiles
@given(
    values=hnp.arrays(np.float32, 7, elements=st.floats(allow_nan=False, allow_infinity=False, width=32)),
    bits=st.integers(2, 16),
    fraction=st.integers(-60, 60),
    signed=st.booleans(),
    rounding=st.sampled_from(list(Rounding)),
)
def test_quantisation_equals_its_definition(
    values: np.ndarray, bits: int, fraction: int, signed: bool, rounding: Rounding
) -> None:
    fmt = FixedPoint(bits, fraction, signed)
    codes = quantize_features(values[None, :], fmt, rounding)
    assert not isinstance(codes, SparseCodes)
    assert codes.dtype == code_dtype(bits, signed=signed)
    assert codes[0].tolist() == quantize_array(values, fmt, rounding).tolist()
    assert codes.tolist() == naive.quantize_input([values], fmt, rounding)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize(("nodes", "share"), [(1, 0.0), (3, 0.1), (300, 0.02), (300, 0.45), (300, 0.9), (300, 1.0)])
def test_dense_features_of_many_zeros_become_sparse(nodes: int, share: float, bits: int, order: str) -> None:
    rng = np.random.default_rng(nodes)
    x = np.asarray((rng.random((nodes, 40)) < share) * rng.uniform(0, 4, (nodes, 40)), dtype=np.float32, order=order)  # type: ignore[call-overload]
    fmt = FixedPoint(bits, 0, signed=False)
    dense = quantize_features(x, fmt, Rounding.HALF_EVEN)
    codes = quantize_input(x, fmt, Rounding.HALF_EVEN)
    assert isinstance(codes, SparseCodes) == (share < (0.5 if bits == 1 else 0.12))
    if isinstance(codes, SparseCodes):
        assert (codes.codes != 0).all()
        assert (np.diff(codes.indptr) >= 0).all()
        codes = codes.dense(40)
    assert codes.dtype == code_dtype(bits, signed=False)
    assert np.array_equal(codes, dense)


@pytest.mark.parametrize("full", [False, True])
def test_all_rows_decide(full: bool) -> None:
    """Every 100th row is empty or the only full one."""
    x = np.full((6400, 5), 0 if full else 1, dtype=np.float32)
    x[::100] = int(full)
    codes = quantize_input(x, FixedPoint(1, 0, signed=False), Rounding.HALF_EVEN)
    assert isinstance(codes, SparseCodes) is full
    assert np.array_equal(codes.dense(5) if isinstance(codes, SparseCodes) else codes, x)


@pytest.mark.parametrize("self_loops", [False, True])
def test_csr_holds_the_edges_by_target(self_loops: bool) -> None:
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 9, (2, 30))
    graph = CsrGraph.from_edges(edges, 9, self_loops=self_loops)
    assert graph.indptr.dtype == np.int64
    assert graph.sources.dtype == np.int32
    for node in range(9):
        expected = edges[0][edges[1] == node].tolist() + ([node] if self_loops else [])
        assert graph.sources[graph.indptr[node] : graph.indptr[node + 1]].tolist() == expected
    highest = int(np.bincount(edges[1]).max())
    graph.check_degree(highest)
    with pytest.raises(DegreeError, match=f"has {highest} incoming edges"):
        graph.check_degree(highest - 1)


@pytest.mark.parametrize(
    ("indptr", "sources", "message"),
    [
        (np.array([0, 1], np.int32), np.zeros(1, np.int32), "indptr must be int64"),
        (np.array([0, 1]), np.zeros(1, np.int8), "sources must be int32"),
        (np.array([0, 2]), np.zeros(1, np.int32), "rise from 0"),
        (np.array([0, 2, 1]), np.zeros(1, np.int32), "rise from 0"),
        (np.array([0, 1]), np.ones(1, np.int32), "must lie in"),
        (np.array([0, 1]), -np.ones(1, np.int32), "must lie in"),
    ],
)
def test_csr_checks_itself(indptr: np.ndarray, sources: np.ndarray, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        CsrGraph(indptr, sources, self_loops=False)
