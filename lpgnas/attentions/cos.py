"""cos: the dot product of both ends with a weight a channel, `sum_c a_c h_j[c] h_i[c]` (GraphNAS, Gao et al. 2019).

GraphNAS writes it with two weights, `sum_c (l_c h_i[c]) (r_c h_j[c])`. Only their product l_c r_c enters, so one weight
a_c stores the same functions in half the bits, and its integer product stays narrow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lpgnas.attentions.score import ANY_AGGREGATION, Attention, EdgeScore, ScoreAlgebra, ScoreInputs, Value
from lpgnas.jit import jit


def formula(of: ScoreAlgebra[Value]) -> Value:
    """The score of an edge j -> i."""
    scaled = of.multiply(of.message(at="target"), of.weight("channel"))
    return of.over_channels(of.multiply(scaled, of.message(at="source")))


@jit
def kernel(inputs: ScoreInputs, first: int, last: int, raw: npt.NDArray[np.int64]) -> None:
    """The formula for the edges into a block of nodes; see `lpgnas.attentions.score.Kernel`."""
    begin, weight = inputs.indptr[first], inputs.weights[0]
    heads, width = weight.shape
    scaled = np.empty(weight.shape, dtype=np.int64)  # the target's factor is made once a node
    for node in range(first, last):
        for head in range(heads):
            for c in range(width):
                scaled[head, c] = weight[head, c] * np.int64(inputs.message[node, head * width + c])
        for edge in range(inputs.indptr[node], inputs.indptr[node + 1]):
            row = inputs.message[inputs.sources[edge]]
            for head in range(heads):
                total = np.int64(0)
                for c in range(width):
                    total += scaled[head, c] * np.int64(row[head * width + c])
                raw[edge - begin, head] = total


ATTENTION = Attention("cos", ANY_AGGREGATION, score=EdgeScore(formula, kernel, edge_weights=("channel",)))
