"""LLVM code of the integer tiles of `lpgnas.kernels.linear`: imported when Numba compiles them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lpgnas.kernels.vector_tiles import splat

Code = Any
"""Whatever Numba and LLVM hand around: types, values, builders."""
WORD, LANE = ir.IntType(64), ir.IntType(32)


def dense_tile_intrinsic(rows: int, columns: int) -> Code:
    """The intrinsic of a dense tile; its arguments are those of the Python function that it stands for.

    Lanes of int32 hold pairs of codes, those of uint32 quads.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(
        typing_context: Code,
        codes: Code,
        panels: Code,
        accumulators: Code,
        row: Code,
        panel: Code,
        first: Code,
        last: Code,
    ) -> Code:
        _require(types.int32, accumulators)
        _require(panels.dtype, codes)
        group = {types.int32: 2, types.uint32: 4}[panels.dtype]
        signature = types.void(codes, panels, accumulators, *[types.int64] * 4)

        def generate(context: Code, builder: Code, signature: Code, arguments: Code) -> Code:
            return _DenseTile(context, builder, signature, arguments, rows, columns, group).generate()

        return signature, generate

    return tile


def row_tile_intrinsic(columns: int, *, coded: bool) -> Code:
    """The intrinsic of a sum of rows; its arguments are those of the Python function that it stands for."""

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(
        typing_context: Code,
        indices: Code,
        codes: Code,
        start: Code,
        end: Code,
        weight: Code,
        accumulators: Code,
        row: Code,
        first: Code,
    ) -> Code:
        _require(types.int32, indices, accumulators)
        _require(types.uint8, weight)
        integer = types.int64
        signature = types.void(indices, codes, integer, integer, weight, accumulators, integer, integer)

        def generate(context: Code, builder: Code, signature: Code, arguments: Code) -> Code:
            return _RowTile(context, builder, signature, arguments, columns).generate(coded=coded)

        return signature, generate

    return tile


def _require(dtype: Code, *arrays: Code) -> None:
    if any(array.layout != "C" or array.dtype != dtype for array in arrays):
        raise TypeError(f"integer tiles need C-contiguous arrays of {dtype}, got {arrays}")


class _Tile:
    """What both kinds of tiles are made of."""

    def __init__(self, context: Code, builder: Code, signature: Code, arguments: Code) -> None:
        self.context, self.builder = context, builder
        self._signature, self._arguments = signature, arguments
        self.features = frozenset(str(context.codegen()._tm_features).split(","))

    def array(self, position: int) -> Code:
        return self.context.make_array(self._signature.args[position])(
            self.context, self.builder, self._arguments[position]
        )

    def size(self, array: Code, axis: int) -> Code:
        return self.builder.extract_value(array.shape, axis)

    def at(self, array: Code, *index: Code) -> Code:
        """Pointer to an entry of a C-contiguous array."""
        offset = index[0]
        for axis, step in enumerate(index[1:], start=1):
            offset = self.builder.add(self.builder.mul(offset, self.size(array, axis)), step)
        return self.builder.gep(array.data, [offset])

    def load(self, pointer: Code, vector: Code, alignment: int) -> Code:
        return self.builder.load(self.builder.bitcast(pointer, vector.as_pointer()), align=alignment)

    def store(self, value: Code, pointer: Code, alignment: int) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer()), align=alignment)

    def constant(self, value: int, type_: Code) -> Code:
        if isinstance(type_, ir.VectorType):
            return ir.Constant(type_, [value] * type_.count)
        return ir.Constant(type_, value)

    def intrinsic(self, name: str, result: Code, *operands: Code) -> Code:
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(result, [one.type for one in operands]), name
        )
        return self.builder.call(function, operands)


class _DenseTile(_Tile):
    """`rows` x `columns` accumulators, two vectors of each row at once in registers."""

    def __init__(
        self, context: Code, builder: Code, signature: Code, arguments: Code, rows: int, columns: int, group: int
    ) -> None:
        super().__init__(context, builder, signature, arguments)
        self.rows, self.columns, self.group = rows, columns, group
        self.codes, self.panels, self.accumulators = (self.array(position) for position in (0, 1, 2))
        _, _, _, self.row, self.panel, self.first, self.last = arguments
        wide = "+avx512bw" in self.features
        self.vector = ir.VectorType(LANE, min(columns, 16 if wide else 8))

    def generate(self) -> Code:
        # two vectors of all rows: 12 of the 16 registers of AVX2 sum up, the others hold weights and codes
        pair = 2 * self.vector.count
        for begin in range(0, self.columns, pair):
            self._pass(range(begin, min(begin + pair, self.columns), self.vector.count))
        return self.context.get_dummy_value()

    def _pass(self, steps: range) -> None:
        builder = self.builder
        sources, places, totals = [], {}, {}
        for row in range(self.rows):
            number = builder.add(self.row, ir.Constant(WORD, row))
            sources.append(self.at(self.codes, number, ir.Constant(WORD, 0)))
            for step in steps:
                column = builder.mul(self.panel, self.size(self.panels, 2))
                column = builder.add(column, ir.Constant(WORD, step))
                places[row, step] = self.at(self.accumulators, number, column)
                totals[row, step] = cgutils.alloca_once(builder, self.vector)
                builder.store(self.load(places[row, step], self.vector, 4), totals[row, step])
        with cgutils.for_range_slice(builder, self.first, self.last, ir.Constant(WORD, 1), inc=True) as (entry, _):
            weights = {
                step: self.load(self.at(self.panels, self.panel, entry, ir.Constant(WORD, step)), self.vector, 4)
                for step in steps
            }
            for row, source in enumerate(sources):
                code = splat(builder, builder.load(builder.gep(source, [entry])), self.vector)
                for step in steps:
                    total = totals[row, step]
                    builder.store(self._dot(builder.load(total), code, weights[step]), total)
        for key, place in places.items():
            self.store(builder.load(totals[key]), place, 4)

    def _dot(self, total: Code, codes: Code, weights: Code) -> Code:
        """`total` + the products of the codes and weights that lie in each 32-bit lane."""
        return self._pairs(total, codes, weights) if self.group == 2 else self._quads(total, codes, weights)

    def _pairs(self, total: Code, codes: Code, weights: Code) -> Code:
        builder, lanes = self.builder, self.vector.count
        name = {("+avx2", 8): "llvm.x86.avx2.pmadd.wd", ("+avx512bw", 16): "llvm.x86.avx512.pmaddw.d.512"}
        for (feature, count), function in name.items():
            if feature in self.features and count == lanes:
                pairs = ir.VectorType(ir.IntType(16), 2 * lanes)
                operands = [builder.bitcast(one, pairs) for one in (codes, weights)]
                return builder.add(total, self.intrinsic(function, self.vector, *operands))
        for place in range(2):
            total = builder.add(total, builder.mul(self._part(codes, place, 16), self._part(weights, place, 16)))
        return total

    def _quads(self, total: Code, codes: Code, weights: Code) -> Code:
        builder, lanes = self.builder, self.vector.count
        bits = 32 * lanes
        wanted = {512: ({"+avx512vnni"},), 256: ({"+avx512vnni", "+avx512vl"}, {"+avxvnni"})}
        if any(one <= self.features for one in wanted.get(bits, ())):
            quads = ir.VectorType(ir.IntType(8), 4 * lanes)
            operands = [builder.bitcast(one, quads) for one in (codes, weights)]
            return self.intrinsic(f"llvm.x86.avx512.vpdpbusd.{bits}", self.vector, total, *operands)
        for place in range(4):
            code = builder.and_(
                builder.lshr(codes, self.constant(8 * place, self.vector)), self.constant(255, self.vector)
            )
            total = builder.add(total, builder.mul(code, self._part(weights, place, 8)))
        return total

    def _part(self, packed: Code, place: int, bits: int) -> Code:
        """The signed number at a place of each lane."""
        up = self.builder.shl(packed, self.constant(32 - bits * (place + 1), self.vector))
        return self.builder.ashr(up, self.constant(32 - bits, self.vector))


class _RowTile(_Tile):
    """Sums of weight rows of bytes, two columns in an int16 lane, or int32 sums of their products with codes."""

    def __init__(self, context: Code, builder: Code, signature: Code, arguments: Code, columns: int) -> None:
        super().__init__(context, builder, signature, arguments)
        self.indices, self.weight, self.accumulators = (self.array(position) for position in (0, 4, 5))
        _, _, self.start, self.end, _, _, self.row, self.first = arguments
        self.half = columns // 2
        self.shorts, self.words = (ir.VectorType(ir.IntType(bits), self.half) for bits in (16, 32))

    def generate(self, *, coded: bool) -> Code:
        builder = self.builder
        second = builder.add(self.first, ir.Constant(WORD, self.half))
        for column, result in zip((self.first, second), self._products() if coded else self._sums(), strict=True):
            place = self.at(self.accumulators, self.row, column)
            self.store(builder.add(self.load(place, self.words, 4), result), place, 4)
        return self.context.get_dummy_value()

    def _totals(self, count: int, kind: Code) -> list[Code]:
        totals = [cgutils.alloca_once(self.builder, kind) for _ in range(count)]
        for total in totals:
            self.builder.store(self.constant(0, kind), total)
        return totals

    def _row(self, entry: Code, kind: Code) -> Code:
        """The weights of an entry's row."""
        index = self.builder.sext(self.builder.load(self.builder.gep(self.indices.data, [entry])), WORD)
        return self.load(self.at(self.weight, index, self.first), kind, 1)

    def _sums(self) -> tuple[Code, Code]:
        """Of both halves of the columns: sums of whole lanes, and of their upper bytes, tell them apart."""
        builder = self.builder
        totals = self._totals(2, self.shorts)
        with cgutils.for_range_slice(builder, self.start, self.end, ir.Constant(WORD, 1), inc=True) as (entry, _):
            row = self._row(entry, self.shorts)
            for total, term in zip(totals, (row, builder.lshr(row, self.constant(8, self.shorts))), strict=True):
                builder.store(builder.add(builder.load(total), term), total)
        low, high = (builder.load(total) for total in totals)
        low = builder.sub(low, builder.shl(high, self.constant(8, self.shorts)))
        return builder.zext(low, self.words), builder.zext(high, self.words)

    def _products(self) -> tuple[Code, Code]:
        """Of both halves of the columns: a lane of 32 bits has two neighbours of each, and needs no widening.

        The compiler takes its instruction for pairs of 16 bits, since it sees that both factors fit there.
        """
        builder, kind = self.builder, self._signature.args[1].dtype
        quads = ir.VectorType(LANE, self.half // 2)
        totals = self._totals(4, quads)
        with cgutils.for_range_slice(builder, self.start, self.end, ir.Constant(WORD, 1), inc=True) as (entry, _):
            row, code = self._row(entry, quads), builder.load(builder.gep(self.array(1).data, [entry]))
            code = splat(builder, (builder.sext if kind.signed else builder.zext)(code, LANE), quads)
            for place, total in enumerate(totals):
                part = builder.and_(builder.lshr(row, self.constant(8 * place, quads)), self.constant(255, quads))
                builder.store(builder.add(builder.load(total), builder.mul(part, code)), total)
        parts = [builder.load(total) for total in totals]
        return self._in_turns(parts[0], parts[2]), self._in_turns(parts[1], parts[3])

    def _in_turns(self, even: Code, odd: Code) -> Code:
        """The lanes of both, one of each in turn."""
        count = even.type.count
        order = [lane // 2 + count * (lane % 2) for lane in range(2 * count)]
        return self.builder.shuffle_vector(even, odd, ir.Constant(ir.VectorType(LANE, 2 * count), order))
