"""C files equal the naive reference under sanitizers, hold integers alone, and refuse what they cannot run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import samples
from export_cases import (
    PROGRAMS,
    adversarial_case,
    all_features,
    case,
    cora_program,
    expected_logits,
    extreme_program,
    features_hit,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from lpgnas import __version__, program_file
from lpgnas.components import Component
from lpgnas.datasets import load_dataset
from lpgnas.errors import (
    CheckFailed,
    DegreeError,
    ExportError,
    GraphError,
    LoweringError,
    ProgramError,
    UnknownName,
)
from lpgnas.export import c_steps
from lpgnas.export.c_build import QUICK_FLAGS, WARNINGS, CProgram, compiled, find_compiler
from lpgnas.export.c_code import HEADER, SOURCE, STATUSES, CodeOptions, CSource, arena_bytes, export_c
from lpgnas.integer_program import Aggregate, IntegerProgram, Lookup
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.executor import Executor
from lpgnas.kernels.quantize import SparseCodes
from lpgnas.kernels.reference import run_reference
from lpgnas.lowering import Quantized, lower
from lpgnas.number_formats import FormatChoice, Rounding
from lpgnas.spec import LayerSpec, ModelSpec, required_components
from lpgnas.verification import NO_COMPILER, check_c_code

COMPILER = find_compiler() or ""
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
STRICT = (*QUICK_FLAGS, *WARNINGS, *SANITIZERS)
needs_compiler = pytest.mark.skipif(not COMPILER, reason=NO_COMPILER)
STATUS = {name: number for number, (name, _) in enumerate(STATUSES)}


@contextmanager
def strict(program: IntegerProgram, options: CodeOptions | None = None) -> Iterator[CProgram]:
    """The executable of a program, built without warnings and with sanitizers that end it at the first finding."""
    with compiled(program, export_c(program, options), COMPILER, STRICT) as built:
        yield built


def wanted_codes(program: IntegerProgram, logits: Any) -> Any:
    return np.ldexp(logits.astype(np.float64), program.logits.fraction)


def covering_indices() -> list[int]:
    """Few of the shared cases with every operator and format."""
    chosen: list[int] = []
    left = all_features()
    hits = {index: features_hit([case(index).spec]) for index in range(PROGRAMS)}
    while left:
        best = max(hits, key=lambda index: len(hits[index] & left))
        assert hits[best] & left, f"no case has {left}"
        left -= hits[best]
        chosen.append(best)
    return chosen


def check_case(index: int) -> None:
    """A shared case on its graphs, with dense and with sparse input."""
    sample = case(index)
    with strict(sample.program) as built:
        for graph, logits in zip(sample.graphs, sample.expected, strict=True):
            wanted = wanted_codes(sample.program, logits)
            np.testing.assert_array_equal(built.run(graph.x, graph.edge_index), wanted, err_msg=graph.name)
            entries = sparse.csr_array(graph.x)
            np.testing.assert_array_equal(built.run(entries, graph.edge_index), wanted, err_msg=f"{graph.name} sparse")


@needs_compiler
def test_every_operator_and_format_equals_the_naive_reference() -> None:
    for index in covering_indices():
        check_case(index)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("index", range(PROGRAMS))
def test_every_case_equals_the_naive_reference(index: int) -> None:
    check_case(index)


def check_adversarial(index: int, rounding: Rounding) -> None:
    """N=1, E=0, isolated nodes, duplicates, a hub of 5,000 edges, extreme features."""
    sample = adversarial_case(index, rounding)
    with strict(sample.program) as built:
        for graph, logits in zip(sample.graphs, sample.expected, strict=True):
            codes = built.run(graph.x, graph.edge_index)
            np.testing.assert_array_equal(codes, wanted_codes(sample.program, logits), err_msg=graph.name)


@needs_compiler
def test_adversarial_graphs() -> None:
    check_adversarial(0, Rounding.HALF_EVEN)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("index", range(4))
def test_adversarial_graphs_in_every_rounding(index: int, rounding: Rounding) -> None:
    check_adversarial(index, rounding)


@needs_compiler
@pytest.mark.parametrize(("input_bits", "weight_bits", "attention"), [(8, 8, "gcn"), (16, 2, "const"), (16, 8, "gcn")])
def test_largest_codes_neither_saturate_nor_wrap(input_bits: int, weight_bits: int, attention: str) -> None:
    program = extreme_program(2000, input_bits=input_bits, weight_bits=weight_bits, attention=attention)
    edges = np.random.default_rng(3).integers(0, 9, (2, 30)).astype(np.int64)
    graph = samples.SampleGraph("largest", np.full((9, 2000), 3e38, dtype=np.float32), edges)
    with strict(program) as built:
        wanted = wanted_codes(program, expected_logits(program, graph))
        np.testing.assert_array_equal(built.run(graph.x, graph.edge_index), wanted)
    assert np.unique(wanted).size >= 3
    widths = {operation.accumulator_bits for operation in program.operations if hasattr(operation, "accumulator_bits")}
    assert (64 in widths) == (input_bits == 16 and weight_bits == 8)


def wide_program(attention: str, aggregation: str) -> IntegerProgram:
    """Two layers with 16-bit messages, whose scores and weighted sums need 64 bits at 5,000 edges."""
    for seed in range(200):
        rng = np.random.default_rng([5, seed])
        layers = []
        for width, sources, last in ((8, (-1,), False), (3, (0,), True)):
            bare = samples.random_layer(rng, width, sources, last=last, identity=False)
            layer = replace(bare, attention=attention, aggregation=aggregation, heads=1, formats={}, self_loops=True)
            formats = {
                component: FormatChoice("fixed", 16 if component is Component.MESSAGE else 8)
                for component in required_components(layer, last=last)
            }
            layers.append(replace(layer, formats=formats))
        spec = ModelSpec(6, 3, tuple(layers), Rounding.HALF_EVEN, FormatChoice("fixed", 8), True, False)
        made = samples.random_codes(rng, spec, 4)
        codes = tuple(replace(one, bias=Quantized(one.bias.codes // 16, one.bias.fraction - 4)) for one in made)
        try:
            return lower(spec, codes, input_fraction=4, max_degree=5000)
        except LoweringError:
            continue
    raise AssertionError(f"no exact program of {attention}")


@needs_compiler
@pytest.mark.parametrize(("attention", "aggregation"), [("cos", "sum"), ("gene-linear", "sum"), ("gat", "max")])
def test_scores_and_sums_of_64_bits(attention: str, aggregation: str) -> None:
    program = wide_program(attention, aggregation)
    text = export_c(program).source.decode()
    assert ("(int64_t)message" in text) == (attention == "cos")
    assert ("int64_t *sums = (void *)s->scratch" in text) == (aggregation == "sum")
    graphs = [graph for graph in samples.adversarial_graphs(6) if graph.name != "hub"]
    with strict(program) as built:
        for graph in graphs:
            wanted = naive.run(program, graph.x, graph.edge_index)
            np.testing.assert_array_equal(built.run(graph.x, graph.edge_index), wanted, err_msg=graph.name)


@needs_compiler
def test_sums_of_rows_beyond_32_bits() -> None:
    """40,000 codes of 16 bits: their sum passes 2^31, and the row factor is a 64-bit division."""
    words = 40_000
    formats = {
        Component.LINEAR_WEIGHT: FormatChoice.parse("ternary"),
        Component.MESSAGE: FormatChoice("fixed", 8),
        Component.OUTPUT: FormatChoice("fixed", 8),
    }
    layer = LayerSpec("const", "sum", "none", 3, 1, "none", True, formats=formats)
    spec = ModelSpec(words, 3, (layer,), Rounding.HALF_UP, FormatChoice("fixed", 16), False, True)
    codes = samples.random_codes(np.random.default_rng(1), spec, 0)
    program = lower(spec, codes, input_fraction=0, max_degree=10)
    assert "uint64_t d)" in export_c(program).source.decode()
    x = np.random.default_rng(2).integers(0, 65536, (4, words)).astype(np.float32)
    x[1:3] = [[65535], [0]]
    edges = np.array([[0, 1, 2, 3], [1, 0, 0, 0]], dtype=np.int64)
    with strict(program) as built:
        np.testing.assert_array_equal(built.run(x, edges), Executor(program).run(x, edges).codes)
    assert x[1].astype(np.int64).sum() > 1 << 31


@needs_compiler
def test_a_shortcut_of_the_input_reads_dense_and_sparse_rows() -> None:
    index = next(k for k in range(PROGRAMS) if "input_code(s, i" in export_c(case(k).program).source.decode())
    check_case(index)


@needs_compiler
def test_the_inverse_square_root_is_exact_for_every_kind_of_degree() -> None:
    degrees = [*range(70), 100, 255, 256, 257, 1023, 1024, 4095, 4096, 4999, 5000]
    program = extreme_program(3, input_bits=4, weight_bits=4, attention="gcn", max_degree=5000)
    targets = np.repeat(np.arange(len(degrees)), degrees)
    x = np.linspace(0, 15, len(degrees) * 3, dtype=np.float32).reshape(-1, 3)
    edges = np.stack([np.arange(targets.size) % len(degrees), targets]).astype(np.int64)
    with strict(program) as built:
        np.testing.assert_array_equal(built.run(x, edges), Executor(program).run(x, edges).codes)


@needs_compiler
@pytest.mark.parametrize("weights", ["binary", "ternary", "fixed4", "fixed8"])
def test_cora_equals_kernels_and_reference(weights: str) -> None:
    cora = load_dataset("cora")
    program = cora_program(weights, cora.max_degree)
    wanted = Executor(program).run(cora.x, cora.edge_index).codes
    np.testing.assert_array_equal(run_reference(program, cora.x, cora.edge_index), wanted)
    assert len(np.unique(wanted, axis=0)) > 100
    with strict(program) as built:
        np.testing.assert_array_equal(built.run(cora.x, cora.edge_index), wanted)


@pytest.fixture(scope="module")
def lively() -> Iterator[tuple[IntegerProgram, CProgram]]:
    """A program with learned attention, and its executable."""
    program = next(
        sample.program
        for sample in map(case, range(PROGRAMS))
        if (sample.program.input.bits, sample.program.input.signed) == (4, False)
        and any(layer.attention in ("gat", "sym-gat") for layer in sample.spec.layers)
    )
    with strict(program) as built:
        yield program, built


@needs_compiler
@settings(max_examples=25)
@given(data=st.data())
def test_any_multigraph(lively: tuple[IntegerProgram, CProgram], data: st.DataObject) -> None:
    program, built = lively
    nodes = data.draw(st.integers(1, 12))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)), max_size=60))
    seed = data.draw(st.integers(0, 1 << 16))
    x = samples.random_features(np.random.default_rng(seed), nodes, program.num_features)
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2).T.copy()
    wanted = Executor(program).run(x, edges).codes
    np.testing.assert_array_equal(built.run(x, edges), wanted)
    np.testing.assert_array_equal(built.run(sparse.csr_array(x), edges), wanted)


BAD_GRAPHS: list[tuple[str, int, Sequence[int], Sequence[int]]] = [
    ("ERROR_NUM_NODES", 0, [0], []),
    ("ERROR_NUM_NODES", -3, [0], []),
    ("ERROR_INDPTR", 3, [1, 1, 1, 1], [0]),
    ("ERROR_INDPTR", 3, [0, 2, 1, 2], [0, 1]),
    ("ERROR_INDPTR", 3, [0, 5, 1, 1], [0]),
    ("ERROR_INDPTR", 3, [0, 1, 1, 1], [0, 1]),
    ("ERROR_INDPTR", 3, [0, -1, 1, 1], [0]),
    ("ERROR_SOURCE", 3, [0, 1, 1, 1], [3]),
    ("ERROR_SOURCE", 3, [0, 1, 1, 1], [-1]),
    ("ERROR_DEGREE", 3, [0, 201, 201, 201], [0] * 201),
]


@needs_compiler
@pytest.mark.parametrize(("status", "nodes", "indptr", "sources"), BAD_GRAPHS)
def test_bad_graphs_have_their_error_codes(
    lively: tuple[IntegerProgram, CProgram], status: str, nodes: int, indptr: Sequence[int], sources: Sequence[int]
) -> None:
    program, built = lively
    codes = np.zeros((max(nodes, 1), program.num_features), dtype=np.uint8)
    assert program.max_degree == 200
    assert built.call(nodes, np.array(indptr), np.array(sources, dtype=np.int64), codes)[0] == STATUS[status]


@needs_compiler
@pytest.mark.parametrize(
    ("status", "indptr", "indices", "codes"),
    [
        ("OK", [0, 2, 2, 3], [0, 2, 1], [15, 3, 0]),
        ("OK", [0, 2, 2, 3], [0, 2, 1], [1, 1, 1]),
        ("ERROR_COLUMN", [0, 2, 2, 3], [2, 0, 1], [1, 2, 1]),
        ("ERROR_COLUMN", [0, 2, 2, 3], [1, 1, 1], [1, 2, 1]),
        ("ERROR_COLUMN", [0, 2, 2, 3], [0, 9999, 1], [1, 2, 1]),
        ("ERROR_COLUMN", [0, 2, 2, 3], [-1, 2, 1], [1, 2, 1]),
        ("ERROR_CODE", [0, 2, 2, 3], [0, 2, 1], [16, 3, 0]),
        ("ERROR_INDPTR", [0, 2, 2, 2], [0, 2, 1], [1, 2, 1]),
        ("ERROR_INDPTR", [0, 4, 2, 3], [0, 2, 1], [1, 2, 1]),
    ],
)
def test_bad_inputs_have_their_error_codes(
    lively: tuple[IntegerProgram, CProgram], status: str, indptr: list[int], indices: list[int], codes: list[int]
) -> None:
    _, built = lively
    entries = SparseCodes(np.array(indptr), np.array(indices, dtype=np.int32), np.array(codes, dtype=np.uint8))
    assert built.call(3, np.zeros(4, dtype=np.int64), np.zeros(0, dtype=np.int64), entries)[0] == STATUS[status]


@needs_compiler
def test_other_bad_calls_have_their_error_codes(lively: tuple[IntegerProgram, CProgram]) -> None:
    program, built = lively
    none = np.zeros(0, dtype=np.int64)
    dense = np.zeros((3, program.num_features), dtype=np.uint8)
    assert built.call(3, np.zeros(4, dtype=np.int64), none, dense, arena_shortage=1)[0] == STATUS["ERROR_ARENA"]
    dense[1, 1] = 16
    assert built.call(3, np.zeros(4, dtype=np.int64), none, dense)[0] == STATUS["ERROR_CODE"]
    with pytest.raises(GraphError, match="LPGNAS_ERROR_CODE"):
        built.run_codes(dense, CsrGraph.from_edges(np.zeros((2, 0), dtype=np.int64), 3, self_loops=False))
    with pytest.raises(GraphError, match="out of range"):
        built.run(dense.astype(np.float32), np.array([[0], [3]], dtype=np.int64))


@needs_compiler
def test_a_compiled_in_graph_equals_the_naive_reference() -> None:
    for index in (1, 4):
        sample = case(index)
        for graph, logits in zip(sample.graphs[::2], sample.expected[::2], strict=True):
            csr = CsrGraph.from_edges(graph.edge_index, len(graph.x), self_loops=False)
            with strict(sample.program, CodeOptions(graph=csr)) as built:
                codes = built.run(graph.x, graph.edge_index)
                np.testing.assert_array_equal(codes, wanted_codes(sample.program, logits), err_msg=graph.name)


@needs_compiler
def test_a_largest_graph_is_kept_to() -> None:
    sample = case(2)
    with strict(sample.program, CodeOptions(max_nodes=12)) as built:
        for graph, logits in zip(sample.graphs, sample.expected, strict=True):
            codes = built.run(graph.x, graph.edge_index)
            np.testing.assert_array_equal(codes, wanted_codes(sample.program, logits))
        x = np.zeros((13, sample.program.num_features), dtype=np.float32)
        with pytest.raises(GraphError, match="ERROR_NUM_NODES"):
            built.run(x, np.zeros((2, 0), dtype=np.int64))


ASK = """
#include <stdio.h>
#include "lpgnas_model.h"
int main(void)
{
    static const int32_t nodes[] = { -5, 0, 1, 2, 3, 7, 64, 100, 2708, 89250, 2147483646 };
    for (size_t k = 0; k < sizeof nodes / sizeof nodes[0]; ++k)
        printf("%ld %llu\\n", (long)nodes[k], (unsigned long long)lpgnas_arena_bytes(nodes[k]));
    return 0;
}
"""


def asked(source: CSource, folder: Path) -> dict[int, int]:
    """What `lpgnas_arena_bytes` answers."""
    for name, content in {**source.files(), "ask.c": ASK.encode()}.items():
        (folder / name).write_bytes(content)
    command = [COMPILER, *STRICT, "-o", str(folder / "ask"), str(folder / "ask.c"), str(folder / SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    lines = subprocess.run([folder / "ask"], check=True, capture_output=True, text=True).stdout.splitlines()
    return {int(nodes): int(size) for nodes, size in map(str.split, lines)}


@needs_compiler
def test_the_arena_is_that_of_the_kernels(tmp_path: Path) -> None:
    for index in (0, 9):
        program = case(index).program
        source = export_c(program)
        for nodes, size in asked(source, tmp_path).items():
            assert size == (arena_bytes(program, nodes) if nodes > 0 else 0), nodes
    fixed = export_c(program, CodeOptions(max_nodes=100))
    whole = arena_bytes(program, 100)
    assert f"#define LPGNAS_ARENA_BYTES {whole} ".encode() in fixed.header
    answers = asked(fixed, tmp_path)
    assert {nodes: size for nodes, size in answers.items() if size} == dict.fromkeys((1, 2, 3, 7, 64, 100), whole)


def test_two_exports_are_byte_identical() -> None:
    for index in range(0, PROGRAMS, 10):
        program = case(index).program
        again = program_file.from_bytes(program_file.to_bytes(program))
        assert export_c(program) == export_c(again)


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def test_integers_only_and_no_library() -> None:
    for sample in map(case, range(PROGRAMS)):
        made = export_c(sample.program)
        for content in (made.header, made.source):
            text = without_comments(content.decode("ascii")).replace(f'"{__version__}"', "")
            assert not re.search(r"\b(float|double|malloc|free)\b|[0-9]\.|\.[0-9]", text)
            included = set(re.findall(r"#include (\S+)", text))
            assert included <= {"<stddef.h>", "<stdint.h>", '"lpgnas_model.h"'}


@needs_compiler
def test_the_object_calls_nothing(tmp_path: Path) -> None:
    for index in covering_indices()[:3]:
        for name, content in export_c(case(index).program).files().items():
            (tmp_path / name).write_bytes(content)
        command = [COMPILER, "-std=c99", "-O2", "-c", "-o", "model.o", SOURCE]
        subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
        undefined = subprocess.run(["nm", "-u", "model.o"], check=True, cwd=tmp_path, capture_output=True, text=True)
        assert set(undefined.stdout.split()) <= {"U", "_GLOBAL_OFFSET_TABLE_", "memset", "memcpy"}


def test_constants_are_packed_to_their_bits() -> None:
    for sample in map(case, range(PROGRAMS)):
        program, text = sample.program, export_c(sample.program).source.decode()
        stored = [int(size) for size in re.findall(r"static const uint8_t array\w+\[(\d+)\]", text)]
        bits = sum(array.values.size * array.bits for array in program.arrays)
        split = sum(len(operation.inputs) for operation in program.operations if hasattr(operation, "inputs"))
        assert bits <= 8 * sum(stored) < bits + 8 * (len(program.arrays) + split)


def test_file_sizes_fall_with_the_bits() -> None:
    sizes = {}
    for weights in ("binary", "fixed2", "fixed4", "fixed8"):
        text = export_c(cora_program(weights, 168)).source.decode()
        found = re.search(r"array0_\w+\[(\d+)\]", text)
        assert found
        sizes[weights] = int(found[1])
    assert sizes == {"binary": 1433 * 2, "fixed2": 1433 * 4, "fixed4": 1433 * 8, "fixed8": 1433 * 16}


@needs_compiler
def test_metadata_describes_the_file_and_cannot_end_its_comment() -> None:
    program = replace(case(3).program, metadata={"dataset": "*/ #error /* ??/\n\u00e9", "*/": "x"})
    made = export_c(program)
    header = made.header.decode("ascii")
    for fact in ("producer          lpgnas", f"max_degree        {program.max_degree}", str(program.rounding)):
        assert fact in header
    for tensor in (program.input, *program.tensors):
        fields = f"[{tensor.columns}, {tensor.bits}, {tensor.fraction}, {'true' if tensor.signed else 'false'}"
        assert f'"{tensor.name}": {fields}' in header
    for array in program.arrays:  # what is counted can be counted again
        fields = f'["{array.kind}", {array.values.size}, {array.bits}, {array.fraction}'
        assert f'"{array.name}": {fields}' in header
    quoted = re.findall(r"^ \* metadata +(.*)$", header, re.MULTILINE)
    assert json.loads("{" + ",".join(quoted) + "}") == program.metadata
    with compiled(program, made, COMPILER, STRICT):
        pass


def test_what_cannot_be_held_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    program = case(0).program
    csr = CsrGraph.from_edges(np.zeros((2, 201), dtype=np.int64), 2, self_loops=False)
    with pytest.raises(DegreeError, match="201 incoming edges"):
        export_c(program, CodeOptions(graph=csr))
    with pytest.raises(ExportError, match="2 nodes, not 5"):
        CodeOptions(max_nodes=5, graph=csr)
    with pytest.raises(ExportError, match="without added self-loops"):
        CodeOptions(graph=replace(CsrGraph.from_edges(np.zeros((2, 0), dtype=np.int64), 2, self_loops=True)))
    with pytest.raises(ExportError, match="at most 0 nodes"):
        CodeOptions(max_nodes=0)
    with pytest.raises(ExportError, match="4 GiB"):
        export_c(program, CodeOptions(max_nodes=(1 << 31) - 1))
    with pytest.raises(ProgramError):
        export_c(replace(program, max_degree=201))
    monkeypatch.setattr(c_steps, "MAX_CONSTANT_BITS", 100)
    with pytest.raises(ExportError, match=r"pass 2\^31 bits"):
        export_c(program)


def test_an_operation_that_reads_the_input_past_a_transform_is_refused() -> None:
    program = extreme_program(3, input_bits=8, weight_bits=8)
    (aggregate,) = (operation for operation in program.operations if isinstance(operation, Aggregate))
    parts = c_steps.CodeParts(program)
    with pytest.raises(ExportError, match="reads the input in transforms and shortcuts only"):
        c_steps.emit_step(parts, 1, replace(aggregate, input="x"))


def test_an_unknown_operation_is_named() -> None:
    @dataclass(frozen=True)
    class Pooling:
        layer: int = 0

    with pytest.raises(UnknownName, match="Pooling"):
        c_steps.emit_step(c_steps.CodeParts(case(0).program), 0, Pooling())  # type: ignore[arg-type]


@needs_compiler
def test_an_export_is_checked_against_the_kernels() -> None:
    sample = next(
        one for one in map(case, range(PROGRAMS)) if any(isinstance(o, Lookup) for o in one.program.operations)
    )
    made = export_c(sample.program)
    assert check_c_code(sample.program, made) == ""
    wrong = made.source.replace(b"return code < low ? low", b"return code <= low ? low + 1")
    assert wrong != made.source
    with pytest.raises(CheckFailed, match="the C code differs from the kernels on"):
        check_c_code(sample.program, replace(made, source=wrong))
    with pytest.raises(ExportError, match="refused the C code"):
        check_c_code(sample.program, replace(made, source=made.source[:-100]))
    with pytest.raises(ExportError, match="refused the C code"):
        check_c_code(sample.program, replace(made, header=b"#error no header"))


def test_a_machine_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    program = case(0).program
    assert check_c_code(program, export_c(program)) == NO_COMPILER


@needs_compiler
def test_the_first_command_of_the_page_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/targets/c.md").read_text()
    (example,) = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"^gcc -std=c99 .*$", page, re.MULTILINE)
    for name, content in {**export_c(cora_program("ternary", 10)).files(), "example.c": example.encode()}.items():
        (tmp_path / name).write_bytes(content)
    built = [COMPILER, *command.split()[1:], *WARNINGS, *SANITIZERS]
    subprocess.run(built, check=True, cwd=tmp_path, capture_output=True)
    done = subprocess.run([tmp_path / "example"], check=True, capture_output=True, text=True)
    assert re.fullmatch(r"(node [012] is of class [0-6]\n){3}", done.stdout)
    for name, why in STATUSES[1:]:
        assert f"| `LPGNAS_{name}` | {why[:12]}" in page.replace("`indptr`", "indptr")


def test_a_compiler_that_builds_nothing_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gcc", "cc"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() is None
    (tmp_path / "cc").unlink()
    (tmp_path / "gcc").write_bytes(b"\x7fELF nothing")
    assert find_compiler() is None
    (tmp_path / "gcc").write_text("#!/bin/sh\nexit 0\n")  # of another machine, say: its programs do not run here
    assert find_compiler() is None


@pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("g++") is None, reason="no C++ compiler")
def test_a_cpp_program_takes_the_header(tmp_path: Path) -> None:
    for name, content in export_c(case(0).program).files().items():
        (tmp_path / name).write_bytes(content)
    main = f'#include "{HEADER}"\nint main() {{ return lpgnas_arena_bytes(3) > 0 ? 0 : 1; }}\n'
    (tmp_path / "main.cpp").write_text(main)
    for command in (["gcc", "-std=c99", "-c", SOURCE], ["g++", "-o", "main", "main.cpp", SOURCE.replace(".c", ".o")]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 0


def test_files_are_named() -> None:
    assert set(export_c(case(0).program).files()) == {HEADER, SOURCE}
