"""gene-linear: `sum_c g_c tanh(s_c h_j[c] + t_c h_i[c])` (GraphNAS, Gao et al. 2019), with a gate g for each head."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lpgnas.attentions.score import (
    ANY_AGGREGATION,
    Attention,
    EdgeScore,
    ScoreAlgebra,
    ScoreInputs,
    ScoreTable,
    Value,
)
from lpgnas.jit import jit
from lpgnas.requantize import requantize


def entry_fraction(bits: int) -> int:
    """All bits but the sign are binary places: 1 itself saturates."""
    return bits - 1


def formula(of: ScoreAlgebra[Value]) -> Value:
    """The score of an edge j -> i."""
    source = of.multiply(of.message(at="source"), of.weight("source"))
    target = of.multiply(of.message(at="target"), of.weight("target"))
    return of.over_channels(of.multiply(of.look_up(of.add(source, target)), of.weight("gate")))


@jit
def kernel(inputs: ScoreInputs, first: int, last: int, raw: npt.NDArray[np.int64]) -> None:
    """The formula for the edges into a block of nodes; see `lpgnas.attentions.score.Kernel`."""
    begin, by = inputs.indptr[first], inputs.argument
    source, target, gate = inputs.weights[0], inputs.weights[1], inputs.weights[2]
    heads, width = gate.shape
    for node in range(first, last):
        own = inputs.message[node]
        for edge in range(inputs.indptr[node], inputs.indptr[node + 1]):
            row = inputs.message[inputs.sources[edge]]
            for head in range(heads):
                total = np.int64(0)
                for c in range(width):
                    column = head * width + c
                    argument = source[head, c] * np.int64(row[column]) + target[head, c] * np.int64(own[column])
                    total += gate[head, c] * inputs.table[requantize(argument, by) - by.low]
                raw[edge - begin, head] = total


ATTENTION = Attention(
    "gene-linear",
    ANY_AGGREGATION,
    score=EdgeScore(
        formula, kernel, edge_weights=("source", "target", "gate"), table=ScoreTable(np.tanh, entry_fraction)
    ),
)
