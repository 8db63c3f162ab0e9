"""The quantisation sites of a block: each component has a number format of its own."""

from __future__ import annotations

from enum import StrEnum


class Component(StrEnum):
    """A named tensor of a block that is quantised by itself.

    `INPUT` belongs to the first block, `OUTPUT` to the last; `ATTENTION_WEIGHT` and `SCORE` exist where the
    attention is learned; `AGGREGATE` where the activation is a table (otherwise the aggregation's accumulator is
    rounded straight into `ACTIVATION` or `OUTPUT`).
    """

    LINEAR_WEIGHT = "linear_weight"
    ATTENTION_WEIGHT = "attention_weight"
    INPUT = "input"
    SCORE = "score"
    MESSAGE = "message"
    AGGREGATE = "aggregate"
    ACTIVATION = "activation"
    OUTPUT = "output"


WEIGHTS = frozenset({Component.LINEAR_WEIGHT, Component.ATTENTION_WEIGHT})
"""Components that may be binary or ternary; all others are fixed point."""
