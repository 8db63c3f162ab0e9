"""Learned attention: exact products of nodes, and the softmax-weighted aggregation.

The scores of edges are made and used block by block, so that memory does not grow with the number of edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lpgnas.jit import jit
from lpgnas.kernels.spmm import Epilogue, node_factor, write_row
from lpgnas.requantize import AnyCodes, Rescale, requantize


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
    """What turns the scores of a block of edges into probabilities.

    Attributes:
        raw: [edges of the block, heads] int64, scores before their rounding.
        by: the rounding of a score.
        table: [entries] uint8 or int8, 127 first.
        maximum: aggregate by maximum instead of sum.
    """

    raw: npt.NDArray[np.int64]
    by: Rescale
    table: AnyCodes
    maximum: bool


@jit
def gather_head(
    softmax: Softmax,
    begin: int,
    neighbours: npt.NDArray[Any],
    head: int,
    message: AnyCodes,
    accumulator: npt.NDArray[Any],
) -> np.int64:
    """Sum or maximum of p * message over the edges into a node for one head; the sum of p is returned.

    Args:
        softmax: the scores.
        begin: row of the node's first edge among them.
        neighbours: [d] sources of the edges.
        head: which head.
        message: [N, heads * w].
        accumulator: [w], written.
    """
    accumulator[:] = 0
    if neighbours.size == 0:
        return np.int64(0)
    first = head * accumulator.size
    best = softmax.raw[begin, head]
    for edge in range(1, neighbours.size):
        best = max(best, softmax.raw[begin + edge, head])
    largest = requantize(best, softmax.by)  # rounding is monotone, so that the largest is rounded once
    mass = np.int64(0)
    for edge in range(neighbours.size):
        distance = largest - requantize(softmax.raw[begin + edge, head], softmax.by)
        p = np.int64(softmax.table[distance]) if distance < softmax.table.size else np.int64(0)
        mass += p
        row = message[neighbours[edge]][first : first + accumulator.size]  # a slice of a row stays contiguous
        if softmax.maximum:
            for c in range(accumulator.size):
                term = p * np.int64(row[c])
                accumulator[c] = term if edge == 0 else max(np.int64(accumulator[c]), term)
        elif p:
            for c in range(accumulator.size):
                accumulator[c] += p * np.int64(row[c])
    return mass


@jit
def aggregate_softmax(
    indptr: npt.NDArray[np.int64],
    sources: npt.NDArray[Any],
    block: tuple[int, int],
    message: AnyCodes,
    softmax: Softmax,
    epilogue: Epilogue,
    accumulator: npt.NDArray[Any],
    out: AnyCodes,
) -> None:
    """Attention-weighted sums, means or maxima of messages [N, heads * w] into `out`, scratch `accumulator` [w].

    Only the nodes `block[0]` to `block[1] - 1` are written. The sum of p enters as R = floor((2^27 + P) / (2 P)), 0 for
    P = 0.
    """
    width = accumulator.size
    for node in range(block[0], block[1]):
        neighbours = sources[indptr[node] : indptr[node + 1]]
        begin = indptr[node] - indptr[block[0]]
        for head in range(softmax.raw.shape[1]):
            mass = gather_head(softmax, begin, neighbours, head, message, accumulator)
            inverse = ((np.int64(1) << 27) + mass) // (2 * mass) if mass > 0 else np.int64(0)
            write_row(accumulator, inverse * node_factor(epilogue, node), node, head * width, epilogue, out)


def node_blocks(indptr: npt.NDArray[np.int64], edges: int) -> Iterator[tuple[int, int]]:
    """Ranges of nodes, first to last, with at most `edges` incoming edges each, or of a single node with more."""
    first, nodes = 0, indptr.size - 1
    while first < nodes:
        last = int(np.searchsorted(indptr, indptr[first] + edges, side="right")) - 1
        last = min(max(last, first + 1), nodes)
        yield first, last
        first = last
