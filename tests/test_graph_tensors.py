"""A graph as torch tensors: products, their gradients, coefficients and quantised features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import naive
import numpy as np
import pytest
import runs
import samples
import torch
from scipy import sparse

from lpgnas.errors import GraphError
from lpgnas.graph import Graph
from lpgnas.graph_tensors import CsrMatrix, graph_tensors, input_fraction, input_gain
from lpgnas.layers import QuantizedModel
from lpgnas.number_formats import FixedPoint, Rounding


def random_matrix(rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(rows)
    return rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < 0.4)


def test_a_product_and_its_gradient_are_the_dense_ones() -> None:
    matrix = random_matrix(7, 5)
    dense = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    made = CsrMatrix.of(sparse.csr_array(matrix), torch.float64).product(dense)
    torch.testing.assert_close(made, torch.from_numpy(matrix) @ dense)
    weights = torch.randn(7, 3, dtype=torch.float64)
    (made * weights).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(dense.grad, torch.from_numpy(matrix).T @ weights)


def test_dropout_drops_the_same_entries_of_both_directions() -> None:
    matrix = CsrMatrix.of(sparse.csr_array(random_matrix(40, 30)), torch.float64)
    product = matrix.dropped(0.5, torch.Generator().manual_seed(0)).product
    eye = torch.eye(30, dtype=torch.float64, requires_grad=True)
    made = product(eye)
    full = matrix.product(torch.eye(30, dtype=torch.float64))
    kept = made != 0
    assert 0.3 < float(kept.double().sum() / (full != 0).double().sum()) < 0.7
    torch.testing.assert_close(made[kept], 2.0 * full[kept])
    weights = torch.randn(40, 30, dtype=torch.float64)
    (made * weights).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(eye.grad, made.detach().T @ weights)


@pytest.mark.parametrize("self_loops", [False, True])
def test_neighbourhoods(self_loops: bool) -> None:
    for sample in samples.adversarial_graphs(3, hub_edges=200):
        nodes = len(sample.x)
        tensors = graph_tensors(
            Graph("g", sample.x, sample.edge_index), None, Rounding.FLOOR, row_normalize=False, dtype=torch.float64
        )
        near = tensors.with_loops if self_loops else tensors.without_loops
        adjacency = np.zeros((nodes, nodes))
        np.add.at(adjacency, (sample.edge_index[1], sample.edge_index[0]), 1.0)
        adjacency += np.eye(nodes) if self_loops else 0.0
        assert np.array_equal(near.sum.product(torch.eye(nodes, dtype=torch.float64)).numpy(), adjacency)
        degree = adjacency.sum(axis=1).astype(int)
        assert (near.rsqrt[:, 0] * 2**15).tolist() == [naive.rsqrt15(d) for d in degree]
        assert (near.recip[:, 0] * 2**15).tolist() == [naive.reciprocal(15, d) for d in degree]
        assert np.bincount(near.edges.target.numpy(), minlength=nodes).tolist() == degree.tolist()


@pytest.mark.parametrize("storage", ["dense", "csr"])
@pytest.mark.parametrize("rounding", list(Rounding))
def test_features_are_the_codes_of_the_semantics(storage: str, rounding: Rounding) -> None:
    x = np.abs(random_matrix(9, 6)).astype(np.float32)
    features = x if storage == "dense" else sparse.csr_array(x)
    graph = Graph("g", features, np.zeros((2, 0), dtype=np.int64))
    fmt = FixedPoint(4, 2, signed=False)
    codes = np.array(naive.quantize_input(x, fmt, str(rounding)))
    eye = torch.eye(6, dtype=torch.float64)
    plain = graph_tensors(graph, fmt, rounding, row_normalize=False, dtype=torch.float64)
    assert plain.row_factor is None
    assert np.array_equal(plain.features.product(eye).numpy(), codes / 4)
    normal = graph_tensors(graph, fmt, rounding, row_normalize=True, dtype=torch.float64)
    assert normal.row_factor is not None
    assert np.array_equal(normal.features.product(eye).numpy(), codes)
    assert (normal.row_factor[:, 0] * 2**24).tolist() == [naive.reciprocal(24, int(t)) for t in codes.sum(axis=1)]


def test_float_features_are_not_rounded() -> None:
    graph = runs.small_graph()
    eye = torch.eye(runs.FEATURES)
    plain, normal = (graph_tensors(graph, None, Rounding.FLOOR, row_normalize=normalize) for normalize in (False, True))
    assert np.array_equal(plain.features.product(eye).numpy(), graph.x)
    sums = np.asarray(graph.x).sum(axis=1, keepdims=True)
    assert (sums == 0).any() and normal.row_factor is None
    np.testing.assert_allclose(normal.features.product(eye).numpy(), graph.x / np.where(sums > 0, sums, 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("largest", "bits", "signed", "fraction"),
    [
        (1.0, 1, False, 0),
        (1.0, 8, False, 7),
        (1.0, 8, True, 6),
        (0.0, 8, False, 0),
        (300.0, 8, False, -1),
        (127.0, 8, True, 0),
        (127.00001, 8, True, -1),
        (3e38, 8, False, -24),
        (1e-30, 8, False, 24),
    ],
)
@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
def test_input_fraction(largest: float, bits: int, signed: bool, fraction: int, storage: Any) -> None:
    x = np.array([[0.0, -largest if signed else largest]], dtype=np.float32)
    graph = Graph("g", storage(x), np.zeros((2, 0), dtype=np.int64))
    assert input_fraction(graph, bits, signed=signed) == fraction


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_the_part_around_some_nodes_gives_them_the_same_outputs(hops: int) -> None:
    graph, spec = runs.small_graph(), runs.every_operation()
    spec = replace(spec, layers=(*spec.layers[: hops - 1], spec.layers[-1]))
    torch.manual_seed(0)
    model = QuantizedModel(spec, 0)
    whole = graph_tensors(graph, model.input_format, spec.rounding, row_normalize=True)
    nodes = np.zeros(graph.num_nodes, bool)
    nodes[[3, 17]] = True
    part = whole.around(nodes, hops)
    assert 2 <= len(part.nodes) < graph.num_nodes and nodes[part.nodes].sum() == 2
    with torch.no_grad():
        wanted = model(whole, observe=True)[nodes]
        assert torch.equal(model(part.tensors)[nodes[part.nodes]], wanted)


def test_rows_of_a_matrix() -> None:
    matrix = sparse.csr_array(random_matrix(9, 4))
    kept = np.array([0, 3, 4, 8])
    for one in (matrix, (matrix != 0).astype(np.float64)):
        made = CsrMatrix.of(one, torch.float64).rows(kept)
        assert np.array_equal(made.dense().numpy(), one.toarray()[kept])


def test_factors_of_another_size_are_refused() -> None:
    matrix = CsrMatrix.of(sparse.csr_array(random_matrix(4, 30)), torch.float32)
    with pytest.raises(GraphError, match="needs a factor of 30 rows, got 5"):
        matrix.product(torch.ones(5, 3))
    with pytest.raises(GraphError, match="needs a factor of 4 rows, got 5"):
        matrix.transpose_times(np.ones((5, 3), np.float32))


@pytest.mark.parametrize(("words", "gain"), [(0, 1.0), (18, 1.0), (63, 1.0), (64, 2.0), (255, 4.0), (256, 8.0)])
def test_wide_rows_have_a_gain(words: int, gain: float) -> None:
    x = np.zeros((4, 300), np.float32)
    x[:, :words] = 1.0
    graph = Graph("wide rows", x, np.zeros((2, 0), np.int64))
    assert input_gain(graph, row_normalize=True) == gain
    assert input_gain(graph, row_normalize=False) == 1.0
