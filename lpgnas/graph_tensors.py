"""A graph as the torch tensors that training needs: sparse products with their transposes, degrees, edge lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lpgnas.errors import GraphError
from lpgnas.fused_ops import Array, Edges, as_array, kept_share, random_bytes
from lpgnas.graph import BoolArray, Graph, IntArray
from lpgnas.integer_program import COEFFICIENT_BITS, ROW_FACTOR_BITS, reciprocal, rsqrt15
from lpgnas.kernels import sparse_products
from lpgnas.number_formats import FixedPoint, Rounding, finest_fraction, quantize_array

USUAL_WORDS = 32
"""Of a row, on average: about as many as the papers of a citation graph have (18 to 50)."""
Product = Callable[[Tensor], Tensor]
"""Maps a matrix [F, k] to `features @ it` [N, k]."""


class _CsrProduct(torch.autograd.Function):
    """`matrix @ dense` with the gradient of the dense side."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: CsrMatrix) -> Tensor:  # noqa: ANN401
        ctx.matrix = matrix
        return torch.from_numpy(matrix.times(as_array(dense)))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return torch.from_numpy(ctx.matrix.transpose_times(as_array(gradient))), None


@dataclass(frozen=True)
class CsrMatrix:
    """A constant sparse matrix for products with a dense one, with gradient to the dense side.

    Attributes:
        indptr: [rows + 1] int64, first entry of each row.
        indices: [entries] int32, columns.
        values: [entries] floats, or [1] where all entries are the same.
        columns: their number.
        transposed: the transpose, made once; or None, and a transposed product scatters rows.
    """

    indptr: Array
    indices: Array
    values: Array
    columns: int
    transposed: CsrMatrix | None = None

    @classmethod
    def of(cls, matrix: Any, dtype: torch.dtype, *, with_transpose: bool = False) -> CsrMatrix:  # noqa: ANN401 - scipy
        """From a scipy sparse array, duplicate entries summed."""
        ordered = sparse.csr_array(matrix)
        ordered.sum_duplicates()
        values = ordered.data.astype(np.float64 if dtype == torch.float64 else np.float32)
        if len(values) and (values == values[0]).all():
            values = values[:1].copy()
        transposed = cls.of(ordered.T, dtype) if with_transpose else None
        indices = ordered.indices.astype(np.int32)
        return cls(ordered.indptr.astype(np.int64), indices, values, ordered.shape[1], transposed)

    def product(self, dense: Tensor) -> Tensor:
        """`self @ dense`: [columns, k] -> [rows, k]."""
        result: Tensor = _CsrProduct.apply(dense, self)  # type: ignore[no-untyped-call]
        return result

    def times(self, dense: Array) -> Array:
        """`self @ dense`, C-contiguous [columns, k] -> [rows, k].

        Raises:
            GraphError: another number of rows.
        """
        self._check(dense, self.columns)
        result = np.empty((len(self.indptr) - 1, dense.shape[1]), dense.dtype)
        sparse_products.sum_rows(self.indptr, self.indices, self.values, dense, result)
        return result

    def transpose_times(self, dense: Array) -> Array:
        """`self^T @ dense`, C-contiguous [rows, k] -> [columns, k].

        Raises:
            GraphError: another number of rows.
        """
        self._check(dense, len(self.indptr) - 1)
        if self.transposed is not None:
            return self.transposed.times(dense)
        result = np.zeros((self.columns, dense.shape[1]), dense.dtype)
        sparse_products.add_rows(self.indptr, self.indices, self.values, dense, result)
        return result

    @staticmethod
    def _check(dense: Array, rows: int) -> None:
        # kernels check no index
        if len(dense) != rows:
            raise GraphError(
                f"a sparse matrix needs a factor of {rows} rows, got {len(dense)}: of another model or graph"
            )

    def dense(self) -> Tensor:
        """The matrix as a dense tensor [rows, columns]."""
        return torch.from_numpy(self.times(np.eye(self.columns, dtype=self.values.dtype)))

    def rows(self, kept: IntArray) -> CsrMatrix:
        """The matrix of the rows `kept` [N'], ascending."""
        count = np.diff(self.indptr)[kept]
        indptr = np.concatenate([[0], np.cumsum(count)])
        entries = np.arange(indptr[-1]) + np.repeat(self.indptr[kept] - indptr[:-1], count)
        values = self.values if len(self.values) <= 1 else self.values[entries]
        return CsrMatrix(indptr, self.indices[entries], values, self.columns)

    def dropped(self, probability: float, generator: torch.Generator) -> CsrMatrix:
        """This matrix with entries dropped at random and the rest scaled up, as dropout does."""
        threshold, factor = kept_share(probability)
        entries = len(self.indices)
        draws = random_bytes(entries, generator)
        indptr, indices = np.empty_like(self.indptr), np.empty(entries + 1, np.int32)
        scaled = self.values * self.values.dtype.type(factor)
        values = scaled if len(scaled) <= 1 else np.empty(entries + 1, scaled.dtype)
        sparse_products.keep_entries(self.indptr, self.indices, scaled, draws, threshold, indptr, indices, values)
        kept = int(indptr[-1])
        values = values if len(scaled) <= 1 else values[:kept].copy()
        return CsrMatrix(indptr, indices[:kept].copy(), values, self.columns)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, without the transpose."""
        return self.indptr.nbytes + self.indices.nbytes + self.values.nbytes


@dataclass(frozen=True)
class Neighbourhood:
    """The edge set E' of a graph, with or without the added self-loops.

    Attributes:
        sum: adjacency [N, N] with multiplicities, row = target.
        edges: the edges by target.
        rsqrt: [N, 1], `rsqrt15(d) * 2^-15`.
        recip: [N, 1], `recip15(d) * 2^-15`.
    """

    sum: CsrMatrix
    edges: Edges
    rsqrt: Tensor
    recip: Tensor


@dataclass(frozen=True)
class GraphTensors:
    """A graph with quantised features, ready for a model.

    Attributes:
        num_nodes: N.
        features: codes times `2^-fraction` [N, F]; bare codes where rows are normalised. For a float input as they are,
            rows normalised.
        row_factor: [N, 1], `row24(sum of codes) * 2^-24`, or None without row normalisation and for a float input.
        dtype: of every tensor, float32 to train and float64 to compare.
        edge_index: [2, E] sources and targets.
        in_degree: [N] edges that end in each node, of the whole graph where this is a part of it.
    """

    num_nodes: int
    features: CsrMatrix
    row_factor: Tensor | None
    dtype: torch.dtype
    edge_index: IntArray = field(repr=False)
    in_degree: IntArray = field(repr=False)

    def product(self, features: CsrMatrix | None = None) -> Product:
        """The product with the features, row factor included; `features` are the same with entries dropped."""
        product = (self.features if features is None else features).product
        factor = self.row_factor
        return product if factor is None else lambda weight: product(weight) * factor

    @cached_property
    def with_loops(self) -> Neighbourhood:
        """E' = E + N."""
        return self._neighbourhood(self_loops=True)

    @cached_property
    def without_loops(self) -> Neighbourhood:
        """E' = E."""
        return self._neighbourhood(self_loops=False)

    def around(self, nodes: BoolArray, hops: int) -> GraphPart:
        """The part of the graph that the outputs of `nodes` [N] depend on through `hops` >= 1 blocks."""
        source, target = self.edge_index
        read = inner = nodes
        for _ in range(hops):
            inner, read = read, read.copy()
            read[source[inner[target]]] = True
        kept = np.flatnonzero(read)
        position = np.cumsum(read) - 1
        edges = inner[target]
        part = GraphTensors(
            num_nodes=len(kept),
            features=self.features.rows(kept),
            row_factor=None if self.row_factor is None else self.row_factor[torch.from_numpy(kept)],
            dtype=self.dtype,
            edge_index=np.stack([position[source[edges]], position[target[edges]]]),
            in_degree=self.in_degree[kept],
        )
        return GraphPart(part, kept)

    def _neighbourhood(self, *, self_loops: bool) -> Neighbourhood:
        source, target = self.edge_index
        if self_loops:
            nodes = np.arange(self.num_nodes, dtype=np.int64)
            source, target = np.concatenate([source, nodes]), np.concatenate([target, nodes])
        degree = self.in_degree + int(self_loops)
        size = (self.num_nodes, self.num_nodes)
        adjacency = sparse.csr_array(sparse.coo_array((np.ones(len(source)), (target, source)), shape=size))
        coefficient = 2.0**-COEFFICIENT_BITS
        by_target = np.argsort(target, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(np.bincount(target, minlength=self.num_nodes))])
        return Neighbourhood(
            sum=CsrMatrix.of(adjacency, self.dtype, with_transpose=True),
            edges=Edges(*map(torch.from_numpy, (indptr, source[by_target], target[by_target]))),
            rsqrt=torch.from_numpy(rsqrt15(degree) * coefficient).to(self.dtype)[:, None],
            recip=torch.from_numpy(reciprocal(COEFFICIENT_BITS, degree) * coefficient).to(self.dtype)[:, None],
        )


@dataclass(frozen=True)
class GraphPart:
    """A part of a graph, in which the outputs of some nodes are those that they have in the whole graph.

    Attributes:
        tensors: of the part.
        nodes: [N'] int64, ascending: its nodes as the whole graph counts them.
    """

    tensors: GraphTensors
    nodes: IntArray


def graph_tensors(
    graph: Graph,
    input_format: FixedPoint | None,
    rounding: Rounding,
    *,
    row_normalize: bool,
    dtype: torch.dtype = torch.float32,
) -> GraphTensors:
    """The tensors of `graph` with features quantised to `input_format` (None: left as they are, a float reference)."""
    features = sparse.csr_array(graph.x, copy=True)
    features.sum_duplicates()  # before any rounding, as the executors do
    data = features.data.astype(np.float64)
    factor = None
    if input_format is not None:
        data = quantize_array(data, input_format, rounding).astype(np.float64)
    features = sparse.csr_array((data, features.indices, features.indptr), shape=features.shape)
    sums = np.asarray(features.sum(axis=1)).reshape(-1)
    if row_normalize and input_format is None:
        features = sparse.diags_array(np.where(sums > 0, 1.0 / np.where(sums > 0, sums, 1.0), 0.0)) @ features
    elif row_normalize:
        factor = reciprocal(ROW_FACTOR_BITS, sums.astype(np.int64)) * 2.0**-ROW_FACTOR_BITS
    elif input_format is not None:
        features.data = np.ldexp(features.data, -input_format.fraction)
    return GraphTensors(
        num_nodes=graph.num_nodes,
        features=CsrMatrix.of(features, dtype),
        row_factor=None if factor is None else torch.from_numpy(factor).to(dtype)[:, None],
        dtype=dtype,
        edge_index=graph.edge_index,
        in_degree=graph.in_degree,
    )


def input_gain(graph: Graph, *, row_normalize: bool) -> float:
    """What weights of the features are multiplied by while they are trained: a power of two, at least 1.

    Where a row of n words is divided by its sum, its entries are about 1/n. With ten times the words of a citation
    graph weights have to become ten times as large, and Adam moves all of them by the same small steps.
    """
    if not row_normalize or not graph.num_nodes:
        return 1.0
    words = float(sparse.csr_array(graph.x).count_nonzero()) / graph.num_nodes
    return 2.0 ** max(0, math.floor(math.log2(words / USUAL_WORDS))) if words > 0 else 1.0


def input_fraction(graph: Graph, bits: int, *, signed: bool) -> int:
    """The finest fraction at which no feature of `graph` passes a fixed-point format of `bits`."""
    high = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
    return finest_fraction(graph.largest_feature, high)
