"""The small static functions that exported C files are made of; a file holds those that it calls, in this order.

They are exact by the C99 standard: no negative value is shifted, and the proofs of the program exclude overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

from lpgnas.integer_program import Array
from lpgnas.number_formats import Rounding

_NEEDS = {
    "requantize": ("shift_right",),
    "node_root": ("edges_into",),
}
"""Helpers that a helper calls."""

_ROUNDED = {
    Rounding.HALF_EVEN: "shift_right(value + ((int64_t)1 << (shift - 1)) - 1 + (shift_right(value, shift) & 1), shift)",
    Rounding.HALF_UP: "shift_right(value + ((int64_t)1 << (shift - 1)), shift)",
    Rounding.FLOOR: "shift_right(value, shift)",
}


@dataclass(frozen=True)
class Reader:
    """How the codes of a packed array are read: `name(array, k)` is the k-th one, an int32_t."""

    name: str
    text: str


def reader_of(array: Array) -> Reader:
    """The reader of an array's format; bits are packed as in `program.npz`."""
    bits = array.bits
    sign = "s" if array.signed or array.kind == "ternary" else "u"
    name = "read_binary" if array.kind == "binary" else f"read_{bits}{sign}"
    value = _raw(bits)
    if array.kind == "binary":
        value = f"2 * ({value}) - 1"
    elif sign == "s":
        half = 1 << (bits - 1)
        value = f"(({value}) ^ {half}) - {half}"
    if bits in (1, 2, 4, 8, 16):
        return Reader(name, f"static int32_t {name}(const uint8_t *p, ptrdiff_t k)\n{{\n    return {value};\n}}\n")
    lines = (
        f"static int32_t {name}(const uint8_t *p, ptrdiff_t k)",
        "{",
        f"    const ptrdiff_t first = k * {bits}, last = first + {bits - 1};",
        "    int32_t all = 0, have = 0;",
        "    ptrdiff_t byte;",
        "    for (byte = first >> 3; byte <= last >> 3; ++byte, have += 8)",
        "        all |= (int32_t)p[byte] << have;",
        f"    return {value};",
        "}",
        "",
    )
    return Reader(name, "\n".join(lines))


def _raw(bits: int) -> str:
    if bits == 8:
        return "p[k]"
    if bits == 16:
        return "p[2 * k] | (int32_t)p[2 * k + 1] << 8"
    if bits in (1, 2, 4):
        step = {1: 3, 2: 2, 4: 1}[bits]
        scale = {1: "(k & 7)", 2: "2 * (k & 3)", 4: "4 * (k & 1)"}[bits]
        return f"(p[k >> {step}] >> {scale}) & {(1 << bits) - 1}"
    return f"(all >> (first & 7)) & {(1 << bits) - 1}"


def helper_texts(rounding: Rounding, *, constant_graph: bool, wide_rows: bool) -> dict[str, str]:
    """Every helper by name, in the order of definition.

    Args:
        rounding: of the program.
        constant_graph: whether the graph is compiled in.
        wide_rows: whether the sum of a row of input codes may pass 31 bits.
    """
    texts = {
        "shift_right": _SHIFT_RIGHT,
        "requantize": _REQUANTIZE.replace("@ROUNDED@", _ROUNDED[rounding]),
        "reciprocal": _RECIPROCAL.replace("@KIND@", "uint64_t" if wide_rows else "uint32_t"),
        "tensor_at": _TENSOR_AT,
        "edges_into": _EDGES_INTO,
        "edge_source": _EDGE_SOURCE,
        "node_root": _NODE_ROOT,
        "count_bits": _COUNT_BITS,
        "input_code": _INPUT_CODE,
    }
    if constant_graph:
        texts["edges_into"] = _CONSTANT_EDGES_INTO
        texts["edge_source"] = _CONSTANT_EDGE_SOURCE
    return texts


def with_needs(wanted: set[str]) -> set[str]:
    """`wanted` and all that those call."""
    found, left = set(wanted), list(wanted)
    while left:
        for name in _NEEDS.get(left.pop(), ()):
            if name not in found:
                found.add(name)
                left.append(name)
    return found


_SHIFT_RIGHT = """\
/* floor(value / 2^shift), whatever `>>` makes of negative values: ~value is not negative where value is. */
static int64_t shift_right(int64_t value, int32_t shift)
{
    return value >= 0 ? value >> shift : ~(~value >> shift);
}
"""

_REQUANTIZE = """\
/* value * 2^-shift, rounded once and saturated. */
static int32_t requantize(int64_t value, int32_t shift, int32_t low, int32_t high)
{
    int64_t code;
    if (shift <= 0)
        code = value * ((int64_t)1 << -shift);
    else
        code = @ROUNDED@;
    return code < low ? low : code > high ? high : (int32_t)code;
}
"""

_RECIPROCAL = """\
/* 2^places / d to nearest, 0 for d = 0. */
static int64_t reciprocal(int32_t places, @KIND@ d)
{
    return d == 0 ? 0 : (int64_t)((((@KIND@)2 << places) + d) / (2 * d));
}
"""

_TENSOR_AT = """\
/* The rows of a tensor in the arena. */
static void *tensor_at(const run_state *s, int32_t number)
{
    return s->arena + s->offsets[number];
}
"""

_EDGES_INTO = """\
static int32_t edges_into(const run_state *s, int32_t node)
{
    return s->graph->indptr[node + 1] - s->graph->indptr[node];
}
"""

_EDGE_SOURCE = """\
/* The source of the k-th edge into a node. */
static int32_t edge_source(const run_state *s, int32_t node, int32_t k)
{
    return s->graph->sources[s->graph->indptr[node] + k];
}
"""

_CONSTANT_EDGES_INTO = """\
static int32_t edges_into(const run_state *s, int32_t node)
{
    (void)s;
    return (int32_t)graph_indptr[node + 1] - (int32_t)graph_indptr[node];
}
"""

_CONSTANT_EDGE_SOURCE = """\
/* The source of the k-th edge into a node. */
static int32_t edge_source(const run_state *s, int32_t node, int32_t k)
{
    (void)s;
    return (int32_t)graph_sources[(int32_t)graph_indptr[node] + k];
}
"""

_NODE_ROOT = """\
/* 2^15 / sqrt(degree) to nearest, 0 for degree 0: (1 + the integer root of 2^32 / degree) / 2. */
static int64_t node_root(const run_state *s, int32_t node, int32_t loops)
{
    const uint32_t degree = (uint32_t)(edges_into(s, node) + loops);
    uint32_t quotient, root = 0, bit;
    if (degree < 2)
        return degree == 0 ? 0 : 32768;
    quotient = 0xffffffffu / degree;
    if (0xffffffffu % degree == degree - 1)
        ++quotient; /* degree divides 2^32 */
    for (bit = 32768u; bit != 0; bit >>= 1)
        if ((root + bit) <= quotient / (root + bit))
            root += bit;
    return (int64_t)((1 + root) / 2);
}
"""

_COUNT_BITS = """\
static int32_t count_bits(int32_t byte)
{
    byte -= (byte >> 1) & 0x55;
    byte = (byte & 0x33) + ((byte >> 2) & 0x33);
    return (byte + (byte >> 4)) & 15;
}
"""

_INPUT_CODE = """\
/* One code of the input; 0 where a sparse row has no entry. */
static int32_t input_code(const run_state *s, int32_t node, int32_t column)
{
    const lpgnas_input *x = s->input;
    int32_t entry;
    if (x->dense != NULL)
        return x->dense[(ptrdiff_t)node * LPGNAS_NUM_FEATURES + column];
    for (entry = x->indptr[node]; entry < x->indptr[node + 1]; ++entry)
        if (x->indices[entry] == column)
            return x->codes != NULL ? x->codes[entry] : 1;
    return 0;
}
"""
