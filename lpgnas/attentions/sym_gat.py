"""sym-gat: the gat score of j -> i plus that of i -> j (GraphNAS, Gao et al. 2019)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lpgnas.attentions.score import ANY_AGGREGATION, Attention, EdgeScore, ScoreAlgebra, ScoreInputs, Value, leaky_code
from lpgnas.jit import jit


def formula(of: ScoreAlgebra[Value]) -> Value:
    """The score of an edge j -> i."""
    there = of.add(of.node("source", at="source"), of.node("target", at="target"))
    back = of.add(of.node("source", at="target"), of.node("target", at="source"))
    return of.add(of.leaky(there), of.leaky(back))


@jit
def kernel(inputs: ScoreInputs, first: int, last: int, raw: npt.NDArray[np.int64]) -> None:
    """The formula for the edges into a block of nodes; see `lpgnas.attentions.score.Kernel`."""
    begin, u, v = inputs.indptr[first], inputs.source_scores, inputs.target_scores
    for i in range(first, last):
        for edge in range(inputs.indptr[i], inputs.indptr[i + 1]):
            j = inputs.sources[edge]
            for k in range(raw.shape[1]):
                there, back = np.int64(u[j, k]) + np.int64(v[i, k]), np.int64(u[i, k]) + np.int64(v[j, k])
                raw[edge - begin, k] = leaky_code(there) + leaky_code(back)


ATTENTION = Attention("sym-gat", ANY_AGGREGATION, score=EdgeScore(formula, kernel, node_weights=("source", "target")))
