"""`Graph`: node features, directed edges and labels as checked NumPy arrays (no torch, no PyG).

Messages flow source -> target: row 0 of `edge_index` holds sources, row 1 targets. The edges are a multigraph,
taken as given: duplicates count twice, and a self-loop is an edge like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lpgnas.errors import GraphError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Features: TypeAlias = FloatArray | sparse.csr_array
"""Node features [N, F] float32, dense or CSR; CSR indices are sorted and free of duplicates."""


def most_entries(bits: int) -> float:
    """Share of entries that are not 0 up to which the kernels multiply codes of so many bits faster as sparse ones.

    Measured at 8 to 256 columns; codes of one bit need no products.
    """
    return 1 / 2 if bits == 1 else 1 / 8


@dataclass(frozen=True)
class Split:
    """Which nodes train, validate and test: three boolean masks [N], and the protocol they come from.

    Attributes:
        protocol: `public`, `full`, `shchur` or `own`.
        train: nodes whose labels the training loss sees.
        val: nodes that selection and early stopping see.
        test: nodes that are touched once, at the end.
    """

    protocol: str
    train: BoolArray
    val: BoolArray
    test: BoolArray


@dataclass(frozen=True)
class Graph:
    """A node-classification graph whose arrays were checked when it was made.

    Attributes:
        name: how reports call it.
        x: features [N, F] float32, dense or `scipy.sparse.csr_array`; finite.
        edge_index: [2, E] int64, row 0 source, row 1 target, every entry in [0, N).
        y: class of each node [N] int64 in [0, C), or None for a graph that is only to be predicted.
        num_classes: C, or 0 without labels.
        masks: the split that came with the graph, if any.

    Raises:
        GraphError: a wrong shape, dtype, value or index; the message names the array and the value seen.
    """

    name: str
    x: Features
    edge_index: IntArray
    y: IntArray | None = None
    num_classes: int = 0
    masks: Split | None = None

    def __post_init__(self) -> None:
        check_features(self.x, self.name)
        check_edges(self.edge_index, self.num_nodes, self.name)
        if self.y is not None:
            _check_labels(self.y, self.num_nodes, self.num_classes, self.name)
        if self.masks is not None:
            for which in ("train", "val", "test"):
                _check_mask(getattr(self.masks, which), f"{which}_mask", self.num_nodes, self.name)
            check_disjoint(self.masks, self.name)

    @property
    def num_nodes(self) -> int:
        """N."""
        return int(self.x.shape[0])

    @property
    def num_features(self) -> int:
        """F."""
        return int(self.x.shape[1])

    @property
    def num_edges(self) -> int:
        """E: directed edges, without any self-loop that a model adds."""
        return int(self.edge_index.shape[1])

    @property
    def in_degree(self) -> IntArray:
        """Incoming edges of each node [N] int64, duplicates and self-loops of the graph counted."""
        return np.bincount(self.edge_index[1], minlength=self.num_nodes).astype(np.int64)

    @cached_property
    def largest_feature(self) -> float:
        """The largest absolute value in `x`, 0 without any."""
        if isinstance(self.x, np.ndarray):
            return float(np.abs(self.x).max(initial=0.0))
        summed = self.x if self.x.has_canonical_format else self.x.copy()
        summed.sum_duplicates()
        return float(np.abs(summed.data).max(initial=0.0))

    @property
    def max_degree(self) -> int:
        """The largest in-degree (0 without edges)."""
        return int(self.in_degree.max(initial=0))


def is_array(x: object) -> TypeGuard[npt.NDArray[Any]]:
    """Whether `x` is an array whose shape and entries mean what they do everywhere: no matrix, nothing masked."""
    return isinstance(x, np.ndarray) and not isinstance(x, np.matrix | np.ma.MaskedArray)


def check_features(x: Features, name: str) -> None:
    """Refuse features that are not [N >= 1, F >= 1] float32 with finite values."""
    taken = is_array(x) if isinstance(x, np.ndarray) else sparse.issparse(x) and x.format == "csr"
    if not taken:
        raise GraphError(f"{name}: x must be a NumPy array or a scipy CSR array, got {type(x).__name__}")
    if x.ndim != 2:
        raise GraphError(f"{name}: x must have shape [num_nodes, num_features], got shape {x.shape}")
    if not isinstance(x, np.ndarray):
        _check_csr(x, name)
    if x.shape[0] == 0:
        raise GraphError(f"{name}: the graph is empty: x has 0 nodes; give at least one node")
    if x.shape[1] == 0:
        raise GraphError(f"{name}: x has 0 features a node; give at least one column")
    if x.dtype != np.float32:
        raise GraphError(f"{name}: x must be float32, got {x.dtype}; convert with x.astype('float32')")
    values = x if isinstance(x, np.ndarray) else x.data
    finite = np.isfinite(values)
    if not finite.all():
        where = np.argwhere(~finite)[0]
        raise GraphError(
            f"{name}: x holds {int((~finite).sum())} values that are not finite, the first at {tuple(map(int, where))}"
            f" ({values[tuple(where)]}); replace or drop them"
        )


def _check_csr(x: sparse.csr_array, name: str) -> None:
    """Refuse arrays whose indices leave them: scipy makes them, and its check passes an `indptr` that falls to 0."""
    for part in ("data", "indices", "indptr"):
        array = getattr(x, part)
        kinds = None if part == "data" else (np.dtype(np.int32), np.dtype(np.int64))
        if not is_array(array) or array.ndim != 1 or (kinds is not None and array.dtype not in kinds):
            raise GraphError(
                f"{name}: x is a malformed CSR array: {part} is no array of one dimension, or not of integers"
            )
    indptr, (rows, columns) = x.indptr, x.shape
    stored = min(x.data.size, x.indices.size)
    rises = indptr.size == rows + 1 and indptr[0] == 0 and not (indptr[1:] < indptr[:-1]).any()
    if not rises or indptr[-1] > stored:
        raise GraphError(
            f"{name}: x is a malformed CSR array: indptr must rise from 0 to at most {stored} in {rows} steps"
        )
    used = x.indices[: indptr[-1]]
    if used.size and not 0 <= int(used.min()) <= int(used.max()) < columns:
        raise GraphError(f"{name}: x is a malformed CSR array: indices must lie in [0, {columns})")
    x.prune()  # entries beyond the last row


def check_edges(edge_index: IntArray, num_nodes: int, name: str) -> None:
    """Refuse an `edge_index` that is not [2, E] int64 with every entry in [0, num_nodes)."""
    if not is_array(edge_index) or edge_index.dtype != np.int64:
        kind = edge_index.dtype if is_array(edge_index) else type(edge_index).__name__
        raise GraphError(f"{name}: edge_index must be an int64 array, got {kind}; convert with .astype('int64')")
    if edge_index.ndim != 2 or edge_index.shape[0] != 2:
        raise GraphError(f"{name}: edge_index must have shape [2, num_edges], got {edge_index.shape}")
    bad = (edge_index < 0) | (edge_index >= num_nodes)
    if bad.any():
        row, column = (int(value) for value in np.argwhere(bad)[0])
        raise GraphError(
            f"{name}: edge_index[{row}, {column}] = {int(edge_index[row, column])} is out of range: "
            f"the graph has {num_nodes} nodes, so indices run from 0 to {num_nodes - 1}"
        )


def check_disjoint(split: Split, name: str) -> None:
    """Refuse a split in which some node has two roles."""
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        both = getattr(split, first) & getattr(split, second)
        if both.any():
            raise GraphError(
                f"{name}: {first}_mask and {second}_mask overlap in {int(both.sum())} nodes, the first is node "
                f"{int(np.argmax(both))}; give every node at most one role"
            )


def _check_labels(y: IntArray, num_nodes: int, num_classes: int, name: str) -> None:
    if y.dtype != np.int64 or y.shape != (num_nodes,):
        raise GraphError(f"{name}: y must be int64 of shape [{num_nodes}], got {y.dtype} of shape {list(y.shape)}")
    if num_classes < 1:
        raise GraphError(f"{name}: num_classes is {num_classes}; a labelled graph has at least one class")
    bad = (y < 0) | (y >= num_classes)
    if bad.any():
        node = int(np.argmax(bad))
        raise GraphError(f"{name}: y[{node}] = {int(y[node])} is not a class: the classes are 0 to {num_classes - 1}")


def _check_mask(mask: BoolArray, what: str, num_nodes: int, name: str) -> None:
    if mask.dtype != np.bool_ or mask.shape != (num_nodes,):
        raise GraphError(
            f"{name}: {what} must be bool of shape [{num_nodes}], got {mask.dtype} of shape {list(mask.shape)}"
        )
