"""The NumPy reference: `docs/integer_semantics.md` on whole int64 arrays, without kernels, CSR or arena."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lpgnas.attentions.score import EdgeScore, Side
from lpgnas.errors import DegreeError, ProgramError
from lpgnas.graph import Features, check_edges
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    INPUT_NAME,
    RECIPROCAL_BITS,
    ROW_FACTOR_BITS,
    Aggregate,
    Codes,
    IntegerProgram,
    Lookup,
    Part,
    Score,
    Transform,
    reciprocal,
    rsqrt15,
)
from lpgnas.kernels.executor import check_inputs
from lpgnas.number_formats import Rounding, quantize_array
from lpgnas.operators import ATTENTIONS

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SortedEdges:
    """Edges sorted by target: `sources` and `targets` [E'], in-degrees [N]."""

    sources: Int64Array
    targets: Int64Array
    degree: Int64Array

    @classmethod
    def sort(cls, edge_index: Int64Array, num_nodes: int, *, self_loops: bool) -> SortedEdges:
        """The edges [2, E] by target, each node with a loop of its own behind them if so said."""
        nodes = np.arange(num_nodes if self_loops else 0)
        sources, targets = (np.concatenate([row, nodes]) for row in edge_index)
        order = np.argsort(targets, kind="stable")
        return cls(sources[order], targets[order], np.bincount(targets, minlength=num_nodes).astype(np.int64))

    def total(self, terms: Int64Array) -> Int64Array:
        """Sum of `terms` [E', columns] by target, [N, columns]."""
        return self._reduce(np.add.reduceat, terms)

    def largest(self, terms: Int64Array) -> Int64Array:
        """Maximum of `terms` [E', columns] by target, [N, columns], 0 where there is none."""
        return self._reduce(np.maximum.reduceat, terms)

    def _reduce(self, reduceat: Callable[..., Int64Array], terms: Int64Array) -> Int64Array:
        result = np.zeros((self.degree.size, *terms.shape[1:]), dtype=np.int64)
        present = self.degree > 0  # reduceat has no empty groups
        if terms.size:
            starts = (np.cumsum(self.degree) - self.degree)[present]
            result[present] = reduceat(terms, starts, axis=0)
        return result


@dataclass(frozen=True, eq=False)
class IntegerScores:
    """`ScoreAlgebra` of int64 arrays; `messages` [N, heads, w]."""

    program: IntegerProgram
    operation: Aggregate
    tensors: dict[str, Int64Array]
    edges: SortedEdges
    messages: Int64Array

    def _rows(self, at: Side) -> Int64Array:
        return self.edges.sources if at == "source" else self.edges.targets

    def node(self, weight: str, at: Side) -> Int64Array:
        """[E', heads]: the stored products of a node weight."""
        return self.tensors[self.operation.node_scores()[weight]][self._rows(at)]

    def message(self, at: Side) -> Int64Array:
        """[E', heads, w]: the messages of one end."""
        return self.messages[self._rows(at)]

    def weight(self, name: str) -> Int64Array:
        """[heads, w]: an edge weight."""
        score = ATTENTIONS.get(self.operation.attention).score
        names = () if score is None else score.edge_weights
        stored = dict(zip(names, self.operation.edge_weights, strict=True))
        return self.program.array(stored[name]).values.astype(np.int64)

    def add(self, left: Int64Array, right: Int64Array) -> Int64Array:
        """The sum."""
        return left + right

    def multiply(self, left: Int64Array, right: Int64Array) -> Int64Array:
        """The product."""
        return left * right

    def leaky(self, value: Int64Array) -> Int64Array:
        """Leaky ReLU in two more binary places."""
        return np.where(value >= 0, 4 * value, value)

    def look_up(self, value: Int64Array) -> Int64Array:
        """The score's table at the rounded `value`."""
        operation = self.operation
        if operation.argument_table is None:
            raise ProgramError(f"layer {operation.layer}: {operation.attention} lacks its argument table")
        low, high = operation.score_low, operation.score_high
        codes = requantize_array(value, operation.argument_shift, low, high, self.program.rounding)
        return self.program.array(operation.argument_table).values.astype(np.int64)[codes - low]

    def over_channels(self, value: Int64Array) -> Int64Array:
        """[E', heads]: the sum over the channels."""
        return cast(Int64Array, value.sum(axis=-1))


def requantize_array(values: Int64Array, shift: int, low: int, high: int, rounding: Rounding) -> Int64Array:
    """`requantize` of the semantics, elementwise on int64."""
    if shift <= 0:
        return cast(Int64Array, np.clip(values << -shift, low, high))
    if rounding is Rounding.HALF_EVEN:
        values = values + (1 << (shift - 1)) - 1 + ((values >> shift) & 1)
    elif rounding is Rounding.HALF_UP:
        values = values + (1 << (shift - 1))
    return cast(Int64Array, np.clip(values >> shift, low, high))


def run_reference(program: IntegerProgram, x: Features, edge_index: Int64Array) -> Int64Array:
    """Codes of the logits, int64 [N, C].

    Args:
        program: a checked program.
        x: features [N, F] float32, dense or CSR.
        edge_index: [2, E] int64, row 0 source, row 1 target.

    Raises:
        GraphError: arrays that are not a graph, or another number of features.
        DegreeError: a node with more incoming edges than the program is proved for.
    """
    check_inputs(program, x)
    check_edges(edge_index, x.shape[0], "graph")
    return _Reference(program, x, edge_index).predict()


class _Reference:
    def __init__(self, program: IntegerProgram, x: Features, edge_index: Int64Array) -> None:
        self._program = program
        nodes = int(x.shape[0])
        self._edges = {loops: SortedEdges.sort(edge_index, nodes, self_loops=loops) for loops in (False, True)}
        node = int(self._edges[False].degree.argmax())
        if (degree := int(self._edges[False].degree[node])) > program.max_degree:
            raise DegreeError(degree, program.max_degree, node)
        self._sparse_x: sparse.csr_array | None = None
        self._tensors: dict[str, Int64Array] = {}
        if isinstance(x, np.ndarray):
            self._tensors["x"] = quantize_array(x, program.input_format, program.rounding)
        else:
            x = x.copy()
            x.sum_duplicates()
            codes = quantize_array(x.data, program.input_format, program.rounding)
            self._sparse_x = sparse.csr_array((codes, x.indices, x.indptr), shape=x.shape)

    def predict(self) -> Int64Array:
        for operation in self._program.operations:
            if isinstance(operation, Transform):
                self._tensors[operation.output] = self._transform(operation)
            elif isinstance(operation, Score):
                for weight, out in operation.products().values():
                    self._tensors[out] = self._score(operation, self._program.array(weight).values)
            elif isinstance(operation, Aggregate):
                self._tensors[operation.output] = self._aggregate(operation)
            elif isinstance(operation, Lookup):
                low = self._program.tensor(operation.input).low
                table = self._program.array(operation.table).values.astype(np.int64)
                self._tensors[operation.output] = table[self._codes(operation.input) - low]
            else:
                raise ProgramError(f"the reference does not know the operation {type(operation).__name__}")
        return self._tensors[self._program.output]

    def _codes(self, name: str) -> Int64Array:
        if name == "x" and "x" not in self._tensors and self._sparse_x is not None:
            self._tensors["x"] = self._sparse_x.toarray()
        return self._tensors[name]

    def _transform(self, operation: Transform) -> Int64Array:
        parts = [self._part(part) << part.align for part in self._program.parts(operation)]
        total = sum(parts[1:], start=parts[0])
        if operation.degree_factor:
            total = total * rsqrt15(self._edges[operation.self_loops].degree)[:, None]
        out = self._program.tensor(operation.output)
        return requantize_array(total, operation.shift, out.low, out.high, self._program.rounding)

    def _part(self, part: Part) -> Int64Array:
        """What one input adds to the accumulator, not aligned yet."""
        weight = part.spread().astype(np.int64).T
        if part.source.name == INPUT_NAME and self._sparse_x is not None:
            total = cast(Int64Array, self._sparse_x @ weight)
            row_sums = np.asarray(self._sparse_x.sum(axis=1), dtype=np.int64)
        else:
            codes = self._codes(part.source.name)
            # Proved below 2^53, so a float64 product is exact in any order of summation, and BLAS is fast.
            total = (codes.astype(np.float64) @ weight.astype(np.float64)).astype(np.int64)
            row_sums = codes.sum(axis=1)
        return total * reciprocal(ROW_FACTOR_BITS, row_sums)[:, None] if part.row_factor else total

    def _score(self, operation: Score, weight: Codes) -> Int64Array:
        message = self._codes(operation.input)
        by_head = message.reshape(len(message), operation.heads, -1)
        return cast(Int64Array, np.einsum("nkc,kc->nk", by_head, weight.astype(np.int64)))

    def _probabilities(self, operation: Aggregate, score: EdgeScore, edges: SortedEdges) -> Int64Array:
        """P of each edge and head, [E', heads]."""
        if operation.table is None:
            raise ProgramError(f"layer {operation.layer}: {operation.attention} lacks its table")
        message = self._codes(operation.input).reshape(edges.degree.size, operation.heads, -1)
        raw: Int64Array = score.formula(IntegerScores(self._program, operation, self._tensors, edges, message))
        scores = requantize_array(
            raw, operation.score_shift, operation.score_low, operation.score_high, self._program.rounding
        )
        distance = edges.largest(scores)[edges.targets] - scores
        table = self._program.array(operation.table).values.astype(np.int64)
        return np.where(distance < table.size, table[np.minimum(distance, table.size - 1)], 0)

    def _term(self, operation: Aggregate, edges: SortedEdges) -> Int64Array:
        """The aggregated messages times the target side's coefficients, [N, width]."""
        message = self._codes(operation.input)
        reduce = edges.largest if operation.aggregation == "max" else edges.total
        attention = ATTENTIONS.get(operation.attention)
        if attention.score is not None:
            p = self._probabilities(operation, attention.score, edges)
            weighted = message.reshape(len(message), operation.heads, -1)[edges.sources] * p[:, :, None]
            inverse = reciprocal(RECIPROCAL_BITS, edges.total(p))
            term = (reduce(weighted) * inverse[:, :, None]).reshape(message.shape)
        else:
            term = reduce(message[edges.sources]) if attention.neighbours else message
        if attention.degree_factors:
            term = term * rsqrt15(edges.degree)[:, None]
        if operation.aggregation == "mean":
            term = term * reciprocal(COEFFICIENT_BITS, edges.degree)[:, None]
        return term

    def _aggregate(self, operation: Aggregate) -> Int64Array:
        total = self._term(operation, self._edges[operation.self_loops]) << operation.term_shift
        if operation.bias is not None:
            total = total + (self._program.array(operation.bias).values.astype(np.int64) << operation.bias_shift)
        if operation.shortcut is not None:
            total = total + (self._codes(operation.shortcut) << operation.shortcut_shift)
        return requantize_array(
            total, operation.shift, operation.clamp_low, operation.clamp_high, self._program.rounding
        )
