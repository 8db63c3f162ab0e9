"""`c/lpgnas_model.h` and `c/lpgnas_model.c`: an integer program as C99, integers only, without allocation or library.

The graph is an argument (CSR by target) or compiled in. Tensors live in one arena of the caller, laid out by the plan
of `lpgnas.kernels.arena`: by constants where the largest number of nodes is known, else by the same first fit in C.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from lpgnas import __version__, program_file
from lpgnas.errors import ExportError
from lpgnas.export.c_helpers import helper_texts, with_needs
from lpgnas.export.c_steps import CodeParts, c_type, emit_step, function, indented, loop, wide_rows
from lpgnas.integer_program import Aggregate, IntegerProgram, Tensor, Transform, writes
from lpgnas.kernels.arena import ALIGNMENT, last_uses, plan_arena
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.quantize import code_dtype
from lpgnas.proofs import check_program

HEADER, SOURCE = "lpgnas_model.h", "lpgnas_model.c"
SCHEMA = "lpgnas-c-1"
STATUSES = (
    ("OK", "the logits are there"),
    ("ERROR_NULL", "a pointer that is needed is NULL"),
    ("ERROR_NUM_NODES", "fewer than one node, or more than the file or the machine holds"),
    ("ERROR_INDPTR", "indptr does not rise from 0 to the number of edges or entries"),
    ("ERROR_SOURCE", "the source of an edge is not a node"),
    ("ERROR_DEGREE", "a node has more incoming edges than LPGNAS_MAX_DEGREE"),
    ("ERROR_COLUMN", "the columns of a sparse row do not rise, or are none of the input's"),
    ("ERROR_CODE", "a code of the input is beyond LPGNAS_INPUT_LOW or LPGNAS_INPUT_HIGH"),
    ("ERROR_ARENA", "the arena is too small, or does not start at a multiple of LPGNAS_ARENA_ALIGNMENT"),
)
"""What functions of a file return, by value."""
SCRATCH_ALIGNMENT = 8
MAX_CONSTANT_NODES = 1 << 20


@dataclass(frozen=True)
class CSource:
    """The two files.

    Attributes:
        header: `lpgnas_model.h`.
        source: `lpgnas_model.c`.
    """

    header: bytes
    source: bytes

    def files(self) -> dict[str, bytes]:
        """Contents by file name."""
        return {HEADER: self.header, SOURCE: self.source}


@dataclass(frozen=True)
class CodeOptions:
    """What a file is made for.

    Attributes:
        max_nodes: the largest number of nodes, which makes the arena's size a constant; None for any number.
        graph: the graph that is compiled in, without the loops that a model adds; None to take it as an argument.

    Raises:
        ExportError: a number of nodes that cannot be, or that contradicts the graph.
    """

    max_nodes: int | None = None
    graph: CsrGraph | None = None

    def __post_init__(self) -> None:
        if self.max_nodes is not None and not 1 <= self.max_nodes < 1 << 31:
            raise ExportError(f"C code for at most {self.max_nodes} nodes cannot be; say 1 to 2^31 - 1")
        if self.graph is None:
            return
        if self.max_nodes not in (None, self.graph.num_nodes):
            raise ExportError(f"the graph that is compiled in has {self.graph.num_nodes} nodes, not {self.max_nodes}")
        if self.graph.self_loops:
            raise ExportError("the graph that is compiled in must come without added self-loops; the code adds them")
        if self.graph.num_nodes > MAX_CONSTANT_NODES:
            raise ExportError(
                f"a graph of {self.graph.num_nodes} nodes is too large to be compiled in "
                f"(at most {MAX_CONSTANT_NODES}); leave it an argument"
            )

    @property
    def nodes(self) -> int | None:
        """The most nodes of a call, None for any number."""
        return self.max_nodes if self.graph is None else self.graph.num_nodes


def export_c(program: IntegerProgram, options: CodeOptions | None = None) -> CSource:
    """The C files of a program; equal programs and options give equal bytes.

    Raises:
        ProgramError: a proof of the program does not hold.
        ExportError: a program, or a graph to compile in, that C code of this form cannot hold.
        DegreeError: the graph to compile in has a node beyond `max_degree`.
        UnknownName: an operation without emitter.
    """
    check_program(program)
    options = options or CodeOptions()
    if options.graph is not None:
        options.graph.check_degree(program.max_degree)
    if program.num_features * 4 >= 1 << 31:
        raise ExportError(f"C code indexes columns with 32 bits; {program.num_features} features are too many")
    parts = _steps(program)
    return CSource(_header(program, options, parts).encode("ascii"), _source(program, options, parts).encode("ascii"))


def arena_bytes(program: IntegerProgram, num_nodes: int) -> int:
    """Bytes of the arena for `num_nodes` nodes, as `lpgnas_arena_bytes`: the plan of the tensors, then the scratch."""
    return _arena_bytes(_steps(program), num_nodes)


def _steps(program: IntegerProgram) -> CodeParts:
    parts = CodeParts(program)
    for number, operation in enumerate(program.operations):
        emit_step(parts, number, operation)
    return parts


def _arena_bytes(parts: CodeParts, num_nodes: int) -> int:
    size = plan_arena(parts.program, num_nodes).size
    return -(-size // SCRATCH_ALIGNMENT) * SCRATCH_ALIGNMENT + parts.scratch_bytes


def input_type(program: IntegerProgram) -> str:
    """The C type of an input code."""
    return c_type(program.input)


def _quoted(value: object) -> str:
    """JSON that may stand in a C comment: neither ends one nor starts one, nor holds a trigraph of a backslash."""
    return re.sub(r"(?<=[*?])/|/(?=\*)", r"\\u002f", json.dumps(value, ensure_ascii=True))


def _accumulators(program: IntegerProgram) -> dict[str, int]:
    return {op.output: op.accumulator_bits for op in program.operations if isinstance(op, (Transform, Aggregate))}


def _comment(program: IntegerProgram) -> str:
    """The metadata, one fact a line."""
    made = _accumulators(program)
    digest = hashlib.sha256(program_file.to_bytes(program)).hexdigest()
    lines = [
        "A low-precision graph neural network as integer arithmetic; made by a program, not by hand.",
        "",
        f"schema            {SCHEMA}",
        f"producer          lpgnas {__version__}",
        f"program_sha256    {digest}",
        f"rounding          {program.rounding.value}",
        f"row_normalize     {json.dumps(program.row_normalize)}",
        f"max_degree        {program.max_degree}",
        *(f"metadata          {_quoted(key)}: {_quoted(value)}" for key, value in sorted(program.metadata.items())),
        "",
        "tensors: name, columns (one row a node), bits, fraction, signed, bits of the accumulator behind it",
    ]
    for tensor in (program.input, *program.tensors):
        fields = (tensor.columns, tensor.bits, tensor.fraction, tensor.signed, made.get(tensor.name))
        lines.append(f"  {_quoted(tensor.name)}: {json.dumps(fields)}")
    lines += ["", "constants: name, kind, elements, bits, fraction, signed; each is packed to elements x bits"]
    for array in program.arrays:
        described = (array.kind, int(array.values.size), array.bits, array.fraction, array.signed)
        lines.append(f"  {_quoted(array.name)}: {json.dumps(described)}")
    return "\n".join(["/*", *(f" * {line}".rstrip() for line in lines), " */"])


def _macros(program: IntegerProgram, options: CodeOptions, parts: CodeParts) -> list[str]:
    x, logits = program.input, program.logits
    digest = hashlib.sha256(program_file.to_bytes(program)).hexdigest()
    facts: list[tuple[str, object, str]] = [
        ("VERSION", f'"{__version__}"', ""),
        ("PROGRAM_SHA256", f'"{digest}"', ""),
        ("ROUNDING", f'"{program.rounding.value}"', ""),
        ("NUM_FEATURES", program.num_features, ""),
        ("NUM_CLASSES", program.num_classes, ""),
        ("MAX_DEGREE", program.max_degree, "incoming edges of a node that the accumulators are proved for"),
        ("INPUT_BITS", x.bits, ""),
        ("INPUT_FRACTION", x.fraction, "a code is round(value * 2^fraction), saturated"),
        ("INPUT_SIGNED", int(x.signed), ""),
        ("INPUT_LOW", x.low, ""),
        ("INPUT_HIGH", x.high, ""),
        ("LOGIT_BITS", logits.bits, ""),
        ("LOGIT_FRACTION", logits.fraction, "a logit is code * 2^-fraction"),
        ("LOGIT_SIGNED", int(logits.signed), ""),
        ("CONSTANT_BITS", sum(a.values.size * a.bits for a in program.arrays), "all weights, biases and tables"),
        ("SCRATCH_BYTES", parts.scratch_bytes, "part of the arena"),
        ("ARENA_ALIGNMENT", SCRATCH_ALIGNMENT, ""),
    ]
    if options.nodes is not None:
        facts += [
            ("MAX_NODES", options.nodes, ""),
            ("ARENA_BYTES", _arena_bytes(parts, options.nodes), "enough for every call"),
        ]
    if options.graph is not None:
        facts += [
            ("CONSTANT_GRAPH", 1, "the graph is compiled in"),
            ("NUM_NODES", options.graph.num_nodes, ""),
            ("NUM_EDGES", options.graph.sources.size, ""),
        ]
    texts = [(f"#define LPGNAS_{name} {_literal(value)}", why) for name, value, why in facts]
    return [text + (f" /* {why} */" if why else "") for text, why in texts]


def _literal(value: object) -> str:
    return f"({value})" if isinstance(value, int) and value < 0 else str(value)


def _prototypes(options: CodeOptions) -> dict[str, str]:
    """Heads of the public functions by name."""
    graph = "" if options.graph is not None else "const lpgnas_graph *graph, "
    rest = "const lpgnas_input *input, void *arena, size_t arena_bytes, const lpgnas_logit **logits"
    heads = {
        "arena_bytes": "size_t lpgnas_arena_bytes(int32_t num_nodes)",
        "check_graph": "lpgnas_status lpgnas_check_graph(const lpgnas_graph *graph)",
        "check_input": "lpgnas_status lpgnas_check_input(int32_t num_nodes, const lpgnas_input *input)",
        "run": f"lpgnas_status lpgnas_run({graph}{rest})",
        "run_unchecked": f"lpgnas_status lpgnas_run_unchecked({graph}{rest})",
    }
    if options.graph is not None:
        del heads["check_graph"]
    return heads


_GRAPH_TYPE = """\
/* A directed multigraph by target: the edges into node i come from sources[indptr[i]] to sources[indptr[i + 1] - 1].
 * Loops that the model adds are not among them. */
typedef struct {
    int32_t num_nodes;
    int32_t num_edges;
    const int32_t *indptr;  /* [num_nodes + 1] */
    const int32_t *sources; /* [num_edges] */
} lpgnas_graph;
"""

_INPUT_TYPE = """\
/* The codes of the features, as dense rows, or (dense NULL) as the entries of sparse rows with rising columns. */
typedef struct {
    const lpgnas_code *dense; /* [num_nodes * LPGNAS_NUM_FEATURES], or NULL */
    int32_t num_entries;
    const int32_t *indptr;    /* [num_nodes + 1] */
    const int32_t *indices;   /* [num_entries] columns */
    const lpgnas_code *codes; /* [num_entries], or NULL where every entry is 1 */
} lpgnas_input;
"""

_ABOUT = {
    "arena_bytes": "Bytes of the arena that a graph of this size needs; 0 where it cannot be.",
    "check_graph": "Whether every promise about a graph holds.",
    "check_input": "Whether every promise about the input of a graph of `num_nodes` nodes holds.",
    "run": (
        "Checks, then computes: *logits points at [num_nodes * LPGNAS_NUM_CLASSES] codes in the arena, which stay\n"
        " * there until the arena is used again. The arena is any memory, at a multiple of LPGNAS_ARENA_ALIGNMENT."
    ),
    "run_unchecked": "The same for a graph and an input that were checked before.",
}


def _header(program: IntegerProgram, options: CodeOptions, parts: CodeParts) -> str:
    statuses = [f"    LPGNAS_{name} = {k}, /* {why} */" for k, (name, why) in enumerate(STATUSES)]
    statuses[-1] = statuses[-1].replace(", /*", " /*", 1)
    blocks = [
        _comment(program),
        "#ifndef LPGNAS_MODEL_H\n#define LPGNAS_MODEL_H",
        "#include <stddef.h>\n#include <stdint.h>",
        "\n".join(_macros(program, options, parts)),
        "\n".join(["typedef enum {", *statuses, "} lpgnas_status;"]),
        f"typedef {input_type(program)} lpgnas_code;\ntypedef {c_type(program.logits)} lpgnas_logit;",
        *([] if options.graph is not None else [_GRAPH_TYPE.rstrip()]),
        _INPUT_TYPE.rstrip(),
        '#ifdef __cplusplus\nextern "C" {\n#endif',
        *(f"/* {_ABOUT[name]} */\n{head};" for name, head in _prototypes(options).items()),
        "#ifdef __cplusplus\n}\n#endif",
        "#endif",
    ]
    return "\n\n".join(blocks) + "\n"


def _source(program: IntegerProgram, options: CodeOptions, parts: CodeParts) -> str:
    public = _public_functions(program, options, parts)
    texts = helper_texts(program.rounding, constant_graph=options.graph is not None, wide_rows=wide_rows(program))
    needed = with_needs(parts.helpers)
    blocks = [
        f"/* Generated by lpgnas {__version__}; {HEADER} says what it is. */",
        f'#include "{HEADER}"',
        "/* A machine of at least 32 bits. */\n"
        "typedef char lpgnas_wide_enough[sizeof(int) >= 4 && sizeof(ptrdiff_t) >= 4 ? 1 : -1];",
        *_graph_constants(options, needed),
        *parts.constants.values(),
        _state_type(options),
        *(text for name, text in texts.items() if name in needed),
        *parts.readers.values(),
        *parts.functions,
        *public,
    ]
    return "\n\n".join(block.rstrip() for block in blocks) + "\n"


def _graph_constants(options: CodeOptions, needed: set[str]) -> list[str]:
    """What is read of the graph as constants, each in the narrowest type."""
    if options.graph is None:
        return []
    made = []
    arrays = {"graph_indptr": options.graph.indptr, "graph_sources": options.graph.sources}
    readers = {"graph_indptr": {"edges_into", "edge_source"}, "graph_sources": {"edge_source"}}
    for name, values in arrays.items():
        if not readers[name] & needed:
            continue
        largest = int(values.max(initial=0))
        kind = "uint8_t" if largest < 1 << 8 else "uint16_t" if largest < 1 << 16 else "int32_t"
        listed = values.tolist() or [0]  # an array of no elements is none
        rows = [", ".join(map(str, listed[first : first + 24])) for first in range(0, len(listed), 24)]
        body = ",\n    ".join(rows)
        made.append(f"static const {kind} {name}[{len(listed)}] = {{\n    {body}\n}};")
    return made


def _state_type(options: CodeOptions) -> str:
    graph = "" if options.graph is not None else "    const lpgnas_graph *graph;\n"
    return (
        f"typedef struct {{\n    int32_t num_nodes;\n{graph}    const lpgnas_input *input;\n    unsigned char *arena;\n"
        "    const size_t *offsets; /* of the tensors */\n    unsigned char *scratch;\n} run_state;"
    )


# --- the arena ---


def _planned(program: IntegerProgram, parts: CodeParts) -> list[Tensor]:
    return [program.tensor(name) for name in parts.order]


def _row_bytes(tensor: Tensor) -> int:
    return tensor.columns * code_dtype(tensor.bits, signed=tensor.signed).itemsize


def _constant_plan(program: IntegerProgram, nodes: int, parts: CodeParts) -> list[str]:
    plan = plan_arena(program, nodes)
    if _arena_bytes(parts, nodes) >= 1 << 32:
        raise ExportError(f"the arena of {nodes} nodes passes 4 GiB; name fewer nodes, or none")
    offsets = ", ".join(str(plan.offsets[name]) for name in parts.order)
    least = "num_nodes < 1 || num_nodes > LPGNAS_MAX_NODES"
    return [
        f"static const size_t arena_offsets[{len(parts.order)}] = {{ {offsets} }};",
        function(
            f"/* Bytes of the tensors of the largest graph, each at a multiple of {ALIGNMENT}; no scratch. */",
            "static size_t plan_arena(int32_t num_nodes)",
            [f"return {least} ? 0 : {plan.size};"],
        ),
    ]


def _computed_plan(program: IntegerProgram, parts: CodeParts) -> list[str]:
    """The plan of `lpgnas.kernels.arena` in C: the lowest gap among the tensors that are still needed."""
    last = last_uses(program)
    first = {name: step for step, operation in enumerate(program.operations) for name in writes(operation)}
    tensors = _planned(program, parts)
    count = len(tensors)

    def table(name: str, values: list[int]) -> str:
        return f"static const uint32_t {name}[{count}] = {{ {', '.join(map(str, values))} }};"

    total = sum(map(_row_bytes, tensors))
    mask = ALIGNMENT - 1
    body = [
        f"const uint64_t most = (uint64_t)(num_nodes > 0 ? num_nodes : 0) * {total} + {count * ALIGNMENT + 16}"
        f" + LPGNAS_SCRATCH_BYTES;",
        "size_t size = 0;",
        "if (num_nodes < 1 || (uint64_t)(size_t)most != most)",
        "    return 0;",
        f"for (int32_t t = 0; t < {count}; ++t) {{",
        "    const size_t bytes = (size_t)num_nodes * row_bytes[t];",
        "    size_t begin = 0;",
        "    for (int32_t u = 0; u < t; ) {",
        f"        const size_t end = offsets[u] + (((size_t)num_nodes * row_bytes[u] + {mask}) & ~(size_t){mask});",
        "        if (last_steps[u] >= first_steps[t] && offsets[u] < begin + bytes && begin < end) {",
        "            begin = end;",
        "            u = 0;",
        "        } else {",
        "            ++u;",
        "        }",
        "    }",
        "    offsets[t] = begin;",
        "    if (begin + bytes > size)",
        "        size = begin + bytes;",
        "}",
        "return size;",
    ]
    about = (
        "/* Where tensors live: each in the lowest gap among those still needed. Returns bytes, 0 if they cannot be. */"
    )
    return [
        "/* Of each tensor: bytes a node, the step that writes it, the last one that reads it. */",
        table("row_bytes", [_row_bytes(tensor) for tensor in tensors]),
        table("first_steps", [first[tensor.name] for tensor in tensors]),
        table("last_steps", [last[tensor.name] for tensor in tensors]),
        function(about, "static size_t plan_arena(int32_t num_nodes, size_t *offsets)", body),
    ]


# --- public functions ---


def _public_functions(program: IntegerProgram, options: CodeOptions, parts: CodeParts) -> list[str]:
    count = len(parts.order)
    heads = _prototypes(options)
    if options.nodes is None:
        plan = _computed_plan(program, parts)
        size = [f"size_t offsets[{count}];", "const size_t size = plan_arena(num_nodes, offsets);"]
    else:
        plan = _constant_plan(program, options.nodes, parts)
        size = ["const size_t size = plan_arena(num_nodes);"]
    mask = SCRATCH_ALIGNMENT - 1
    rounded = f"((size + {mask}) & ~(size_t){mask})"
    made = [*plan]
    made.append(
        function("", heads["arena_bytes"], [*size, f"return size == 0 ? 0 : {rounded} + LPGNAS_SCRATCH_BYTES;"])
    )
    if options.graph is None:
        made.append(function("", heads["check_graph"], _check_graph(options)))
    made.append(function("", heads["check_input"], _check_input(program)))
    made.append(function("", heads["run_unchecked"], _run_unchecked(program, options, parts, size, rounded)))
    made.append(function("", heads["run"], _run(options)))
    return [text.lstrip("\n") for text in made]


def _check_graph(options: CodeOptions) -> list[str]:
    most = " || graph->num_nodes > LPGNAS_MAX_NODES" if options.nodes is not None else ""
    return [
        "if (graph == NULL || graph->indptr == NULL || (graph->sources == NULL && graph->num_edges > 0))",
        "    return LPGNAS_ERROR_NULL;",
        f"if (graph->num_nodes < 1 || graph->num_nodes == INT32_MAX{most})",
        "    return LPGNAS_ERROR_NUM_NODES;",
        "if (graph->indptr[0] != 0 || graph->indptr[graph->num_nodes] != graph->num_edges)",
        "    return LPGNAS_ERROR_INDPTR;",
        *loop(
            "i",
            "graph->num_nodes",
            [
                "const int32_t begin = graph->indptr[i], end = graph->indptr[i + 1];",
                "if (end < begin || end > graph->num_edges)",
                "    return LPGNAS_ERROR_INDPTR;",
                "if (end - begin > LPGNAS_MAX_DEGREE)",
                "    return LPGNAS_ERROR_DEGREE;",
            ],
        ),
        *loop(
            "e",
            "graph->num_edges",
            [
                "if (graph->sources[e] < 0 || graph->sources[e] >= graph->num_nodes)",
                "    return LPGNAS_ERROR_SOURCE;",
            ],
        ),
        "return LPGNAS_OK;",
    ]


def _code_test(program: IntegerProgram, code: str) -> list[str]:
    """Refuse a code outside its format; nothing where the C type holds no other."""
    x = program.input
    if x.bits in (8, 16):
        return []
    tests = [f"{code} > LPGNAS_INPUT_HIGH"] + ([f"{code} < LPGNAS_INPUT_LOW"] if x.signed else [])
    return [f"if ({' || '.join(tests)})", "    return LPGNAS_ERROR_CODE;"]


def _check_input(program: IntegerProgram) -> list[str]:
    dense_test = _code_test(program, "input->dense[k]")
    dense = [
        "const ptrdiff_t count = (ptrdiff_t)num_nodes * LPGNAS_NUM_FEATURES;",
        "for (ptrdiff_t k = 0; k < count; ++k)",
        *indented(dense_test),
    ]
    entry = [
        "if (input->indices[e] <= before || input->indices[e] >= LPGNAS_NUM_FEATURES)",
        "    return LPGNAS_ERROR_COLUMN;",
        "before = input->indices[e];",
    ]
    entry_test = _code_test(program, "input->codes[e]")
    if entry_test:
        entry += [entry_test[0].replace("if (", "if (input->codes != NULL && (", 1) + ")", entry_test[1]]
    row = [
        "const int32_t begin = input->indptr[i], end = input->indptr[i + 1];",
        "int32_t before = -1;",
        "if (end < begin || end > input->num_entries)",
        "    return LPGNAS_ERROR_INDPTR;",
        "for (int32_t e = begin; e < end; ++e) {",
        *indented(entry),
        "}",
    ]
    return [
        "if (input == NULL)",
        "    return LPGNAS_ERROR_NULL;",
        "if (num_nodes < 1)",
        "    return LPGNAS_ERROR_NUM_NODES;",
        "if (input->dense != NULL) {",
        *indented(dense if dense_test else []),
        "    return LPGNAS_OK;",
        "}",
        "if (input->indptr == NULL || (input->indices == NULL && input->num_entries > 0))",
        "    return LPGNAS_ERROR_NULL;",
        "if (input->indptr[0] != 0 || input->indptr[num_nodes] != input->num_entries)",
        "    return LPGNAS_ERROR_INDPTR;",
        *loop("i", "num_nodes", row),
        "return LPGNAS_OK;",
    ]


def _run_unchecked(
    program: IntegerProgram, options: CodeOptions, parts: CodeParts, size: list[str], rounded: str
) -> list[str]:
    nodes = "LPGNAS_NUM_NODES" if options.graph is not None else "graph->num_nodes"
    graph = [] if options.graph is not None else ["s.graph = graph;"]
    offsets = "offsets" if options.nodes is None else "arena_offsets"
    steps = [f"step_{number}(&s);" for number in range(len(program.operations))]
    return [
        f"const int32_t num_nodes = {nodes};",
        *size,
        "run_state s;",
        "if (arena == NULL || logits == NULL)",
        "    return LPGNAS_ERROR_NULL;",
        "if (size == 0)",
        "    return LPGNAS_ERROR_NUM_NODES;",
        f"if (arena_bytes < {rounded} + LPGNAS_SCRATCH_BYTES || (uintptr_t)arena % LPGNAS_ARENA_ALIGNMENT != 0)",
        "    return LPGNAS_ERROR_ARENA;",
        "s.num_nodes = num_nodes;",
        *graph,
        "s.input = input;",
        "s.arena = arena;",
        f"s.offsets = {offsets};",
        f"s.scratch = s.arena + {rounded};",
        *steps,
        f"*logits = tensor_at(&s, {parts.order.index(program.output)});",
        "return LPGNAS_OK;",
    ]


def _run(options: CodeOptions) -> list[str]:
    if options.graph is not None:
        return [
            "const lpgnas_status status = lpgnas_check_input(LPGNAS_NUM_NODES, input);",
            "return status != LPGNAS_OK ? status : lpgnas_run_unchecked(input, arena, arena_bytes, logits);",
        ]
    return [
        "lpgnas_status status = lpgnas_check_graph(graph);",
        "if (status == LPGNAS_OK)",
        "    status = lpgnas_check_input(graph->num_nodes, input);",
        "return status != LPGNAS_OK ? status : lpgnas_run_unchecked(graph, input, arena, arena_bytes, logits);",
    ]
