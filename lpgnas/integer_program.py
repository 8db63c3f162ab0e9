"""`IntegerProgram`: a lowered model as typed integer operations on named tensors.

The operations are those of `docs/integer_semantics.md`; `proofs.py` checks a program, `program_file.py` keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Union

import numpy as np
import numpy.typing as npt

from lpgnas.components import Component
from lpgnas.errors import ProgramError
from lpgnas.number_formats import FixedPoint, Rounding

COEFFICIENT_BITS = 15
ROW_FACTOR_BITS = 24
RECIPROCAL_BITS = 26
MAX_PROBABILITY = 127
MAX_SCORE_FRACTION = 4
MAX_TOTAL = 1 << 53
"""Every epilogue total stays below this, so that float64 forms hold it exactly."""
MAX_SHIFT = 52
MAX_FRACTION = 60
LEAKY_SLOPE_BITS = 2
"""The leaky ReLU of a score has slope 2^-2."""
MAX_DEGREE_LIMIT = (1 << 20) - 1
INT32_LIMIT = 1 << 31
INPUT_NAME = "x"
"""The tensor of the features."""
WORDS_NAME = "input_words"
"""The index of the kept columns of the features."""

Codes = npt.NDArray[np.signedinteger] | npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Tensor:
    """A tensor of node rows that the program reads, materialises or returns.

    Attributes:
        name: unique in the program; `x` is the input.
        columns: its width; it has one row a node.
        bits: stored bits of one element (32 for exact accumulators).
        fraction: binary places.
        signed: whether codes are signed.
        layer: index of the block.
        component: the component that chose the format, or None for an exact accumulator.
    """

    name: str
    columns: int
    bits: int
    fraction: int
    signed: bool
    layer: int
    component: Component | None

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def magnitude(self) -> int:
        """Largest absolute code."""
        return max(-self.low, self.high)


@dataclass(frozen=True)
class Array:
    """A constant of the program: `values` are integer codes of kind `fixed`, `binary` or `ternary`.

    Attributes:
        name: unique in the program.
        role: `weight`, `bias`, `table`, or `index` (bit k says whether column k of `x` has weights).
        kind: `fixed`, `binary` or `ternary`.
        bits: stored bits of one element; the packed size is `values.size * bits`.
        fraction: binary places of the value.
        signed: whether `fixed` codes are signed.
        layer: index of the block.
        component: the component that chose the format; None for biases and attention tables.
        values: the codes, any shape, in the narrowest NumPy type.
    """

    name: str
    role: Literal["weight", "bias", "table", "index"]
    kind: Literal["fixed", "binary", "ternary"]
    bits: int
    fraction: int
    signed: bool
    layer: int
    component: Component | None
    values: Codes = field(repr=False, compare=False)

    @property
    def low(self) -> int:
        """Smallest code."""
        if self.kind != "fixed":
            return -1
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code."""
        if self.kind != "fixed":
            return 1
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True)
class Transform:
    """`output = requantize(acc, shift)`, acc the sum over the `inputs` of `(input @ part.T * row_factor) << align`.

    `weight` is [out, in]; its columns are those of the inputs, in their order, and `part` are those of one input. Where
    the program has an index, only the columns of `x` that it keeps have weights; the others add nothing. The row factor
    belongs to the input `x` alone. A degree factor multiplies acc; `self_loops` says whether its degree counts the
    added loop. `accumulator_bound` is the largest |sum of products| of an input.
    """

    layer: int
    inputs: tuple[str, ...]
    aligns: tuple[int, ...]
    output: str
    weight: str
    row_factor: bool
    degree_factor: bool
    self_loops: bool
    shift: int
    accumulator_bits: int
    accumulator_bound: int
    total_bound: int


@dataclass(frozen=True)
class Score:
    """`source_output`, `target_output` [N, heads]: exact products of each head's messages with weights [heads, w].

    A side that the attention does not have is None.
    """

    layer: int
    input: str
    source_output: str | None
    target_output: str | None
    source_weight: str | None
    target_weight: str | None
    heads: int
    accumulator_bound: int

    def products(self) -> dict[str, tuple[str, str]]:
        """Weight and output by side, for the sides that there are."""
        both = {
            "source": (self.source_weight, self.source_output),
            "target": (self.target_weight, self.target_output),
        }
        return {side: (weight, out) for side, (weight, out) in both.items() if weight is not None and out is not None}


@dataclass(frozen=True)
class Aggregate:
    """The aggregation over incoming edges with its one rounding; see the section Aggregate of the semantics.

    The fields about scores and tables are None, 0 or empty unless `attention` is learned and has such a part; `bias`
    and `shortcut` are None where absent. The score's formula reads the `edge_weights` [heads, w] and `argument_table`.
    """

    layer: int
    input: str
    output: str
    attention: str
    aggregation: str
    self_loops: bool
    heads: int
    source_scores: str | None
    target_scores: str | None
    score_shift: int
    score_low: int
    score_high: int
    table: str | None
    term_shift: int
    bias: str | None
    bias_shift: int
    shortcut: str | None
    shortcut_shift: int
    shift: int
    clamp_low: int
    clamp_high: int
    accumulator_bits: int
    accumulator_bound: int
    total_bound: int
    edge_weights: tuple[str, ...] = ()
    argument_table: str | None = None
    argument_shift: int = 0
    argument_fraction: int = 0

    def node_scores(self) -> dict[str, str]:
        """Tensors of exact products by side, for the sides that there are."""
        both = {"source": self.source_scores, "target": self.target_scores}
        return {side: name for side, name in both.items() if name is not None}


@dataclass(frozen=True)
class Lookup:
    """`output = table[input - low]`, low being the smallest code of the input's format."""

    layer: int
    input: str
    output: str
    table: str


@dataclass(frozen=True)
class Part:
    """One input of a transform: what is added to its accumulator is `(source @ weight.T * row_factor) << align`.

    Attributes:
        source: the input.
        weight: its columns of the weight, [out, columns that are read].
        align: left shift, >= 0.
        row_factor: whether its rows are normalised, by the sum over all their columns.
        index: which columns of the source are read, [source.columns] of 0 and 1; None for all.
    """

    source: Tensor
    weight: Array
    align: int
    row_factor: bool
    index: Array | None = None

    def spread(self) -> Codes:
        """The weight [out, source.columns] with zeros where no column is read."""
        if self.index is None:
            return self.weight.values
        place = np.cumsum(self.index.values) * self.index.values  # 0 for a column that is not read
        return narrow(np.pad(self.weight.values, ((0, 0), (1, 0)))[:, place], self.weight.low, self.weight.high)


def columns_read(source: Tensor, index: Array | None) -> int:
    """Columns of a transform's input that it has weights for."""
    return source.columns if index is None or source.name != INPUT_NAME else int(np.count_nonzero(index.values))


def transform_parts(
    operation: Transform, sources: Sequence[Tensor], weight: Array, index: Array | None = None
) -> tuple[Part, ...]:
    """The parts of a transform of `sources`, whose read columns `weight` [out, in] has side by side."""
    parts, first = [], 0
    for source, align in zip(sources, operation.aligns, strict=True):
        own, last = weight, first + columns_read(source, index)
        if len(sources) > 1:  # each part has an array, and so a name, of its own
            columns = weight.values[:, first:last].copy()
            own = replace(weight, name=f"{weight.name}/{source.name}", values=columns)
        raw = source.name == INPUT_NAME
        parts.append(Part(source, own, align, operation.row_factor and raw, index if raw else None))
        first = last
    return tuple(parts)


Operation = Union[Transform, Score, Aggregate, Lookup]  # noqa: UP007 - get_args reads it


def reads(operation: Operation) -> tuple[str, ...]:
    """Names of the tensors that an operation reads."""
    if isinstance(operation, Transform):
        return operation.inputs
    optional = (getattr(operation, name, None) for name in ("source_scores", "target_scores", "shortcut"))
    return (operation.input, *(name for name in optional if name is not None))


def writes(operation: Operation) -> tuple[str, ...]:
    """Names of the tensors that an operation writes."""
    if isinstance(operation, Score):
        return tuple(out for _, out in operation.products().values())
    return (operation.output,)


@dataclass(frozen=True)
class IntegerProgram:
    """A lowered model.

    Attributes:
        num_features: F.
        num_classes: C.
        rounding: the one rounding mode.
        row_normalize: whether transforms of `x` multiply by the row factor.
        max_degree: most incoming edges of a node (without the added self-loop) that the proofs hold for.
        input: the tensor `x`.
        output: name of the logits.
        tensors: every intermediate and the logits, in the order of their making.
        operations: the schedule.
        arrays: the constants.
        metadata: facts about its making (dataset, protocol, ...); part of the checksum, not of the semantics.
    """

    num_features: int
    num_classes: int
    rounding: Rounding
    row_normalize: bool
    max_degree: int
    input: Tensor
    output: str
    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    arrays: tuple[Array, ...]
    metadata: dict[str, str] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name` (`x` included)."""
        for tensor in (self.input, *self.tensors):
            if tensor.name == name:
                return tensor
        raise ProgramError(f"the program has no tensor {name!r}")

    def array(self, name: str) -> Array:
        """The constant called `name`."""
        for array in self.arrays:
            if array.name == name:
                return array
        raise ProgramError(f"the program has no array {name!r}")

    def parts(self, operation: Transform) -> tuple[Part, ...]:
        """What each input of a transform is multiplied with, in order."""
        sources = [self.tensor(name) for name in operation.inputs]
        return transform_parts(operation, sources, self.array(operation.weight), self.index)

    @property
    def index(self) -> Array | None:
        """Which columns of `x` have weights, [F] of 0 and 1; None for all."""
        return next((array for array in self.arrays if array.role == "index"), None)

    @property
    def input_format(self) -> FixedPoint:
        """Format of the features."""
        return FixedPoint(self.input.bits, self.input.fraction, self.input.signed)

    @property
    def logits(self) -> Tensor:
        """The output tensor."""
        return self.tensor(self.output)


def reciprocal(bits: int, denominator: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`floor(2^bits / d + 1/2)` elementwise, 0 where d = 0; d >= 0 int64."""
    safe = np.maximum(denominator, 1)
    return np.where(denominator > 0, ((1 << (bits + 1)) + safe) // (2 * safe), 0)


def rsqrt15(degree: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`2^15 / sqrt(d)` to nearest, 0 where d = 0; d int64 below 2^30.

    One float64 expression is exact: an odd m nearest to 2^16/sqrt(d) differs from it by at least 1/(2 d m), far above
    the error of a correctly rounded division and square root.
    """
    safe = np.maximum(degree, 1).astype(np.float64)
    return np.where(degree > 0, np.floor((1.0 + np.sqrt(2.0**32 / safe)) / 2.0), 0.0).astype(np.int64)


def softmax_table(fraction: int) -> npt.NDArray[np.uint8]:
    """`floor(127 * 2^(-D / 2^fraction) + 1/2)` for D = 0 ... 8 * 2^fraction - 1, uint8."""
    steps = np.arange(8 << fraction, dtype=np.float64)
    return np.floor(MAX_PROBABILITY * np.exp2(-steps / (1 << fraction)) + 0.5).astype(np.uint8)


def narrow(values: npt.NDArray[np.integer], low: int, high: int) -> Codes:
    """Codes in the narrowest of int8, uint8, int16, uint16 that holds [low, high].

    Raises:
        ProgramError: a code outside the range, which a cast would wrap, or a range of more than 16 bits.
    """
    if values.size and not (low <= int(values.min()) and int(values.max()) <= high):
        raise ProgramError(f"codes {values.min()} to {values.max()} leave the range [{low}, {high}] of their format")
    for name in ("int8", "uint8", "int16", "uint16"):
        info = np.iinfo(name)
        if info.min <= low and high <= info.max:
            return np.ascontiguousarray(values.astype(name))
    raise ProgramError(f"no 16-bit type holds the codes {low} to {high}")


def accumulator_bits(bound: int) -> int:
    """32 where the proved bound allows it, else 64."""
    return 32 if bound < INT32_LIMIT else 64
