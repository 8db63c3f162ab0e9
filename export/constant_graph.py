"""A program on one small constant graph, as matrices of integers: what a circuit without gather and scatter computes.

On a graph that never changes, degrees, and so every coefficient of a node, are numbers. Then each operation is a
product with a constant matrix and one rounding, `requantize(total, shift, low, high)` of the integer semantics:

    transform   total[n, o] = (sum_s (h_s @ weight_s.T)[n, o] << align_s) * factor[n]
    aggregate   total[i, o] = ((counts @ message)[i, o] * factor[i] << term_shift) + bias[o]
                              + (shortcut[i, o] << shortcut_shift)

`counts[i, j]` is the number of edges j -> i, added loops among them; `factor` is `rsqrt15(d)`, `recip15(d)` or absent.
A target may multiply rows of `counts` by the factor (`AggregateStep.operator`), or keep both apart and put the factor
into thresholds: the same integers either way.

What is no product with a constant matrix is refused with `ExportError`: maxima, learned attentions (their
weights depend on the messages), and an identity shortcut from features whose rows are normalised. The row factor itself
depends on the features of a node alone: the host multiplies it in, `ConstantProgram.input_codes`, which are exact
integers of 25 bits. Of a program with an index of words, the circuit reads the kept columns alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lpgnas.errors import ExportError
from lpgnas.graph import Features
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    INPUT_NAME,
    ROW_FACTOR_BITS,
    Aggregate,
    Array,
    IntegerProgram,
    Lookup,
    Operation,
    Part,
    Tensor,
    Transform,
    reciprocal,
    rsqrt15,
)
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.executor import check_inputs
from lpgnas.kernels.quantize import SparseCodes, quantize_features
from lpgnas.kernels.reference import requantize_array
from lpgnas.number_formats import Rounding
from lpgnas.operators import ATTENTIONS
from lpgnas.proofs import check_program
from lpgnas.registry import Registry

IntArray: TypeAlias = npt.NDArray[np.int64]
MAX_NODES = 2048
"""Matrices are dense: at this size one has 4 million entries."""


@dataclass(frozen=True, eq=False)
class Term:
    """What one input adds to a transform's accumulator: `(source @ weight.T) << align`.

    Attributes:
        source: name of the tensor it reads.
        weight: codes [out, columns of the source], int64.
        array: the weight in the program, for its format; an index may have taken columns out of it.
        align: left shift, >= 0.
        bound: most of |source @ weight.T|, before the shift.
    """

    source: str
    weight: IntArray
    array: Array
    align: int
    bound: int


@dataclass(frozen=True, eq=False)
class TransformStep:
    """A transform; see the module's page.

    Attributes:
        output: the tensor it makes, whose range saturates.
        terms: one an input, in order.
        factor: of each node, [N] int64, or None.
        shift: of the rounding.
        sum_bound: most of |accumulator|, aligned and summed over the inputs, before the factor.
        total_bound: most of |total|.
        operation: what it was made from.
    """

    output: Tensor
    terms: tuple[Term, ...]
    factor: IntArray | None
    shift: int
    sum_bound: int
    total_bound: int
    operation: Transform

    @property
    def low(self) -> int:
        """Smallest code of the rounding."""
        return self.output.low

    @property
    def high(self) -> int:
        """Largest code of the rounding."""
        return self.output.high


@dataclass(frozen=True, eq=False)
class AggregateStep:
    """An aggregation; see the module's page.

    Attributes:
        output: the tensor it makes.
        source: name of the messages.
        counts: edges j -> i, [N, N] int64; the unit matrix for the attention `self`.
        factor: of each target, [N] int64, or None.
        term_shift: left shift of the product, >= 0.
        bias: [columns] int64, shifted into the accumulator already, or None.
        shortcut: name of the tensor that is added, or None.
        shortcut_shift: its left shift.
        shift: of the rounding.
        low: smallest code of the rounding.
        high: largest one.
        sum_bound: most of |counts @ message| on this graph.
        total_bound: most of |total| on this graph.
        operation: what it was made from.
    """

    output: Tensor
    source: str
    counts: IntArray
    factor: IntArray | None
    term_shift: int
    bias: IntArray | None
    shortcut: str | None
    shortcut_shift: int
    shift: int
    low: int
    high: int
    sum_bound: int
    total_bound: int
    operation: Aggregate

    @property
    def operator(self) -> IntArray:
        """`counts` with the target's factor multiplied in, [N, N] int64."""
        return self.counts if self.factor is None else self.counts * self.factor[:, None]


@dataclass(frozen=True, eq=False)
class LookupStep:
    """A table: `output = entries[source - low]`, one entry a code of the source, [2^bits] int64."""

    output: Tensor
    source: str
    entries: IntArray
    operation: Lookup


Step: TypeAlias = TransformStep | AggregateStep | LookupStep


@dataclass(frozen=True, eq=False)
class ConstantProgram:
    """A program on one graph.

    Attributes:
        program: what it was made from.
        graph: the graph, without added loops.
        input: the tensor that the circuit reads, `x`: of kept columns, and 25 bits wide where rows are normalised.
        columns: which columns of the features it reads, [input.columns] int64, rising.
        steps: in order; the last one makes the logits.
    """

    program: IntegerProgram
    graph: CsrGraph
    input: Tensor
    columns: IntArray
    steps: tuple[Step, ...]

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.graph.num_nodes

    @property
    def rounding(self) -> Rounding:
        """The one rounding mode."""
        return self.program.rounding

    def tensor(self, name: str) -> Tensor:
        """A tensor as the circuit has it."""
        return self.input if name == INPUT_NAME else self.program.tensor(name)

    def input_codes(self, x: Features) -> IntArray:
        """What the host hands to the circuit, [N, input.columns] int64, of features [N, F] float32, dense or CSR.

        Raises:
            GraphError: features that the program cannot read, or of another number of nodes.
            ExportError: another number of nodes than the graph has.
        """
        check_inputs(self.program, x)
        if x.shape[0] != self.num_nodes:
            raise ExportError(f"x has {x.shape[0]} rows, but the constant graph has {self.num_nodes} nodes")
        made = quantize_features(x, self.program.input_format, self.program.rounding)
        dense = made.dense(self.program.num_features) if isinstance(made, SparseCodes) else made
        codes: IntArray = dense.astype(np.int64)
        read: IntArray = codes[:, self.columns]
        if self.program.row_normalize:
            read = read * reciprocal(ROW_FACTOR_BITS, codes.sum(axis=1))[:, None]
        return np.ascontiguousarray(read)  # as native code takes it

    def run(self, x: Features) -> IntArray:
        """Codes of the logits [N, C] int64, by the matrices; errors as `input_codes`."""
        return self.run_codes(self.input_codes(x))[self.program.output]

    def run_codes(self, codes: IntArray) -> dict[str, IntArray]:
        """Every tensor [N, columns] int64 by name, from the codes that the circuit reads."""
        made = {INPUT_NAME: codes}
        for step in self.steps:
            made[step.output.name] = self._step(step, made)
        return made

    def _step(self, step: Step, made: dict[str, IntArray]) -> IntArray:
        if isinstance(step, LookupStep):
            return np.asarray(step.entries[made[step.source] - self.tensor(step.source).low])
        if isinstance(step, TransformStep):
            total = np.zeros((self.num_nodes, step.output.columns), dtype=np.int64)
            for term in step.terms:
                total += (made[term.source] @ term.weight.T) << term.align
            if step.factor is not None:
                total *= step.factor[:, None]
        else:
            total = (step.operator @ made[step.source]) << step.term_shift
            if step.bias is not None:
                total += step.bias
            if step.shortcut is not None:
                total += made[step.shortcut] << step.shortcut_shift
        return requantize_array(total, step.shift, step.low, step.high, self.rounding)


def constant_program(program: IntegerProgram, graph: CsrGraph) -> ConstantProgram:
    """The matrices of a program on a graph.

    Args:
        program: what to express.
        graph: the graph, without added loops.

    Raises:
        ProgramError: a proof of the program does not hold.
        DegreeError: a node beyond `max_degree`.
        ExportError: a graph beyond `MAX_NODES`, or an operation that is no product with a constant matrix.
    """
    check_program(program)
    _check_graph(program, graph)
    for operation in program.operations:
        if isinstance(operation, Aggregate):
            _check_aggregate(program, operation)
    source, columns = _input(program)
    made = _Maker(program, graph, source, columns)
    return ConstantProgram(program, graph, source, columns, tuple(made.step(one) for one in program.operations))


def _check_graph(program: IntegerProgram, graph: CsrGraph) -> None:
    if graph.self_loops:
        raise ExportError("a constant graph must come without added self-loops; the program adds them")
    if graph.message_rows != graph.num_nodes:
        raise ExportError(f"a constant graph has one set of nodes, not {graph.message_rows} for {graph.num_nodes}")
    if graph.num_nodes > MAX_NODES:
        raise ExportError(
            f"a graph of {graph.num_nodes} nodes is too large to be compiled in as a matrix (at most {MAX_NODES}); "
            f"take the neighbourhood of a node"
        )
    graph.check_degree(program.max_degree)


def _check_aggregate(program: IntegerProgram, operation: Aggregate) -> None:
    """Refuse what is no product with a constant matrix.

    Raises:
        ExportError: the message names the layer and the operator.
    """
    where = f"layer {operation.layer} aggregate"
    if ATTENTIONS.get(operation.attention).learned:
        raise ExportError(
            f"{where}: the weights of the attention {operation.attention} depend on the messages, so that no constant "
            f"matrix stands for them; use const, gcn or self, or a target with gather and scatter (onnx-int, c)"
        )
    if operation.aggregation == "max":
        raise ExportError(
            f"{where}: a maximum is no product with a constant matrix; use sum or mean, or a target with gather and "
            f"scatter (onnx-int, c)"
        )
    if operation.shortcut == INPUT_NAME and program.row_normalize:
        raise ExportError(
            f"{where}: its identity shortcut adds features as they are, but rows reach a constant graph normalised; "
            f"use a linear shortcut, or the target onnx-int or c"
        )


def _input(program: IntegerProgram) -> tuple[Tensor, IntArray]:
    """The tensor that the circuit reads, and which columns of the features it has."""
    source, index = program.input, program.index
    whole = any(isinstance(one, Aggregate) and one.shortcut == INPUT_NAME for one in program.operations)
    if index is None or whole:
        columns = np.arange(program.num_features, dtype=np.int64)
    else:
        columns = np.flatnonzero(index.values).astype(np.int64)
    bits, fraction = source.bits, source.fraction
    if program.row_normalize:  # q * row24(t) <= 2^24 + q / 2, since q <= t
        bits, fraction = ((1 << ROW_FACTOR_BITS) + source.high // 2).bit_length(), ROW_FACTOR_BITS
    return Tensor(source.name, columns.size, bits, fraction, source.signed, source.layer, source.component), columns


@dataclass(frozen=True, eq=False)
class _Maker:
    program: IntegerProgram
    graph: CsrGraph
    input: Tensor
    columns: IntArray

    def step(self, operation: Operation) -> Step:
        return _STEPS.get(type(operation).__name__)(self, operation)

    def degree(self, *, self_loops: bool) -> IntArray:
        return self.graph.degree + (1 if self_loops else 0)

    def counts(self, *, self_loops: bool) -> IntArray:
        nodes = self.graph.num_nodes
        made = np.zeros((nodes, nodes), dtype=np.int64)
        targets = np.repeat(np.arange(nodes), self.graph.degree)
        np.add.at(made, (targets, self.graph.sources), 1)
        return made + np.eye(nodes, dtype=np.int64) if self_loops else made

    def transform(self, operation: Transform) -> TransformStep:
        terms = tuple(self._term(part) for part in self.program.parts(operation))
        factor = rsqrt15(self.degree(self_loops=operation.self_loops)) if operation.degree_factor else None
        sums = sum(term.bound << term.align for term in terms)
        largest = 1 if factor is None else int(factor.max())
        return TransformStep(
            self.program.tensor(operation.output), terms, factor, operation.shift, sums, sums * largest, operation
        )

    def _term(self, part: Part) -> Term:
        raw = part.source.name == INPUT_NAME
        weight = part.spread()[:, self.columns] if raw else part.weight.values
        return Term(part.source.name, weight.astype(np.int64), part.weight, part.align, self._part_bound(part))

    def _part_bound(self, part: Part) -> int:
        """Most of |sum of products|, a row factor in it; of normalised rows as `lpgnas.proofs` has it."""
        magnitudes: IntArray = np.abs(part.weight.values.astype(np.int64))
        if not part.row_factor:
            return int(magnitudes.sum(axis=1).max()) * part.source.magnitude
        largest_sum = int(magnitudes.shape[1]) * part.source.high
        return int(magnitudes.max()) * ((1 << ROW_FACTOR_BITS) + (largest_sum + 1) // 2)

    def aggregate(self, operation: Aggregate) -> AggregateStep:
        attention, program = ATTENTIONS.get(operation.attention), self.program
        degree = self.degree(self_loops=operation.self_loops)
        counts = self.counts(self_loops=operation.self_loops)
        factor = None
        if not attention.neighbours:
            counts = np.eye(self.graph.num_nodes, dtype=np.int64)
        elif attention.degree_factors:
            factor = rsqrt15(degree)
        elif operation.aggregation == "mean":
            factor = reciprocal(COEFFICIENT_BITS, degree)
        bias = None
        if operation.bias is not None:
            bias = program.array(operation.bias).values.astype(np.int64) << operation.bias_shift
        message = program.tensor(operation.input)
        rows = counts.sum(axis=1)
        total = int((rows if factor is None else rows * factor).max()) * message.magnitude << operation.term_shift
        total += 0 if bias is None else int(np.abs(bias).max())
        if operation.shortcut is not None:
            total += program.tensor(operation.shortcut).magnitude << operation.shortcut_shift
        return AggregateStep(
            output=program.tensor(operation.output),
            source=operation.input,
            counts=counts,
            factor=factor,
            term_shift=operation.term_shift,
            bias=bias,
            shortcut=operation.shortcut,
            shortcut_shift=operation.shortcut_shift,
            shift=operation.shift,
            low=operation.clamp_low,
            high=operation.clamp_high,
            sum_bound=int(rows.max()) * message.magnitude,
            total_bound=total,
            operation=operation,
        )

    def lookup(self, operation: Lookup) -> LookupStep:
        entries = self.program.array(operation.table).values.astype(np.int64)
        return LookupStep(self.program.tensor(operation.output), operation.input, entries, operation)


_STEPS: Registry[Callable[[_Maker, Any], Step]] = Registry("step of a constant graph for operation")
_STEPS.add(Transform.__name__, _Maker.transform)
_STEPS.add(Aggregate.__name__, _Maker.aggregate)
_STEPS.add(Lookup.__name__, _Maker.lookup)
