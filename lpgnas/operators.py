"""The operators of a block: attention, aggregation and activation, each described by one frozen row.

A row says what every stage needs to know, so that fake-quantisation, cost, lowering, reference, kernel and emitter
agree on it. An activation by table needs nothing but its row: all stages take it from the table. An attention is one
file of `lpgnas.attentions` and its line here.
Attention types and their formulas: GraphNAS (Gao et al. 2019); the integer forms are `docs/integer_semantics.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lpgnas.attentions import const, cos, gat, gcn, gene_linear, linear, own, sym_gat
from lpgnas.attentions.score import Attention, FloatArray
from lpgnas.integer_program import LEAKY_SLOPE_BITS
from lpgnas.registry import Registry


@dataclass(frozen=True)
class Aggregation:
    """How the messages of a node's incoming edges become one: `sum`, `mean` (by in-degree) or `max` (0 if none)."""

    name: str


@dataclass(frozen=True)
class Activation:
    """The function after the aggregation.

    Attributes:
        name: the name in a spec.
        signed: whether its output codes are signed.
        low: real lower clamp, or None.
        high: real upper clamp, or None.
        function: for an activation by table, the real function (float64, elementwise) behind the table; the
            aggregate is then rounded into its own format first. None for a clamp, which rounds only once.
    """

    name: str
    signed: bool
    low: float | None = None
    high: float | None = None
    function: Callable[[FloatArray], FloatArray] | None = None


LEAKY_SLOPE = 2.0**-LEAKY_SLOPE_BITS
"""Slope of every leaky ReLU below 0, in a score and as an activation; a power of two is exact on codes."""


def _sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)), float64, any shape; by tanh, which no argument overflows."""
    result: FloatArray = 0.5 + 0.5 * np.tanh(0.5 * x)
    return result


def _softplus(x: FloatArray) -> FloatArray:
    """log(1 + exp(x)), float64, any shape, without overflow."""
    result: FloatArray = np.logaddexp(0.0, x)
    return result


def _leaky_relu(x: FloatArray) -> FloatArray:
    """max(x, x / 4), float64, any shape."""
    return np.maximum(x, LEAKY_SLOPE * x)


def _elu(x: FloatArray) -> FloatArray:
    """`x` above 0 and exp(x) - 1 below (Clevert et al. 2016), float64, any shape; the branch not taken sees a 0."""
    return np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))


ATTENTIONS: Registry[Attention] = Registry("attention")
AGGREGATIONS: Registry[Aggregation] = Registry("aggregation")
ACTIVATIONS: Registry[Activation] = Registry("activation")

for _file in (const, gcn, gat, sym_gat, cos, linear, gene_linear, own):
    ATTENTIONS.add(_file.ATTENTION.name, _file.ATTENTION)
for _aggregation in (Aggregation("sum"), Aggregation("mean"), Aggregation("max")):
    AGGREGATIONS.add(_aggregation.name, _aggregation)
for _activation in (
    Activation("none", signed=True),
    Activation("relu", signed=False, low=0.0),
    Activation("relu6", signed=False, low=0.0, high=6.0),
    Activation("tanh", signed=True, function=np.tanh),
    Activation("sigmoid", signed=False, function=_sigmoid),
    Activation("softplus", signed=False, function=_softplus),
    Activation("leaky_relu", signed=True, function=_leaky_relu),
    Activation("elu", signed=True, function=_elu),
):
    ACTIVATIONS.add(_activation.name, _activation)

SHORTCUTS = ("none", "identity", "linear")
"""What is added to the aggregation's accumulator: nothing, the block's input, or a linear map of it."""
