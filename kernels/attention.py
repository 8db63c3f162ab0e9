"""Learned attention: exact scores of nodes, and the softmax-weighted aggregation that never stores an edge score."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lpgnas.kernels.jit import jit
from lpgnas.kernels.requantize import AnyCodes, Rescale, requantize
from lpgnas.kernels.spmm import Epilogue, node_factor, write_row


@jit
def score_nodes(message: AnyCodes, weight: AnyCodes, out: npt.NDArray[np.int32]) -> None:
    """`out[n, k] = sum_c message[n, k w + c] * weight[k, c]`; message [N, heads * w], weight [heads, w]."""
    heads, width = weight.shape
    for n in range(message.shape[0]):
        for k in range(heads):
            total = np.int64(0)
            for c in range(width):
                total += np.int64(message[n, k * width + c]) * np.int64(weight[k, c])
            out[n, k] = total


class Softmax(NamedTuple):
    """The scores of an edge j -> i and what turns them into probabilities.

    Attributes:
        source_scores: u [N, heads] int32.
        target_scores: v [N, heads] int32.
        by: the rounding of a score.
        table: [entries] uint8 or int8, 127 first.
    """

    source_scores: npt.NDArray[np.int32]
    target_scores: npt.NDArray[np.int32]
    by: Rescale
    table: AnyCodes


@jit
def edge_score(source: np.int64, target: np.int64, by: Rescale) -> np.int64:
    """The score's code: leaky ReLU of slope 1/4, in two more binary places, then the rounding."""
    raw = source + target
    return requantize(4 * raw if raw >= 0 else raw, by)


@jit
def largest_score(softmax: Softmax, neighbours: npt.NDArray[Any], node: int, head: int) -> np.int64:
    """The largest score over the (at least one) edges into `node`.

    Every step from u to the code is monotone, so one maximum over u and one rounding give it.
    """
    best = np.int64(softmax.source_scores[neighbours[0], head])
    for j in neighbours:
        best = max(best, np.int64(softmax.source_scores[j, head]))
    return edge_score(best, np.int64(softmax.target_scores[node, head]), softmax.by)


@jit
def gather_head(
    softmax: Softmax,
    neighbours: npt.NDArray[Any],
    node: int,
    head: int,
    first: int,
    message: AnyCodes,
    maximum: bool,
    accumulator: npt.NDArray[Any],
) -> np.int64:
    """Sum or maximum of p * message over the edges into `node` for one head; the sum of p is returned.

    Args:
        softmax: the scores.
        neighbours: [d] sources of the edges.
        node: the target.
        head: which head.
        first: its first column.
        message: [N, heads * w].
        maximum: maximum instead of sum.
        accumulator: [w], written.
    """
    accumulator[:] = 0
    if neighbours.size == 0:
        return np.int64(0)
    largest = largest_score(softmax, neighbours, node, head)
    target = np.int64(softmax.target_scores[node, head])
    mass = np.int64(0)
    unset = True
    for j in neighbours:
        distance = largest - edge_score(np.int64(softmax.source_scores[j, head]), target, softmax.by)
        p = np.int64(softmax.table[distance]) if distance < softmax.table.size else np.int64(0)
        mass += p
        row = message[j][first : first + accumulator.size]  # a slice of a row stays contiguous
        if maximum:
            for c in range(accumulator.size):
                term = p * np.int64(row[c])
                accumulator[c] = term if unset else max(np.int64(accumulator[c]), term)
        elif p:
            for c in range(accumulator.size):
                accumulator[c] += p * np.int64(row[c])
        unset = False
    return mass


@jit
def aggregate_softmax(
    indptr: npt.NDArray[np.int64],
    sources: npt.NDArray[Any],
    message: AnyCodes,
    softmax: Softmax,
    maximum: bool,
    epilogue: Epilogue,
    accumulator: npt.NDArray[Any],
    out: AnyCodes,
) -> None:
    """Attention-weighted sums, means or maxima of messages [N, heads * w] into `out`, scratch `accumulator` [w].

    The sum of p enters as R = floor((2^27 + P) / (2 P)), 0 for P = 0.
    """
    width = accumulator.size
    for node in range(out.shape[0]):
        neighbours = sources[indptr[node] : indptr[node + 1]]
        for head in range(softmax.source_scores.shape[1]):
            first = head * width
            mass = gather_head(softmax, neighbours, node, head, first, message, maximum, accumulator)
            inverse = ((np.int64(1) << 27) + mass) // (2 * mass) if mass > 0 else np.int64(0)
            write_row(accumulator, inverse * node_factor(epilogue, node), node, first, epilogue, out)
