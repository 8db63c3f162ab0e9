"""LLVM code of the rows of `lpgnas.kernels.aggregation`: imported when Numba compiles them.

A row is cut into tiles of columns. The sums of a tile stay in vector registers over all edges of the row: in the short
type for a block of edges, which cannot overflow it, then widened to int32 (or to int16, where that holds all sums). The
epilogue follows in the same registers.
LLVM splits vectors that the machine lacks.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lpgnas.kernels.vector_tiles import Code, VectorCode

TILES = (128, 64, 32, 16, 8, 4, 2, 1)
"""Columns of a tile. What is left of a row takes the largest tile that it fills to more than half."""
LANES = {16: 64, 32: 32, 64: 16}
"""Columns of the epilogue that are in registers at once, by the bits of its arithmetic."""
AHEAD = 16
"""How many edges ahead messages are fetched into the cache."""
CACHE_LINE = 64


def row_intrinsic(*, weighted: bool, maximum: bool, bits: int = 0) -> Code:
    """The intrinsic of a row; its arguments are those of the Python function that it stands for.

    With `bits`, messages are packed (`lpgnas.kernels.packed`), and `origin` is the smallest code.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def row(
        typing_context: Code,
        sources: Code,
        weights: Code,
        origin: Code,
        edges: Code,
        like: Code,
        block: Code,
        message: Code,
        columns: Code,
        epilogue: Code,
        factor: Code,
        out: Code,
        node: Code,
    ) -> Code:
        arrays = (sources, weights, message, out, like)
        if any(array.layout != "C" for array in arrays):
            raise TypeError(f"rows need C-contiguous arrays, got {arrays}")
        integer = types.int64
        pair = types.UniTuple(integer, 2)
        head = (sources, weights, integer, pair, like, integer, message)
        signature = types.void(*head, pair, epilogue, integer, out, integer)

        def generate(context: Code, builder: Code, signature: Code, arguments: Code) -> Code:
            epilogue_code = EpilogueCode(context, builder, signature.args[8:], arguments[8:])
            code = _Row(context, builder, signature, arguments, epilogue_code)
            done = builder.append_basic_block("row.done")
            for width in TILES:
                code.tiles(width, done, weighted=weighted, maximum=maximum, bits=bits)
            builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, generate

    return row


class EpilogueCode(VectorCode):
    """The epilogue of sums, as `lpgnas.kernels.aggregation.RowEpilogue` says.

    Its arithmetic is that of the bias: int16, int32, or float64, which holds every integer below 2^53. Sums are int16
    or, for the others, int32.
    """

    def __init__(self, context: Code, builder: Code, kinds: Code, arguments: Code) -> None:
        super().__init__(context, builder)
        fields = dict(zip(kinds[0].fields, kinds[0].types, strict=True))
        values = {name: builder.extract_value(arguments[0], k) for k, name in enumerate(fields)}
        self.bias = self.array(fields["bias"], values["bias"])
        self.shortcut = self.array(fields["shortcut"], values["shortcut"])
        self.shortcut_signed = fields["shortcut"].dtype.signed
        self.out, self.node = self.array(kinds[2], arguments[2]), arguments[3]
        self.element = context.get_value_type(fields["bias"].dtype)
        self.real = isinstance(self.element, ir.DoubleType)
        self.total = ir.IntType(32) if self.real else self.element
        self.counts: Code = None
        if fields["clipped"].dtype == types.int64:
            self.counts, self.counted = self.array(fields["clipped"], values["clipped"]), values["counted"]
        self.narrow = context.get_value_type(kinds[2].dtype)
        self.scale = self._product(self._scalar(arguments[1]), self._scalar(values["scale"]))
        self.even = builder.icmp_signed("!=", values["tie"], self.integer(0))
        names = ("shortcut_scale", "right", "addend", "tie", "low", "high")
        self.constants = {name: self._scalar(values[name]) for name in names}

    def _scalar(self, value: Code) -> Code:
        """A number of 64 bits in the type of the arithmetic, exactly."""
        if self.real and isinstance(value.type, ir.IntType):
            return self.builder.sitofp(value, self.element)
        return value if self.real else self.builder.trunc(value, self.element)

    def _product(self, a: Code, b: Code) -> Code:
        return self.builder.fmul(a, b) if self.real else self.builder.mul(a, b)

    def _sum(self, a: Code, b: Code) -> Code:
        return self.builder.fadd(a, b) if self.real else self.builder.add(a, b)

    def generate(self, totals: Code, first: Code, fresh: Code) -> None:
        """The epilogue of the columns from `first` on, of which those before `fresh` have been counted."""
        width, lane = totals.type.count, ir.IntType(32)
        count = min(LANES[64 if self.real else self.total.width], width)
        parts = []
        for begin in range(0, width, count):
            mask = ir.Constant(ir.VectorType(lane, count), list(range(begin, begin + count)))
            part = self.builder.shuffle_vector(totals, ir.Constant(totals.type, ir.Undefined), mask)
            parts.append(self._write(part, self.builder.add(first, self.integer(begin))))
        if self.counts is not None:
            self._count(parts, first, fresh)

    def _write(self, totals: Code, first: Code) -> tuple[Code, Code]:
        """The epilogue of some columns; their results before and after the clamp."""
        builder, width = self.builder, totals.type.count
        vector = ir.VectorType(self.element, width)
        value = builder.sitofp(totals, vector) if self.real else totals
        bias = self.load(builder.bitcast(builder.gep(self.bias.data, [first]), vector.as_pointer()))
        value = self._sum(self._product(value, self.splat(self.scale, width)), bias)
        total = cgutils.alloca_once(builder, vector)
        builder.store(value, total)
        columns = builder.extract_value(self.shortcut.shape, 1)
        with builder.if_then(builder.icmp_signed("!=", columns, self.integer(0))):
            own = self._product(self._shortcut(first, vector), self._splat_constant("shortcut_scale", width))
            builder.store(self._sum(value, own), total)
        rounded = self._rounded(builder.load(total))
        codes = clamped = self._clamped(rounded)
        codes = builder.fptosi(codes, ir.VectorType(self.total, width)) if self.real else codes
        narrow = ir.VectorType(self.narrow, width)
        codes = builder.trunc(codes, narrow) if self.narrow.width < self.total.width else codes
        self.store(codes, self.columns(self.out, self.node, first, narrow))
        return rounded, clamped

    def _splat_constant(self, name: str, width: int) -> Code:
        return self.splat(self.constants[name], width)

    def _shortcut(self, first: Code, vector: Code) -> Code:
        builder = self.builder
        codes = ir.VectorType(self.shortcut.data.type.pointee, vector.count)
        own = self.load(self.columns(self.shortcut, self.node, first, codes))
        own = self.extended(own, ir.VectorType(self.total, vector.count), signed=self.shortcut_signed)
        return builder.sitofp(own, vector) if self.real else own

    def _rounded(self, total: Code) -> Code:
        builder, width = self.builder, total.type.count
        raised = self._sum(total, self._splat_constant("addend", width))
        if self.real:
            down, nearest = (self._call(f"llvm.{name}", raised) for name in ("floor", "rint"))
            return builder.select(self.even, nearest, down)
        right, tie = (self._splat_constant(name, width) for name in ("right", "tie"))
        parity = builder.and_(builder.ashr(total, right), tie)
        return builder.ashr(builder.add(raised, parity), right)

    def _clamped(self, value: Code) -> Code:
        builder, width = self.builder, value.type.count
        compare = builder.fcmp_ordered if self.real else builder.icmp_signed
        for name, beyond in (("low", "<"), ("high", ">")):
            limit = self._splat_constant(name, width)
            value = builder.select(compare(beyond, value, limit), limit, value)
        return value

    def _count(self, parts: list[tuple[Code, Code]], first: Code, fresh: Code) -> None:
        """Add up what of a tile is clamped, but for columns that another tile counts, or that do not exist.

        Args:
            parts: results before and after the clamp, of as many columns each.
            first: the first column.
            fresh: the first one that no tile has counted.

        A format that fits clamps few results, so that most tiles cost a comparison a vector and one branch.
        """
        builder, width = self.builder, parts[0][0].type.count
        unequal = builder.fcmp_unordered if self.real else builder.icmp_signed
        differs = unequal("!=", *parts[0])
        for part in parts[1:]:
            differs = builder.or_(differs, unequal("!=", *part))
        bits = ir.IntType(width)
        with builder.if_then(builder.icmp_unsigned("!=", builder.bitcast(differs, bits), bits(0)), likely=False):
            for number, part in enumerate(parts):
                self._count_part(*part, builder.add(first, self.integer(number * width)), fresh)

    def _count_part(self, value: Code, clamped: Code, first: Code, fresh: Code) -> None:
        builder, width, lane = self.builder, value.type.count, ir.IntType(32)
        lanes = ir.Constant(ir.VectorType(lane, width), list(range(width)))
        begin, end = (
            self.splat(builder.trunc(builder.sub(column, first), lane), width) for column in (fresh, self.counted)
        )
        counted = builder.and_(builder.icmp_signed(">=", lanes, begin), builder.icmp_signed("<", lanes, end))
        compare = builder.fcmp_ordered if self.real else builder.icmp_signed
        for place, beyond in enumerate(("<", ">")):
            clipped = builder.and_(compare(beyond, value, clamped), counted)
            number = builder.ctpop(builder.zext(builder.bitcast(clipped, ir.IntType(width)), self.word))
            pointer = builder.gep(self.counts.data, [self.integer(place)])
            builder.store(builder.add(builder.load(pointer), number), pointer)

    def _call(self, name: str, vector: Code) -> Code:
        kind = ir.FunctionType(vector.type, [vector.type])
        called = cgutils.get_or_insert_function(self.builder.module, kind, f"{name}.v{vector.type.count}f64")
        return self.builder.call(called, [vector])


class _Row(VectorCode):
    """The code of a row."""

    def __init__(self, context: Code, builder: Code, signature: Code, arguments: Code, epilogue: EpilogueCode) -> None:
        super().__init__(context, builder)
        self.sources, self.weights, self.message = (
            self.array(signature.args[position], arguments[position]) for position in (0, 1, 6)
        )
        self.start, self.end = (builder.extract_value(arguments[3], k) for k in (0, 1))
        self.origin, self.block, self.epilogue = arguments[2], arguments[5], epilogue
        self.first, self.last = (builder.extract_value(arguments[7], k) for k in (0, 1))
        self.code = context.get_value_type(signature.args[6].dtype)
        self.signed = signature.args[6].dtype.signed
        self.short = context.get_value_type(signature.args[4].dtype)
        edges = builder.extract_value(self.sources.shape, 0)
        self.position = cgutils.alloca_once_value(builder, self.first)
        self.last_edge = builder.sub(edges, self.integer(1))

    def tiles(self, width: int, row_done: Code, *, weighted: bool, maximum: bool, bits: int) -> None:
        """All tiles of a width, in the order of falling widths. One may go back to columns that are written already."""
        builder = self.builder
        if bits and width * 8 // bits > TILES[0]:
            return
        whole = builder.sub(self.last, self.first)
        with builder.if_then(builder.icmp_signed(">=", whole, self.integer(width))):
            test, body, done = (builder.append_basic_block(f"tile{width}.{name}") for name in ("test", "body", "done"))
            builder.branch(test)
            builder.position_at_end(test)
            left = builder.sub(self.last, builder.load(self.position))
            builder.cbranch(builder.icmp_signed(">", left, self.integer(width // 2)), body, done)
            builder.position_at_end(body)
            fresh = builder.load(self.position)
            begin = self._smaller(fresh, builder.sub(self.last, self.integer(width)))
            if bits:
                self._packed(width, begin, fresh, bits)
            elif maximum:
                self.epilogue.generate(self._largest(width, begin, weighted=weighted), begin, fresh)
            else:
                self.epilogue.generate(self._sums(width, begin, weighted), begin, fresh)
            builder.store(builder.add(fresh, self.integer(width)), self.position)
            builder.branch(test)
            builder.position_at_end(done)
            rest = builder.append_basic_block(f"tile{width}.rest")
            builder.cbranch(builder.icmp_signed(">", left, self.integer(0)), rest, row_done)
            builder.position_at_end(rest)

    def _packed(self, width: int, begin: Code, fresh: Code, bits: int) -> None:
        """The sums of all planes of `width` bytes, each with its epilogue."""
        builder, planes = self.builder, 8 // bits
        narrow, wide = ir.VectorType(self.code, width), ir.VectorType(self.epilogue.total, width)
        parts, totals = ([cgutils.alloca_once(builder, kind) for _ in range(planes)] for kind in (narrow, wide))
        lowest = builder.trunc(builder.mul(self.origin, builder.sub(self.end, self.start)), self.epilogue.total)
        for total in totals:
            builder.store(self.splat(lowest, width), total)
        with cgutils.for_range_slice(builder, self.start, self.end, self.block, inc=True) as (block, _):
            for part in parts:
                builder.store(ir.Constant(narrow, None), part)
            end = self._smaller(builder.add(block, self.block), self.end)
            with cgutils.for_range_slice(builder, block, end, self.integer(1), inc=True) as (edge, _):
                row = self._term(edge, begin, narrow, weighted=False)
                for plane, part in enumerate(parts):
                    builder.store(builder.add(builder.load(part), self._plane(row, plane, bits)), part)
            for part, total in zip(parts, totals, strict=True):
                builder.store(builder.add(builder.load(total), builder.zext(builder.load(part), wide)), total)
        row_bytes = builder.extract_value(self.message.shape, 1)
        for plane, total in enumerate(totals):
            offset = builder.mul(row_bytes, self.integer(plane))
            self.epilogue.generate(builder.load(total), builder.add(begin, offset), builder.add(fresh, offset))

    def _plane(self, row: Code, plane: int, bits: int) -> Code:
        width = row.type.count
        shift, mask = (ir.Constant(row.type, [value] * width) for value in (plane * bits, (1 << bits) - 1))
        return self.builder.and_(self.builder.lshr(row, shift), mask)

    def _sums(self, width: int, begin: Code, weighted: bool) -> Code:
        """Block by block; most rows have one."""
        builder = self.builder
        totals = cgutils.alloca_once(builder, ir.VectorType(self.epilogue.total, width))
        after = builder.add(self.start, self.block)
        builder.store(self._block(width, begin, self.start, self._smaller(after, self.end), weighted), totals)
        with cgutils.for_range_slice(builder, after, self.end, self.block, inc=True) as (block, _):
            end = self._smaller(builder.add(block, self.block), self.end)
            builder.store(builder.add(builder.load(totals), self._block(width, begin, block, end, weighted)), totals)
        return builder.load(totals)

    def _smaller(self, a: Code, b: Code) -> Code:
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def _block(self, width: int, begin: Code, start: Code, end: Code, weighted: bool) -> Code:
        """Sums over the edges from `start` to `end`, which the short type holds."""
        builder, short = self.builder, ir.VectorType(self.short, width)
        part = cgutils.alloca_once(builder, short)
        builder.store(ir.Constant(short, None), part)
        with cgutils.for_range_slice(builder, start, end, self.integer(1), inc=True) as (edge, _):
            builder.store(builder.add(builder.load(part), self._term(edge, begin, short, weighted)), part)
        return self.extended(builder.load(part), ir.VectorType(self.epilogue.total, width), signed=True)

    def _largest(self, width: int, begin: Code, *, weighted: bool) -> Code:
        builder = self.builder
        kind = ir.VectorType(self.short if weighted else self.code, width)
        signed = weighted or self.signed
        best = cgutils.alloca_once(builder, kind)
        builder.store(ir.Constant(kind, None), best)
        with builder.if_then(builder.icmp_signed("<", self.start, self.end)):
            builder.store(self._term(self.start, begin, kind, weighted), best)
        second = builder.add(self.start, self.integer(1))
        with cgutils.for_range_slice(builder, second, self.end, self.integer(1), inc=True) as (edge, _):
            term, so_far = self._term(edge, begin, kind, weighted), builder.load(best)
            larger = (builder.icmp_signed if signed else builder.icmp_unsigned)(">", term, so_far)
            builder.store(builder.select(larger, term, so_far), best)
        return self.extended(builder.load(best), ir.VectorType(self.epilogue.total, width), signed=signed)

    def _term(self, edge: Code, begin: Code, kind: Code, weighted: bool) -> Code:
        """The message of an edge in the short type, times its weight."""
        builder = self.builder
        self._fetch_ahead(edge, begin, kind.count)
        codes = ir.VectorType(self.code, kind.count)
        pointer = self.columns(self.message, self.index_at(self.sources, edge), begin, codes)
        term = self.extended(self.load(pointer), kind, signed=self.signed)
        if not weighted:
            return term
        weight = builder.load(builder.gep(self.weights.data, [builder.add(edge, self.origin)]))
        weight = builder.zext(weight, kind.element) if kind.element.width > weight.type.width else weight
        return builder.mul(term, self.splat(weight, kind.count))

    def _fetch_ahead(self, edge: Code, begin: Code, width: int) -> None:
        builder, byte, flag = self.builder, ir.IntType(8), ir.IntType(32)
        later = self._smaller(builder.add(edge, self.integer(AHEAD)), self.last_edge)
        codes = ir.VectorType(self.code, width)
        pointer = self.columns(self.message, self.index_at(self.sources, later), begin, codes)
        pointer = builder.bitcast(pointer, byte.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), flag, flag, flag])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte.as_pointer()], kind)
        for offset in range(0, width * self.code.width // 8, CACHE_LINE):
            line = builder.gep(pointer, [self.integer(offset)])
            builder.call(prefetch, [line, *(ir.Constant(flag, value) for value in (0, 3, 1))])
