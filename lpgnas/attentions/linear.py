"""linear: `tanh(a . h_j)`, of the source alone (GraphNAS, Gao et al. 2019, where a is the sum of two weights).

Nothing behind the tanh is learned, so its table holds `log2(e) tanh(x)`: the softmax of base 2 over the entries is
GraphNAS's of base e over tanh. An entry is the score, with no rounding of its own.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lpgnas.attentions.score import (
    ANY_AGGREGATION,
    Attention,
    EdgeScore,
    FloatArray,
    ScoreAlgebra,
    ScoreInputs,
    ScoreTable,
    Value,
)
from lpgnas.integer_program import MAX_SCORE_FRACTION
from lpgnas.jit import jit
from lpgnas.requantize import requantize


def base_2_tanh(x: FloatArray) -> FloatArray:
    """`log2(e) tanh(x)`, float64, any shape; within 1.4427."""
    result: FloatArray = math.log2(math.e) * np.tanh(x)
    return result


def entry_fraction(bits: int) -> int:
    """Entries reach 1.44, so one bit is for the sign and one before the point; a score has at most 4 places."""
    return min(bits - 2, MAX_SCORE_FRACTION)


def formula(of: ScoreAlgebra[Value]) -> Value:
    """The score of an edge j -> i."""
    return of.look_up(of.node("source", at="source"))


@jit
def kernel(inputs: ScoreInputs, first: int, last: int, raw: npt.NDArray[np.int64]) -> None:
    """The formula for the edges into a block of nodes; see `lpgnas.attentions.score.Kernel`."""
    begin = inputs.indptr[first]
    for edge in range(begin, inputs.indptr[last]):
        scores = inputs.source_scores[inputs.sources[edge]]
        for head in range(raw.shape[1]):
            code = requantize(np.int64(scores[head]), inputs.argument)
            raw[edge - begin, head] = inputs.table[code - inputs.argument.low]


ATTENTION = Attention(
    "linear",
    ANY_AGGREGATION,
    score=EdgeScore(
        formula, kernel, node_weights=("source",), table=ScoreTable(base_2_tanh, entry_fraction, is_score=True)
    ),
)
