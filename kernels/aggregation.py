"""Aggregation of integer messages in vector registers; the same results as `lpgnas.kernels.spmm`, bit by bit.

`aggregate` takes the rows of `lpgnas.kernels.row_code` where 32-bit accumulators are proved and the plain loops
elsewhere. Sums grow in a short type first, over as many edges as its range is proved for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lpgnas.errors import KernelError
from lpgnas.graph import is_array
from lpgnas.integer_program import INT32_LIMIT, MAX_PROBABILITY, MAX_TOTAL
from lpgnas.jit import jit, lowered
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.spmm import Epilogue, aggregate_max, aggregate_sum
from lpgnas.requantize import AnyCodes, Rescale

Integers = Any
"""An array of integers."""
WHOLE = 1 << 40
"""A block of more edges than a row can have."""
INT16_LIMIT = 1 << 15
MOST_SHIFT = 62
MOST_PLACES = 1 << 10
"""Of any shift."""
ROW_EDGES = 4
"""What a row costs beside its edges, in edges, when rows are shared out among threads."""
_NOTHING_COUNTED = np.zeros(0, dtype=np.int8)
LEAST_BLOCK = 4
"""Edges below which a block of bytes does not pay."""


class RowEpilogue(NamedTuple):
    """`out = clip(round(S * factor * scale + bias + shortcut * shortcut_scale), low, high)` in the type of the bias.

    In int16, which also holds the sums S, and in int32 the rounding is
    `(t + addend + ((t >> right) & tie)) >> right`. In float64 all terms come divided by 2^right, and it is that of
    `t + addend`: to the nearest, ties to even, for `tie`, and else down. Every step is exact in each.

    Attributes:
        factor: [N] int64 target coefficient, or empty for none.
        scale: multiplies it.
        bias: [width] int16, int32 or float64, zeros for none.
        shortcut: [N, width] codes, or [N, 0] for none.
        shortcut_scale: multiplies it.
        right: bits of the right shift, 0 in float64.
        addend: added before the rounding.
        tie: 1 for ties to even, else 0.
        low: smallest result.
        high: largest result.
        clipped: [2] int64, to which the numbers of results that the clamp raises and lowers are added; an array of
            another dtype for none, for which no code is made.
        counted: how many columns, from the first one on, are counted.
    """

    factor: npt.NDArray[np.int64]
    scale: float
    bias: npt.NDArray[Any]
    shortcut: AnyCodes
    shortcut_scale: float
    right: int
    addend: float
    tie: int
    low: int
    high: int
    clipped: npt.NDArray[Any]
    counted: int


class Short(NamedTuple):
    """Where sums begin: `like` has the dtype (and no entries), which holds any sum over `block` edges."""

    like: npt.NDArray[Any]
    block: int


@dataclass(frozen=True)
class Bounds:
    """What is proved of an aggregation; see `lpgnas.proofs.aggregate_bounds`.

    Attributes:
        magnitude: largest |message|.
        accumulator: largest |sum| or |maximum|, weights included.
        total: largest |total| of the epilogue, the addend of its rounding or its left shift included.
    """

    magnitude: int
    accumulator: int
    total: int


def short_sums(magnitude: int, message: np.dtype[Any], largest_weight: int = 1) -> Short:
    """The narrowest type in which it pays to add up messages of at most `magnitude`, times their weights."""
    term = max(magnitude * largest_weight, 1)
    for dtype, least in ((np.int8, LEAST_BLOCK), (np.int16, 2)):
        block = int(np.iinfo(dtype).max) // term
        if block >= least and np.dtype(dtype).itemsize >= message.itemsize:
            return Short(np.empty(0, dtype), block)
    return Short(np.empty(0, np.int32), WHOLE)


def row_epilogue(epilogue: Epilogue, total_bound: int, accumulator: int = INT32_LIMIT - 1) -> RowEpilogue:
    """The same epilogue for rows, in the narrowest type that does.

    Args:
        epilogue: the epilogue.
        total_bound: what its totals are proved to stay within, below 2^53.
        accumulator: what the sums are proved to stay within, below 2^31.
    """
    by = epilogue.by
    # a shift that the bound does not limit has nothing but zeros to move
    scale = 1 << min(epilogue.term_shift + by.left, MOST_SHIFT)
    shortcut_scale = 1 << min(epilogue.shortcut_shift + by.left, MOST_SHIFT)
    clipped = epilogue.clipped if epilogue.clipped.size else _NOTHING_COUNTED
    bias, rest = epilogue.bias << by.left, (by.tie, by.low, by.high, clipped, epilogue.bias.size)
    if max(total_bound, accumulator) < INT16_LIMIT and by.right < 16:
        limits = (max(by.low, -INT16_LIMIT), min(by.high, INT16_LIMIT - 1))  # no total is beyond them
        short = (scale, bias.astype(np.int16), epilogue.shortcut, shortcut_scale, by.right, by.addend, by.tie)
        return RowEpilogue(epilogue.factor, *short, *limits, *rest[3:])
    if total_bound < INT32_LIMIT and by.right < 32:
        narrow = (scale, bias.astype(np.int32), epilogue.shortcut, shortcut_scale, by.right, by.addend)
        return RowEpilogue(epilogue.factor, *narrow, *rest)
    unit = 2.0**-by.right
    wide = (scale * unit, bias * unit, epilogue.shortcut, shortcut_scale * unit, 0, 0.0 if by.tie else by.addend * unit)
    return RowEpilogue(epilogue.factor, *wide, *rest)


def finish(
    totals: npt.NDArray[np.int64], first: int, epilogue: RowEpilogue, factor: np.int64, out: AnyCodes, node: int
) -> None:
    """The epilogue of `totals`, which are the columns of `out[node]` from `first` on, without the compiler."""
    columns = slice(first, first + len(totals))
    exact = np.float64 if epilogue.bias.dtype == np.float64 else np.int64
    total = totals.astype(exact) * exact(factor) * exact(epilogue.scale) + epilogue.bias[columns]
    if epilogue.shortcut.shape[1]:
        total += epilogue.shortcut[node, columns].astype(exact) * exact(epilogue.shortcut_scale)
    if exact is np.float64:
        rounded = np.rint(total) if epilogue.tie else np.floor(total + epilogue.addend)
    else:
        rounded = (total + epilogue.addend + ((total >> epilogue.right) & epilogue.tie)) >> epilogue.right
    if epilogue.clipped.dtype == np.int64:
        counted = rounded[: max(0, epilogue.counted - first)]
        epilogue.clipped[0] += (counted < epilogue.low).sum()
        epilogue.clipped[1] += (counted > epilogue.high).sum()
    out[node, columns] = np.clip(rounded, epilogue.low, epilogue.high).astype(np.int64).astype(out.dtype)


def _row_function(*, weighted: bool, maximum: bool) -> Any:  # noqa: ANN401 - a function for other kernels
    """A function that writes the columns `columns[0]` to `columns[1] - 1` of `out[node]`.

    It aggregates the messages of the edges `edges[0]` to `edges[1] - 1`; the weight of an edge is
    `weights[edge + origin]`.
    """

    def function(
        sources: Integers,
        weights: Integers,
        origin: int,
        edges: tuple[int, int],
        like: Integers,
        block: int,
        message: AnyCodes,
        columns: tuple[int, int],
        epilogue: RowEpilogue,
        factor: np.int64,
        out: AnyCodes,
        node: int,
    ) -> None:
        first, last = columns
        terms = message[sources[edges[0] : edges[1]], first:last].astype(np.int64)
        if weighted:
            terms *= weights[edges[0] + origin : edges[1] + origin].astype(np.int64)[:, None]
        totals = terms.max(axis=0) if maximum and len(terms) else terms.sum(axis=0)
        finish(totals, first, epilogue, factor, out, node)

    def make_intrinsic() -> Any:  # noqa: ANN401 - Numba is not imported before it compiles
        from lpgnas.kernels.row_code import row_intrinsic

        return row_intrinsic(weighted=weighted, maximum=maximum)

    return lowered(make_intrinsic)(function)


# The kernels below differ in the row that they call, and are written out: Numba keeps no kernel on disk that a factory
# made, and compiling takes seconds.
_sum_row = _row_function(weighted=False, maximum=False)
_max_row = _row_function(weighted=False, maximum=True)
weighted_sum_row = _row_function(weighted=True, maximum=False)
weighted_max_row = _row_function(weighted=True, maximum=True)


@jit
def sum_rows(
    indptr: npt.NDArray[np.int64],
    sources: Integers,
    message: AnyCodes,
    short: Short,
    epilogue: RowEpilogue,
    out: AnyCodes,
) -> None:
    """Sums (and means, through the factor) of the messages of incoming edges.

    Args:
        indptr: [N + 1] first edge of each row.
        sources: [E] rows of messages.
        message: [M, width].
        short: where sums begin.
        epilogue: what follows.
        out: [N, width], written; a signed dtype also holds unsigned codes, by their bits.
    """
    columns, factors, one = (0, out.shape[1]), epilogue.factor, np.int64(1)
    like, block = short
    for node in range(out.shape[0]):
        edges = (indptr[node], indptr[node + 1])
        factor = factors[node] if factors.size else one
        _sum_row(sources, sources, 0, edges, like, block, message, columns, epilogue, factor, out, node)


@jit
def max_rows(
    indptr: npt.NDArray[np.int64],
    sources: Integers,
    message: AnyCodes,
    short: Short,
    epilogue: RowEpilogue,
    out: AnyCodes,
) -> None:
    """Maxima, 0 for a row without edges; the rest as `sum_rows`."""
    columns, factors, one = (0, out.shape[1]), epilogue.factor, np.int64(1)
    like, block = short
    for node in range(out.shape[0]):
        edges = (indptr[node], indptr[node + 1])
        factor = factors[node] if factors.size else one
        _max_row(sources, sources, 0, edges, like, block, message, columns, epilogue, factor, out, node)


@jit
def weighted_sum_rows(
    indptr: npt.NDArray[np.int64],
    sources: Integers,
    weights: npt.NDArray[np.uint8],
    message: AnyCodes,
    short: Short,
    epilogue: RowEpilogue,
    out: AnyCodes,
) -> None:
    """Sums of messages times `weights` [E] of their edges; the rest as `sum_rows`."""
    columns, factors, one = (0, out.shape[1]), epilogue.factor, np.int64(1)
    like, block = short
    for node in range(out.shape[0]):
        edges = (indptr[node], indptr[node + 1])
        factor = factors[node] if factors.size else one
        weighted_sum_row(sources, weights, 0, edges, like, block, message, columns, epilogue, factor, out, node)


@jit
def weighted_max_rows(
    indptr: npt.NDArray[np.int64],
    sources: Integers,
    weights: npt.NDArray[np.uint8],
    message: AnyCodes,
    short: Short,
    epilogue: RowEpilogue,
    out: AnyCodes,
) -> None:
    """Maxima of messages times `weights` [E] of their edges, 0 for a row without edges; the rest as `sum_rows`."""
    columns, factors, one = (0, out.shape[1]), epilogue.factor, np.int64(1)
    like, block = short
    for node in range(out.shape[0]):
        edges = (indptr[node], indptr[node + 1])
        factor = factors[node] if factors.size else one
        weighted_max_row(sources, weights, 0, edges, like, block, message, columns, epilogue, factor, out, node)


def bits_of(out: AnyCodes) -> AnyCodes:
    """`out` in the signed dtype of its size: narrowing is the same, and kernels are compiled once for both."""
    return out.view(f"int{8 * out.itemsize}")


def aggregate(
    graph: CsrGraph,
    message: AnyCodes,
    epilogue: Epilogue,
    bounds: Bounds,
    out: AnyCodes,
    *,
    maximum: bool = False,
    weights: npt.NDArray[np.uint8] | None = None,
    threads: int = 1,
) -> None:
    """Aggregate the messages of every node's incoming edges into `out`.

    Args:
        graph: the edges.
        message: [M, width] codes of at most 16 bits, a row for every source.
        epilogue: target coefficients, bias, shortcut and the rounding.
        bounds: what is proved of codes, sums and totals; codes beyond it give wrong results.
        out: [N, width] codes of at most 16 bits, written.
        maximum: maxima instead of sums.
        weights: [E] of 0 to 127, multiplied with the messages of the edges; None for none.
        threads: how many share the rows; the result is the same.

    Raises:
        KernelError: anything of another type, shape, dtype or layout, arrays that share memory with `out`, weights
            beyond 127, or bounds beyond 2^53 (with weights, 2^31).
    """
    run_together(row_calls(graph, message, epilogue, bounds, out, maximum=maximum, weights=weights, threads=threads))


def row_calls(
    graph: CsrGraph,
    message: AnyCodes,
    epilogue: Epilogue,
    bounds: Bounds,
    out: AnyCodes,
    *,
    maximum: bool = False,
    weights: npt.NDArray[np.uint8] | None = None,
    threads: int = 1,
) -> list[Callable[[], None]]:
    """What `aggregate` runs side by side, a call for each thread; arguments and errors are the same."""
    message = check_message(graph, message)
    limit = MAX_TOTAL if weights is None else INT32_LIMIT
    epilogue = check_epilogue(graph, epilogue, bounds, limit, out, message.shape[1])
    check_apart("message", message, out)
    bounds = Bounds(int(bounds.magnitude), int(bounds.accumulator), int(bounds.total))
    if not isinstance(maximum, bool | np.bool_):
        raise KernelError(f"maximum must be True or False, got {maximum!r}")
    if weights is not None:
        weights = _check_weights(weights, graph.sources.size)
        check_apart("weights", weights, out)
    blocks = row_blocks(graph.indptr, check_integer("threads", threads, 1, MOST_PLACES))
    counts = [epilogue.clipped] if len(blocks) == 1 else [np.zeros_like(epilogue.clipped) for _ in blocks]
    calls: list[Callable[[], None]]
    if bounds.accumulator >= INT32_LIMIT:
        plain = partial(_plain_rows, graph, message, out, maximum)
        parts = zip(blocks, counts, strict=True)
        calls = [partial(plain, rows, epilogue_of(epilogue, rows, clipped)) for rows, clipped in parts]
        return _summed(calls, counts, epilogue.clipped)
    short = Short(np.empty(0, np.int32), WHOLE)  # not used by maxima without weights
    if weights is not None or not maximum:
        short = short_sums(bounds.magnitude, message.dtype, 1 if weights is None else MAX_PROBABILITY)
    result = bits_of(out)
    kernel: Callable[..., None] = max_rows if maximum else sum_rows
    given: tuple[Integers, ...] = (graph.sources, message, short)
    if weights is not None:
        kernel, given = weighted_max_rows if maximum else weighted_sum_rows, (graph.sources, weights, message, short)
    calls = []
    for (first, last), clipped in zip(blocks, counts, strict=True):
        by_row = row_epilogue(epilogue_of(epilogue, (first, last), clipped), bounds.total, bounds.accumulator)
        calls.append(partial(kernel, graph.indptr[first : last + 1], *given, by_row, result[first:last]))
    return _summed(calls, counts, epilogue.clipped)


def _summed(
    calls: list[Callable[[], None]], counts: list[npt.NDArray[np.int64]], clipped: npt.NDArray[np.int64]
) -> list[Callable[[], None]]:
    """The calls, each of which adds what it has counted to `clipped`, unless it counts there already."""
    if len(calls) == 1 or not clipped.size:
        return calls
    lock = Lock()

    def add(call: Callable[[], None], own: npt.NDArray[np.int64]) -> None:
        call()
        with lock:
            np.add(clipped, own, out=clipped)

    return [partial(add, call, own) for call, own in zip(calls, counts, strict=True)]


def _plain_rows(
    graph: CsrGraph, message: AnyCodes, out: AnyCodes, maximum: bool, rows: tuple[int, int], epilogue: Epilogue
) -> None:
    """The nodes `rows[0]` to `rows[1] - 1` in plain loops."""
    part, accumulator = out[slice(*rows)], np.empty(out.shape[1], dtype=np.int64)
    rest = (graph.sources, message, epilogue, accumulator, part)
    (aggregate_max if maximum else aggregate_sum)(graph.indptr[rows[0] : rows[1] + 1], *rest)


def epilogue_of(epilogue: Epilogue, rows: tuple[int, int], clipped: npt.NDArray[np.int64]) -> Epilogue:
    """The epilogue of the nodes `rows[0]` to `rows[1] - 1`, which counts in `clipped`."""
    part = slice(*rows)
    return epilogue._replace(factor=epilogue.factor[part], shortcut=epilogue.shortcut[part], clipped=clipped)


def row_blocks(indptr: npt.NDArray[np.int64], count: int) -> list[tuple[int, int]]:
    """At most `count` ranges of nodes, first to last, that take about as long as each other."""
    nodes = indptr.size - 1
    if count == 1:
        return [(0, nodes)]
    work = indptr + ROW_EDGES * np.arange(nodes + 1)
    ends = np.searchsorted(work, work[-1] * np.arange(1, count + 1) / count)
    bounds = np.unique(np.concatenate([[0], np.minimum(ends, nodes)]))
    return [(int(first), int(last)) for first, last in pairwise(bounds)]


def run_together(calls: Sequence[Callable[[], None]]) -> None:
    """Each call in a thread of its own, the last one in this; kernels run without the interpreter's lock."""
    if len(calls) == 1:
        calls[0]()
        return
    others = [_pool(len(calls) - 1, os.getpid()).submit(call) for call in calls[:-1]]
    try:
        calls[-1]()
    finally:
        wait(others)  # nothing writes any more once this returns or raises
    for other in others:
        other.result()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of a process that stay: starting one takes as long as a small aggregation."""
    return ThreadPoolExecutor(threads, thread_name_prefix="lpgnas-kernels")


def check_message(graph: CsrGraph, message: AnyCodes) -> AnyCodes:
    """Messages of 8 or 16 bits, a row for every source, that can be handed to a kernel.

    Raises:
        KernelError: they are not, or `graph` is no graph.
    """
    if not isinstance(graph, CsrGraph):
        raise KernelError(f"graph must be a CsrGraph, got {type(graph).__name__}")
    if not is_array(message) or message.ndim != 2:
        raise KernelError(f"message must have shape [M, width], got {_told(message)}")
    check_codes("message", message, (graph.message_rows, message.shape[1]))
    return given_array(message)


def _check_weights(weights: npt.NDArray[np.uint8], edges: int) -> npt.NDArray[np.uint8]:
    check_array("weights", weights, np.uint8, (edges,))
    if weights.size and int(weights.max()) > MAX_PROBABILITY:  # blocks of short sums are as long as that allows
        raise KernelError(f"weights must be 0 to {MAX_PROBABILITY}, got {weights.max()}")
    return given_array(weights)


def check_epilogue(
    graph: CsrGraph, epilogue: Epilogue, bounds: Bounds, limit: int, out: AnyCodes, width: int
) -> Epilogue:
    """Refuse results and epilogues of another shape, dtype or layout, or accumulators that reach `limit`.

    Returns:
        The epilogue with arrays that can be handed to a kernel.

    Raises:
        KernelError: they are.
    """
    nodes = graph.num_nodes
    for name, one, kind in (("epilogue", epilogue, Epilogue), ("bounds", bounds, Bounds)):
        if not isinstance(one, kind):
            raise KernelError(f"{name} must be of type {kind.__name__}, got {type(one).__name__}")
    check_codes("out", out, (nodes, width))
    if not out.flags.writeable or not out.flags.aligned:
        raise KernelError("out is read-only or not aligned; give the result memory of its own")
    shortcut, factor = epilogue.shortcut, epilogue.factor
    check_codes("shortcut", shortcut, (nodes, width if is_array(shortcut) and shortcut.size else 0))
    check_apart("shortcut", shortcut, out)
    check_array("factor", factor, np.int64, (nodes if is_array(factor) and factor.size else 0,))
    check_array("bias", epilogue.bias, np.int64, (width,))
    _check_counts(epilogue.clipped, (epilogue.bias, factor, shortcut, graph.indptr, graph.sources, out))
    for array in (factor, epilogue.bias):
        check_apart("the epilogue", array, out)
    for edges in (graph.indptr, graph.sources):
        check_apart("the graph", edges, out)
    for name in ("term_shift", "shortcut_shift"):
        check_integer(name, getattr(epilogue, name), 0, MOST_PLACES)
    _check_rescale(epilogue.by, out.dtype)
    for name in ("magnitude", "accumulator", "total"):
        check_integer(name, getattr(bounds, name), 0, None)
    if bounds.total >= MAX_TOTAL or bounds.accumulator >= limit:
        raise KernelError(f"an aggregation with {bounds} is not exact; use fewer bits or smaller in-degrees")
    factor, bias, shortcut = (given_array(array) for array in (factor, epilogue.bias, shortcut))
    term, own, by = int(epilogue.term_shift), int(epilogue.shortcut_shift), Rescale(*map(int, epilogue.by))
    return epilogue._replace(  # of plain integers: NumPy's narrow ones overflow
        factor=factor, bias=bias, shortcut=shortcut, term_shift=term, shortcut_shift=own, by=by
    )


def _check_counts(clipped: npt.NDArray[np.int64], others: Sequence[npt.NDArray[Any]]) -> None:
    check_array("clipped", clipped, np.int64, (2 if is_array(clipped) and clipped.size else 0,))
    if not clipped.flags.writeable or not clipped.flags.aligned:
        raise KernelError("clipped is read-only or not aligned; give the counts memory of their own")
    for array in others:
        if clipped.size and np.may_share_memory(clipped, array):
            raise KernelError("clipped shares memory with another array; give the counts memory of their own")


def _check_rescale(by: Rescale, out: np.dtype[Any]) -> None:
    if not isinstance(by, Rescale):
        raise KernelError(f"the rounding must be of type Rescale, got {type(by).__name__}")
    limits, wide = np.iinfo(out), np.iinfo(np.int64)
    for name in ("left", "right"):
        check_integer(name, getattr(by, name), 0, MOST_PLACES)
    check_integer("addend", by.addend, int(wide.min), int(wide.max))
    check_integer("tie", by.tie, 0, 1)
    low = check_integer("low", by.low, int(limits.min), int(limits.max))
    check_integer("high", by.high, low, int(limits.max))


def check_integer(name: str, value: object, low: int, high: int | None) -> int:
    """An integer from `low` to `high` (None: any).

    Raises:
        KernelError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise KernelError(f"{name} must be an integer, got {_told(value)}")
    if value < low or (high is not None and value > high):
        raise KernelError(f"{name} must be {low} {'or more' if high is None else f'to {high}'}, got {value}")
    return int(value)


def _told(value: object) -> str:
    """A value of the wrong kind, in a few words."""
    if isinstance(value, np.ndarray) and is_array(value):
        return f"{value.dtype} of shape {list(value.shape)}"
    return f"{type(value).__name__} {value!r:.40}"


def given_array(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array for a kernel: a copy of one that cannot be written, for which Numba would compile another kernel."""
    return array if array.flags.writeable and array.flags.aligned else np.array(array)


def check_apart(name: str, array: npt.NDArray[Any], out: AnyCodes) -> None:
    """Refuse an input in the memory of the result: tiles may write a column twice, so it must not have changed.

    Raises:
        KernelError: they overlap.
    """
    if np.may_share_memory(array, out):
        raise KernelError(f"{name} shares memory with out; give the result memory of its own")


def check_codes(name: str, array: AnyCodes, shape: tuple[int, ...]) -> None:
    """Refuse what is not a C-contiguous array of 8- or 16-bit codes of that shape.

    Raises:
        KernelError: it is not.
    """
    if not is_array(array) or array.dtype.kind not in "iu" or array.dtype.itemsize > 2:
        raise KernelError(f"{name} must hold integers of 8 or 16 bits, got {_told(array)}")
    check_array(name, array, array.dtype.type, shape)


def check_array(name: str, array: npt.NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    """Refuse what is not a C-contiguous array of that dtype and shape.

    Raises:
        KernelError: it is not.
    """
    wanted = np.dtype(dtype)
    if not is_array(array):
        raise KernelError(f"{name} must be an array of {wanted} and shape {list(shape)}, got {_told(array)}")
    if array.dtype != wanted or array.shape != shape or not array.flags.c_contiguous:
        layout = "" if array.flags.c_contiguous else ", not C-contiguous"
        raise KernelError(f"{name} must be C-contiguous {wanted} of shape {list(shape)}, got {_told(array)}{layout}")
