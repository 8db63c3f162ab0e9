"""`model.qdq.onnx` equals the naive reference however onnxruntime fuses it, or is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

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
    twice_rounded_program,
)
from onnx import TensorProto

from lpgnas.errors import ExportError, UnknownName
from lpgnas.export import onnx_qdq as dialect
from lpgnas.export.feeding import OPTIMIZATIONS, run_onnx_reference, run_onnxruntime
from lpgnas.export.onnx_qdq import export_onnx_qdq, may_saturate
from lpgnas.integer_program import IntegerProgram, Part, Transform
from lpgnas.number_formats import Rounding

THREADS = (1, 2, 4)


@cache
def exported(index: int) -> bytes:
    """The file of a case."""
    return export_onnx_qdq(case(index).program)


@pytest.mark.parametrize("index", range(0, PROGRAMS, 2))
def test_one_dynamic_file_equals_the_reference(index: int) -> None:
    sample, content = case(index), exported(index)
    for graph, expected in zip(sample.graphs, sample.expected, strict=True):
        logits = run_onnxruntime(content, graph.x, graph.edge_index)
        np.testing.assert_array_equal(logits, expected, err_msg=graph.name)


def agrees_everywhere(program: IntegerProgram, graph: samples.SampleGraph, threads: tuple[int, ...] = THREADS) -> None:
    """All levels and numbers of threads of onnxruntime, and onnx.reference."""
    content, expected = export_onnx_qdq(program), expected_logits(program, graph)
    for optimization in OPTIMIZATIONS:
        for count in threads:
            logits = run_onnxruntime(content, graph.x, graph.edge_index, optimization=optimization, threads=count)
            np.testing.assert_array_equal(logits, expected, err_msg=f"{graph.name}, {optimization}, {count} threads")
    np.testing.assert_array_equal(run_onnx_reference(content, graph.x, graph.edge_index), expected)


@pytest.mark.parametrize("index", range(0, PROGRAMS, 6))
def test_every_optimization_level_and_onnx_reference_agree(index: int) -> None:
    agrees_everywhere(case(index).program, case(index).graphs[0], threads=(1,))


@pytest.mark.slow
@pytest.mark.parametrize("index", range(PROGRAMS))
def test_every_level_every_number_of_threads_and_every_graph_agree(index: int) -> None:
    for graph in case(index).graphs:
        agrees_everywhere(case(index).program, graph)


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("index", range(3))
def test_adversarial_graphs(index: int, rounding: Rounding) -> None:
    sample = adversarial_case(index, rounding)
    content = export_onnx_qdq(sample.program)
    for graph, expected in zip(sample.graphs, sample.expected, strict=True):
        logits = run_onnxruntime(content, graph.x, graph.edge_index, threads=2)
        np.testing.assert_array_equal(logits, expected, err_msg=graph.name)
        if graph.name != "hub" and index == 0:
            reference = run_onnx_reference(content, graph.x, graph.edge_index)
            np.testing.assert_array_equal(reference, expected, err_msg=graph.name)


@pytest.mark.parametrize("attention", ["const", "gcn"])
@pytest.mark.parametrize(("input_bits", "weight_bits"), [(2, 2), (8, 8), (8, 7), (8, 4), (16, 2)])
def test_largest_codes_neither_saturate_nor_wrap(input_bits: int, weight_bits: int, attention: str) -> None:
    """The file with signed 8-bit weights is wrong on x86 without VNNI once onnxruntime fuses it."""
    program = extreme_program(37, input_bits=input_bits, weight_bits=weight_bits, attention=attention)
    x = np.full((9, 37), 3e38, dtype=np.float32)
    x[4] = -x[4]
    graph = samples.SampleGraph("largest", x, np.random.default_rng(3).integers(0, 9, (2, 30)).astype(np.int64))
    agrees_everywhere(program, graph, threads=(2,))


@pytest.mark.parametrize(("message_bits", "output_bits"), [(8, 8), (6, 8), (8, 6)])
def test_two_roundings_in_a_row_stay_two(message_bits: int, output_bits: int) -> None:
    """One QuantizeLinear is what onnxruntime makes of two that nothing stands between."""
    program = twice_rounded_program(message_bits, output_bits)
    x = np.random.default_rng(1).integers(0, 16, (400, 8)).astype(np.float32)
    graph = samples.SampleGraph("grid", x, np.zeros((2, 0), dtype=np.int64))
    assert np.unique(expected_logits(program, graph)).size > 10
    agrees_everywhere(program, graph, threads=(1,))


def parts_of(program: IntegerProgram) -> list[Part]:
    return [part for one in program.operations if isinstance(one, Transform) for part in program.parts(one)]


def test_only_products_that_cannot_saturate_are_of_signed_weights() -> None:
    """A pair of products of the largest codes stays within 16 bits, for every weight that is stored as signed bytes."""
    stored: set[int] = set()
    extreme = [extreme_program(9, input_bits=b, weight_bits=w) for b in (1, 4, 7, 8) for w in (5, 7, 8)]
    made = [(case(index).program, exported(index)) for index in range(PROGRAMS)]
    for program, content in [*made, *((one, export_onnx_qdq(one)) for one in extreme)]:
        tensors = {one.name: one for one in onnx.load_from_string(content).graph.initializer}
        for part in parts_of(program):
            kind = tensors[part.weight.name].data_type
            stored.add(kind)
            if kind in (TensorProto.INT2, TensorProto.INT4, TensorProto.INT8) and part.source.bits <= 8:
                largest = 255 if part.source.signed else part.source.high
                assert 2 * largest * np.abs(part.weight.values.astype(int)).max() < 1 << 15
            assert (kind == TensorProto.UINT8) == (may_saturate(part) or part.weight.kind == "binary")
    assert stored == {TensorProto.INT2, TensorProto.INT4, TensorProto.INT8, TensorProto.UINT8}


def test_what_a_file_is_made_of() -> None:
    """Both inputs of a MatMul are dequantised codes, and weights stay packed."""
    products = 0
    for index in range(PROGRAMS):
        program = case(index).program
        model = onnx.load_from_string(exported(index))
        made_by = {name: node for node in model.graph.node for name in node.output}
        assert "ScatterND" not in operators(model)
        assert [entry.domain for entry in model.opset_import] == [""]
        assert not model.functions
        for node in model.graph.node:
            if node.op_type == "MatMul":
                products += 1
                assert [made_by[name].op_type for name in node.input] == ["DequantizeLinear"] * 2
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                assert len(node.input) == 3
        packed = {one.name: len(one.raw_data) for one in model.graph.initializer}
        for part in parts_of(program):
            bits = {1: 1, 2: 2, 3: 4, 4: 4}.get(part.weight.bits, 8)
            assert packed[part.weight.name] == -(-part.weight.values.size * bits // 8)
    assert products >= PROGRAMS


def test_wide_codes_and_weights_are_stored_as_16_bits() -> None:
    narrow = extreme_program(20, input_bits=8, weight_bits=4)
    arrays = tuple(replace(array, bits=12) if array.role == "weight" else array for array in narrow.arrays)
    program = replace(narrow, arrays=arrays)
    model = onnx.load_from_string(export_onnx_qdq(program))
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    assert kinds["layer0/linear_weight"] == TensorProto.INT16
    assert (model.ir_version, model.opset_import[0].version) == (10, 21)
    x = np.linspace(0, 300, 12 * 20, dtype=np.float32).reshape(-1, 20)
    agrees_everywhere(program, samples.SampleGraph("wide", x, case(0).graphs[0].edge_index), threads=(1,))


def test_a_sum_beyond_float32_is_refused_with_the_way_out() -> None:
    program = extreme_program(600, input_bits=8, weight_bits=8)
    with pytest.raises(ExportError, match=r"layer 0 transform: its sums may reach \d+, beyond 2\^24.*onnx-int"):
        export_onnx_qdq(program)


def test_the_largest_exact_sum_is_exported() -> None:
    program = extreme_program(256, input_bits=8, weight_bits=8)
    assert program.operations[0].accumulator_bound < 1 << 24  # type: ignore[union-attr]
    x = np.full((4, 256), 255, dtype=np.float32)
    x[1:, ::3] = [[1.0], [2.0], [254.0]]
    agrees_everywhere(program, samples.SampleGraph("large", x, np.array([[0, 1, 2], [1, 2, 3]])), threads=(1,))


def test_an_unknown_operation_is_named() -> None:
    @dataclass(frozen=True)
    class Pooling:
        layer: int = 0

    with pytest.raises(UnknownName, match="Pooling"):
        dialect.emit_operation(None, Pooling())  # type: ignore[arg-type]


def test_some_words_are_an_index_and_a_narrow_weight() -> None:
    for index in range(PROGRAMS):
        check_index(case(index), onnx.load_from_string(exported(index)))
