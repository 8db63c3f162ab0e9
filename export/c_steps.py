"""One static C function an operation of an integer program: `step_<k>(const run_state *s)`.

Tensors are rows in an arena, constants packed bits, accumulators a scratch of the proved width. The arithmetic is that
of `docs/integer_semantics.md`; nothing else is written into the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lpgnas.errors import ExportError
from lpgnas.export.c_helpers import reader_of
from lpgnas.export.c_score import CScores
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    INPUT_NAME,
    RECIPROCAL_BITS,
    ROW_FACTOR_BITS,
    Aggregate,
    Array,
    Codes,
    IntegerProgram,
    Lookup,
    Operation,
    Part,
    Score,
    Tensor,
    Transform,
    writes,
)
from lpgnas.operators import ATTENTIONS
from lpgnas.program_file import pack_codes
from lpgnas.registry import Registry

MAX_CONSTANT_BITS = 1 << 31
"""Positions in a packed constant are 32-bit integers."""
SCRATCH = "scratch"


@dataclass
class CodeParts:
    """What emitters share, and what they have made so far.

    Attributes:
        program: the program.
        helpers: names of the helpers that the text calls.
        readers: reader functions by name.
        constants: definitions of the packed constants by the program's names.
        identifiers: C identifiers of these constants.
        scratch_bytes: the most that a step needs for its accumulators.
        functions: the text of the steps and of what they call.
    """

    program: IntegerProgram
    helpers: set[str] = field(default_factory=lambda: {"tensor_at"})
    readers: dict[str, str] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    identifiers: dict[str, str] = field(default_factory=dict)
    scratch_bytes: int = 0
    functions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.order = [name for operation in self.program.operations for name in writes(operation)]

    def call(self, helper: str, *arguments: object) -> str:
        """A call of a helper, which the file then holds."""
        self.helpers.add(helper)
        return f"{helper}({', '.join(map(str, arguments))})"

    def requantize(self, value: str, shift: int, low: int, high: int) -> str:
        """The rounded and saturated `value`."""
        return self.call("requantize", value, shift, low, high)

    def read(self, array: Array, place: str, values: Codes | None = None) -> str:
        """The code of a constant at `place`; `values` are its codes in the order of storage, where that differs."""
        if array.name not in self.constants:
            self._define(array, array.values if values is None else values)
        reader = reader_of(array)
        self.readers[reader.name] = reader.text
        return f"{reader.name}({self.identifiers[array.name]}, {place})"

    def _define(self, array: Array, values: Codes) -> None:
        if array.values.size * array.bits >= MAX_CONSTANT_BITS:
            raise ExportError(
                f"C code cannot hold {array.name!r}: {array.values.size} codes of {array.bits} bits pass 2^31 bits; "
                f"use a narrower model"
            )
        packed = pack_codes(values, array.bits, array.kind)
        name = f"array{len(self.constants)}_{re.sub('[^A-Za-z0-9]+', '_', array.name)[:60]}"
        rows = [packed[first : first + 24].tolist() for first in range(0, packed.size, 24)]
        body = ",\n".join("    " + ", ".join(map(str, row)) for row in rows)
        about = f"{array.values.size} {array.kind} codes of {array.bits} bits, fraction {array.fraction}"
        self.identifiers[array.name] = name
        self.constants[array.name] = f"/* {about} */\nstatic const uint8_t {name}[{packed.size}] = {{\n{body}\n}};\n"

    def pointer(self, name: str, variable: str, *, written: bool = False) -> str:
        """The declaration of a variable that points at a tensor's rows."""
        if name == INPUT_NAME:
            raise ExportError(
                "C code reads the input in transforms and shortcuts only; another operation reads it here"
            )
        constant = "" if written else "const "
        place = self.call("tensor_at", "s", self.order.index(name))
        return f"{constant}{c_type(self.program.tensor(name))} *{variable} = {place};"

    def scratch(self, count: int, bits: int, variable: str) -> str:
        """The declaration of accumulators at the start of the scratch."""
        self.scratch_bytes = max(self.scratch_bytes, -(-count * bits // 64) * 8)
        return f"int{bits}_t *{variable} = (void *)s->scratch;"


def c_type(tensor: Tensor) -> str:
    """The narrowest C type of a tensor's codes."""
    width = 8 if tensor.bits <= 8 else 16 if tensor.bits <= 16 else 32
    return f"{'' if tensor.signed else 'u'}int{width}_t"


Emitter = Callable[[CodeParts, str, Any], list[str]]
EMITTERS: Registry[Emitter] = Registry("C emitter of operation")


def emit_step(parts: CodeParts, number: int, operation: Operation) -> None:
    """Add the function of one operation.

    Raises:
        UnknownName: no emitter is registered for its kind.
        ExportError: C code cannot hold it.
    """
    name = f"step_{number}"
    body = EMITTERS.get(type(operation).__name__)(parts, name, operation)
    outputs = ", ".join(re.sub("[^A-Za-z0-9_/ -]+", "_", output).replace("/", " ") for output in writes(operation))
    about = f"/* Block {operation.layer}, {type(operation).__name__.lower()}: {outputs}. */"
    parts.functions.append(function(about, f"static void {name}(const run_state *s)", body))


def function(about: str, head: str, body: list[str]) -> str:
    """The text of a C function."""
    return "\n".join([about, head, "{", *indented(body), "}", ""])


def indented(lines: list[str]) -> list[str]:
    """Lines one level deeper."""
    return [f"    {line}" for line in lines]


def loop(variable: str, end: object, body: list[str]) -> list[str]:
    """`for (variable = 0; variable < end; ++variable) { body }`."""
    return [f"for (int32_t {variable} = 0; {variable} < {end}; ++{variable}) {{", *indented(body), "}"]


def scaled(value: str, shift: int) -> str:
    """`value << shift`, as a product: negative values are not shifted."""
    return value if shift == 0 else f"({value}) * ((int64_t)1 << {shift})"


# --- transform ---


def _emit_transform(parts: CodeParts, name: str, operation: Transform) -> list[str]:
    program, out = parts.program, parts.program.tensor(operation.output)
    columns, bits = out.columns, operation.accumulator_bits
    inputs = program.parts(operation)
    for number, part in enumerate(inputs):
        _emit_gather(parts, f"{name}_gather_{number}", part, columns, bits)
    several = len(inputs) > 1
    lines = [parts.pointer(out.name, "out", written=True), parts.scratch(columns, bits, "sums")]
    body = []
    if several:
        first = -(-columns * bits // 64)
        parts.scratch_bytes = max(parts.scratch_bytes, 8 * (first + columns))
        lines.append(f"int64_t *totals = (int64_t *)(void *)s->scratch + {first};")
        body += loop("o", columns, ["totals[o] = 0;"])
    if operation.degree_factor:
        body.append(f"const int64_t root = {parts.call('node_root', 's', 'n', int(operation.self_loops))};")
    for number, part in enumerate(inputs):
        body += _part_lines(parts, f"{name}_gather_{number}", part, several=several, columns=columns)
    total = "totals[o]" if several else "(int64_t)sums[o]" + (" * row" if inputs[0].row_factor else "")
    if operation.degree_factor:
        total += " * root"
    code = parts.requantize(total, operation.shift, out.low, out.high)
    body += loop("o", columns, [f"out[(ptrdiff_t)n * {columns} + o] = ({c_type(out)}){code};"])
    return lines + loop("n", "s->num_nodes", body)


def _part_lines(parts: CodeParts, gather: str, part: Part, *, several: bool, columns: int) -> list[str]:
    """The sums of one input, its row factor, and its share of the totals."""
    call = f"{gather}(s, n, sums)"
    factor = ""
    lines = [f"{call};"]
    if part.row_factor:
        factor = " * row"
        lines = [f"const int64_t row = {parts.call('reciprocal', ROW_FACTOR_BITS, call)};"]
    if several:
        added = scaled(f"(int64_t)sums[o]{factor}", part.align)
        lines += loop("o", columns, [f"totals[o] += {added};"])
        lines = ["{", *indented(lines), "}"]
    return lines


def row_sum_type(program: IntegerProgram) -> str:
    """The type of the sum of a row of input codes."""
    return "uint64_t" if wide_rows(program) else "uint32_t"


def wide_rows(program: IntegerProgram) -> bool:
    """Whether that sum may be too large for the 32-bit reciprocal."""
    return program.num_features * program.input.high >= (1 << 31) - (1 << 27)


def _emit_gather(parts: CodeParts, name: str, part: Part, columns: int, bits: int) -> None:
    """A function that leaves the sums of products of one row of an input in `sums`, and returns the row's sum."""
    weights = parts.read(part.weight, "at + o", part.weight.values.T)
    kind = f"int{bits}_t"
    zero = loop("o", columns, ["sums[o] = 0;"])
    total = row_sum_type(parts.program) if part.row_factor else ""

    def add(code: str, column: str) -> list[str]:
        product = [f"const ptrdiff_t at = (ptrdiff_t){column} * {columns};"]
        product += loop("o", columns, [f"sums[o] += ({kind}){code} * {weights};"])
        return [f"if ({code} != 0) {{", *indented(product), "}"]

    if part.source.name == INPUT_NAME:
        body = _gather_input(parts, part, add, total)
    else:
        rows = parts.pointer(part.source.name, "rows")
        count = part.source.columns
        code = f"const int32_t code = rows[(ptrdiff_t)n * {count} + f];"
        body = [rows, *loop("f", count, [code, *add("code", "f")])]
    if total:
        zero = [f"{total} total = 0;", *zero]
        body.append("return total;")
    about = (
        f"/* sums[o] = the sum over f of code[n, f] * weight[o, f]{'; returns that of the codes' if total else ''}. */"
    )
    head = f"static {total or 'void'} {name}(const run_state *s, int32_t n, {kind} *sums)"
    parts.functions.append(function(about, head, zero + body))


def _gather_input(parts: CodeParts, part: Part, add: Callable[[str, str], list[str]], total: str) -> list[str]:
    """The two forms of the input: dense rows, or the entries of sparse ones."""
    count, index = part.source.columns, part.index
    summed = [f"total += ({total})code;"] if total else []
    dense_row = [f"const lpgnas_code *row = x->dense + (ptrdiff_t)n * {count};"]
    dense_code, entry_code = "const int32_t code = row[f];", "const int32_t code = x->codes != NULL ? x->codes[e] : 1;"
    entries = "for (int32_t e = x->indptr[n]; e < x->indptr[n + 1]; ++e) {"
    column = "const int32_t f = x->indices[e];"
    if index is None:
        dense = [*dense_row, *loop("f", count, [dense_code, *summed, *add("code", "f")])]
        sparse = [entries, *indented([column, entry_code, *summed, *add("code", "f")]), "}"]
    else:
        kept = [f"if ({parts.read(index, 'f')} != 0) {{", *indented([*add("code", "kept"), "++kept;"]), "}"]
        dense = ["int32_t kept = 0;", *dense_row, *loop("f", count, [dense_code, *summed, *kept])]
        bits = parts.identifiers[index.name]
        before = [
            f"for (; word < f >> 3; ++word) kept += {parts.call('count_bits', f'{bits}[word]')};",
            f"if ({parts.read(index, 'f')} != 0) {{",
            f"    const int32_t place = kept + count_bits({bits}[word] & ((1 << (f & 7)) - 1));",
            *indented(add("code", "place")),
            "}",
        ]
        sparse = [
            "int32_t word = 0, kept = 0; /* bytes of the index behind us, and the kept columns in them */",
            entries,
            *indented([column, entry_code, *summed, *before]),
            "}",
        ]
    return [
        "const lpgnas_input *x = s->input;",
        "if (x->dense != NULL) {",
        *indented(dense),
        "} else {",
        *indented(sparse),
        "}",
    ]


# --- score, look-up ---


def _emit_score(parts: CodeParts, name: str, operation: Score) -> list[str]:
    message = parts.program.tensor(operation.input)
    heads, width = operation.heads, message.columns // operation.heads
    lines, body = [parts.pointer(message.name, "message")], []
    for side, (weight, output) in operation.products().items():
        lines.append(parts.pointer(output, side, written=True))
        code = parts.read(parts.program.array(weight), f"h * {width} + c")
        product = f"sum += (int32_t)message[(ptrdiff_t)n * {message.columns} + h * {width} + c] * {code};"
        one = ["int32_t sum = 0;", *loop("c", width, [product]), f"{side}[(ptrdiff_t)n * {heads} + h] = sum;"]
        body += loop("h", heads, one)
    return lines + loop("n", "s->num_nodes", body)


def _emit_lookup(parts: CodeParts, name: str, operation: Lookup) -> list[str]:
    source, out = parts.program.tensor(operation.input), parts.program.tensor(operation.output)
    entry = parts.read(parts.program.array(operation.table), f"codes[k] - ({source.low})")
    return [
        parts.pointer(source.name, "codes"),
        parts.pointer(out.name, "out", written=True),
        f"const ptrdiff_t count = (ptrdiff_t)s->num_nodes * {out.columns};",
        "for (ptrdiff_t k = 0; k < count; ++k)",
        f"    out[k] = ({c_type(out)}){entry};",
    ]


# --- aggregation ---


def _emit_aggregate(parts: CodeParts, name: str, operation: Aggregate) -> list[str]:
    program = parts.program
    out = program.tensor(operation.output)
    attention = ATTENTIONS.get(operation.attention)
    lines = [parts.pointer(operation.input, "message"), parts.pointer(out.name, "out", written=True)]
    if operation.shortcut not in (None, INPUT_NAME):
        lines.append(parts.pointer(operation.shortcut, "shortcut"))
    if not attention.neighbours:
        own = f"(int64_t)message[(ptrdiff_t)i * {out.columns} + o]"
        return lines + loop("i", "s->num_nodes", loop("o", out.columns, _epilogue(parts, operation, own, "o")))
    width = out.columns // operation.heads
    lines.append(parts.scratch(width, operation.accumulator_bits, "sums"))
    body = [
        f"const int32_t edges = {parts.call('edges_into', 's', 'i')};",
        f"const int32_t degree = edges + {int(operation.self_loops)};",
    ]
    factor = ""
    if attention.degree_factors:
        body.append(f"const int64_t factor = {parts.call('node_root', 's', 'i', int(operation.self_loops))};")
        factor = " * factor"
    elif operation.aggregation == "mean":
        degree = f"({row_sum_type(program)})degree"
        body.append(f"const int64_t factor = {parts.call('reciprocal', COEFFICIENT_BITS, degree)};")
        factor = " * factor"
    if attention.score is None:
        body += _plain_sums(parts, operation, width)
        body += loop("o", width, _epilogue(parts, operation, f"(int64_t)sums[o]{factor}", "o"))
    else:
        _emit_edge_score(parts, f"{name}_score", operation)
        body += loop("h", operation.heads, _attended(parts, f"{name}_score", operation, width, factor))
    return lines + loop("i", "s->num_nodes", body)


def _each_edge(parts: CodeParts, body: list[str]) -> list[str]:
    """`body` for the source j of each edge into node i, the added loop last."""
    source = f"const int32_t j = k < edges ? {parts.call('edge_source', 's', 'i', 'k')} : i;"
    return loop("k", "degree", [source, *body])


def _combine(operation: Aggregate, term: str) -> str:
    """The line that adds a term, or keeps the larger one."""
    if operation.aggregation == "max":
        return f"if (k == 0 || {term} > sums[o]) sums[o] = {term};"
    return f"sums[o] += {term};"


def _plain_sums(parts: CodeParts, operation: Aggregate, width: int) -> list[str]:
    combine = _combine(operation, f"message[(ptrdiff_t)j * {width} + o]")
    return [*loop("o", width, ["sums[o] = 0;"]), *_each_edge(parts, loop("o", width, [combine]))]


def _emit_edge_score(parts: CodeParts, name: str, operation: Aggregate) -> None:
    """The function of the rounded score of the edge j -> i for head h."""
    score = ATTENTIONS.get(operation.attention).score
    if score is None:
        raise ExportError(f"attention {operation.attention} has no score")
    variables = {operation.input: "message"} | {
        tensor: f"{side}_products" for side, tensor in operation.node_scores().items()
    }
    used: dict[str, None] = {}

    def tensor(wanted: str) -> str:
        used[wanted] = None
        return variables[wanted]

    algebra = CScores(parts.program, operation, score, parts.read, tensor)
    raw = score.formula(algebra).text
    rounded = parts.requantize(raw, operation.score_shift, operation.score_low, operation.score_high)
    pointers = [parts.pointer(wanted, variables[wanted]) for wanted in used]
    body = [*pointers, "(void)i;", "(void)j;", *algebra.statements, f"return {rounded};"]
    head = f"static int32_t {name}(const run_state *s, int32_t i, int32_t j, int32_t h)"
    about = f"/* The {operation.attention} score of the edge j -> i for head h. */"
    parts.functions.append(function(about, head, body))


def _attended(parts: CodeParts, score: str, operation: Aggregate, width: int, factor: str) -> list[str]:
    """The softmax-weighted messages of one head into node i; every score is computed twice, none is kept."""
    table = parts.program.array(operation.table or "")
    columns = width * operation.heads
    term = f"({parts_kind(operation)})p * message[(ptrdiff_t)j * {columns} + h * {width} + o]"
    highest = [
        f"const int32_t q = {score}(s, i, j, h);",
        "if (k == 0 || q > best) best = q;",
    ]
    added = [
        f"const int32_t distance = best - {score}(s, i, j, h);",
        f"const int32_t p = distance < {table.values.size} ? {parts.read(table, 'distance')} : 0;",
        "mass += p;",
        *loop("o", width, [_combine(operation, term)]),
    ]
    inverse = parts.call("reciprocal", RECIPROCAL_BITS, f"({row_sum_type(parts.program)})mass")
    place = f"h * {width} + o"
    return [
        "int32_t best = 0, mass = 0;",
        "int64_t inverse;",
        *loop("o", width, ["sums[o] = 0;"]),
        *_each_edge(parts, highest),
        *_each_edge(parts, added),
        f"inverse = {inverse};",
        *loop("o", width, _epilogue(parts, operation, f"(int64_t)sums[o] * inverse{factor}", place)),
    ]


def parts_kind(operation: Aggregate) -> str:
    """The accumulator type of an operation."""
    return f"int{operation.accumulator_bits}_t"


def _epilogue(parts: CodeParts, operation: Aggregate, term: str, column: str) -> list[str]:
    """The one rounding of output column `column` of node i."""
    program, out = parts.program, parts.program.tensor(operation.output)
    total = [scaled(term, operation.term_shift)]
    if operation.bias is not None:
        total.append(scaled(f"(int64_t){parts.read(program.array(operation.bias), column)}", operation.bias_shift))
    place = f"(ptrdiff_t)i * {out.columns} + {column}"
    if operation.shortcut == INPUT_NAME:
        total.append(scaled(f"(int64_t){parts.call('input_code', 's', 'i', column)}", operation.shortcut_shift))
    elif operation.shortcut is not None:
        total.append(scaled(f"(int64_t)shortcut[{place}]", operation.shortcut_shift))
    code = parts.requantize(" + ".join(total), operation.shift, operation.clamp_low, operation.clamp_high)
    return [f"out[{place}] = ({c_type(out)}){code};"]


EMITTERS.add("Transform", _emit_transform)
EMITTERS.add("Score", _emit_score)
EMITTERS.add("Aggregate", _emit_aggregate)
EMITTERS.add("Lookup", _emit_lookup)
