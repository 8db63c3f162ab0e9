"""Fixed-point checks: what every operation of a program reaches on a graph, counted beside its kernels.

`count_fixed_point` runs a program as the executor does and recomputes each operation block by block in int64, before
and after its rounding. It thus sees what codes no longer tell: accumulators, totals, values that a clamp cut and values
that a rounding lost. The recomputed codes must be those of the kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lpgnas.attentions.score import EdgeScore
from lpgnas.components import Component
from lpgnas.errors import CheckFailed, ProgramError
from lpgnas.graph import Features
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    MAX_PROBABILITY,
    RECIPROCAL_BITS,
    ROW_FACTOR_BITS,
    Aggregate,
    Array,
    IntegerProgram,
    Lookup,
    Operation,
    Score,
    Tensor,
    Transform,
    reciprocal,
    rsqrt15,
)
from lpgnas.jit import jit
from lpgnas.kernels.attention import node_blocks
from lpgnas.kernels.executor import BLOCK_EDGES, BLOCK_NODES, Executor, Inference, TransposedPart, check_inputs
from lpgnas.kernels.linear import accumulate_dense, accumulate_sparse
from lpgnas.kernels.quantize import MODES, rounded
from lpgnas.kernels.reference import IntegerScores, SortedEdges
from lpgnas.operators import ATTENTIONS
from lpgnas.proofs import program_score_facts
from lpgnas.requantize import AnyCodes, Rescale, requantize, rescale

Int64Array = npt.NDArray[np.int64]
_UNCLAMPED = 1 << 62
_NO_WEIGHTS = np.zeros((0, 1), dtype=np.int64)


@dataclass(frozen=True)
class Reached:
    """Smallest and largest integer seen, and the largest magnitude proved for any graph (None: nothing is proved)."""

    low: int
    high: int
    bound: int | None = None

    @property
    def bits_needed(self) -> int:
        """Bits of a two's complement number that holds all that was seen."""
        return signed_bits(self.low, self.high)

    @property
    def bits_proved(self) -> int | None:
        """Bits of one that holds everything within the bound."""
        return None if self.bound is None else signed_bits(-self.bound, self.bound)


@dataclass(frozen=True)
class SiteCounts:
    """What one component of a program reached on a graph.

    Attributes:
        name: the tensor or array, such as `layer0/message`; `layer0/score`, `layer0/argument` and `layer0/probability`
            are the per-edge codes of a learned attention, which no tensor holds.
        operation: what wrote it: `input`, `weight`, `bias`, `transform`, `score`, `aggregate` or `lookup`.
        layer: index of the block.
        component: the component that chose the format; empty for biases and exact sums.
        kind: `fixed`, `binary` or `ternary`.
        bits: stored bits of one code.
        fraction: binary places.
        low: smallest code of the format.
        high: largest code of the format.
        values: how many codes were written.
        codes: smallest and largest code reached.
        codes_used: different codes reached; None for exact sums.
        codes_in_format: how many there are; None for exact sums.
        common_places: every code is a multiple of 2 to this power.
        saturated_low: values clamped to the format's smallest code.
        saturated_high: values clamped to its largest.
        cut: values that an activation's own clamp (0 of relu, 6 of relu6) cut.
        nonzero: values that are not 0 before the rounding, nor would be by relu.
        underflows: those of them that the rounding made 0.
        rounded: range after the rounding and before the clamp; None where nothing is rounded.
        accumulator: range of the sums of products; None where there are none.
        accumulator_bits: bits of the accumulator that the kernels use.
        total: range of what is rounded; None where nothing is.
    """

    name: str
    operation: str
    layer: int
    component: str
    kind: str
    bits: int
    fraction: int
    low: int
    high: int
    values: int
    codes: Reached
    codes_used: int | None
    codes_in_format: int | None
    common_places: int
    saturated_low: int = 0
    saturated_high: int = 0
    cut: int = 0
    nonzero: int = 0
    underflows: int = 0
    rounded: Reached | None = None
    accumulator: Reached | None = None
    accumulator_bits: int | None = None
    total: Reached | None = None

    @property
    def saturations(self) -> int:
        """Values that the format could not hold."""
        return self.saturated_low + self.saturated_high

    @property
    def bits_needed(self) -> int:
        """Bits of a fixed-point format of the same sign and fraction that holds every code reached; all of another."""
        if self.kind != "fixed":
            return self.bits
        return code_bits(self.codes.low, self.codes.high, signed=self.low < 0)

    @property
    def bits_to_hold(self) -> int:
        """Bits of one that nothing would saturate in."""
        if self.rounded is None or not self.saturations:
            return self.bits_needed
        low = self.rounded.low if self.saturated_low else self.codes.low
        high = self.rounded.high if self.saturated_high else self.codes.high
        return code_bits(low, high, signed=self.low < 0)


def signed_bits(low: int, high: int) -> int:
    """Bits of a two's complement number that holds `low` to `high`."""
    return max((one if one >= 0 else ~one).bit_length() for one in (low, high)) + 1


def code_bits(low: int, high: int, *, signed: bool) -> int:
    """Bits of a fixed-point format (at least 2 if signed, else 1) that holds codes `low` to `high`."""
    return max(2, signed_bits(low, high)) if signed else max(1, high.bit_length())


class Tally(NamedTuple):
    """What a kernel counts; see `count_rounding`.

    Attributes:
        counts: [4] below the clamp, above it, not 0 before, 0 after although not before.
        rounded: [2] smallest and largest rounded value, before the clamp.
        histogram: [codes of the format] how often each code came out.
    """

    counts: Int64Array
    rounded: Int64Array
    histogram: Int64Array


@jit
def count_rounding(
    totals: Int64Array, by: Rescale, unclamped: Rescale, low: int, tally: Tally, codes: AnyCodes
) -> None:
    """`codes = requantize(totals)`, with everything that happens on the way added to the tally.

    Args:
        totals: [n, width].
        by: the rounding and the clamp.
        unclamped: the same rounding with a clamp that nothing reaches.
        low: smallest code of the format, which the histogram starts with.
        tally: added to.
        codes: [n, width], written.
    """
    for n in range(totals.shape[0]):
        for c in range(totals.shape[1]):
            total = totals[n, c]
            rounded = requantize(total, unclamped)
            code = min(max(rounded, np.int64(by.low)), np.int64(by.high))
            tally.counts[0] += np.int64(rounded < by.low)
            tally.counts[1] += np.int64(rounded > by.high)
            counted = total > 0 or (total < 0 and by.low < 0)
            tally.counts[2] += np.int64(counted)
            tally.counts[3] += np.int64(counted and rounded == 0)
            tally.rounded[0] = min(tally.rounded[0], rounded)
            tally.rounded[1] = max(tally.rounded[1], rounded)
            tally.histogram[code - low] += 1
            codes[n, c] = code


@jit
def count_quantizing(
    values: npt.NDArray[np.float32],
    scale: float,
    mode: int,
    low: float,
    high: float,
    tally: Tally,
    reached: npt.NDArray[np.float64],
) -> None:
    """The input's quantisation, counted; rounded values may pass int64, so their range [2] float64 is `reached`.

    Args:
        values: [n].
        scale: 2 to the fraction.
        mode: as `lpgnas.kernels.quantize.quantize_values`.
        low: smallest code.
        high: largest code.
        tally: added to, but for its range.
        reached: [2] float64, widened.
    """
    for k in range(values.size):
        scaled = np.float64(values[k]) * scale
        code = rounded(scaled, mode)
        tally.counts[0] += np.int64(code < low)
        tally.counts[1] += np.int64(code > high)
        counted = scaled > 0.0 or (scaled < 0.0 and low < 0.0)
        tally.counts[2] += np.int64(counted)
        tally.counts[3] += np.int64(counted and code == 0.0)
        reached[0] = min(reached[0], code)
        reached[1] = max(reached[1], code)
        tally.histogram[np.int64(min(max(code, low), high) - low)] += 1


@jit
def gather_block(
    indptr: Int64Array,
    sources: npt.NDArray[Any],
    first: int,
    weights: Int64Array,
    message: AnyCodes,
    maximum: bool,
    gathered: Int64Array,
) -> None:
    """Sums or maxima of the messages into a block of nodes, in int64.

    Args:
        indptr: [N + 1].
        sources: [E'].
        first: the block's first node; it has as many as `gathered` has rows.
        weights: [edges of the block, heads], or [0, 1] where all edges weigh alike.
        message: [N, width].
        maximum: take the maximum, 0 without edges.
        gathered: [block, width], written.
    """
    begin, width = indptr[first], message.shape[1] // weights.shape[1]
    gathered[:] = 0
    for row in range(gathered.shape[0]):
        start = indptr[first + row]
        for edge in range(start, indptr[first + row + 1]):
            codes = message[sources[edge]]
            for c in range(codes.size):
                term = np.int64(codes[c])
                if weights.shape[0] > 0:
                    term *= weights[edge - begin, c // width]
                if not maximum:
                    gathered[row, c] += term
                elif edge == start or term > gathered[row, c]:
                    gathered[row, c] = term


@dataclass
class _Range:
    """The range of what was seen so far."""

    low: int | None = None
    high: int | None = None

    def see(self, values: npt.NDArray[Any]) -> None:
        if values.size:
            low, high = int(values.min()), int(values.max())
            self.low = low if self.low is None else min(self.low, low)
            self.high = high if self.high is None else max(self.high, high)

    def reached(self, bound: int | None = None) -> Reached:
        return Reached(self.low or 0, self.high or 0, bound)


@dataclass
class _Rounding:
    """A place where totals become codes of a format; `low` and `high` are the format's, `by` has the clamp."""

    by: Rescale
    low: int
    high: int
    totals: _Range = field(default_factory=_Range)
    accumulators: _Range = field(default_factory=_Range)

    def __post_init__(self) -> None:
        self._unclamped = self.by._replace(low=-_UNCLAMPED, high=_UNCLAMPED)
        self.tally = _empty_tally(self.low, self.high)

    def codes(self, totals: Int64Array) -> Int64Array:
        """What becomes of totals of any shape, counted."""
        self.totals.see(totals)
        codes = np.empty_like(totals)
        flat = (totals.reshape(-1, 1), codes.reshape(-1, 1))
        count_rounding(flat[0], self.by, self._unclamped, self.low, self.tally, flat[1])
        return codes

    def counts(self) -> dict[str, Any]:
        """The fields of `SiteCounts` about codes, clamps and roundings."""
        below, above, nonzero, underflows = (int(count) for count in self.tally.counts)
        saturated = (below if self.by.low == self.low < 0 else 0, above if self.by.high == self.high else 0)
        seen = self.tally.rounded[0] <= self.tally.rounded[1]
        return {
            **_used_codes(self.tally.histogram, self.low),
            "saturated_low": saturated[0],
            "saturated_high": saturated[1],
            "cut": below + above - sum(saturated),
            "nonzero": nonzero,
            "underflows": underflows,
            "rounded": Reached(*(int(one) for one in self.tally.rounded)) if seen else Reached(0, 0),
        }


def _empty_tally(low: int, high: int) -> Tally:
    rounded = np.array([_UNCLAMPED, -_UNCLAMPED], dtype=np.int64)
    return Tally(np.zeros(4, dtype=np.int64), rounded, np.zeros(high - low + 1, dtype=np.int64))


def _used_codes(histogram: Int64Array, low: int) -> dict[str, Any]:
    """How many values there are, and which codes they use."""
    used = np.flatnonzero(histogram) + low
    return {
        "values": int(histogram.sum()),
        "codes": Reached(int(used.min(initial=used[0])), int(used.max(initial=used[0])))
        if used.size
        else Reached(0, 0),
        "codes_used": int(used.size),
        "codes_in_format": int(histogram.size),
        "common_places": _common_places(used),
    }


def _common_places(codes: Int64Array) -> int:
    """The largest k for which 2^k divides every code; 0 where all are 0."""
    together = int(np.bitwise_or.reduce(codes, initial=0))
    return (together & -together).bit_length() - 1 if together else 0


def array_counts(array: Array) -> SiteCounts:
    """The codes of a constant of a program."""
    used = np.unique(array.values.astype(np.int64))
    in_format = {"binary": 2, "ternary": 3}.get(array.kind, array.high - array.low + 1)
    return SiteCounts(
        name=array.name,
        operation=array.role,
        layer=array.layer,
        component="" if array.component is None else str(array.component),
        kind=array.kind,
        bits=array.bits,
        fraction=array.fraction,
        low=array.low,
        high=array.high,
        values=int(array.values.size),
        codes=Reached(int(used[0]), int(used[-1])),
        codes_used=int(used.size),
        codes_in_format=in_format,
        common_places=_common_places(used),
    )


def _of_tensor(tensor: Tensor, operation: str) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "operation": operation,
        "layer": tensor.layer,
        "component": "" if tensor.component is None else str(tensor.component),
        "kind": "fixed",
        "bits": tensor.bits,
        "fraction": tensor.fraction,
        "low": tensor.low,
        "high": tensor.high,
    }


class CountingInference(Inference):
    """A program on one graph whose steps are counted: after `predict`, `sites` has one entry a component.

    Raises:
        CheckFailed: codes that the kernels wrote, or what these counted, are not what is counted here.
    """

    def __init__(self, executor: Executor, x: Features, edge_index: Int64Array) -> None:
        super().__init__(executor.program, executor.parts, x, edge_index, count_clipped=True)
        self.sites: list[SiteCounts] = [_count_input(executor.program, x)]

    def step(self, operation: Operation) -> None:
        """One operation of the program, and its counts."""
        super().step(operation)
        if isinstance(operation, Transform):
            self.sites.append(self._count_transform(operation))
        elif isinstance(operation, Score):
            self.sites.extend(self._count_score(operation))
        elif isinstance(operation, Aggregate):
            self.sites.extend(self._count_aggregate(operation))
        else:
            self.sites.append(self._count_lookup(operation))

    def _same(self, name: str, first: int, codes: Int64Array) -> None:
        """Refuse codes of the nodes from `first` on that the kernels did not write."""
        written = self._tensors[name][first : first + len(codes)]
        if not np.array_equal(written, codes):
            different, last = int((written != codes).sum()), first + len(codes) - 1
            raise CheckFailed(f"{name}: {different} codes of nodes {first} to {last} are not the counted ones")

    def _count_transform(self, operation: Transform) -> SiteCounts:
        out = self._program.tensor(operation.output)
        by = rescale(operation.shift, self._program.rounding, out.low, out.high)
        rounding = _Rounding(by, out.low, out.high)
        degree = self._graph(operation.self_loops).degree if operation.degree_factor else None
        for first in range(0, self._nodes, BLOCK_NODES):
            block = slice(first, min(first + BLOCK_NODES, self._nodes))
            totals = np.zeros((block.stop - first, out.columns), dtype=np.int64)
            for part in self._parts[out.name]:
                totals += self._counted_part(part, first, totals.shape, rounding) << part.align
            if degree is not None:
                totals *= rsqrt15(degree[block])[:, None]
            self._same(out.name, first, rounding.codes(totals))
        return SiteCounts(**_of_tensor(out, "transform"), **rounding.counts(), **_sums(rounding, operation))

    def _counted_part(
        self, part: TransposedPart, first: int, shape: tuple[int, ...], rounding: _Rounding
    ) -> Int64Array:
        """What an input adds to the totals of a block, not aligned yet."""
        accumulators, sums = np.empty(shape, dtype=np.int64), np.empty(shape[0], dtype=np.int64)
        sparse = self._sparse(part.source)
        if sparse is not None:
            accumulate_sparse(*sparse, part.weight, first, accumulators, sums)
        else:
            accumulate_dense(self._codes(part.source), part.weight, first, accumulators, sums)
        rounding.accumulators.see(accumulators)
        if part.row_factor:
            accumulators *= reciprocal(ROW_FACTOR_BITS, sums)[:, None]
        return accumulators

    def _count_score(self, operation: Score) -> Iterator[SiteCounts]:
        for _, name in operation.products().values():
            seen = _Range()
            seen.see(self._tensors[name])
            yield SiteCounts(
                **_of_tensor(self._program.tensor(name), "score"),
                values=int(self._tensors[name].size),
                codes=seen.reached(operation.accumulator_bound),
                codes_used=None,
                codes_in_format=None,
                common_places=0,
                accumulator=seen.reached(operation.accumulator_bound),
                accumulator_bits=32,
            )

    def _count_aggregate(self, operation: Aggregate) -> Iterator[SiteCounts]:
        out = self._program.tensor(operation.output)
        by = rescale(operation.shift, self._program.rounding, operation.clamp_low, operation.clamp_high)
        rounding = _Rounding(by, out.low, out.high)
        attention = ATTENTIONS.get(operation.attention)
        counted = None if attention.score is None else _EdgeCounts(self._program, operation, attention.score)
        tensors = {name: self._tensors[name].astype(np.int64) for name in operation.node_scores().values()}
        message = self._codes(operation.input)
        if counted is not None:
            tensors[operation.input] = message.astype(np.int64)
        # without neighbours no edge is read, and the blocks are those of a graph of loops
        graph = self._graph(operation.self_loops) if attention.neighbours else None
        indptr = np.arange(self._nodes + 1) if graph is None else graph.indptr
        for first, last in node_blocks(indptr, BLOCK_EDGES):
            gathered = np.empty((last - first, out.columns), dtype=np.int64)
            if graph is None:
                gathered[:] = message[first:last]
                term = gathered
            else:
                edges = _block_edges(indptr, graph.sources, first, last)
                weights = _NO_WEIGHTS if counted is None else counted.probabilities(edges, tensors, first)
                maximum = operation.aggregation == "max"
                gather_block(indptr, graph.sources, first, weights, message, maximum, gathered)
                term = _scaled(operation, gathered, edges, None if counted is None else weights)
            rounding.accumulators.see(gathered)
            self._same(out.name, first, rounding.codes(self._with_terms(operation, term, first, last)))
        clipped = [int(count) for count in rounding.tally.counts[:2]]
        if self.clipped[out.name].tolist() != clipped:
            raise CheckFailed(f"{out.name}: the kernel counted {self.clipped[out.name]} clamped results, not {clipped}")
        if counted is not None:
            yield from counted.sites()
        yield SiteCounts(**_of_tensor(out, "aggregate"), **rounding.counts(), **_sums(rounding, operation))

    def _with_terms(self, operation: Aggregate, term: Int64Array, first: int, last: int) -> Int64Array:
        """The total of a block: its aggregated term, bias and shortcut in one place."""
        total = term << operation.term_shift
        if operation.bias is not None:
            total = total + (self._program.array(operation.bias).values.astype(np.int64) << operation.bias_shift)
        if operation.shortcut is not None:
            shortcut = self._codes(operation.shortcut)[first:last].astype(np.int64)
            total = total + (shortcut << operation.shortcut_shift)
        return total

    def _count_lookup(self, operation: Lookup) -> SiteCounts:
        source, out = self._codes(operation.input), self._program.tensor(operation.output)
        table = self._program.array(operation.table).values.astype(np.int64)
        codes = table[source.astype(np.int64) - self._program.tensor(operation.input).low]
        self._same(out.name, 0, codes)
        histogram = np.bincount((codes - out.low).ravel(), minlength=out.high - out.low + 1)
        return SiteCounts(
            **_of_tensor(out, "lookup"),
            **_used_codes(histogram, out.low),
            nonzero=int((source != 0).sum()),
            underflows=int(((source != 0) & (codes == 0)).sum()),
        )


def _sums(rounding: _Rounding, operation: Transform | Aggregate) -> dict[str, Any]:
    """The fields of `SiteCounts` about accumulators and totals."""
    return {
        "accumulator": rounding.accumulators.reached(operation.accumulator_bound),
        "accumulator_bits": operation.accumulator_bits,
        "total": rounding.totals.reached(operation.total_bound),
    }


def _block_edges(indptr: Int64Array, sources: npt.NDArray[Any], first: int, last: int) -> SortedEdges:
    """The edges into the nodes `first` to `last - 1`, with their own numbers."""
    degree = np.diff(indptr[first : last + 1])
    targets = np.repeat(np.arange(first, last), degree)
    return SortedEdges(sources[indptr[first] : indptr[last]].astype(np.int64), targets, degree)


def _scaled(operation: Aggregate, gathered: Int64Array, edges: SortedEdges, weights: Int64Array | None) -> Int64Array:
    """The aggregated messages of a block times the target side's coefficients."""
    term = gathered
    if weights is not None:
        inverse = reciprocal(RECIPROCAL_BITS, edges.total(weights))
        term = (term.reshape(*inverse.shape, -1) * inverse[:, :, None]).reshape(gathered.shape)
    if ATTENTIONS.get(operation.attention).degree_factors:
        term = term * rsqrt15(edges.degree)[:, None]
    if operation.aggregation == "mean":
        term = term * reciprocal(COEFFICIENT_BITS, edges.degree)[:, None]
    return term


@dataclass(frozen=True, eq=False)
class _CountedScores(IntegerScores):
    """The algebra of scores that counts the arguments of the table."""

    argument: _Rounding

    def look_up(self, value: Int64Array) -> Int64Array:
        self.argument.codes(value)
        return super().look_up(value)


class _EdgeCounts:
    """The per-edge codes of a learned attention: arguments of its table, scores and probabilities."""

    def __init__(self, program: IntegerProgram, operation: Aggregate, score: EdgeScore) -> None:
        if operation.table is None:
            raise ProgramError(f"layer {operation.layer}: {operation.attention} lacks its table")
        low, high = operation.score_low, operation.score_high
        self._program, self._operation, self._formula = program, operation, score.formula
        self._score = _Rounding(rescale(operation.score_shift, program.rounding, low, high), low, high)
        self._argument = _Rounding(rescale(operation.argument_shift, program.rounding, low, high), low, high)
        self._p = _Rounding(Rescale(0, 0, 0, 0, 0, MAX_PROBABILITY), 0, MAX_PROBABILITY)
        self._table = program.array(operation.table).values.astype(np.int64)
        self._facts = program_score_facts(program, operation, score)

    def probabilities(self, edges: SortedEdges, tensors: dict[str, Int64Array], first: int) -> Int64Array:
        """P of each edge of a block and head, [edges, heads]; the block's first node is `first`."""
        message = tensors[self._operation.input]
        by_head = message.reshape(len(message), self._operation.heads, -1)
        raw: Int64Array = self._formula(
            _CountedScores(self._program, self._operation, tensors, edges, by_head, self._argument)
        )
        scores = self._score.codes(np.ascontiguousarray(raw))
        distance = edges.largest(scores)[edges.targets - first] - scores
        near = self._table[np.minimum(distance, self._table.size - 1)]
        return self._p.codes(np.where(distance < self._table.size, near, 0))

    def sites(self) -> Iterator[SiteCounts]:
        """Counts of what no tensor holds."""
        operation, facts = self._operation, self._facts
        fraction = facts.places - operation.score_shift
        if operation.argument_table is not None:
            found = self._argument.totals.reached(facts.argument)
            yield self._site("argument", self._argument, operation.argument_fraction, found)
        yield self._site("score", self._score, fraction, self._score.totals.reached(facts.raw))
        values = int(self._p.tally.histogram.sum())
        lost = {"nonzero": values, "underflows": int(self._p.tally.histogram[0])}  # 2^-d is never 0
        yield self._site("probability", self._p, 0, None, **lost)

    def _site(self, what: str, rounding: _Rounding, fraction: int, total: Reached | None, **more: int) -> SiteCounts:
        low, high = rounding.low, rounding.high
        return SiteCounts(
            name=f"layer{self._operation.layer}/{what}",
            operation="aggregate",
            layer=self._operation.layer,
            component=str(Component.SCORE),
            kind="fixed",
            bits=code_bits(low, high, signed=low < 0),
            fraction=fraction,
            low=low,
            high=high,
            total=total,
            **{**rounding.counts(), **({"rounded": None} if total is None else {}), **more},
        )


def _count_input(program: IntegerProgram, x: Features) -> SiteCounts:
    """What the features' quantisation does, entries that a sparse array leaves out counted as zeros."""
    if not isinstance(x, np.ndarray) and not x.has_canonical_format:
        x = x.copy()
        x.sum_duplicates()
    stored = x.ravel() if isinstance(x, np.ndarray) else x.data
    tensor = program.input
    rounding = _Rounding(rescale(0, program.rounding, tensor.low, tensor.high), tensor.low, tensor.high)
    left_out = int(x.shape[0]) * int(x.shape[1]) - int(stored.size)
    reached = np.array([0.0, 0.0] if left_out else [np.inf, -np.inf])
    count_quantizing(
        stored,
        2.0**tensor.fraction,
        MODES[program.rounding],
        float(tensor.low),
        float(tensor.high),
        rounding.tally,
        reached,
    )
    rounding.tally.histogram[-tensor.low] += left_out
    counts = rounding.counts()
    below = int(rounding.tally.counts[0])
    # a negative feature that an unsigned input clamps to 0 is a value that the format cannot hold
    counts |= {"saturated_low": below, "cut": 0, "rounded": Reached(*(int(one) for one in reached))}
    return SiteCounts(**_of_tensor(tensor, "input"), **counts)


def count_fixed_point(program: IntegerProgram, x: Features, edge_index: Int64Array) -> tuple[SiteCounts, ...]:
    """What every component of a program reaches on a graph: constants first, then in the order of its operations.

    Args:
        program: a program.
        x: features [N, F] float32, dense or CSR.
        edge_index: [2, E] int64, row 0 source, row 1 target.

    Raises:
        ProgramError: a program whose proofs do not hold.
        GraphError: arrays that are not a graph, or another number of features.
        DegreeError: a node with more incoming edges than the program is proved for.
        CheckFailed: the kernels' codes are not the counted ones.
    """
    executor = Executor(program)
    check_inputs(program, x)
    inference = CountingInference(executor, x, edge_index)
    inference.predict()
    return (*_constants(program.arrays), *inference.sites)


def _constants(arrays: Iterable[Array]) -> Iterator[SiteCounts]:
    return (array_counts(array) for array in arrays if array.role in ("weight", "bias"))
