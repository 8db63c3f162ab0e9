"""Aggregation of unweighted messages over incoming edges, or of a node's own alone, with the target's epilogue."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lpgnas.jit import jit
from lpgnas.requantize import AnyCodes, Rescale, requantize, round_shift

NOT_COUNTED = np.zeros(0, dtype=np.int64)


class Epilogue(NamedTuple):
    """`out = requantize((S * factor << term_shift) + bias + (shortcut << shortcut_shift))`.

    Attributes:
        factor: [N] int64 target coefficient, or empty for none.
        term_shift: alignment of the aggregated term, >= 0.
        bias: [width] int64, aligned already; zeros for none.
        shortcut: [N, width] codes, or [N, 0] for none.
        shortcut_shift: alignment of the shortcut, >= 0.
        by: the rounding and the clamp.
        clipped: [2] int64, to which the numbers of results that the clamp raises and lowers are added, or [0] for
            none.
    """

    factor: npt.NDArray[np.int64]
    term_shift: int
    bias: npt.NDArray[np.int64]
    shortcut: AnyCodes
    shortcut_shift: int
    by: Rescale
    clipped: npt.NDArray[np.int64] = NOT_COUNTED


@jit
def write_row(
    accumulator: npt.NDArray[Any], factor: np.int64, node: int, first: int, epilogue: Epilogue, out: AnyCodes
) -> None:
    """The epilogue of `out[node, first : first + accumulator.size]`; `factor` includes the node's coefficient."""
    shortcut = epilogue.shortcut[node]
    for c in range(accumulator.size):
        total = ((np.int64(accumulator[c]) * factor) << epilogue.term_shift) + epilogue.bias[first + c]
        if shortcut.size:
            total += np.int64(shortcut[first + c]) << epilogue.shortcut_shift
        out[node, first + c] = requantize(total, epilogue.by)
        if epilogue.clipped.size:
            rounded = round_shift(total, epilogue.by)
            epilogue.clipped[0] += rounded < epilogue.by.low
            epilogue.clipped[1] += rounded > epilogue.by.high


@jit
def node_factor(epilogue: Epilogue, node: int) -> np.int64:
    """The target coefficient of `node`, 1 for none."""
    return epilogue.factor[node] if epilogue.factor.size else np.int64(1)


@jit
def aggregate_sum(
    indptr: npt.NDArray[np.int64],
    sources: npt.NDArray[Any],
    message: AnyCodes,
    epilogue: Epilogue,
    accumulator: npt.NDArray[Any],
    out: AnyCodes,
) -> None:
    """Sums (and means, through the factor) of messages [N, width] into `out` [N, width]; scratch [width]."""
    for node in range(out.shape[0]):
        accumulator[:] = 0
        for edge in range(indptr[node], indptr[node + 1]):
            row = message[sources[edge]]
            for c in range(accumulator.size):
                accumulator[c] += np.int64(row[c])
        write_row(accumulator, node_factor(epilogue, node), node, 0, epilogue, out)


@jit
def aggregate_max(
    indptr: npt.NDArray[np.int64],
    sources: npt.NDArray[Any],
    message: AnyCodes,
    epilogue: Epilogue,
    accumulator: npt.NDArray[Any],
    out: AnyCodes,
) -> None:
    """Maxima of messages, 0 for a node without edges; the rest as `aggregate_sum`."""
    for node in range(out.shape[0]):
        first, last = indptr[node], indptr[node + 1]
        if first == last:
            accumulator[:] = 0
        else:
            accumulator[:] = message[sources[first]]
        for edge in range(first + 1, last):
            row = message[sources[edge]]
            for c in range(accumulator.size):
                accumulator[c] = max(np.int64(accumulator[c]), np.int64(row[c]))
        write_row(accumulator, node_factor(epilogue, node), node, 0, epilogue, out)
