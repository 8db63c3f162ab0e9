"""Weights as packed ONNX tensors, by bit-width, with the nodes that unpack them.

For integer operators (`store_weight`), unpacked weights are unsigned bytes with a zero point. A product of two unsigned
bytes cannot saturate: on x86 without VNNI instructions onnxruntime's kernels for unsigned x signed bytes add pairs of
products in 16 bits, which overflow for large 8-bit weights, while those for unsigned x unsigned bytes widen first.

| codes | stored as | opset, IR version |
|---|---|---|
| binary | bits in UINT8, eight a byte | 18, 8 |
| ternary, 2 bits | UINT2 | 25, 13 |
| 3, 4 bits | UINT4 | 21, 10 |
| 5 to 8 bits | UINT8 | 18, 8 |
| 9 to 16 bits | INT16, no zero point | 18, 8 |

For DequantizeLinear (`store_quantized`), weights are signed with the zero point 0, as most runtimes want them: INT2,
INT4, INT8 and (opset 21, IR version 10) INT16 in the same rows. onnxruntime has no DequantizeLinear of INT2, so those
pass a Cast to INT8. Bits are unpacked to UINT8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from lpgnas.export.graph_builder import GraphBuilder
from lpgnas.export.local_functions import UNPACK_SIGNS
from lpgnas.integer_program import Array
from lpgnas.program_file import pack_codes

_BYTE_ZERO_POINT = 128


@dataclass(frozen=True)
class PackedWeight:
    """A weight inside a graph: its codes are `tensor - zero_point`.

    Attributes:
        tensor: name of an unsigned 8-bit tensor, or of a signed 16-bit one without zero point.
        zero_point: 0 for a signed one.
        wide: whether it has more than 8 bits.
    """

    tensor: str
    zero_point: int
    wide: bool


def store_weight(builder: GraphBuilder, array: Array, *, transpose: bool) -> PackedWeight:
    """Store a weight [out, in] as it is, or as [in, out] if `transpose`, and unpack it inside the graph."""
    codes = np.ascontiguousarray(array.values.T if transpose else array.values).astype(np.int64)
    if array.kind == "binary":
        return PackedWeight(_store_bits(builder, array.name, codes), 1, wide=False)
    if array.kind == "fixed" and array.bits > 8:
        return PackedWeight(builder.initializer(array.name, codes.astype(np.int16)), 0, wide=True)
    stored_bits = 2 if array.bits <= 2 else 4 if array.bits <= 4 else 8
    zero_point = 1 << (stored_bits - 1)
    shifted = codes + zero_point
    if stored_bits == 8:
        return PackedWeight(builder.initializer(array.name, shifted.astype(np.uint8)), zero_point, wide=False)
    name = _store_small(builder, array.name, shifted, stored_bits)
    return PackedWeight(builder.cast(name, np.uint8), zero_point, wide=False)


def store_quantized(builder: GraphBuilder, array: Array, *, transpose: bool, unsigned: bool) -> tuple[str, str]:
    """Store a weight [out, in] as it is, or as [in, out] if `transpose`, as DequantizeLinear reads it.

    Args:
        builder: takes the tensors.
        array: the weight.
        transpose: whether it is stored as [in, out].
        unsigned: store 5 to 8 bits as UINT8 with zero point 128.

    Returns:
        Names of the codes and of their zero point.
    """
    b, name = builder, array.name
    codes = np.ascontiguousarray(array.values.T if transpose else array.values).astype(np.int64)
    if array.kind == "binary":
        return _signs_as_bytes(b, name, codes), b.constant(1, np.uint8)
    if array.bits <= 2:
        return b.cast(_store_small(b, name, codes, 2, signed=True), np.int8), b.constant(0, np.int8)
    if array.bits <= 4:
        zero = "int4:0" if "int4:0" in b else _store_small(b, "int4:0", np.zeros((), dtype=np.int64), 4, signed=True)
        return _store_small(b, name, codes, 4, signed=True), zero
    if array.bits > 8:
        b.require(opset=21, ir_version=10)
        return b.initializer(name, codes.astype(np.int16)), b.constant(0, np.int16)
    if unsigned:
        shifted = (codes + _BYTE_ZERO_POINT).astype(np.uint8)
        return b.initializer(name, shifted), b.constant(_BYTE_ZERO_POINT, np.uint8)
    return b.initializer(name, codes.astype(np.int8)), b.constant(0, np.int8)


def unpacked_bits(builder: GraphBuilder, name: str, packed: str, count: int) -> str:
    """The first `count` bits of `packed` [B, 1] uint8, as uint8 [count] of 0 or a power of two."""
    b = builder
    masks = b.constant([1 << bit for bit in range(8)], np.uint8)
    bits = b.add("BitwiseAnd", f"{name}/bits", packed, masks)
    flat = b.add("Reshape", f"{name}/flat", bits, b.constant([-1], np.int64))
    ends = (b.constant([0], np.int64), b.constant([count], np.int64))
    return b.add("Slice", f"{name}/used", flat, *ends)


def _signs_as_bytes(builder: GraphBuilder, name: str, codes: npt.NDArray[np.int64]) -> str:
    """Codes -1 and +1 as packed bits, unpacked to 0 and 2 in uint8 without a local function."""
    b = builder
    packed = b.initializer(name, pack_codes(codes.astype(np.int8), 1, "binary")[:, None])
    used = unpacked_bits(b, name, packed, codes.size)
    shaped = b.add("Reshape", f"{name}/shaped", used, b.constant(codes.shape, np.int64))
    return b.add("Where", f"{name}/uint8", b.cast(shaped, np.bool_), b.constant(2, np.uint8), b.constant(0, np.uint8))


def _store_small(
    builder: GraphBuilder, name: str, codes: npt.NDArray[np.int64], bits: int, *, signed: bool = False
) -> str:
    """Codes of 2 or 4 bits as a tensor of that type."""
    if bits == 2:
        builder.require(opset=25, ir_version=13)
        kind = onnx.TensorProto.INT2 if signed else onnx.TensorProto.UINT2
    else:
        builder.require(opset=21, ir_version=10)
        kind = onnx.TensorProto.INT4 if signed else onnx.TensorProto.UINT4
    packed = pack_codes(codes, bits, "fixed").tobytes()
    return builder.tensor(onnx.TensorProto(name=name, data_type=kind, dims=codes.shape, raw_data=packed))


def _store_bits(builder: GraphBuilder, name: str, codes: npt.NDArray[np.int64]) -> str:
    """Codes -1 and +1 as packed bits; unpacked to 0 and 2, which a zero point of 1 makes -1 and +1."""
    packed = builder.initializer(name, pack_codes(codes.astype(np.int8), 1, "binary")[:, None])
    masks = builder.constant([1 << bit for bit in range(8)], np.uint8)
    count, shape = builder.constant([codes.size], np.int64), builder.constant(codes.shape, np.int64)
    return builder.call(UNPACK_SIGNS, f"{name}/uint8", packed, masks, count, shape)
