"""finn/model.onnx: qonnx's executor and onnxruntime give the naive codes, and what has no thresholds is refused.

FINN's own conversion runs in an environment of its own: `bash tests/finn/check.sh`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import runs
import samples
from constant_cases import ConstantCase, constant_case, csr
from export_cases import operators
from hypothesis import given
from hypothesis import strategies as st
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model

from lpgnas.constant_forms import check_compiled, compare_compiled
from lpgnas.errors import CheckFailed, ExportError
from lpgnas.export.constant_graph import AggregateStep, constant_program
from lpgnas.export.feeding import qonnx_with_this_onnxruntime
from lpgnas.export.files import export_files
from lpgnas.export.finn import FLOAT32_LIMIT, circuit_inputs, export_finn, least_totals, run_finn_file
from lpgnas.export.targets import TARGETS
from lpgnas.graph import Graph
from lpgnas.graph_files import graph_to_npz
from lpgnas.kernels.reference import requantize_array
from lpgnas.number_formats import Rounding
from lpgnas.operators import ACTIVATIONS
from lpgnas.program_file import to_bytes
from lpgnas.spec import LayerSpec
from lpgnas.support import probes, refusal, small_program

CASES = 60


def exported(sample: ConstantCase, graph: samples.SampleGraph) -> bytes | None:
    try:
        return export_finn(sample.program, csr(graph))
    except ExportError as error:
        assert "beyond 2^24" in str(error) or "rows are normalised" in str(error), error
        return None


@pytest.mark.parametrize(
    "index", [pytest.param(one, marks=() if one % 10 == 0 else pytest.mark.slow) for one in range(CASES)]
)
def test_the_qonnx_executor_gives_the_naive_codes(index: int) -> None:
    """Before and, on the first graph, after `cleanup_model`."""
    sample = constant_case(index)
    for number, (graph, expected) in enumerate(zip(sample.graphs, sample.expected, strict=True)):
        content = exported(sample, graph)
        if content is None:
            continue
        constant = constant_program(sample.program, csr(graph))
        np.testing.assert_array_equal(run_finn_file(content, constant, graph.x), expected)
        if number == 0:
            with qonnx_with_this_onnxruntime():
                cleaned = cleanup_model(ModelWrapper(content)).model.SerializeToString()
            np.testing.assert_array_equal(run_finn_file(cleaned, constant, graph.x), expected)
        fed = {name: codes.astype(np.float32) for name, codes in circuit_inputs(constant, graph.x).items()}
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(None, fed)[0], expected)


def test_most_cases_are_held_and_all_that_matters_came_up() -> None:
    held = [index for index in range(CASES) if exported(constant_case(index), constant_case(index).graphs[0])]
    assert len(held) > 0.8 * CASES
    specs = [constant_case(index).spec for index in held]
    layers = [layer for spec in specs for layer in spec.layers]
    assert {spec.row_normalize for spec in specs} == {True, False}
    assert {spec.rounding for spec in specs} == set(Rounding)
    assert {layer.activation for layer in layers} == set(ACTIVATIONS)
    assert {layer.shortcut for layer in layers} == {"none", "identity", "linear"}
    assert {layer.attention for layer in layers} == {"const", "gcn", "self"}
    assert any(constant_case(index).program.index is not None for index in held)
    steps = [
        step
        for index in held
        for graph in constant_case(index).graphs
        for step in constant_program(constant_case(index).program, csr(graph)).steps
    ]
    factors = [step.factor for step in steps if isinstance(step, AggregateStep) and step.factor is not None]
    assert any(not factor.all() for factor in factors), "a node without edges"


@given(
    st.lists(st.integers(-128, 255), min_size=1, max_size=9),
    st.integers(-3, 20),
    st.sampled_from(list(Rounding)),
)
def test_thresholds_are_where_the_rounding_steps(codes: list[int], shift: int, rounding: Rounding) -> None:
    wanted = np.array(codes, dtype=np.int64)
    least = least_totals(wanted, shift, rounding)
    far = 1 << 40
    assert (requantize_array(least, shift, -far, far, rounding) >= wanted).all()
    assert (requantize_array(least - 1, shift, -far, far, rounding) < wanted).all()


@pytest.mark.parametrize("weights", ["binary", "ternary", "fixed4", "fixed8"])
def test_the_file_has_what_finn_takes(weights: str) -> None:
    program = small_program(LayerSpec("gcn", "sum", "relu", 6), weights=weights)
    graph = samples.random_graph(np.random.default_rng(0), 9, 25, program.num_features)
    content = export_finn(program, csr(graph))
    assert content == export_finn(program, csr(graph))
    model = onnx.load_from_string(content)
    assert operators(model) <= {
        *("MatMul", "MultiThreshold", "Transpose", "Reshape", "Identity", "Quant", "BipolarQuant"),
        *(node.op_type for function in model.functions for node in function.node),
    }
    stored = {one.name for one in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 4
    for node in products:  # constant weights behind the quantiser of their codes
        quant = made[node.input[1]]
        assert quant.op_type in ("Quant", "BipolarQuant")
        assert set(quant.input) <= stored
    wrapper = ModelWrapper(model)
    assert wrapper.get_tensor_datatype("x").name == "INT8"
    kind = {"binary": "BIPOLAR", "ternary": "TERNARY", "fixed4": "INT4", "fixed8": "INT8"}[weights]
    assert wrapper.get_tensor_datatype(products[0].input[1]).name == kind
    for node in model.graph.node:
        if node.op_type == "MultiThreshold":
            table = wrapper.get_initializer(node.input[1])
            assert table.shape[1] == 255
            assert (np.diff(table, axis=1) >= 0).all()
            assert np.abs(table).max() <= FLOAT32_LIMIT
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["dialect"] == "finn"
    assert json.loads(facts["tensors"])


@pytest.mark.slow
def test_probes_are_exact_or_refused_by_name() -> None:
    rng = np.random.default_rng(4)
    held = set()
    for probe in probes():
        reason = refusal(probe.program, "finn")
        if reason:
            assert reason.startswith("ExportError"), reason
            continue
        held.add(f"{probe.group} {probe.name}")
        graph = samples.random_graph(rng, 8, 20, probe.program.num_features)
        files = export_files(probe.program, ["finn"], Graph("small", graph.x, graph.edge_index)).files
        (result,) = compare_compiled(probe.program, files)
        assert (result.mismatches, result.failed) == (0, False), (probe, result)
    assert {f"activation {name}" for name in ACTIVATIONS} <= held
    assert {f"rounding {mode}" for mode in Rounding} <= held


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (LayerSpec("gat", "sum", "relu", 6), {}, "layer 0 aggregate: the weights of the attention gat"),
        (LayerSpec("const", "max", "relu", 6), {}, "layer 0 aggregate: a maximum"),
        (LayerSpec("gcn", "sum", "relu", 6), {"code_bits": 12}, "its output has 12 bits, but thresholds"),
        (
            LayerSpec("gcn", "sum", "relu", 6),
            {"input_signed": False, "row_normalize": True, "sources": (-1, 0)},
            "layer 1 transform: it adds features whose rows are normalised",
        ),
        (
            LayerSpec("gcn", "sum", "relu", 6),
            {"num_features": 4096, "weights": "fixed8"},
            r"layer 0 transform: its sums may reach \d+, beyond 2\^24",
        ),
    ],
)
def test_what_has_no_thresholds_is_refused(layer: LayerSpec, options: dict[str, object], message: str) -> None:
    program = small_program(layer, **options)  # type: ignore[arg-type]
    graph = samples.random_graph(np.random.default_rng(0), 5, 9, program.num_features)
    with pytest.raises(ExportError, match=message):
        export_finn(program, csr(graph))


def test_export_on_the_command_line(tmp_path: Path) -> None:
    program = small_program(LayerSpec("gcn", "sum", "relu", 6), weights="ternary")
    made = samples.random_graph(np.random.default_rng(0), 9, 25, program.num_features)
    graph_to_npz(Graph("small", made.x, made.edge_index), tmp_path / "small.npz")
    (tmp_path / "program.npz").write_bytes(to_bytes(program))
    command = ("export", tmp_path / "program.npz", "--target", "finn", "--out", tmp_path / "made")
    done = runs.lpgnas(*command)
    assert done.code == 2
    assert "finn files have their graph compiled in; give a small one" in done.err
    done = runs.lpgnas(*command, "--graph", tmp_path / "small.npz")
    assert (done.code, done.err) == (0, "")
    found = {str(path.relative_to(tmp_path / "made")) for path in (tmp_path / "made").rglob("*") if path.is_file()}
    assert found == set(TARGETS.get("finn").files)


def test_a_file_that_differs_is_found() -> None:
    program = small_program(LayerSpec("gcn", "sum", "relu", 6))
    other = small_program(LayerSpec("gcn", "sum", "none", 6))
    made = samples.random_graph(np.random.default_rng(0), 9, 25, program.num_features)
    graph = Graph("small", made.x, made.edge_index)
    assert check_compiled(program, export_files(program, ["finn"], graph).files) == ""
    with pytest.raises(CheckFailed, match=r"FINN's ONNX in qonnx on its graph of 9 nodes: \d+ of 108 codes differ"):
        check_compiled(program, export_files(other, ["finn"], graph).files)
    with pytest.raises(CheckFailed, match="qonnx executor refused the file"):
        check_compiled(program, export_files(program, ["finn"], graph).files | {"finn/model.onnx": b"none"})
