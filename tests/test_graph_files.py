"""A user's graph: round trips, conversions, and every defect by its name."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from torch_geometric.data import Data

from lpgnas.datasets import graph_from_npz, graph_from_pyg, graph_to_npz
from lpgnas.errors import DatasetError, GraphError
from lpgnas.graph import Graph, Split

Arrays = dict[str, npt.NDArray[Any]]


def arrays() -> Arrays:
    """A valid file: four nodes, with a duplicate edge and a self-loop."""
    return {
        "x": np.array([[1, 0, 2], [0, 3, 0], [0, 0, 0], [4, 0, 5]], dtype=np.float32),
        "edge_index": np.array([[0, 0, 1, 3], [1, 1, 1, 2]]),
        "y": np.array([0, 1, 2, 1]),
        "train_mask": np.array([True, False, False, False]),
        "val_mask": np.array([False, True, False, False]),
        "test_mask": np.array([False, False, True, True]),
    }


def csr_arrays() -> Arrays:
    given = arrays()
    x = sparse.csr_array(given.pop("x"))
    return given | {"x_data": x.data, "x_indices": x.indices, "x_indptr": x.indptr, "x_shape": np.array(x.shape)}


def save(path: Path, values: Arrays) -> Path:
    np.savez(path, **values)  # type: ignore[arg-type]  # the stubs take the names for allow_pickle
    return path


def dense(graph: Graph) -> npt.NDArray[np.float32]:
    return graph.x if isinstance(graph.x, np.ndarray) else graph.x.toarray()


def assert_same(first: Graph, second: Graph) -> None:
    assert type(first.x) is type(second.x)
    np.testing.assert_array_equal(dense(first), dense(second))
    np.testing.assert_array_equal(first.edge_index, second.edge_index)
    assert first.num_classes == second.num_classes
    assert (first.y is None) == (second.y is None)
    if first.y is not None and second.y is not None:
        np.testing.assert_array_equal(first.y, second.y)
    assert (first.masks is None) == (second.masks is None)
    if first.masks is not None and second.masks is not None:
        for which in ("train", "val", "test"):
            np.testing.assert_array_equal(getattr(first.masks, which), getattr(second.masks, which))


def test_reads_dense_and_csr_alike(tmp_path: Path) -> None:
    graph = graph_from_npz(save(tmp_path / "mine.npz", arrays()))
    assert graph.name == "mine"
    assert isinstance(graph.x, np.ndarray)
    np.testing.assert_array_equal(graph.edge_index, arrays()["edge_index"])
    assert graph.num_classes == 3
    assert graph.masks is not None
    assert graph.masks.protocol == "own"
    other = graph_from_npz(save(tmp_path / "other.npz", csr_arrays()))
    assert sparse.issparse(other.x)
    assert other.x.dtype == np.float32
    np.testing.assert_array_equal(dense(other), graph.x)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int64", "bool"])
@pytest.mark.parametrize("make", [arrays, csr_arrays])
def test_real_numbers_become_float32(make: Callable[[], Arrays], dtype: str, tmp_path: Path) -> None:
    values = make()
    key = "x" if "x" in values else "x_data"
    values[key] = values[key].astype(dtype)
    graph = graph_from_npz(save(tmp_path / "g.npz", values))
    assert graph.x.dtype == np.float32
    np.testing.assert_array_equal(dense(graph), arrays()["x"].astype(dtype))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "uint64"])
def test_integer_edges_become_int64(dtype: str, tmp_path: Path) -> None:
    values = arrays()
    values["edge_index"] = values["edge_index"].astype(dtype)
    assert graph_from_npz(save(tmp_path / "g.npz", values)).edge_index.dtype == np.int64


def test_csr_is_made_canonical(tmp_path: Path) -> None:
    values = csr_arrays() | {
        "x_data": np.array([1.0, 2.0, 3.0, 0.0, 5.0]),
        "x_indices": np.array([2, 0, 2, 1, 1]),
        "x_indptr": np.array([0, 3, 4, 4, 5]),
    }
    graph = graph_from_npz(save(tmp_path / "g.npz", values))
    assert not isinstance(graph.x, np.ndarray)
    assert graph.x.has_canonical_format
    assert graph.x.indices.tolist() == [0, 2, 1]
    assert graph.x.data.tolist() == [2.0, 4.0, 5.0]


def test_num_classes_may_exceed_the_labels(tmp_path: Path) -> None:
    assert graph_from_npz(save(tmp_path / "g.npz", arrays() | {"num_classes": np.array(9)})).num_classes == 9


def test_labels_and_edges_may_be_absent(tmp_path: Path) -> None:
    values = {"x": arrays()["x"], "edge_index": np.zeros((2, 0), dtype=np.int32)}
    graph = graph_from_npz(save(tmp_path / "g.npz", values), require_labels=False)
    assert graph.y is None
    assert (graph.num_classes, graph.num_edges) == (0, 0)
    graph_to_npz(graph, tmp_path / "again.npz")
    assert_same(graph, graph_from_npz(tmp_path / "again.npz", require_labels=False))


@given(data=st.data())
def test_round_trip(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    nodes = data.draw(st.integers(1, 6))
    elements = st.floats(-1e6, 1e6, width=32)
    x = data.draw(hnp.arrays(np.float32, st.tuples(st.just(nodes), st.integers(1, 4)), elements=elements))
    edges = data.draw(
        hnp.arrays(np.int64, st.tuples(st.just(2), st.integers(0, 8)), elements=st.integers(0, nodes - 1))
    )
    y = data.draw(hnp.arrays(np.int64, nodes, elements=st.integers(0, 3)))
    role = data.draw(hnp.arrays(np.int64, nodes, elements=st.integers(0, 3)))
    masks = data.draw(st.sampled_from([None, Split("own", role == 1, role == 2, role == 3)]))
    features = sparse.csr_array(x) if data.draw(st.booleans()) else x
    graph = Graph("g", features, edges, y, 4, masks)
    path = tmp_path_factory.mktemp("round") / "g.npz"
    graph_to_npz(graph, path)
    assert_same(graph, graph_from_npz(path))


# Defects of a file

DEFECTS: dict[str, tuple[Callable[[Arrays], object], type[Exception], str]] = {
    "no x": (lambda a: a.pop("x"), DatasetError, r"array x is missing; the file holds edge_index, test_mask"),
    "no edges": (lambda a: a.pop("edge_index"), DatasetError, "array edge_index is missing"),
    "no labels": (lambda a: a.pop("y"), DatasetError, "array y is missing.*search and training need"),
    "unknown": (lambda a: a.update(weights=np.ones(4)), DatasetError, "unknown array weights; allowed: x, x_data"),
    "edge weights": (lambda a: a.update(edge_weight=np.ones(4)), DatasetError, "unknown array edge_weight"),
    "x twice": (lambda a: a.update(x_data=np.ones(4)), DatasetError, "both x and x_data"),
    "one mask": (lambda a: a.pop("val_mask"), DatasetError, r"array val_mask is missing \(masks: all three or none\)"),
    "pickled": (lambda a: a.update(y=np.array([0, 1, None, 2])), DatasetError, "array 'y' cannot be read"),
    "nan": (lambda a: a["x"].__setitem__((1, 2), np.nan), GraphError, r"not finite, the first at \(1, 2\)"),
    "inf": (lambda a: a["x"].__setitem__((3, 0), -np.inf), GraphError, r"\(3, 0\) \(-inf\)"),
    "too large": (lambda a: a.update(x=np.full((4, 3), 1e300)), GraphError, r"x holds 1e\+300, beyond the range"),
    "text": (lambda a: a.update(x=np.full((4, 3), "one")), GraphError, "x must hold real numbers, got <U3"),
    "complex": (lambda a: a.update(x=a["x"] * 1j), GraphError, "x must hold real numbers, got complex64"),
    "1-D x": (lambda a: a.update(x=np.ones(4)), GraphError, r"x must have shape .*\(4,\)"),
    "no nodes": (lambda a: a.update(x=np.ones((0, 3))), GraphError, "the graph is empty"),
    "no features": (lambda a: a.update(x=np.ones((4, 0))), GraphError, "0 features"),
    "float edges": (
        lambda a: a.update(edge_index=np.zeros((2, 3))),
        GraphError,
        "edge_index must be of an integer type",
    ),
    "edge too large": (
        lambda a: a["edge_index"].__setitem__((1, 3), 4),
        GraphError,
        r"edge_index\[1, 3\] = 4 is out of range: the graph has 4 nodes",
    ),
    "edge negative": (lambda a: a["edge_index"].__setitem__((0, 0), -1), GraphError, r"edge_index\[0, 0\] = -1"),
    "edge wraps": (
        lambda a: a.update(edge_index=np.full((2, 1), 2**64 - 1, dtype=np.uint64)),
        GraphError,
        "is out of range",
    ),
    "edges transposed": (
        lambda a: a.update(edge_index=np.zeros((5, 2), dtype=int)),
        GraphError,
        r"must have shape \[2, num_edges\], got \[5, 2\]; transpose it",
    ),
    "flat edges": (lambda a: a.update(edge_index=np.zeros(6, dtype=int)), GraphError, r"got \[6\]$"),
    "float labels": (lambda a: a.update(y=np.zeros(4)), GraphError, "y must be of an integer type, got float64"),
    "negative label": (lambda a: a["y"].__setitem__(2, -1), GraphError, r"y\[2\] = -1 is negative"),
    "labels too short": (lambda a: a.update(y=np.zeros(3, dtype=int)), GraphError, r"of shape \[4\].* of shape \[3\]"),
    "2-D labels": (lambda a: a.update(y=np.zeros((4, 1), dtype=int)), GraphError, r"y must have shape .*\[4, 1\]"),
    "few classes": (lambda a: a.update(num_classes=np.array(2)), GraphError, r"y\[2\] = 2 is not a class: .* 0 to 1"),
    "no classes": (lambda a: a.update(num_classes=np.array(0)), GraphError, "num_classes is 0"),
    "vector of classes": (lambda a: a.update(num_classes=np.array([3])), GraphError, "must be a single integer"),
    "float classes": (lambda a: a.update(num_classes=np.array(3.0)), GraphError, "must be a single integer"),
    "overlap": (
        lambda a: a.update(val_mask=np.array([True, True, False, False])),
        GraphError,
        "train_mask and val_mask overlap in 1 nodes, the first is node 0",
    ),
    "integer mask": (
        lambda a: a.update(test_mask=np.zeros(4, dtype=int)),
        GraphError,
        "test_mask must be bool, got int64",
    ),
    "short mask": (
        lambda a: a.update(test_mask=np.zeros(3, dtype=bool)),
        GraphError,
        r"test_mask must be bool of shape",
    ),
}
CSR_DEFECTS: dict[str, tuple[Callable[[Arrays], object], type[Exception], str]] = {
    "part missing": (lambda a: a.pop("x_indptr"), DatasetError, "array x_indptr is missing"),
    "shape": (lambda a: a.update(x_shape=np.array([4])), GraphError, r"x_shape must be .* got \[4\]"),
    "negative shape": (lambda a: a.update(x_shape=np.array([4, -3])), GraphError, "x_shape must be"),
    "float shape": (lambda a: a.update(x_shape=np.array([4.0, 3.0])), GraphError, "x_shape must be of an integer type"),
    "lengths": (lambda a: a.update(x_data=np.ones(4)), GraphError, r"of one length, got shapes \(4,\) and \(5,\)"),
    "indptr length": (lambda a: a.update(x_indptr=np.array([0, 2, 5])), GraphError, r"x_indptr must have shape \[5\]"),
    "indptr falls": (
        lambda a: a.update(x_indptr=np.array([0, 3, 2, 3, 5])),
        GraphError,
        "x_indptr falls from 3 to 2 at row 1",
    ),
    "indptr end": (
        lambda a: a.update(x_indptr=np.array([0, 1, 2, 3, 4])),
        GraphError,
        "must run from 0 to 5 .* 0 to 4",
    ),
    "indptr start": (lambda a: a.update(x_indptr=np.array([1, 1, 2, 3, 5])), GraphError, "got 1 to 5"),
    "column": (lambda a: a["x_indices"].__setitem__(4, 3), GraphError, r"x_indices\[4\] = 3 is out of range"),
    "negative column": (lambda a: a["x_indices"].__setitem__(0, -1), GraphError, r"x_indices\[0\] = -1"),
    "float columns": (lambda a: a.update(x_indices=np.ones(5)), GraphError, "x_indices must be of an integer type"),
    "nan": (lambda a: a["x_data"].__setitem__(1, np.nan), GraphError, "not finite"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect(defect: str, tmp_path: Path) -> None:
    break_it, error, message = DEFECTS[defect]
    values = arrays()
    break_it(values)
    with pytest.raises(error, match=message) as caught:
        graph_from_npz(save(tmp_path / "g.npz", values))
    assert str(caught.value).startswith(("g:", str(tmp_path / "g.npz")))


@pytest.mark.parametrize("defect", CSR_DEFECTS)
def test_csr_defect(defect: str, tmp_path: Path) -> None:
    break_it, error, message = CSR_DEFECTS[defect]
    values = csr_arrays()
    break_it(values)
    with pytest.raises(error, match=message):
        graph_from_npz(save(tmp_path / "g.npz", values))


def test_not_an_npz_file(tmp_path: Path) -> None:
    path = tmp_path / "g.npz"
    for content in (b"", b"hello", b"PK\x03\x04rest"):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"g\.npz: not an npz file, or a truncated one"):
            graph_from_npz(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(DatasetError, match="one bare array"):
        graph_from_npz(path)
    with pytest.raises(DatasetError, match="there is no such file"):
        graph_from_npz(tmp_path)


def test_truncated_and_flipped_files(tmp_path: Path) -> None:
    path = save(tmp_path / "g.npz", arrays())
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(DatasetError):
            graph_from_npz(path)
    flipped = bytearray(content)
    flipped[content.index(arrays()["x"].tobytes())] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(DatasetError, match="array 'x' cannot be read"):
        graph_from_npz(path)


def test_stray_member(tmp_path: Path) -> None:
    path = save(tmp_path / "g.npz", arrays())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "mine")
    with pytest.raises(DatasetError, match=r"unknown array notes\.txt"):
        graph_from_npz(path)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "g.npz", arrays())
    before = path.read_bytes()
    graph = graph_from_npz(path)

    def full(file: object, **values: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DatasetError, match=r"g\.npz: the graph cannot be written \(no space left"):
        graph_to_npz(graph, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["g.npz"]
    assert path.read_bytes() == before
    with pytest.raises(DatasetError, match=r"ends in \.npz; rename it to g\.npz"):
        graph_to_npz(graph, tmp_path / "g.bin")
    with pytest.raises(DatasetError, match="cannot be written"):
        graph_to_npz(graph, tmp_path / "absent" / "g.npz")


# PyG's Data


def data() -> Data:
    return Data(**{key: torch.from_numpy(value) for key, value in arrays().items()})


def test_from_pyg_equals_the_file(tmp_path: Path) -> None:
    graph = graph_from_pyg(data(), name="mine")
    assert graph.name == "mine"
    assert_same(graph, graph_from_npz(save(tmp_path / "g.npz", arrays())))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_sparse_tensors(layout: str) -> None:
    given_data = data()
    given_data.x = given_data.x.to_sparse() if layout == "coo" else given_data.x.to_sparse_csr()
    graph = graph_from_pyg(given_data)
    assert sparse.issparse(graph.x)
    np.testing.assert_array_equal(dense(graph), arrays()["x"])


def test_from_pyg_accepts_column_labels_and_gradients() -> None:
    given_data = data()
    given_data.y = given_data.y[:, None]
    given_data.x = given_data.x.to(torch.bfloat16).requires_grad_()
    graph = graph_from_pyg(given_data, protocol="public", num_classes=5)
    assert graph.num_classes == 5
    assert graph.masks is not None
    assert graph.masks.protocol == "public"
    np.testing.assert_array_equal(graph.x, arrays()["x"])


def test_from_pyg_without_labels() -> None:
    graph = graph_from_pyg(Data(x=data().x, edge_index=data().edge_index), require_labels=False)
    assert graph.y is None
    assert graph.masks is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edge_attr": torch.ones(4, 1)}, r"edge attributes are not built yet; remove with data.edge_attr = None"),
        ({"edge_weight": torch.ones(4)}, r"edge attributes are not built yet; remove with data.edge_weight = None"),
        ({"x": None}, "the data has no x; a graph needs x, edge_index, y"),
        ({"y": None, "edge_index": None}, "the data has no edge_index, y"),
        ({"x": [[1.0]]}, "x must be a tensor, got list"),
        ({"x": torch.full((4, 3), float("nan"))}, "not finite"),
        ({"x": torch.ones(4, 3, 2).to_sparse(2)}, "no dense one, got 2 and 1"),
        ({"x": torch.ones(4, 3, 2).to_sparse()}, "no dense one, got 3 and 0"),
        ({"edge_index": torch.zeros(2, 3)}, "edge_index must be of an integer type"),
        ({"y": torch.zeros(4, 100)}, "100 targets a node; multi-label targets are not built yet"),
        ({"y": torch.zeros(4)}, "y must be of an integer type"),
        ({"y": torch.tensor([0, -1, 0, 0])}, r"y\[1\] = -1 is negative"),
        ({"val_mask": None}, "the data has no val_mask; give all three masks or none"),
        ({"train_mask": torch.zeros(4, 10, dtype=torch.bool)}, "train_mask holds 10 splits; choose one"),
        ({"test_mask": torch.ones(4)}, "test_mask must be bool, got float32"),
    ],
)
def test_defects_of_pyg_data(changes: dict[str, object], message: str) -> None:
    parts = {key: torch.from_numpy(value) for key, value in arrays().items()}
    with pytest.raises(GraphError, match=message):
        graph_from_pyg(SimpleNamespace(**(parts | changes)))
