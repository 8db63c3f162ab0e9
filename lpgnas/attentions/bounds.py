"""A score's formula on bounds: what every intermediate of it can reach, and its binary places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lpgnas.attentions.score import EdgeScore, Side
from lpgnas.errors import ProgramError
from lpgnas.integer_program import LEAKY_SLOPE_BITS

Magnitudes = npt.NDArray[np.object_]
"""Python integers, which do not overflow."""


@dataclass(frozen=True)
class Bounded:
    """What is known of integer codes: largest magnitudes, [heads] or [heads, w], and their binary places.

    Attributes:
        magnitude: of the codes.
        places: binary places.
        significand: largest odd part at the most, which a float must hold: that of codes, before a scaling by 4.
    """

    magnitude: Magnitudes
    places: int
    significand: Magnitudes

    @classmethod
    def of(cls, magnitude: Any, places: int, shape: tuple[int, ...]) -> Bounded:  # noqa: ANN401 - a number or array
        """Codes up to `magnitude`, spread over `shape`."""
        spread = np.broadcast_to(np.asarray(magnitude, dtype=object), shape)
        return cls(spread, places, spread)

    @property
    def largest(self) -> int:
        """The largest magnitude."""
        return int(self.magnitude.max())


@dataclass(frozen=True)
class Operand:
    """Codes that a formula reads: their largest magnitude (a number, or an array [heads, w]) and binary places."""

    magnitude: Any
    places: int


@dataclass(frozen=True)
class ScoreFacts:
    """What is proved of a score's formula.

    Attributes:
        steps: largest significand and binary places of every intermediate.
        largest: largest magnitude of any intermediate code.
        raw: largest magnitude of the score before its rounding.
        places: its binary places.
        argument: largest magnitude of the table's argument before its rounding; 0 without a table.
        argument_places: its binary places.
    """

    steps: tuple[tuple[int, int], ...]
    largest: int
    raw: int
    places: int
    argument: int
    argument_places: int


@dataclass
class _BoundAlgebra:
    """`ScoreAlgebra` of bounds."""

    heads: int
    width: int
    messages: Operand
    nodes: Mapping[str, Operand]
    weights: Mapping[str, Operand]
    entry: Operand | None

    def __post_init__(self) -> None:
        self.made: list[Bounded] = []
        self.arguments: list[Bounded] = []

    def _kept(self, value: Bounded) -> Bounded:
        self.made.append(value)
        return value

    def node(self, weight: str, at: Side) -> Bounded:
        operand = self.nodes[weight]
        return self._kept(Bounded.of(operand.magnitude, operand.places, (self.heads,)))

    def message(self, at: Side) -> Bounded:
        return self._kept(Bounded.of(self.messages.magnitude, self.messages.places, (self.heads, self.width)))

    def weight(self, name: str) -> Bounded:
        operand = self.weights[name]
        return self._kept(Bounded.of(operand.magnitude, operand.places, (self.heads, self.width)))

    def add(self, left: Bounded, right: Bounded) -> Bounded:
        if left.places != right.places:
            raise ProgramError(
                f"two terms of an edge score have {left.places} and {right.places} binary places; "
                f"the weights of both sides must share one fraction"
            )
        total = left.magnitude + right.magnitude
        return self._kept(Bounded(total, left.places, total))

    def multiply(self, left: Bounded, right: Bounded) -> Bounded:
        magnitude, significand = left.magnitude * right.magnitude, left.significand * right.significand
        return self._kept(Bounded(magnitude, left.places + right.places, significand))

    def leaky(self, value: Bounded) -> Bounded:
        steep = value.magnitude * (1 << LEAKY_SLOPE_BITS)
        return self._kept(Bounded(steep, value.places + LEAKY_SLOPE_BITS, value.significand))

    def look_up(self, value: Bounded) -> Bounded:
        if self.entry is None:
            raise ProgramError("the edge score looks up a table that is not there")
        self.arguments.append(value)
        return self._kept(Bounded.of(self.entry.magnitude, self.entry.places, value.magnitude.shape))

    def over_channels(self, value: Bounded) -> Bounded:
        total = value.magnitude.sum(axis=-1)
        return self._kept(Bounded(total, value.places, total))


def score_facts(
    score: EdgeScore,
    heads: int,
    width: int,
    *,
    message: Operand,
    nodes: Mapping[str, Operand],
    weights: Mapping[str, Operand],
    entry: Operand | None,
) -> ScoreFacts:
    """Bounds of a score's formula.

    Args:
        score: the attention's.
        heads: number of heads.
        width: columns of a head.
        message: codes of the messages.
        nodes: the stored products of each node weight.
        weights: each edge weight.
        entry: entries of the table, None for none.

    Raises:
        ProgramError: terms of different binary places are added.
    """
    algebra = _BoundAlgebra(heads, width, message, nodes, weights, entry)
    raw: Bounded = score.formula(algebra)
    steps = tuple((int(value.significand.max()), value.places) for value in algebra.made)
    largest = max(value.largest for value in algebra.made)
    argument = max((value.largest for value in algebra.arguments), default=0)
    places = algebra.arguments[0].places if algebra.arguments else 0
    return ScoreFacts(steps, largest, raw.largest, raw.places, argument, places)
