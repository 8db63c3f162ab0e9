"""Multiply-accumulates counted again from what the nodes of an exported graph really multiply and add."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime
import pytest
import samples
from export_cases import PROGRAMS, case
from onnx import inliner
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model
from qonnx.util.inference_cost import inference_cost

from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import GraphSize
from lpgnas.export.feeding import qonnx_with_this_onnxruntime
from lpgnas.export.qonnx import export_qonnx
from lpgnas.export.targets import TARGETS
from lpgnas.integer_program import Aggregate, IntegerProgram
from lpgnas.operators import ATTENTIONS

ONNX = tuple(name for name in TARGETS if all(file.endswith(".onnx") for file in TARGETS.get(name).files))


def has_no_scores(program: IntegerProgram) -> bool:
    """Whether all products are those of matrices and of edges."""
    aggregates = [one for one in program.operations if isinstance(one, Aggregate)]
    return not any(ATTENTIONS.get(one.attention).learned for one in aggregates)


PLAIN = [index for index in range(PROGRAMS) if has_no_scores(case(index).program)]


def shapes_of(model: onnx.ModelProto, names: set[str], x: Any, edges: Any) -> dict[str, tuple[int, ...]]:
    """Shapes that tensors have on a graph, by running the model without any rewriting."""
    constants = {one.name: tuple(one.dims) for one in model.graph.initializer if one.name in names}
    wanted = sorted(names - set(constants))
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(wanted, {"x": x, "edge_index": edges})
    return constants | {name: value.shape for name, value in zip(wanted, values, strict=True)}


def counted(content: bytes, graph: samples.SampleGraph) -> tuple[int, int]:
    """MACs of all matrix products, and of all sums and maxima over edges but the count of the degrees."""
    model = inliner.inline_local_functions(onnx.load_from_string(content))
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "MatMulInteger")]
    scatters = [node for node in model.graph.node if node.op_type == "ScatterElements"]
    scatters = [node for node in scatters if "graph/degree" not in node.output[0]]
    names = {name for node in products for name in node.input[:2]} | {node.input[2] for node in scatters}
    shapes = shapes_of(model, names, graph.x, graph.edge_index)
    dense = sum(shapes[node.input[0]][0] * shapes[node.input[1]][0] * shapes[node.input[1]][1] for node in products)
    return dense, sum(shapes[node.input[2]][0] * shapes[node.input[2]][1] for node in scatters)


@pytest.mark.parametrize("target", ONNX)
def test_macs_are_those_of_the_exported_graph(target: str) -> None:
    assert len(PLAIN) >= 5
    for index in PLAIN:
        program, graph = case(index).program, case(index).graphs[0]
        (content,) = TARGETS.get(target).export(program).values()
        size = GraphSize(len(graph.x), graph.edge_index.shape[1])
        assert sum(counted(content, graph)) == program_cost(program, size).quantity("macs"), index


@pytest.mark.parametrize("index", [index for index in PLAIN if case(index).program.index is None])
def test_qonnx_counts_the_same_matrix_products(index: int) -> None:
    """It does not count what is gathered and scattered, nor products with the columns that a Compress leaves."""
    program, graph = case(index).program, case(index).graphs[0]
    static = export_qonnx(program, num_nodes=len(graph.x), num_edges=graph.edge_index.shape[1])
    with qonnx_with_this_onnxruntime():
        model = cleanup_model(ModelWrapper(static))
    cost = inference_cost(model, preprocess=False, discount_sparsity=False)["total_cost"]
    found = sum(value for name, value in cost.items() if name.startswith("op_mac"))
    assert found == counted(static, graph)[0]
