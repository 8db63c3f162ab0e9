"""Messages of 4, 2 or 1 bits, packed into bytes, and their aggregation: a fraction of the memory traffic of int8.

The planes of a row lie in its bytes: of `columns` codes in B bytes, byte b holds the codes b, B + b, 2 B + b, ... from
its low bits up. A vector of bytes is then unpacked by a shift and a mask, without moving anything between lanes. Codes
are stored less the smallest one, so that sums grow without sign in bytes, over as many edges as these are proved for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lpgnas.errors import KernelError
from lpgnas.graph import is_array
from lpgnas.integer_program import INT32_LIMIT
from lpgnas.jit import jit, lowered
from lpgnas.kernels.aggregation import (
    Bounds,
    Integers,
    RowEpilogue,
    bits_of,
    check_apart,
    check_array,
    check_epilogue,
    check_integer,
    finish,
    given_array,
    row_epilogue,
)
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.spmm import Epilogue
from lpgnas.requantize import AnyCodes

PACKED_BITS = (4, 2, 1)
MOST_COLUMNS = 1 << 40


@dataclass(frozen=True, eq=False)
class PackedCodes:
    """Codes [N, columns] of few bits; `pack_codes` makes it.

    Attributes:
        data: [N, ceil(columns * bits / 8)] uint8.
        columns: codes of a row; bits beyond them are 0.
        bits: 4, 2 or 1.
        signed: whether codes are signed (not of 1 bit).

    Raises:
        KernelError: fields that do not go together.
    """

    data: npt.NDArray[np.uint8]
    columns: int
    bits: int
    signed: bool

    def __post_init__(self) -> None:
        _check_bits(self.bits, signed=self.signed)
        check_integer("columns", self.columns, 1, MOST_COLUMNS)
        for name in ("columns", "bits"):  # NumPy's narrow integers overflow
            object.__setattr__(self, name, int(getattr(self, name)))
        if not is_array(self.data) or self.data.ndim != 2:
            raise KernelError(f"packed codes must be an array [N, bytes], got {type(self.data).__name__}")
        check_array("packed codes", self.data, np.uint8, (self.data.shape[0], -(-self.columns * self.bits // 8)))

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def planes(self) -> int:
        """Codes of a byte."""
        return 8 // self.bits

    def unpack(self) -> AnyCodes:
        """The codes [N, columns] in int8 or uint8."""
        shifts = self.bits * np.arange(self.planes, dtype=np.uint8)
        planes = (self.data[:, None, :] >> shifts[None, :, None]) & np.uint8((1 << self.bits) - 1)
        codes = planes.reshape(self.data.shape[0], -1)[:, : self.columns].astype(np.int8) + np.int8(self.low)
        return np.ascontiguousarray(codes if self.signed else codes.view(np.uint8))


def _check_bits(bits: int, *, signed: bool) -> None:
    check_integer("bits", bits, 1, 4)
    if not isinstance(signed, bool | np.bool_):
        raise KernelError(f"signed must be True or False, got {signed!r:.40}")
    if bits not in PACKED_BITS or (signed and bits == 1):
        raise KernelError(f"packed codes have 4 or 2 bits, or 1 without a sign, not {bits} {'signed' * bool(signed)}")


def pack_codes(codes: AnyCodes, bits: int, *, signed: bool) -> PackedCodes:
    """Pack codes [N, columns].

    Raises:
        KernelError: a code that the bits do not hold, or another number of bits than 4, 2 or 1.
    """
    _check_bits(bits, signed=signed)
    bits = int(bits)
    low = -(1 << bits - 1) if signed else 0
    high = low + (1 << bits) - 1
    if not is_array(codes) or codes.dtype.kind not in "iu":
        kind = codes.dtype if is_array(codes) else type(codes).__name__
        raise KernelError(f"codes must be an array of integers, got {kind}")
    if codes.ndim != 2 or not codes.shape[1]:
        raise KernelError(f"codes must have shape [N, columns], got {list(codes.shape)}")
    if codes.size and (int(codes.min()) < low or int(codes.max()) > high):
        raise KernelError(f"codes {codes.min()} to {codes.max()} leave the range [{low}, {high}] of {bits} bits")
    rows, columns = codes.shape
    planes, width = 8 // bits, -(-columns * bits // 8)
    raised = np.zeros((rows, planes * width), dtype=np.uint8)
    raised[:, :columns] = codes.astype(np.int16) - low
    shifts = (bits * np.arange(planes, dtype=np.uint8))[None, :, None]
    data = np.bitwise_or.reduce(raised.reshape(rows, planes, width) << shifts, axis=1)
    return PackedCodes(np.ascontiguousarray(data), columns, bits, signed)


def _packed_row_function(bits: int) -> Any:  # noqa: ANN401 - a function for other kernels
    """A function that writes `out[node]`, all of whose columns are in the bytes of a row of `message`.

    It sums the codes of the edges `edges[0]` to `edges[1] - 1`, the smallest of which is `low`. No sum over `block`
    edges passes a byte.
    """

    def function(
        sources: Integers,
        weights: Integers,
        low: int,
        edges: tuple[int, int],
        like: Integers,
        block: int,
        message: npt.NDArray[np.uint8],
        columns: tuple[int, int],
        epilogue: RowEpilogue,
        factor: np.int64,
        out: AnyCodes,
        node: int,
    ) -> None:
        rows = message[sources[edges[0] : edges[1]]].astype(np.int64)
        planes = [((rows >> shift) & ((1 << bits) - 1)).sum(axis=0) for shift in range(0, 8, bits)]
        totals = np.concatenate(planes) + low * (edges[1] - edges[0])
        finish(totals, 0, epilogue, factor, out, node)

    def make_intrinsic() -> Any:  # noqa: ANN401 - Numba is not imported before it compiles
        from lpgnas.kernels.row_code import row_intrinsic

        return row_intrinsic(weighted=False, maximum=False, bits=bits)

    return lowered(make_intrinsic)(function)


_row_4, _row_2, _row_1 = (_packed_row_function(bits) for bits in PACKED_BITS)


@jit
def sum_rows_4(
    indptr: npt.NDArray[np.int64],
    sources: Integers,
    message: npt.NDArray[np.uint8],
    low: int,
    epilogue: RowEpilogue,
    out: AnyCodes,
) -> None:
    """Sums of messages of 4 bits, two a byte.

    Args:
        indptr: [N + 1] first edge of each row.
        sources: [E] rows of messages.
        message: [M, B].
        low: the smallest code.
        epilogue: what follows.
        out: [N, codes of B bytes], written.
    """
    columns, factors, one = (0, message.shape[1]), epilogue.factor, np.int64(1)
    for node in range(out.shape[0]):
        edges = (indptr[node], indptr[node + 1])
        factor = factors[node] if factors.size else one
        _row_4(sources, sources, low, edges, sources, 17, message, columns, epilogue, factor, out, node)


@jit
def sum_rows_2(
    indptr: npt.NDArray[np.int64],
    sources: Integers,
    message: npt.NDArray[np.uint8],
    low: int,
    epilogue: RowEpilogue,
    out: AnyCodes,
) -> None:
    """Sums of messages of 2 bits, four a byte; the rest as `sum_rows_4`."""
    columns, factors, one = (0, message.shape[1]), epilogue.factor, np.int64(1)
    for node in range(out.shape[0]):
        edges = (indptr[node], indptr[node + 1])
        factor = factors[node] if factors.size else one
        _row_2(sources, sources, low, edges, sources, 85, message, columns, epilogue, factor, out, node)


@jit
def sum_rows_1(
    indptr: npt.NDArray[np.int64],
    sources: Integers,
    message: npt.NDArray[np.uint8],
    low: int,
    epilogue: RowEpilogue,
    out: AnyCodes,
) -> None:
    """Sums of messages of 1 bit, eight a byte; the rest as `sum_rows_4`."""
    columns, factors, one = (0, message.shape[1]), epilogue.factor, np.int64(1)
    for node in range(out.shape[0]):
        edges = (indptr[node], indptr[node + 1])
        factor = factors[node] if factors.size else one
        _row_1(sources, sources, low, edges, sources, 255, message, columns, epilogue, factor, out, node)


def aggregate_packed(
    graph: CsrGraph, message: PackedCodes, epilogue: Epilogue, total_bound: int, out: AnyCodes
) -> None:
    """Sum (or average, through the factor) the packed messages of every node's incoming edges into `out`.

    Args:
        graph: the edges.
        message: a row for every source.
        epilogue: target coefficients, bias, shortcut and the rounding.
        total_bound: largest |total| of the epilogue, as in `Bounds`; beyond it results are wrong.
        out: [N, columns] codes of at most 16 bits, written.

    Raises:
        KernelError: anything of another type, shape, dtype or layout, or sums or totals that are not exact.
    """
    if not isinstance(graph, CsrGraph) or not isinstance(message, PackedCodes):
        kinds = f"{type(graph).__name__} and {type(message).__name__}"
        raise KernelError(f"graph and message must be a CsrGraph and PackedCodes, got {kinds}")
    nodes, width = graph.num_nodes, message.columns
    largest = (1 << message.bits) - 1
    bounds = Bounds(largest, int(graph.degree.max()) * largest, total_bound)
    epilogue = check_epilogue(graph, epilogue, bounds, INT32_LIMIT, out, width)
    check_array("message", message.data, np.uint8, (graph.message_rows, message.data.shape[1]))
    check_apart("message", message.data, out)
    kernel = {4: sum_rows_4, 2: sum_rows_2, 1: sum_rows_1}[message.bits]
    rows, result = row_epilogue(epilogue, int(total_bound), bounds.accumulator), bits_of(out)
    padding = message.planes * message.data.shape[1] - width
    if padding:  # rows of whole bytes; what is beyond the columns is dropped
        shortcut = np.pad(rows.shortcut, ((0, 0), (0, padding if rows.shortcut.size else 0)))
        rows = rows._replace(bias=np.pad(rows.bias, (0, padding)), shortcut=shortcut)
        result = np.empty((nodes, width + padding), dtype=result.dtype)
    kernel(graph.indptr, graph.sources, given_array(message.data), message.low, rows, result)
    if padding:
        bits_of(out)[:] = result[:, :width]
