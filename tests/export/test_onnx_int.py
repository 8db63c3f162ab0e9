"""`model.int.onnx` equals the naive reference in every runtime, refuses foreign graphs, and computes with integers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import samples
from export_cases import (
    FLOAT_TYPES,
    PROGRAMS,
    adversarial_case,
    all_features,
    case,
    check_index,
    expected_logits,
    extreme_program,
    features_hit,
    operators,
)
from onnx import inliner

from lpgnas import __version__, program_file
from lpgnas.errors import DegreeError, ExportError, GraphError, ProgramError, UnknownName
from lpgnas.export import onnx_int
from lpgnas.export.feeding import OPTIMIZATIONS, run_onnx_reference, run_onnxruntime
from lpgnas.export.onnx_int import export_onnx_int
from lpgnas.number_formats import Rounding

RUNNERS = pytest.mark.parametrize("run", [run_onnxruntime, run_onnx_reference])


def test_the_cases_hit_every_operator_and_format() -> None:
    missing = all_features() - features_hit(case(k).spec for k in range(PROGRAMS))
    assert not missing


@pytest.mark.parametrize("index", range(PROGRAMS))
def test_one_dynamic_file_equals_the_reference(index: int) -> None:
    sample = case(index)
    content = export_onnx_int(sample.program)
    for graph, expected in zip(sample.graphs, sample.expected, strict=True):
        logits = run_onnxruntime(content, graph.x, graph.edge_index)
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, expected, err_msg=graph.name)


@pytest.mark.parametrize("index", range(0, PROGRAMS, 3))
def test_every_optimization_level_and_onnx_reference_agree(index: int) -> None:
    sample = case(index)
    content = export_onnx_int(sample.program)
    graph, expected = sample.graphs[0], sample.expected[0]
    for optimization in OPTIMIZATIONS:
        logits = run_onnxruntime(content, graph.x, graph.edge_index, optimization=optimization)
        np.testing.assert_array_equal(logits, expected, err_msg=optimization)
    np.testing.assert_array_equal(run_onnx_reference(content, graph.x, graph.edge_index), expected)


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("index", range(3))
def test_adversarial_graphs(index: int, rounding: Rounding) -> None:
    sample = adversarial_case(index, rounding)
    content = export_onnx_int(sample.program)
    for graph, expected in zip(sample.graphs, sample.expected, strict=True):
        logits = run_onnxruntime(content, graph.x, graph.edge_index, threads=2)
        np.testing.assert_array_equal(logits, expected, err_msg=graph.name)
        if graph.name != "hub":
            reference = run_onnx_reference(content, graph.x, graph.edge_index)
            np.testing.assert_array_equal(reference, expected, err_msg=graph.name)


@pytest.mark.parametrize("attention", ["const", "gcn"])
@pytest.mark.parametrize(("input_bits", "weight_bits"), [(2, 2), (8, 8), (8, 4), (12, 8), (16, 8), (16, 2)])
def test_largest_codes_neither_saturate_nor_wrap(input_bits: int, weight_bits: int, attention: str) -> None:
    program = extreme_program(37, input_bits=input_bits, weight_bits=weight_bits, attention=attention)
    x = np.full((9, 37), 3e38, dtype=np.float32)
    rng = np.random.default_rng(3)
    graph = samples.SampleGraph("largest", x, rng.integers(0, 9, (2, 30)).astype(np.int64))
    expected = expected_logits(program, graph)
    assert np.unique(expected).size >= 3
    content = export_onnx_int(program)
    for optimization in ("none", "all"):
        logits = run_onnxruntime(content, graph.x, graph.edge_index, optimization=optimization)
        np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(run_onnx_reference(content, graph.x, graph.edge_index), expected)


def test_the_inverse_square_root_is_exact_for_every_kind_of_degree() -> None:
    degrees = [0, 1, 2, 3, 4, 5, 100, 4999, 5000]
    program = extreme_program(3, input_bits=4, weight_bits=4, attention="gcn", max_degree=5000)
    targets = np.repeat(np.arange(len(degrees)), degrees)
    x = np.linspace(0, 15, len(degrees) * 3, dtype=np.float32).reshape(-1, 3)
    edges = np.stack([np.arange(targets.size) % len(degrees), targets]).astype(np.int64)
    graph = samples.SampleGraph("degrees", x, edges)
    logits = run_onnxruntime(export_onnx_int(program), graph.x, graph.edge_index)
    np.testing.assert_array_equal(logits, expected_logits(program, graph))


def test_weights_of_more_than_8_bits_are_stored_as_16() -> None:
    narrow = extreme_program(20, input_bits=8, weight_bits=8)
    arrays = tuple(replace(array, bits=12) if array.role == "weight" else array for array in narrow.arrays)
    program = replace(narrow, arrays=arrays)
    graph = case(0).graphs[0]
    x = np.linspace(0, 300, len(graph.x) * 20, dtype=np.float32).reshape(-1, 20)
    wide = samples.SampleGraph("wide", x, graph.edge_index)
    for run in (run_onnxruntime, run_onnx_reference):
        np.testing.assert_array_equal(run(export_onnx_int(program), x, wide.edge_index), expected_logits(narrow, wide))


@RUNNERS
@pytest.mark.parametrize("index", [0, 1, 2, 3])
@pytest.mark.parametrize("bad", [-1, -12, 12, 2**40])
@pytest.mark.parametrize("row", [0, 1])
def test_an_index_out_of_range_is_refused(run: Any, index: int, bad: int, row: int) -> None:
    sample = case(index)
    edges = sample.graphs[0].edge_index.copy()
    edges[row, 5] = bad
    with pytest.raises(GraphError, match=f"edge_index\\[{row}, 5\\]"):
        run(export_onnx_int(sample.program), sample.graphs[0].x, edges)


@pytest.mark.parametrize("index", range(0, PROGRAMS, 4))
def test_every_program_guards_its_degree(index: int) -> None:
    sample = case(index)
    content = export_onnx_int(sample.program)
    x = sample.graphs[0].x
    edges = np.zeros((2, 201), dtype=np.int64)
    edges[1] = 7
    run_onnxruntime(content, x, edges[:, :200])
    for optimization in OPTIMIZATIONS:
        with pytest.raises(DegreeError, match="node 7 has 201 incoming edges"):
            run_onnxruntime(content, x, edges, optimization=optimization)
    with pytest.raises(DegreeError):
        run_onnx_reference(content, x, edges)


def test_other_refusals_of_a_runtime_are_named() -> None:
    sample = case(0)
    graph = sample.graphs[0]
    with pytest.raises(ExportError, match="onnxruntime refused the file"):
        run_onnxruntime(export_onnx_int(sample.program), graph.x[:, :1], graph.edge_index)
    with pytest.raises(ExportError, match="refused the file"):
        run_onnxruntime(b"nothing", graph.x, graph.edge_index)
    with pytest.raises(ExportError, match="choose one of"):
        run_onnxruntime(b"nothing", graph.x, graph.edge_index, optimization="more")


def test_two_exports_are_byte_identical() -> None:
    for index in range(0, PROGRAMS, 10):
        program = case(index).program
        again = program_file.from_bytes(program_file.to_bytes(program))
        assert export_onnx_int(program) == export_onnx_int(again)


def test_metadata_describes_the_file() -> None:
    program = replace(case(3).program, metadata={"dataset": "cora"})
    session = onnxruntime.InferenceSession(export_onnx_int(program), providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta()
    facts = meta.custom_metadata_map
    model = onnx.load_from_string(export_onnx_int(program))
    assert (model.producer_name, model.producer_version) == ("lpgnas", __version__)
    assert meta.description
    assert facts["program_sha256"] == hashlib.sha256(program_file.to_bytes(program)).hexdigest()
    assert facts["rounding"] == str(program.rounding)
    assert facts["max_degree"] == "200"
    assert facts["metadata.dataset"] == "cora"
    tensors = {entry["name"]: entry for entry in json.loads(facts["tensors"])}
    for tensor in (program.input, *program.tensors):
        entry = tensors[tensor.name]
        assert (entry["rows"], entry["columns"], entry["bits"]) == ("num_nodes", tensor.columns, tensor.bits)
        assert (entry["fraction"], entry["signed"]) == (tensor.fraction, tensor.signed)
    counted = {entry["name"]: entry["elements"] * entry["bits"] for entry in json.loads(facts["arrays"])}
    assert counted == {array.name: array.values.size * array.bits for array in program.arrays}
    assert set(json.loads(facts["accumulator_bits"]).values()) <= {32, 64}


def test_inputs_and_output_are_dynamic() -> None:
    model = onnx.load_from_string(export_onnx_int(case(0).program))
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    features = case(0).program.num_features
    assert shapes == {"x": ["num_nodes", features], "edge_index": [2, "num_edges"], "logits": ["num_nodes", 3]}


@pytest.mark.parametrize("index", range(0, PROGRAMS, 2))
def test_only_integers_between_the_two_ends(index: int) -> None:
    model = onnx.load_from_string(export_onnx_int(case(index).program))
    assert "ScatterND" not in operators(model)
    inlined = inliner.inline_local_functions(model)
    typed = onnx.shape_inference.infer_shapes(inlined, check_type=True, strict_mode=True, data_prop=False)
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*typed.graph.value_info, *typed.graph.input)}
    kinds |= {tensor.name: tensor.data_type for tensor in typed.graph.initializer}
    made = [name for node in typed.graph.node for name in node.output]
    floats = {name for name in made if kinds.get(name) in FLOAT_TYPES} - {"logits"}
    ends = {name for name in made if name.startswith("x/")}
    decoded = next(node.input[0] for node in typed.graph.node if node.output[0] == "logits")
    assert all(name in kinds or name == "logits" for node in typed.graph.node for name in node.output if name)
    assert floats <= ends | {decoded}
    for node in typed.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                types = {value.type.tensor_type.elem_type for value in attribute.g.value_info}
                assert types
                assert not types & FLOAT_TYPES


def test_low_bit_weights_make_small_files() -> None:
    sizes = {}
    for bits in (2, 4, 8):
        program = extreme_program(4096, input_bits=4, weight_bits=bits)
        model = onnx.load_from_string(export_onnx_int(program))
        sizes[bits] = len(model.SerializeToString())
        stored = next(t for t in model.graph.initializer if t.name == "layer0/linear_weight")
        assert len(stored.raw_data) == 3 * 4096 * bits // 8
        assert (model.ir_version, model.opset_import[0].version) == {2: (13, 25), 4: (10, 21), 8: (8, 18)}[bits]
    assert sizes[8] - sizes[4] > 6000
    assert sizes[2] < 10 * 1024


def test_an_unknown_operation_is_named() -> None:
    @dataclass(frozen=True)
    class Pooling:
        layer: int = 0

    with pytest.raises(UnknownName, match="Pooling"):
        onnx_int.emit_operation(None, Pooling())  # type: ignore[arg-type]


def test_a_false_proof_is_refused() -> None:
    with pytest.raises(ProgramError):
        export_onnx_int(replace(case(0).program, max_degree=201))


def test_some_words_are_an_index_and_a_narrow_weight() -> None:
    for sample in map(case, range(PROGRAMS)):
        check_index(sample, onnx.load_from_string(export_onnx_int(sample.program)))
