"""What an attention is: the formula of an edge's score, written once and read by every stage.

A formula is a function of a `ScoreAlgebra`. Each stage brings its own algebra: the fake-quantised model one of torch
tensors, the reference one of NumPy integers, each ONNX dialect one that adds nodes, the proofs one of bounds and binary
places, the cost models one of widths. Only the kernel is written apart, so that it can be fused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from lpgnas.errors import SpecError
from lpgnas.jit import jit
from lpgnas.requantize import Rescale

FloatArray = npt.NDArray[np.float64]
Side = Literal["source", "target"]
"""An end of an edge j -> i: j or i."""
Value = TypeVar("Value")

SIDES = ("source", "target")
ANY_AGGREGATION = frozenset({"sum", "mean", "max"})


class ScoreAlgebra(Protocol[Value]):
    """The operations of a score's formula; values have one row an edge, [E', heads] or, by channel, [E', heads, w]."""

    def node(self, weight: str, at: Side) -> Value:
        """[E', heads]: the product of a node weight with the messages of one end, exact and stored by node."""

    def message(self, at: Side) -> Value:
        """[E', heads, w]: the messages of one end."""

    def weight(self, name: str) -> Value:
        """[heads, w]: an edge weight."""

    def add(self, left: Value, right: Value) -> Value:
        """The sum of two values of equal shape and fraction."""

    def multiply(self, left: Value, right: Value) -> Value:
        """The product, exact; weights are repeated for every edge."""

    def leaky(self, value: Value) -> Value:
        """Leaky ReLU of slope 1/4: `4 r if r >= 0 else r`, in two more binary places."""

    def look_up(self, value: Value) -> Value:
        """The score's table at `value`, which is rounded to a signed code of as many bits as a score first."""

    def over_channels(self, value: Value) -> Value:
        """[E', heads]: the sum over the channels of each head."""


Formula = Callable[[ScoreAlgebra[Any]], Any]


class ScoreInputs(NamedTuple):
    """What a kernel reads; the edges into node i are `indptr[i]` to `indptr[i + 1]`.

    Attributes:
        indptr: [N + 1] int64.
        sources: [E'] int32 or int64.
        message: [N, heads * w] codes.
        source_scores: [N, heads] int32, of the node weight `source`; [0, heads] for none.
        target_scores: likewise of `target`.
        weights: [k, heads, w] int64, the edge weights in their order.
        argument: the rounding of the table's argument.
        table: [2^bits] int64, lowest argument first; [0] for none.
    """

    indptr: npt.NDArray[np.int64]
    sources: npt.NDArray[Any]
    message: npt.NDArray[Any]
    source_scores: npt.NDArray[np.int32]
    target_scores: npt.NDArray[np.int32]
    weights: npt.NDArray[np.int64]
    argument: Rescale
    table: npt.NDArray[np.int64]


def fraction_name(weight: str) -> str:
    """What the fraction of an attention weight is called: both sides share one, since formulas add their products."""
    return "attention" if weight in SIDES else f"{weight}_attention"


Kernel = Callable[[ScoreInputs, int, int, npt.NDArray[np.int64]], None]
"""`kernel(inputs, first, last, raw)`: the formula's integers of the edges into the nodes `first` to `last - 1`, written
to raw [edges, heads]."""


@dataclass(frozen=True)
class ScoreTable:
    """A function inside a formula, by table: one entry for each code of its argument.

    Attributes:
        function: float64, elementwise.
        entry_fraction: binary places of the entries by their bits, which are those of a score.
        is_score: whether an entry is the score itself, which then needs no further rounding.
    """

    function: Callable[[FloatArray], FloatArray]
    entry_fraction: Callable[[int], int]
    is_score: bool = False


@dataclass(frozen=True)
class EdgeScore:
    """The score of an edge, which a softmax over the incoming edges turns into the weight of its message.

    Attributes:
        formula: the score before its rounding.
        kernel: the same in Numba, for a block of nodes.
        node_weights: names of weights [heads, w] whose products with the messages are stored by node: some of
            `source` and `target`, which share one fraction.
        edge_weights: names of weights [heads, w] that the formula reads edge by edge.
        table: the table that the formula looks up, or None.

    Raises:
        SpecError: no weight, or a name that stands twice or for no side.
    """

    formula: Formula
    kernel: Kernel
    node_weights: tuple[str, ...] = ()
    edge_weights: tuple[str, ...] = ()
    table: ScoreTable | None = None

    def __post_init__(self) -> None:
        names = self.weights
        if not names or len(set(names)) != len(names) or not set(self.node_weights) <= set(SIDES):
            raise SpecError(f"an edge score has weights of different names, those by node source or target: {names}")

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of all weights, in the order in which they are stored."""
        return (*self.node_weights, *self.edge_weights)

    def fraction_groups(self) -> dict[str, tuple[str, ...]]:
        """The weights that share a fraction, by its name."""
        groups: dict[str, tuple[str, ...]] = {}
        for name in self.weights:
            group = fraction_name(name)
            groups[group] = (*groups.get(group, ()), name)
        return groups


@dataclass(frozen=True)
class Attention:
    """How an edge weighs its message.

    Attributes:
        name: the name in a spec.
        aggregations: aggregations that it allows.
        degree_factors: both sides are scaled by `degree^-1/2` (GCN, Kipf & Welling 2017).
        score: for a learned attention, the edge scores from `attention_weight`; None weighs all edges alike.
        neighbours: whether edges of the graph carry messages; otherwise a node reads its own message alone.
    """

    name: str
    aggregations: frozenset[str]
    degree_factors: bool = False
    score: EdgeScore | None = None
    neighbours: bool = True

    @property
    def learned(self) -> bool:
        """Whether edges have scores."""
        return self.score is not None


@jit
def leaky_code(value: np.int64) -> np.int64:
    """The leaky ReLU of `ScoreAlgebra.leaky` for kernels."""
    return 4 * value if value >= 0 else value
