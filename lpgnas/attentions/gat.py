"""gat: `leaky_relu(a_source . h_j + a_target . h_i)` (Velickovic et al. 2018, in GraphNAS's list)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lpgnas.attentions.score import ANY_AGGREGATION, Attention, EdgeScore, ScoreAlgebra, ScoreInputs, Value, leaky_code
from lpgnas.jit import jit


def formula(of: ScoreAlgebra[Value]) -> Value:
    """The score of an edge j -> i."""
    return of.leaky(of.add(of.node("source", at="source"), of.node("target", at="target")))


@jit
def kernel(inputs: ScoreInputs, first: int, last: int, raw: npt.NDArray[np.int64]) -> None:
    """The formula for the edges into a block of nodes; see `lpgnas.attentions.score.Kernel`."""
    begin = inputs.indptr[first]
    for node in range(first, last):
        target = inputs.target_scores[node]
        for edge in range(inputs.indptr[node], inputs.indptr[node + 1]):
            source = inputs.source_scores[inputs.sources[edge]]
            for head in range(raw.shape[1]):
                raw[edge - begin, head] = leaky_code(np.int64(source[head]) + np.int64(target[head]))


ATTENTION = Attention("gat", ANY_AGGREGATION, score=EdgeScore(formula, kernel, node_weights=("source", "target")))
