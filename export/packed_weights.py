"""Weights as packed ONNX tensors, by bit-width, with the nodes that unpack them.

Unpacked weights are unsigned bytes with a zero point. A product of two unsigned bytes cannot saturate: on x86 without
VNNI instructions onnxruntime's kernels for unsigned x signed bytes add pairs of products in 16 bits, which overflow
for large 8-bit weights, while those for unsigned x unsigned bytes widen first.

| codes | stored as | opset, IR version |
|---|---|---|
| binary | bits in UINT8, eight a byte | 18, 8 |
| ternary, 2 bits | UINT2 | 25, 13 |
| 3, 4 bits | UINT4 | 21, 10 |
| 5 to 8 bits | UINT8 | 18, 8 |
| 9 to 16 bits | INT16, no zero point | 18, 8 |
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
    shifted = (codes + zero_point).astype(np.uint8)
    if stored_bits == 8:
        return PackedWeight(builder.initializer(array.name, shifted), zero_point, wide=False)
    name = _store_small(builder, array.name, shifted, stored_bits)
    return PackedWeight(builder.cast(name, np.uint8), zero_point, wide=False)


def _store_small(builder: GraphBuilder, name: str, codes: npt.NDArray[np.uint8], bits: int) -> str:
    """Unsigned codes of 2 or 4 bits as a tensor of that type."""
    if bits == 2:
        builder.require(opset=25, ir_version=13)
        kind = onnx.TensorProto.UINT2
    else:
        builder.require(opset=21, ir_version=10)
        kind = onnx.TensorProto.UINT4
    packed = pack_codes(codes, bits, "fixed").tobytes()
    return builder.tensor(onnx.TensorProto(name=name, data_type=kind, dims=codes.shape, raw_data=packed))


def _store_bits(builder: GraphBuilder, name: str, codes: npt.NDArray[np.int64]) -> str:
    """Codes -1 and +1 as packed bits; unpacked to 0 and 2, which a zero point of 1 makes -1 and +1."""
    packed = builder.initializer(name, pack_codes(codes.astype(np.int8), 1, "binary")[:, None])
    masks = builder.constant([1 << bit for bit in range(8)], np.uint8)
    count, shape = builder.constant([codes.size], np.int64), builder.constant(codes.shape, np.int64)
    return builder.call(UNPACK_SIGNS, f"{name}/uint8", packed, masks, count, shape)
