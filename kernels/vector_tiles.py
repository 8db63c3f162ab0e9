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


class VectorCode:
    """Code on vectors of columns of C-contiguous arrays."""

    def __init__(self, context: Code, builder: Code) -> None:
        self.context, self.builder = context, builder
        self.word = ir.IntType(64)

    def array(self, numba_type: Code, value: Code) -> Code:
        """An array, by the fields `data` and `shape`."""
        return self.context.make_array(numba_type)(self.context, self.builder, value)

    def integer(self, value: int) -> Code:
        """A constant of 64 bits."""
        return ir.Constant(self.word, value)

    def index_at(self, indices: Code, entry: Code) -> Code:
        """`indices[entry]` in 64 bits."""
        index = self.builder.load(self.builder.gep(indices.data, [entry]))
        return self.builder.sext(index, self.word) if index.type.width < self.word.width else index

    def columns(self, array: Code, row: Code, first: Code, vector: Code) -> Code:
        """Pointer to the columns of `array[row]` from `first` on, as many as `vector` has."""
        builder = self.builder
        offset = builder.add(builder.mul(row, builder.extract_value(array.shape, 1)), first)
        return builder.bitcast(builder.gep(array.data, [offset]), vector.as_pointer())

    def load(self, pointer: Code) -> Code:
        """What lies at the pointer of `columns`."""
        return self.builder.load(pointer, align=self._element_bytes(pointer))

    def store(self, vector: Code, pointer: Code) -> None:
        """Write there."""
        self.builder.store(vector, pointer, align=self._element_bytes(pointer))

    def _element_bytes(self, pointer: Code) -> int:
        element = pointer.type.pointee.element
        bits: int = element.width if isinstance(element, ir.IntType) else 32 if element == ir.FloatType() else 64
        return bits // 8

    def extended(self, vector: Code, kind: Code, *, signed: bool) -> Code:
        """Integers in lanes of another width, which holds them."""
        if vector.type.element.width > kind.element.width:
            return self.builder.trunc(vector, kind)
        return (self.builder.sext if signed else self.builder.zext)(vector, kind)

    def splat(self, value: Code, width: int) -> Code:
        """A vector of `width` times `value`."""
        return splat(self.builder, value, ir.VectorType(value.type, width))


class _Tile(VectorCode):
    """The code of one tile."""

    def __init__(self, context: Code, builder: Code, signature: Code, arguments: Code, width: int) -> None:
        super().__init__(context, builder)
        self.indices, self.values, self.dense, self.result = (
            self.array(signature.args[position], arguments[position]) for position in (0, 1, 4, 5)
        )
        _, _, self.start, self.end, _, _, self.row, self.first = arguments
        self.vector = ir.VectorType(context.get_value_type(signature.args[4].dtype), width)

    def generate(self, *, scatter: bool) -> Code:
        builder = self.builder
        stride = self._value_stride()
        total = cgutils.alloca_once(builder, self.vector)
        own = self._pointer(self.dense if scatter else self.result, self.row)
        builder.store(self.load(own) if scatter else ir.Constant(self.vector, None), total)
        with cgutils.for_range_slice(builder, self.start, self.end, self.integer(1), inc=True) as (entry, _):
            value = builder.load(builder.gep(self.values.data, [builder.mul(entry, stride)]))
            value = self.splat(value, self.vector.count)
            other = self._pointer(self.result if scatter else self.dense, self.index_at(self.indices, entry))
            if scatter:
                self.store(builder.fadd(self.load(other), builder.fmul(value, builder.load(total))), other)
            else:
                builder.store(builder.fadd(builder.load(total), builder.fmul(value, self.load(other))), total)
        if not scatter:
            self.store(builder.load(total), own)
        return self.context.get_dummy_value()

    def _value_stride(self) -> Code:
        length = self.builder.extract_value(self.values.shape, 0)
        return self.builder.zext(self.builder.icmp_signed(">", length, self.integer(1)), self.word)

    def _pointer(self, array: Code, row: Code) -> Code:
        return self.columns(array, row, self.first, self.vector)
