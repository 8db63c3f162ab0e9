"""Learned attention: exact products of nodes, and the softmax-weighted aggregation.

The scores of edges are made and used block by block, so that memory does not grow with the number of edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lpgnas.jit import jit
from lpgnas.kernels.aggregation import RowEpilogue, Short, weighted_max_row, weighted_sum_row
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
    """

    raw: npt.NDArray[np.int64]
    by: Rescale
    table: AnyCodes


@jit
def edge_weights(softmax: Softmax, begin: int, count: int, head: int, weights: npt.NDArray[np.uint8]) -> np.int64:
    """The p of the edges into a node for one head, into the first `count` of `weights`; their sum is returned.

    Args:
        softmax: the scores.
        begin: row of the node's first edge among them.
        count: number of its edges.
        head: which head.
        weights: [at least count], written.
    """
    if count == 0:
        return np.int64(0)
    best = softmax.raw[begin, head]
    for edge in range(1, count):
        best = max(best, softmax.raw[begin + edge, head])
    largest = requantize(best, softmax.by)  # rounding is monotone, so that the largest is rounded once
    mass = np.int64(0)
    for edge in range(count):
        distance = largest - requantize(softmax.raw[begin + edge, head], softmax.by)
        p = np.int64(softmax.table[distance]) if distance < softmax.table.size else np.int64(0)
        weights[edge] = p
        mass += p
    return mass


@jit
def mass_reciprocal(mass: np.int64) -> np.int64:
    """R = floor((2^27 + P) / (2 P)) of a sum P of weights, 0 for P = 0."""
    return ((np.int64(1) << 27) + mass) // (2 * mass) if mass > 0 else np.int64(0)


@jit
def softmax_sum_rows(
    indptr: npt.NDArray[np.int64],
    sources: npt.NDArray[Any],
    block: tuple[int, int],
    message: AnyCodes,
    softmax: Softmax,
    short: Short,
    epilogue: RowEpilogue,
    weights: npt.NDArray[np.uint8],
    out: AnyCodes,
) -> None:
    """Attention-weighted sums or means of messages [N, heads * w] into `out`; see `lpgnas.kernels.aggregation`.

    Only the nodes `block[0]` to `block[1] - 1` are written; `weights` is scratch [edges of the largest node].
    """
    heads = softmax.raw.shape[1]
    width, factors, one = out.shape[1] // heads, epilogue.factor, np.int64(1)
    like, most = short
    for node in range(block[0], block[1]):
        first, last = indptr[node], indptr[node + 1]
        for head in range(heads):
            mass = edge_weights(softmax, first - indptr[block[0]], last - first, head, weights)
            factor = mass_reciprocal(mass) * (factors[node] if factors.size else one)
            columns = (head * width, head * width + width)
            weighted_sum_row(
                sources, weights, -first, (first, last), like, most, message, columns, epilogue, factor, out, node
            )


@jit
def softmax_max_rows(
    indptr: npt.NDArray[np.int64],
    sources: npt.NDArray[Any],
    block: tuple[int, int],
    message: AnyCodes,
    softmax: Softmax,
    short: Short,
    epilogue: RowEpilogue,
    weights: npt.NDArray[np.uint8],
    out: AnyCodes,
) -> None:
    """Attention-weighted maxima; the rest as `softmax_sum_rows`."""
    heads = softmax.raw.shape[1]
    width, factors, one = out.shape[1] // heads, epilogue.factor, np.int64(1)
    like, most = short
    for node in range(block[0], block[1]):
        first, last = indptr[node], indptr[node + 1]
        for head in range(heads):
            mass = edge_weights(softmax, first - indptr[block[0]], last - first, head, weights)
            factor = mass_reciprocal(mass) * (factors[node] if factors.size else one)
            columns = (head * width, head * width + width)
            weighted_max_row(
                sources, weights, -first, (first, last), like, most, message, columns, epilogue, factor, out, node
            )


@jit
def aggregate_softmax(
    indptr: npt.NDArray[np.int64],
    sources: npt.NDArray[Any],
    block: tuple[int, int],
    message: AnyCodes,
    softmax: Softmax,
    maximum: bool,
    epilogue: Epilogue,
    weights: npt.NDArray[np.uint8],
    accumulator: npt.NDArray[Any],
    out: AnyCodes,
) -> None:
    """The same sums, means or (`maximum`) maxima in plain loops; scratch `accumulator` [w] of any width."""
    width = accumulator.size
    for node in range(block[0], block[1]):
        begin, count = indptr[node] - indptr[block[0]], indptr[node + 1] - indptr[node]
        for head in range(softmax.raw.shape[1]):
            mass, first = edge_weights(softmax, begin, count, head, weights), head * width
            accumulator[:] = 0
            for edge in range(count):
                row = message[sources[indptr[node] + edge]][first : first + width]  # a slice of a row is contiguous
                p = np.int64(weights[edge])
                for c in range(width):
                    term = p * np.int64(row[c])
                    if not maximum:
                        accumulator[c] += term
                    else:
                        accumulator[c] = term if edge == 0 else max(np.int64(accumulator[c]), term)
            factor = mass_reciprocal(mass) * node_factor(epilogue, node)
            write_row(accumulator, factor, node, first, epilogue, out)


def node_blocks(indptr: npt.NDArray[np.int64], edges: int) -> Iterator[tuple[int, int]]:
    """Ranges of nodes, first to last, with at most `edges` incoming edges each, or of a single node with more."""
    first, nodes = 0, indptr.size - 1
    while first < nodes:
        last = int(np.searchsorted(indptr, indptr[first] + edges, side="right")) - 1
        last = min(max(last, first + 1), nodes)
        yield first, last
        first = last
