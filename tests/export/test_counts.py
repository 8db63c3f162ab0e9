"""MACs, BOPs and sizes counted again from the nodes, initialisers and annotations of an exported graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import samples
from export_cases import PROGRAMS, case
from onnx import inliner, numpy_helper
from qonnx.core.datatype import DataType
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
    size = GraphSize(len(graph.x), graph.edge_index.shape[1])
    dense = [row for row in program_cost(program, size).rows if row.what in ("message", "shortcut")]
    assert cost["total_bops"] == sum(row.bops for row in dense) > 0


class Walk:
    """A static QONNX file: its Quant nodes with bits, and what is stored in which format."""

    def __init__(self, content: bytes) -> None:
        model = onnx.load_from_string(content)
        self.initializers = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        self.nodes = {node.output[0]: node for node in model.graph.node}
        types = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        self.shapes = {one.name: tuple(d.dim_value for d in one.type.tensor_type.shape.dim) for one in types}
        self.bits = {
            str(one.tensor_name): int(DataType[one.quant_parameter_tensor_names[0].value].bitwidth())
            for one in model.graph.quantization_annotation
        }

    def quantizers(self, *, stored: bool) -> dict[str, int]:
        """Bits of all elements of what quantisers make: of initialisers, or of what is computed."""
        found = {}
        for name, node in self.nodes.items():
            if node.op_type not in ("Quant", "BipolarQuant") or (node.input[0] in self.initializers) != stored:
                continue
            wide = node.op_type == "Quant"
            bits = int(self.initializers[node.input[3]]) if wide else 1
            shape = self.initializers[node.input[0]].shape if stored else self.shapes[name]
            found[name] = bits * int(np.prod(shape))
        return found

    def bits_behind(self, name: str) -> int:
        """Bits of the tensor that a value was gathered from, or is a scaled product of."""
        while name not in self.bits:
            name = self.nodes[name].input[0]
        return self.bits[name]

    def bops(self) -> int:
        """Of all matrix products, and of the sums and maxima over edges of messages, which weigh one bit."""
        total = 0
        for node in self.nodes.values():
            if node.op_type == "MatMul":
                left, right = node.input
                rows, inner = self.shapes[left]
                macs = rows * inner * self.shapes[node.output[0]][1]
                total += macs * self.bits_behind(left) * self.bits_behind(right)
            elif node.op_type == "ScatterElements" and "graph/degree" not in node.output[0]:
                rows, columns = self.shapes[node.input[2]]
                total += rows * columns * self.bits_behind(node.input[2])
        return total


@pytest.mark.parametrize("index", [index for index in PLAIN if case(index).program.index is None])
def test_sizes_and_bops_are_those_of_the_exported_graph(index: int) -> None:
    """By quantisers, annotations and static shapes; `parameters` (shifts, clamps) have no tensor in the file."""
    program, graph = case(index).program, case(index).graphs[0]
    size = GraphSize(len(graph.x), graph.edge_index.shape[1])
    cost = program_cost(program, size)
    walk = Walk(export_qonnx(program, num_nodes=size.num_nodes, num_edges=size.num_edges))
    weights = sum(walk.quantizers(stored=True).values())
    assert weights == sum(row.weight_bits for row in cost.rows if row.what.endswith("weight"))
    biases = sum(16 * one.size for name, one in walk.initializers.items() if name.endswith("/bias"))
    assert biases == sum(row.weight_bits for row in cost.rows if row.what == "bias")
    made = walk.quantizers(stored=False)
    assert made.pop("x/quantized") == cost.input_bits
    assert made.pop(f"{program.output}/quantized") == cost.output_bits
    assert sum(made.values()) == cost.buffer_bits
    assert walk.bops() == cost.quantity("bops")


@pytest.mark.parametrize("index", PLAIN)
def test_packed_weights_take_the_counted_bytes(index: int) -> None:
    """In the integer file, whole bytes an array; 3 bits are stored as 4, and 5 to 7 as 8."""
    program = case(index).program
    (content,) = TARGETS.get("onnx-int").export(program).values()
    stored = {one.name: one for one in onnx.load_from_string(content).graph.initializer}
    for array in program.arrays:
        if array.role != "weight":
            continue
        parts = [one for name, one in stored.items() if name == array.name or name.startswith(f"{array.name}/")]
        taken = 8 * sum(len(one.raw_data) for one in parts)
        width = {3: 4, 5: 8, 6: 8, 7: 8}.get(array.bits, array.bits)
        counted_bits = width * array.values.size
        assert counted_bits <= taken < counted_bits + 8 * len(parts), array.name
