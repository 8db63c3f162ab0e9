"""A graph as the torch tensors that training needs: sparse products with their transposes, degrees, edge lists."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lpgnas.fused_ops import Edges, dropped, random_bytes
from lpgnas.graph import Graph
from lpgnas.integer_program import COEFFICIENT_BITS, ROW_FACTOR_BITS, reciprocal, rsqrt15
from lpgnas.kernels.training import gather
from lpgnas.number_formats import FixedPoint, Rounding, finest_fraction, quantize_array

Product = Callable[[Tensor], Tensor]
"""Maps a matrix [F, k] to `features @ it` [N, k]."""


def csr_tensor(matrix: Any, dtype: torch.dtype) -> Tensor:  # noqa: ANN401 - a scipy sparse array
    """A scipy CSR array as a torch CSR tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message="Sparse invariant checks are implicitly disabled", category=UserWarning
        )
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float64)).to(dtype),
            size=matrix.shape,
            check_invariants=False,
        )


class _CsrProduct(torch.autograd.Function):
    """`matrix @ dense` whose gradient uses the transpose made once (torch would build it at every step)."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:  # noqa: ANN401
        ctx.transpose = transpose
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return ctx.transpose @ gradient.contiguous(), None, None


class CsrMatrix:
    """A constant sparse matrix [rows, columns] for products with a dense one, with gradient to the dense side."""

    def __init__(self, matrix: Any, dtype: torch.dtype) -> None:  # noqa: ANN401 - a scipy sparse array
        ordered = sparse.csr_array(matrix)
        ordered.sum_duplicates()
        self._forward = csr_tensor(ordered, dtype)
        # entry k of the transpose is entry order[k] of the matrix, so that dropout can drop the same ones
        numbered = sparse.csr_array(
            (np.arange(1, ordered.nnz + 1), ordered.indices, ordered.indptr), shape=ordered.shape
        ).T.tocsr()
        self._order = numbered.data.astype(np.int32) - 1
        self._transpose = csr_tensor(ordered.T.tocsr(), dtype)

    def product(self, dense: Tensor) -> Tensor:
        """`self @ dense`: [columns, k] -> [rows, k]."""
        result: Tensor = _CsrProduct.apply(dense, self._forward, self._transpose)  # type: ignore[no-untyped-call]
        return result

    def dense(self) -> Tensor:
        """The matrix as a dense tensor [rows, columns]."""
        return self._forward.to_dense()

    def dropped(self, probability: float, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        """`product` of this matrix with entries dropped at random and the rest scaled up, as dropout does."""
        thinned = dropped(self._forward.values().numpy(), random_bytes(len(self._order), generator), probability)
        turned = np.empty_like(thinned)
        gather(thinned, self._order, turned)
        forward, transpose = (
            torch.sparse_csr_tensor(
                like.crow_indices(),
                like.col_indices(),
                torch.from_numpy(data),
                size=like.shape,
                check_invariants=False,
            )
            for like, data in ((self._forward, thinned), (self._transpose, turned))
        )
        return lambda dense: _CsrProduct.apply(dense, forward, transpose)  # type: ignore[no-untyped-call]


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
        features: codes times `2^-fraction` [N, F]; bare codes where rows are normalised. Unquantised for a float input.
        row_factor: [N, 1], `row24(sum of codes) * 2^-24`, or None without row normalisation.
        dtype: of every tensor, float32 to train and float64 to compare.
    """

    num_nodes: int
    features: CsrMatrix
    row_factor: Tensor | None
    dtype: torch.dtype
    edge_index: Any = field(repr=False)

    def product(self, dropout: float = 0.0, generator: torch.Generator | None = None) -> Product:
        """The product with the features, row factor included; with dropped entries where a generator is given."""
        product: Product = self.features.product
        if dropout > 0.0 and generator is not None:
            product = self.features.dropped(dropout, generator)
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

    def _neighbourhood(self, *, self_loops: bool) -> Neighbourhood:
        source, target = self.edge_index
        if self_loops:
            nodes = np.arange(self.num_nodes, dtype=np.int64)
            source, target = np.concatenate([source, nodes]), np.concatenate([target, nodes])
        degree = np.bincount(target, minlength=self.num_nodes).astype(np.int64)
        size = (self.num_nodes, self.num_nodes)
        adjacency = sparse.csr_array(sparse.coo_array((np.ones(len(source)), (target, source)), shape=size))
        coefficient = 2.0**-COEFFICIENT_BITS
        by_target = np.argsort(target, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(degree)])
        return Neighbourhood(
            sum=CsrMatrix(adjacency, self.dtype),
            edges=Edges(*map(torch.from_numpy, (indptr, source[by_target], target[by_target]))),
            rsqrt=torch.from_numpy(rsqrt15(degree) * coefficient).to(self.dtype)[:, None],
            recip=torch.from_numpy(reciprocal(COEFFICIENT_BITS, degree) * coefficient).to(self.dtype)[:, None],
        )


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
        factor = np.where(sums > 0, 1.0 / np.where(sums > 0, sums, 1.0), 0.0)
    elif row_normalize:
        factor = reciprocal(ROW_FACTOR_BITS, sums.astype(np.int64)) * 2.0**-ROW_FACTOR_BITS
    elif input_format is not None:
        features.data = np.ldexp(features.data, -input_format.fraction)
    return GraphTensors(
        num_nodes=graph.num_nodes,
        features=CsrMatrix(features, dtype),
        row_factor=None if factor is None else torch.from_numpy(factor).to(dtype)[:, None],
        dtype=dtype,
        edge_index=graph.edge_index,
    )


def input_fraction(graph: Graph, bits: int, *, signed: bool) -> int:
    """The finest fraction at which no feature of `graph` passes a fixed-point format of `bits`."""
    values = graph.x if isinstance(graph.x, np.ndarray) else graph.x.data
    largest = float(np.abs(values).max(initial=0.0))
    high = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
    return finest_fraction(largest, high)
