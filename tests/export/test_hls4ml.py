"""hls4ml: the file in onnxruntime, what hls4ml makes of it, and its C++ emulation, against the naive reference."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import naive
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import runs
import samples
from constant_cases import CLAMPS, OPERATORS, ConstantCase, constant_case, csr
from onnx import numpy_helper

import lpgnas
from lpgnas.components import Component
from lpgnas.constant_forms import GraphChoice, check_compiled, compare_compiled
from lpgnas.datasets import graph_to_npz
from lpgnas.errors import CheckFailed, ConfigError, ExportError
from lpgnas.export import hls4ml_project
from lpgnas.export.feeding import run_constant_graph
from lpgnas.export.files import export_files
from lpgnas.export.hls4ml_files import hls4ml_config
from lpgnas.export.hls4ml_graph import CHANNELS_LAST, Hls4mlFile, export_hls4ml
from lpgnas.export.hls4ml_project import check_types, emulation, missing_tools, write_project
from lpgnas.export.targets import TARGETS
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram, Lookup
from lpgnas.kernels.csr import CsrGraph
from lpgnas.lowering import lower
from lpgnas.number_formats import FormatChoice, Rounding
from lpgnas.program_file import to_bytes
from lpgnas.results import read_record
from lpgnas.spec import LayerSpec, ModelSpec
from lpgnas.support import probes, refusal, small_graph

CASES = 30
needs_hls4ml = pytest.mark.skipif(bool(missing_tools()), reason=f"it needs {missing_tools()}")
SHAPES = ((12, 40), (5, 7), (24, 60))
"""Nodes and edges of small constant graphs."""
FEATURES, MAX_DEGREE = 10, 60


def plain_case(index: int) -> ConstantCase:
    """A case without activations by table."""
    return constant_case(index, tables=False)


@cache
def gcn_program(
    weights: str, layers: int = 2, kind: tuple[str, str] = ("gcn", "sum"), max_degree: int = MAX_DEGREE
) -> IntegerProgram:
    """A GCN, or another attention and aggregation, with weights of one format and codes of 8 bits."""

    def layer(width: int, out: Component, activation: str) -> LayerSpec:
        chosen = {Component.LINEAR_WEIGHT: FormatChoice.parse(weights)}
        chosen |= {component: FormatChoice("fixed", 8) for component in (Component.MESSAGE, out)}
        return replace(LayerSpec(*kind, activation, width), formats=chosen)

    hidden = layer(8, Component.ACTIVATION, "relu")
    spec = ModelSpec(
        num_features=FEATURES,
        num_classes=3,
        layers=(*[hidden] * (layers - 1), layer(3, Component.OUTPUT, "none")),
        rounding=Rounding.HALF_EVEN,
        input_format=FormatChoice("fixed", 4),
        input_signed=False,
        row_normalize=False,
    )
    codes = samples.random_codes(np.random.default_rng(3), spec, 2)
    return lower(spec, codes, input_fraction=2, max_degree=max_degree)


def extremes(graph: samples.SampleGraph) -> list[npt.NDArray[np.float32]]:
    """The graph's features, random large ones of both signs, and the largest everywhere."""
    rng = np.random.default_rng(1)
    signs = np.where(rng.random(graph.x.shape) < 0.5, 3e38, -3e38).astype(np.float32)
    return [graph.x, signs, np.full(graph.x.shape, 3e38, dtype=np.float32)]


def emulated_mismatches(program: IntegerProgram, graph: samples.SampleGraph) -> int:
    """Codes of the emulation that are not those of the naive reference, on several features."""
    made = export_hls4ml(program, csr(graph))
    features = extremes(graph)
    wanted = np.array([naive.run(program, x, graph.edge_index) for x in features])
    assert len(graph.x) == 1 or len(np.unique(np.concatenate(wanted), axis=0)) > 1
    with emulation(made) as built:
        codes = built.run(np.stack([made.constant.input_codes(x) for x in features]))
    return int((codes != wanted).sum())


# --- the file ---


@pytest.mark.parametrize("index", range(CASES))
def test_the_file_is_exact_in_onnxruntime(index: int) -> None:
    sample, which = plain_case(index), index % 3
    graph = sample.graphs[which]
    made = export_hls4ml(sample.program, csr(graph))
    codes = run_constant_graph(made.model, made.constant, made.constant.input_codes(graph.x))
    np.testing.assert_array_equal(codes, sample.expected[which])


def test_all_that_the_target_holds_came_up() -> None:
    specs = [plain_case(index).spec for index in range(CASES)]
    layers = [layer for spec in specs for layer in spec.layers]
    assert {(layer.attention, layer.aggregation) for layer in layers} == set(OPERATORS)
    assert {layer.activation for layer in layers} == set(CLAMPS)
    assert {layer.shortcut for layer in layers} == {"none", "identity", "linear"}
    assert {spec.rounding for spec in specs} == set(Rounding)
    assert {spec.row_normalize for spec in specs} == {True, False}
    assert {layer.self_loops for layer in layers} == {True, False}
    weights = {str(layer.formats[Component.LINEAR_WEIGHT]) for layer in layers}
    assert set(samples.WEIGHT_FORMATS) <= weights


def test_the_file_is_static_and_says_all_that_hls4ml_reads() -> None:
    for index in range(0, CASES, 5):
        sample = plain_case(index)
        made = export_hls4ml(sample.program, csr(sample.graphs[0]))
        assert made.model == export_hls4ml(sample.program, csr(sample.graphs[0])).model
        model = onnx.load_from_string(made.model)
        onnx.checker.check_model(model, full_check=True)
        inputs, outputs = ({one.name: one for one in values} for values in (model.graph.input, model.graph.output))
        shapes = {one.name: one for one in model.graph.value_info} | inputs | outputs
        for node in model.graph.node:
            assert re.fullmatch(r"[A-Za-z]\w*", node.name)
            assert list(node.output) == [node.name]
            for name in (*node.input, *node.output):
                assert name in shapes, f"{name} has no shape"
                assert all(one.dim_value > 0 for one in shapes[name].type.tensor_type.shape.dim)
            if node.op_type == "Conv":
                assert node.domain == CHANNELS_LAST
                window = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
                assert window == {"kernel_shape": [1], "strides": [1], "pads": [0, 0], "dilations": [1], "group": 1}
        assert {node.op_type for node in model.graph.node} <= {
            "Conv",
            "Transpose",
            "Mul",
            "Add",
            "Sub",
            "Relu",
            "Quant",
        }


def test_weights_edges_and_metadata_are_those_of_the_program() -> None:
    program, graph = gcn_program("fixed4"), samples.random_graph(np.random.default_rng(0), 12, 40, FEATURES)
    model = onnx.load_from_string(export_hls4ml(program, csr(graph)).model)
    stored = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    weight = next(array for array in program.arrays if array.role == "weight")
    np.testing.assert_array_equal(
        stored["layer0_message_product_weight_values"][:, 0] * 2.0**weight.fraction, weight.values
    )
    counts = np.eye(12)
    for source, target in graph.edge_index.T.tolist():
        counts[target, source] += 1
    np.testing.assert_array_equal(stored["layer0_activation_edges_values"][:, 0], counts)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["num_nodes"], facts["num_edges"], facts["dialect"]) == ("12", "40", "hls4ml")
    assert json.loads(facts["input"]) == {"bits": 4, "columns": FEATURES, "fraction": 2, "signed": False}


def test_exact_cells_of_the_support_matrix_are_exact() -> None:
    exact = 0
    for probe in probes():
        if refusal(probe.program, "hls4ml"):
            continue
        graph = small_graph(probe.program)
        made = export_hls4ml(probe.program, CsrGraph.from_edges(graph.edge_index, graph.num_nodes, self_loops=False))
        codes = run_constant_graph(made.model, made.constant, made.constant.input_codes(graph.x))
        np.testing.assert_array_equal(codes, naive.run(probe.program, graph.x, graph.edge_index))
        exact += 1
    assert exact > 25


# --- hls4ml ---


@needs_hls4ml
def test_the_emulation_of_a_small_program_is_exact() -> None:
    graph = samples.random_graph(np.random.default_rng(0), 5, 9, FEATURES)
    assert emulated_mismatches(gcn_program("fixed4", 1), graph) == 0


@pytest.mark.slow
@needs_hls4ml
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", ["binary", "ternary", "fixed4", "fixed8"])
def test_the_emulation_is_exact(weights: str, shape: tuple[int, int]) -> None:
    graph = samples.random_graph(np.random.default_rng(sum(shape)), *shape, FEATURES)
    assert emulated_mismatches(gcn_program(weights), graph) == 0


@pytest.mark.slow
@needs_hls4ml
@pytest.mark.parametrize("index", range(0, CASES, 2))
def test_the_emulation_of_random_programs_is_exact(index: int) -> None:
    """On each of the three shapes in turn; where all rows of logits are equal there, on the first one."""
    sample, which = plain_case(index), index % 3
    dull = which == 1 and len(np.unique(sample.expected[1], axis=0)) == 1
    assert emulated_mismatches(sample.program, sample.graphs[0 if dull else which]) == 0


@pytest.mark.slow
@needs_hls4ml
def test_too_few_bits_are_noticed() -> None:
    """The comparison can fail: an accumulator of three bits less wraps."""
    program, graph = gcn_program("fixed8"), samples.random_graph(np.random.default_rng(0), 12, 40, FEATURES)
    made = export_hls4ml(program, csr(graph))
    name = "layer0_message_product"
    bits, integers = re.findall(r"\d+", made.precisions[name]["accum"])
    short = {**made.precisions[name], "accum": f"fixed<{int(bits) - 3},{int(integers) - 3}>"}
    short["result"] = short["accum"]
    narrowed = replace(made, precisions={**made.precisions, name: short})
    x = np.full(graph.x.shape, 3e38, dtype=np.float32)
    wanted = np.array(naive.run(program, x, graph.edge_index))
    with emulation(narrowed) as built:
        assert (built.run(made.constant.input_codes(x)[None])[0] != wanted).any()


def test_an_emulation_that_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> npt.NDArray[np.float64]:
        raise RuntimeError("no such function")

    with pytest.raises(ExportError, match="could not be run: no such function"):
        hls4ml_project._on_a_large_stack(broken)
    assert hls4ml_project._on_a_large_stack(lambda: [1.0, 2.0]).tolist() == [1.0, 2.0]
    monkeypatch.setattr(hls4ml_project, "_STACK_BYTES", 1 << 46)  # more than there is
    with pytest.raises(ExportError, match="could not be run"):
        hls4ml_project._on_a_large_stack(lambda: [1.0])


@needs_hls4ml
def test_types_that_hls4ml_changes_are_refused(tmp_path: Path) -> None:
    graph = samples.random_graph(np.random.default_rng(0), 5, 9, FEATURES)
    made = export_hls4ml(gcn_program("fixed4", 1), csr(graph))
    model = write_project(made.model, hls4ml_config(made), tmp_path / "project")
    assert (tmp_path / "project/firmware/lpgnas.cpp").exists()
    check_types(model, made.precisions)

    def told(name: str, what: str, type_: str) -> Hls4mlFile:
        changed = {**made.precisions[name], what: type_}
        return replace(made, precisions={**made.precisions, name: changed})

    with pytest.raises(ExportError, match=r"gave accum of layer 'Conv1D_logits_sums' the type .* not fixed<50,20>"):
        check_types(model, told("logits_sums", "accum", "fixed<50,20>").precisions)
    rounding = made.precisions["logits"]["result"].replace("RND_CONV", "TRN")
    with pytest.raises(ExportError, match=r"gave result of layer 'logits_act' the type .*RND_CONV.* not .*TRN"):
        check_types(model, told("logits", "result", rounding).precisions)
    more = replace(made, precisions={**made.precisions, "lost": {}})
    with pytest.raises(ExportError, match="left out the layers lost"):
        check_types(model, more.precisions)
    fewer = {name: one for name, one in made.precisions.items() if name != "logits_sums"}
    with pytest.raises(ExportError, match="made a layer 'Conv1D_logits_sums' of its own"):
        check_types(model, fewer)
    with pytest.raises(ExportError, match="hls4ml refused the file"):
        write_project(made.model.replace(b"Relu", b"Relo").replace(b"Transpose", b"Transpore"), {}, tmp_path / "other")


# --- refusals ---


def test_tables_are_refused_by_name() -> None:
    sample = next(
        one
        for one in map(constant_case, range(60))
        if any(isinstance(operation, Lookup) for operation in one.program.operations)
    )
    with pytest.raises(ExportError, match=r"layer \d lookup: .* use the activation none, relu or relu6"):
        export_hls4ml(sample.program, csr(sample.graphs[0]))


def test_without_a_graph_or_tools_it_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = gcn_program("fixed4", 1)
    with pytest.raises(ExportError, match=r"target hls4ml: .* compiled in; give a small one \(--graph GRAPH.npz\)"):
        export_files(program, ["hls4ml"])
    graph = samples.random_graph(np.random.default_rng(0), 5, 9, FEATURES)
    made = export_hls4ml(program, csr(graph))
    files = export_files(program, ["hls4ml"], Graph("small", graph.x, graph.edge_index)).files
    assert tuple(files) == TARGETS.get("hls4ml").files
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(hls4ml_project, "find_spec", lambda name: None)
    missing = r"hls4ml \(pip install hls4ml==1.3.0\), g\+\+ \(Debian: g\+\+\)"
    with pytest.raises(ExportError, match=f"needs {missing}"), emulation(made):
        pass
    with pytest.raises(ExportError, match="not installed: pip install hls4ml"):
        write_project(made.model, hls4ml_config(made), tmp_path)
    assert re.fullmatch(f"hls4ml's C.. emulation: not run: it needs {missing}", check_compiled(program, files))
    forms = {one.form: one for one in compare_compiled(program, files)}
    assert forms["hls4ml's ONNX in onnxruntime"].compared == 4 * 5 * 3
    assert not any(one.failed for one in forms.values())


def test_a_file_of_another_program_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # onnxruntime is enough here
    graph = samples.random_graph(np.random.default_rng(0), 5, 9, FEATURES)
    files = export_files(gcn_program("fixed4", 1), ["hls4ml"], Graph("small", graph.x, graph.edge_index)).files
    with pytest.raises(
        CheckFailed, match=r"hls4ml's ONNX in onnxruntime on its graph of 5 nodes: \d+ of 60 codes differ"
    ):
        check_compiled(gcn_program("fixed8", 1), files)
    broken = files | {"hls4ml/model.onnx": b"none"}
    with pytest.raises(CheckFailed, match="onnxruntime refused the file"):
        check_compiled(gcn_program("fixed4", 1), broken)


def test_coefficients_that_are_all_zero_are_refused() -> None:
    """A mean over 70,000 edges has the coefficient 0."""
    edges = np.zeros((2, 70_000), dtype=np.int64)
    program = gcn_program("fixed4", 1, ("const", "mean"), 70_000)
    with pytest.raises(ExportError, match="coefficient of every node rounds to 0"):
        export_hls4ml(program, CsrGraph.from_edges(edges, 1, self_loops=False))
    export_hls4ml(program, CsrGraph.from_edges(edges[:, :0], 1, self_loops=False))


def test_a_neighbourhood_beyond_what_can_be_compiled_in_is_refused() -> None:
    with pytest.raises(ExportError, match="at most 2048 nodes, not 100000000000"):
        GraphChoice(1, None, 100_000_000_000)


def test_a_fan_out_without_a_node_is_refused() -> None:
    with pytest.raises(ExportError, match="say of which node"):
        GraphChoice(fan_out=3)


# --- the command line ---


def graph_file(folder: Path, columns: int) -> Path:
    """A small graph without labels."""
    made = samples.random_graph(np.random.default_rng(0), 9, 25, columns)
    path = folder / "small.npz"
    graph_to_npz(Graph("small", made.x, made.edge_index), path)
    return path


def without_hls4ml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the emulation out, which takes seconds to build."""
    monkeypatch.setattr(hls4ml_project, "find_spec", lambda name: None)


def test_export_of_a_program_and_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_hls4ml(monkeypatch)
    program, graph = gcn_program("ternary"), graph_file(tmp_path, FEATURES)
    (tmp_path / "program.npz").write_bytes(to_bytes(program))
    command = ("export", tmp_path / "program.npz", "--target", "hls4ml", "--out", tmp_path / "made")
    done = runs.lpgnas(*command, "--graph", graph)
    assert done.code == 0
    assert done.err.startswith("not checked: hls4ml's C++ emulation: not run: it needs hls4ml (pip install")
    files = {f"hls4ml/{name}" for name in ("model.onnx", "config.json", "graph.npz")}
    assert runs.paths_of(tmp_path / "made").keys() == files
    done = runs.lpgnas(*command, "--graph", graph, "--node", "3", "--fan-out", "2", "--nodes", "7")
    assert done.code == 0
    with np.load(tmp_path / "made/hls4ml/graph.npz") as made, np.load(graph) as whole:
        assert made["x"].shape == (7, FEATURES)
        np.testing.assert_array_equal(made["x"][0], whole["x"][3])
        assert np.bincount(made["edge_index"][1]).max() <= 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--target", "hls4ml"), "hls4ml files have their graph compiled in; give a small one"),
        (("--target", "hls4ml", "--node", "1"), "hls4ml files have their graph compiled in; give a small one"),
        (("--target", "hls4ml", "--graph", "small.npz", "--fan-out", "2"), "say of which node"),
        (("--target", "hls4ml", "--graph", "small.npz", "--node", "9"), "has no node 9"),
        (("--target", "hls4ml", "--graph", "small.npz", "--node", "1", "--nodes", "1"), "take a smaller fan-out"),
        (("--target", "onnx-int", "--node", "1"), "go with targets that compile a graph in"),
        (("--target", "onnx-int", "--graph", "small.npz"), "go with --target c and a program.npz"),
        (("--target", "hls4ml", "--graph", "other.npz"), "DegreeError: node 0 has 61 incoming edges"),
    ],
)
def test_bad_exports_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    graph_file(tmp_path, FEATURES)
    hub = np.stack([np.ones(61, dtype=np.int64), np.zeros(61, dtype=np.int64)])
    graph_to_npz(Graph("other", np.zeros((2, FEATURES), dtype=np.float32), hub), tmp_path / "other.npz")
    (tmp_path / "program.npz").write_bytes(to_bytes(gcn_program("ternary")))
    done = runs.lpgnas("export", "program.npz", *options, "--out", "made")
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert not (tmp_path / "made").exists()


@pytest.fixture(scope="module")
def gcn_run(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without activations by table; to be looked at only."""
    folder = tmp_path_factory.mktemp("gcn") / "run"
    model = ("--strategy", "uniform", "--architecture", "gcn", "--hidden", "8", "--weight-format", "fixed4")
    done = runs.lpgnas("run", "--quiet", "--dataset", small_npz, *runs.QUICK, *model, "--out", folder)
    assert done.code == 0, done.err
    return folder


def test_a_run_keeps_and_verifies_its_export(gcn_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_hls4ml(monkeypatch)
    folder = runs.copied(gcn_run, tmp_path / "run")
    done = runs.lpgnas("export", "--quiet", folder, "--target", "hls4ml", "--node", "2", "--fan-out", "3")
    assert done.code == 0, done.err
    stage = read_record(folder / "record.json")["stages"]["export"]
    assert set(stage["files"]) == {*runs.EXPORTED, *TARGETS.get("hls4ml").files}
    assert stage["compiled_in_unchecked"].startswith("hls4ml's C++ emulation: not run: it needs hls4ml")
    assert runs.lpgnas("verify", "--quiet", folder).code == 0
    made = {one["form"]: one for one in read_record(folder / "record.json")["stages"]["verify"]["comparisons"]}
    assert (made["hls4ml's ONNX in onnxruntime"]["mismatches"], made["hls4ml's ONNX in onnxruntime"]["failed"]) == (
        0,
        False,
    )
    assert made["hls4ml's C++ emulation"]["note"].startswith("not run: it needs hls4ml")
    project = folder / "hls4ml/project"
    project.mkdir()
    assert runs.lpgnas("export", "--quiet", folder).code == 0  # the default targets: these files stay
    stage = read_record(folder / "record.json")["stages"]["export"]
    assert set(stage["files"]) == {*runs.EXPORTED, *TARGETS.get("hls4ml").files}
    assert stage["compiled_in_unchecked"].startswith("hls4ml's C++ emulation: not run: it needs hls4ml")
    assert project.exists()
    (folder / "hls4ml/model.onnx").write_bytes(b"of another program")
    assert runs.lpgnas("export", "--quiet", folder).code == 0
    stage = read_record(folder / "record.json")["stages"]["export"]
    assert set(stage["files"]) == set(runs.EXPORTED)
    assert "compiled_in_unchecked" not in stage
    assert not project.exists()


def test_python_takes_a_graph(gcn_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_hls4ml(monkeypatch)
    folder = runs.copied(gcn_run, tmp_path / "run")
    made = samples.random_graph(np.random.default_rng(0), 9, 25, runs.FEATURES)
    result = lpgnas.open_run(folder).export("hls4ml", graph=Graph("small", made.x, made.edge_index))
    assert set(TARGETS.get("hls4ml").files) <= set(result.files)
    with pytest.raises(ExportError, match="compiled in; give a small one"):
        lpgnas.open_run(folder).export("hls4ml")
    with pytest.raises(ConfigError, match="a graph goes with targets that compile one in: hls4ml, finn"):
        lpgnas.open_run(folder).export("c", graph=Graph("small", made.x, made.edge_index))


@pytest.mark.slow
@needs_hls4ml
def test_a_run_verifies_the_emulation(gcn_run: Path, tmp_path: Path) -> None:
    folder = runs.copied(gcn_run, tmp_path / "run")
    assert runs.lpgnas("export", "--quiet", folder, "--target", "hls4ml", "--node", "2", "--fan-out", "3").code == 0
    assert (folder / "hls4ml/project/firmware/lpgnas.cpp").exists()
    assert runs.lpgnas("verify", "--quiet", folder).code == 0
    made = {one["form"]: one for one in read_record(folder / "record.json")["stages"]["verify"]["comparisons"]}
    emulated = made["hls4ml's C++ emulation"]
    assert (emulated["mismatches"], emulated["note"], emulated["failed"]) == (0, "", False)
    assert emulated["compared"] > 0


@pytest.mark.slow
@needs_hls4ml
@pytest.mark.filterwarnings("ignore")  # hls4ml's own
def test_the_page_s_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, graph = gcn_program("fixed4", 1), graph_file(tmp_path, FEATURES)
    (tmp_path / "program.npz").write_bytes(to_bytes(program))
    command = ("export", tmp_path / "program.npz", "--target", "hls4ml", "--out", tmp_path, "--graph", graph)
    assert runs.lpgnas(*command).code == 0
    monkeypatch.chdir(tmp_path)
    page = (runs.ROOT / "docs/targets/hls4ml.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    with np.load(graph) as arrays:
        wanted = naive.run(program, arrays["x"], arrays["edge_index"])
    np.testing.assert_array_equal(np.ldexp(names["logits"], program.logits.fraction), wanted)
