"""LLVM code of the tiles of `lpgnas.kernels.sparse_products`: imported when Numba compiles them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Code = Any
"""Whatever Numba and LLVM hand around: types, values, builders."""


def tile_intrinsic(width: int, *, scatter: bool) -> Code:
    """The intrinsic of a tile of `width` columns; its arguments are those of the Python function that it stands for."""

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(
        typing_context: Code,
        indices: Code,
        values: Code,
        start: Code,
        end: Code,
        dense: Code,
        result: Code,
        row: Code,
        first: Code,
    ) -> Code:
        arrays = (values, dense, result)
        if any(a.layout != "C" for a in (indices, *arrays)) or len({a.dtype for a in arrays}) > 1:
            raise TypeError(f"tiles need C-contiguous arrays with floats of one dtype, got {arrays}")
        integer = types.int64
        signature = types.void(indices, values, integer, integer, dense, result, integer, integer)

        def generate(context: Code, builder: Code, signature: Code, arguments: Code) -> Code:
            return _Tile(context, builder, signature, arguments, width).generate(scatter=scatter)

        return signature, generate

    return tile


def splat(builder: Code, value: Code, vector: Code) -> Code:
    """`value` in every lane of a vector of type `vector`."""
    lane = ir.IntType(32)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(lane, 0))
    everywhere = ir.Constant(ir.VectorType(lane, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, undefined, everywhere)


class _Tile:
    """The code of one tile."""

    def __init__(self, context: Code, builder: Code, signature: Code, arguments: Code, width: int) -> None:
        def array(position: int) -> Code:
            return context.make_array(signature.args[position])(context, builder, arguments[position])

        self.context, self.builder = context, builder
        self.indices, self.values, self.dense, self.result = (array(position) for position in (0, 1, 4, 5))
        _, _, self.start, self.end, _, _, self.row, self.first = arguments
        real = context.get_value_type(signature.args[4].dtype)
        self.vector = ir.VectorType(real, width)
        self.bytes = signature.args[4].dtype.bitwidth // 8
        self.word = ir.IntType(64)

    def generate(self, *, scatter: bool) -> Code:
        builder = self.builder
        stride = self._value_stride()
        total = cgutils.alloca_once(builder, self.vector)
        own = self._columns(self.dense if scatter else self.result, self.row)
        builder.store(self._load(own) if scatter else ir.Constant(self.vector, None), total)
        with cgutils.for_range_slice(builder, self.start, self.end, ir.Constant(self.word, 1), inc=True) as (entry, _):
            index = builder.load(builder.gep(self.indices.data, [entry]))
            index = builder.sext(index, self.word) if index.type.width < self.word.width else index
            value = splat(
                builder, builder.load(builder.gep(self.values.data, [builder.mul(entry, stride)])), self.vector
            )
            other = self._columns(self.result if scatter else self.dense, index)
            if scatter:
                self._store(builder.fadd(self._load(other), builder.fmul(value, builder.load(total))), other)
            else:
                builder.store(builder.fadd(builder.load(total), builder.fmul(value, self._load(other))), total)
        if not scatter:
            self._store(builder.load(total), own)
        return self.context.get_dummy_value()

    def _value_stride(self) -> Code:
        length = self.builder.extract_value(self.values.shape, 0)
        return self.builder.zext(self.builder.icmp_signed(">", length, ir.Constant(self.word, 1)), self.word)

    def _columns(self, array: Code, row: Code) -> Code:
        builder = self.builder
        offset = builder.add(builder.mul(row, builder.extract_value(array.shape, 1)), self.first)
        return builder.bitcast(builder.gep(array.data, [offset]), self.vector.as_pointer())

    def _load(self, pointer: Code) -> Code:
        return self.builder.load(pointer, align=self.bytes)

    def _store(self, vector: Code, pointer: Code) -> None:
        self.builder.store(vector, pointer, align=self.bytes)
