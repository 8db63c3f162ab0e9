"""`model.qonnx.onnx` equals the naive reference in onnxruntime and in qonnx's executor, or is refused by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import samples
from export_cases import (
    PROGRAMS,
    adversarial_case,
    case,
    check_index,
    expected_logits,
    extreme_program,
    operators,
)
from qonnx.core.datatype import DataType
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model

from lpgnas.errors import DegreeError, ExportError, GraphError, UnknownName
from lpgnas.export import qonnx as dialect
from lpgnas.export.feeding import (
    qonnx_with_this_onnxruntime,
    run_onnx_reference,
    run_onnxruntime,
    run_qonnx_executor,
    with_sizes,
)
from lpgnas.export.qonnx import export_qonnx, finn_datatype
from lpgnas.number_formats import Rounding


def static_copy(program: object, graph: samples.SampleGraph) -> bytes:
    return export_qonnx(program, num_nodes=len(graph.x), num_edges=graph.edge_index.shape[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("index", range(PROGRAMS))
def test_dynamic_and_static_files_equal_the_reference(index: int) -> None:
    sample = case(index)
    content = export_qonnx(sample.program)
    for graph, expected in zip(sample.graphs, sample.expected, strict=True):
        np.testing.assert_array_equal(run_onnxruntime(content, graph.x, graph.edge_index), expected)
    graph, expected = sample.graphs[0], sample.expected[0]
    static = static_copy(sample.program, graph)
    np.testing.assert_array_equal(run_onnxruntime(static, graph.x, graph.edge_index), expected)
    np.testing.assert_array_equal(run_onnxruntime(content, graph.x, graph.edge_index, optimization="none"), expected)


@pytest.mark.parametrize("index", range(0, PROGRAMS, 2))
def test_the_qonnx_executor_agrees(index: int) -> None:
    sample = case(index)
    graph = sample.graphs[0]
    logits = run_qonnx_executor(static_copy(sample.program, graph), graph.x, graph.edge_index)
    np.testing.assert_array_equal(logits, sample.expected[0])


@pytest.mark.parametrize("index", range(1, PROGRAMS, 6))
def test_the_qonnx_executor_runs_a_dynamic_file_with_sizes(index: int) -> None:
    sample = case(index)
    content = export_qonnx(sample.program)
    for graph, expected in zip(sample.graphs, sample.expected, strict=True):
        sized = with_sizes(content, len(graph.x), graph.edge_index.shape[1])
        np.testing.assert_array_equal(run_qonnx_executor(sized, graph.x, graph.edge_index), expected)


@pytest.mark.parametrize("index", range(0, PROGRAMS, 4))
def test_onnx_reference_agrees(index: int) -> None:
    sample = case(index)
    graph = sample.graphs[0]
    logits = run_onnx_reference(export_qonnx(sample.program), graph.x, graph.edge_index)
    np.testing.assert_array_equal(logits, sample.expected[0])


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("index", range(3))
def test_adversarial_graphs(index: int, rounding: Rounding) -> None:
    sample = adversarial_case(index, rounding)
    content = export_qonnx(sample.program)
    for graph, expected in zip(sample.graphs, sample.expected, strict=True):
        logits = run_onnxruntime(content, graph.x, graph.edge_index, threads=2)
        np.testing.assert_array_equal(logits, expected, err_msg=graph.name)
    for graph, expected in list(zip(sample.graphs, sample.expected, strict=True))[index::3]:
        logits = run_qonnx_executor(static_copy(sample.program, graph), graph.x, graph.edge_index)
        np.testing.assert_array_equal(logits, expected, err_msg=graph.name)


@pytest.mark.parametrize("index", range(0, PROGRAMS, 12))
def test_a_file_survives_cleanup(index: int) -> None:
    sample = case(index)
    graph = sample.graphs[0]
    with qonnx_with_this_onnxruntime():
        cleaned = cleanup_model(ModelWrapper(static_copy(sample.program, graph)))
    content = cleaned.model.SerializeToString()
    for run in (run_onnxruntime, run_qonnx_executor):
        np.testing.assert_array_equal(run(content, graph.x, graph.edge_index), sample.expected[0])


def test_a_sum_beyond_float32_is_refused_with_the_way_out() -> None:
    program = extreme_program(600, input_bits=8, weight_bits=8)
    with pytest.raises(ExportError, match=r"layer 0 transform: its sums may reach \d+, beyond 2\^24.*onnx-int"):
        export_qonnx(program)


def test_the_largest_exact_sum_is_exported() -> None:
    program = extreme_program(256, input_bits=8, weight_bits=8)
    assert program.operations[0].accumulator_bound < 1 << 24  # type: ignore[union-attr]
    x = np.full((4, 256), 255, dtype=np.float32)
    x[1:, ::3] = [[1.0], [2.0], [254.0]]
    graph = samples.SampleGraph("large", x, np.array([[0, 1, 2], [1, 2, 3]]))
    expected = expected_logits(program, graph)
    np.testing.assert_array_equal(run_onnxruntime(export_qonnx(program), x, graph.edge_index), expected)


@pytest.mark.parametrize("index", [0, 5])
def test_foreign_graphs_are_refused(index: int) -> None:
    sample = case(index)
    content = export_qonnx(sample.program)
    x, edges = sample.graphs[0].x, sample.graphs[0].edge_index.copy()
    edges[0, 3] = -1
    with pytest.raises(GraphError, match=r"edge_index\[0, 3\]"):
        run_onnxruntime(content, x, edges)
    static = static_copy(sample.program, sample.graphs[0])
    with pytest.raises(GraphError):
        run_qonnx_executor(static, x, edges)
    many = np.zeros((2, 201), dtype=np.int64)
    with pytest.raises(DegreeError):
        run_onnxruntime(content, x, many)
    with pytest.raises(ExportError, match="qonnx executor"):
        run_qonnx_executor(content, x, sample.graphs[0].edge_index)


def test_both_sizes_or_none() -> None:
    with pytest.raises(ExportError, match="num_nodes and num_edges"):
        export_qonnx(case(0).program, num_nodes=3)


def test_conventions_of_qonnx() -> None:
    kinds: set[str] = set()
    for index in range(PROGRAMS):
        program = case(index).program
        model = onnx.load_from_string(export_qonnx(program))
        assert model.opset_import[0].domain == ""
        assert "ScatterND" not in operators(model)
        assert {value.name for value in model.graph.input} == {"x", "edge_index"}
        quants = [node for node in model.graph.node if node.op_type == "Quant"]
        assert all(node.domain == "qonnx.custom_op.general" and len(node.input) == 4 for node in quants)
        modes = {a.s for node in quants for a in node.attribute if a.name == "rounding_mode"}
        assert modes == {b"FLOOR" if program.rounding is Rounding.FLOOR else b"ROUND"}
        wrapper = ModelWrapper(model)
        for entry in model.graph.quantization_annotation:
            kinds.add(wrapper.get_tensor_datatype(entry.tensor_name).name.split("<")[0].rstrip("0123456789"))
    assert {"FIXED", "SCALEDINT", "BIPOLAR", "TERNARY", "INT", "UINT"} <= kinds


@pytest.mark.parametrize(
    ("bits", "fraction", "signed", "name"),
    [
        (8, 3, True, "FIXED<8,5>"),
        (4, 6, True, "FIXED<4,-2>"),
        (8, 0, True, "INT8"),
        (4, 0, False, "UINT4"),
        (1, 0, False, "BINARY"),
        (8, -1, True, "SCALEDINT<8>"),
        (8, 3, False, "SCALEDINT<8>"),
    ],
)
def test_datatypes_are_known_to_qonnx(bits: int, fraction: int, signed: bool, name: str) -> None:
    assert finn_datatype(bits, fraction, signed=signed) == name
    assert DataType[name].bitwidth() == bits


def test_two_exports_are_byte_identical() -> None:
    sample = case(7)
    assert export_qonnx(sample.program) == export_qonnx(sample.program)
    assert static_copy(sample.program, sample.graphs[0]) == static_copy(sample.program, sample.graphs[0])


def test_an_unknown_operation_is_named() -> None:
    @dataclass(frozen=True)
    class Pooling:
        layer: int = 0

    with pytest.raises(UnknownName, match="Pooling"):
        dialect.emit_operation(None, Pooling())  # type: ignore[arg-type]


def test_some_words_are_an_index_and_a_narrow_weight() -> None:
    for sample in map(case, range(PROGRAMS)):
        check_index(sample, onnx.load_from_string(export_qonnx(sample.program)))
