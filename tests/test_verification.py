"""The chain of equalities holds, and breaks by name under every wrong arithmetic and every changed byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import runs
import samples
import torch
from onnx import numpy_helper

from lpgnas.errors import DegreeError, GraphError
from lpgnas.export.feeding import run_onnxruntime
from lpgnas.export.files import export_files
from lpgnas.export.targets import ONNX_INT, ONNX_QDQ, QONNX
from lpgnas.graph_tensors import graph_tensors
from lpgnas.integer_program import Aggregate, Array, IntegerProgram, Operation, Score, Transform, accumulator_bits
from lpgnas.kernels.executor import Executor
from lpgnas.kernels.reference import run_reference
from lpgnas.layers import QuantizedModel
from lpgnas.lowering import lower
from lpgnas.number_formats import Rounding
from lpgnas.pipeline import fake_quant_form
from lpgnas.program_file import load_program, to_bytes
from lpgnas.proofs import aggregate_bounds, check_program, score_bound, transform_bounds
from lpgnas.spec import ModelSpec
from lpgnas.verification import Comparison, forms_of, unseen_graphs, verify_forms

FORMS = (
    "fake-quant",
    "numpy",
    "numba",
    "int ONNX in onnxruntime",
    "int ONNX in onnx.reference",
    "QDQ ONNX in onnxruntime",
    "QONNX in onnxruntime",
    "QONNX in qonnx",
)
Mutation = Callable[[IntegerProgram], IntegerProgram]


def random_model(seed: int = 0, spec: ModelSpec | None = None) -> tuple[QuantizedModel, IntegerProgram]:
    """An untrained model whose fractions were observed, and its program."""
    torch.manual_seed(seed)
    spec = spec or runs.every_operation()
    words = samples.random_words(seed, spec)
    model = QuantizedModel(spec, 0, None if words is None else torch.from_numpy(words))
    tensors = graph_tensors(runs.small_graph(), model.input_format, model.spec.rounding, row_normalize=True)
    with torch.no_grad():
        for layer in model.layers:
            layer.get_parameter("bias").uniform_(-0.2, 0.2)
        model(tensors, observe=True)
    return model, lower(model.spec, model.layer_codes(), input_fraction=0, max_degree=40, words=words)


def compared(model: QuantizedModel, program: IntegerProgram) -> list[Comparison]:
    files = export_files(program).files
    forms = forms_of(
        program,
        fake_quant=fake_quant_form(model, program),
        onnx_int=files[ONNX_INT],
        onnx_qdq=files[ONNX_QDQ],
        qonnx=files[QONNX],
    )
    graph = runs.small_graph()
    return verify_forms(program, forms, [graph, *unseen_graphs(graph, program.max_degree)])


def test_every_form_of_every_operation_agrees() -> None:
    model, program = random_model()
    results = compared(model, program)
    assert [result.form for result in results[: len(FORMS)]] == list(FORMS)
    assert len(results) == 7 * len(FORMS)
    assert [result for result in results if result.failed or result.mismatches or result.note] == []
    assert all(result.compared > 0 for result in results)
    small = next(result for result in results if result.graph == "small")
    assert small.compared == runs.NODES * runs.CLASSES


@pytest.mark.parametrize("spec", [runs.jumping_spec(), runs.edgeless_spec()], ids=["jumping", "edgeless"])
def test_every_form_of_routed_blocks_agrees(spec: ModelSpec) -> None:
    results = compared(*random_model(spec=spec))
    assert len(results) == 7 * len(FORMS)
    assert [result for result in results if result.failed or result.mismatches or result.note] == []


@pytest.mark.parametrize("spec", [runs.rich_spec(), runs.edgeless_spec()], ids=["edges", "edgeless"])
def test_every_form_refuses_edges_that_the_program_is_not_for(spec: ModelSpec) -> None:
    """Also where no operation reads an edge: a file means the same graphs in every runtime."""
    program = random_model(spec=spec)[1]
    files = export_files(program, ["onnx-int", "onnx-qdq", "qonnx"]).files
    x = runs.small_graph().x
    for edges, error in (
        (np.array([[0, 60], [1, 2]]), GraphError),
        (np.array([[0, 1], [1, -1]]), GraphError),
        (np.array([[-1, 1], [1, 1]]), GraphError),
        (np.stack([np.arange(41), np.zeros(41, dtype=np.int64)]), DegreeError),
    ):
        assert set(files) == {ONNX_INT, ONNX_QDQ, QONNX}
        for content in files.values():
            with pytest.raises(error):
                run_onnxruntime(content, x, edges)
        for run in (Executor(program).run, lambda x, edges: run_reference(program, x, edges)):
            with pytest.raises(error):
                run(x, edges)


def test_unseen_graphs_stay_within_the_degree() -> None:
    for max_degree in (0, 1, 7, 40):
        graphs = unseen_graphs(runs.small_graph(), max_degree)
        assert max(graph.max_degree for graph in graphs) <= max_degree
        assert len({graph.name for graph in graphs}) == 6


def test_a_form_that_refuses_and_one_of_another_shape_fail() -> None:
    _, program = random_model()
    graph = runs.small_graph()
    forms = forms_of(program, fake_quant=None, onnx_int=b"no ONNX file", qonnx=None)
    forms["narrow"] = lambda graph: np.zeros((graph.num_nodes, 1))
    forms["nan"] = lambda graph: np.full((graph.num_nodes, runs.CLASSES), np.nan)
    results = {result.form: result for result in verify_forms(program, forms, [graph])}
    assert [form for form, result in results.items() if not result.failed] == ["numpy", "numba"]
    assert "ExportError: onnxruntime refused the file" in results["int ONNX in onnxruntime"].note
    assert results["narrow"].note == "shape (60, 1) instead of (60, 3)"
    assert results["nan"].mismatches == runs.NODES * runs.CLASSES


# --- programs with other semantics, behind correct hashes and proofs ---


def reproved(program: IntegerProgram, *, check: bool = True) -> IntegerProgram:
    """The program with the bounds that its operations really have, so that reading the file cannot tell."""
    done: list[Operation] = []
    for operation in program.operations:
        if isinstance(operation, Transform):
            parts = program.parts(operation)
            bound, total = transform_bounds(parts, degree_factor=operation.degree_factor, shift=operation.shift)
        elif isinstance(operation, Aggregate):
            message = program.tensor(operation.input)
            shortcut = None if operation.shortcut is None else program.tensor(operation.shortcut)
            bias = None if operation.bias is None else program.array(operation.bias).values
            bound, total = aggregate_bounds(operation, message, shortcut, bias, program.max_degree)
        else:
            done.append(_reproved_score(program, operation) if isinstance(operation, Score) else operation)
            continue
        bits = accumulator_bits(bound)
        done.append(replace(operation, accumulator_bits=bits, accumulator_bound=bound, total_bound=total))
    proved = replace(program, operations=tuple(done))
    if check:
        check_program(proved)
    return proved


def _reproved_score(program: IntegerProgram, score: Score) -> Score:
    weights = [program.array(weight).values for weight, _ in score.products().values()]
    return replace(score, accumulator_bound=score_bound(weights, program.tensor(score.input)))


def operation(kind: type, layer: int, **changes: Any) -> Mutation:
    """The first operation of `kind` in a layer with other fields; a callable maps the old value."""

    def mutate(program: IntegerProgram) -> IntegerProgram:
        done = list(program.operations)
        place = next(k for k, one in enumerate(done) if type(one) is kind and one.layer == layer)
        values = {
            name: change(getattr(done[place], name)) if callable(change) else change for name, change in changes.items()
        }
        assert any(getattr(done[place], name) != value for name, value in values.items())
        done[place] = replace(done[place], **values)
        return replace(program, operations=tuple(done))

    return mutate


def array(name: str, change: Callable[[Any], None]) -> Mutation:
    """One constant with a code changed in place."""

    def mutate(program: IntegerProgram) -> IntegerProgram:
        def changed(one: Array) -> Array:
            if one.name != name:
                return one
            values = one.values.copy()
            change(values)
            assert not np.array_equal(values, one.values)
            return replace(one, values=values)

        return replace(program, arrays=tuple(changed(one) for one in program.arrays))

    return mutate


def flip_largest(values: Any) -> None:
    place = np.unravel_index(np.argmax(np.abs(values.astype(int))), values.shape)
    values[place] = -values[place] if values[place] > values.min() else values[place] + 1


def negate(values: Any) -> None:
    values[...] = -values


def lower_second(values: Any) -> None:
    values[1:] //= 2


def shift_entries(values: Any) -> None:
    values[:-1] = values[1:].copy()


def swap_words(values: Any) -> None:
    """Keep another word instead of a kept one."""
    kept, left = int(np.flatnonzero(values)[0]), int(np.flatnonzero(values == 0)[0])
    values[[kept, left]] = values[[left, kept]]


def swap_bits(packed: Any) -> Any:
    """`swap_words` of the packed index of an ONNX file."""
    bits = np.unpackbits(packed.ravel(), count=runs.FEATURES, bitorder="little")
    swap_words(bits)
    return np.packbits(bits, bitorder="little").reshape(packed.shape)


def flip_bit(packed: Any) -> Any:
    """One word more, or less."""
    packed[0, 0] ^= 1
    return packed


def without_row_factor(program: IntegerProgram) -> IntegerProgram:
    done = tuple(replace(one, row_factor=False) if isinstance(one, Transform) else one for one in program.operations)
    return replace(program, operations=done, row_normalize=False)


def without_self_loops(program: IntegerProgram) -> IntegerProgram:
    done = tuple(
        replace(one, self_loops=False) if isinstance(one, (Transform, Aggregate)) else one for one in program.operations
    )
    return replace(program, operations=done)


MUTATIONS: dict[str, Mutation] = {
    "rounding half up": lambda program: replace(program, rounding=Rounding.HALF_UP),
    "rounding floor": lambda program: replace(program, rounding=Rounding.FLOOR),
    "self-loops dropped everywhere": without_self_loops,
    "self-loops dropped in one aggregation": operation(Aggregate, 1, self_loops=False),
    "transform shift off by one": operation(Transform, 0, shift=lambda shift: shift + 1),
    "aggregate shift off by one": operation(Aggregate, 1, shift=lambda shift: shift - 1),
    "score shift off by one": operation(Aggregate, 1, score_shift=lambda shift: shift + 1),
    "bias shift off by one": operation(Aggregate, 0, bias_shift=lambda shift: shift + 1),
    "shortcut shift off by one": operation(Aggregate, 1, shortcut_shift=lambda shift: shift - 1),
    "gcn without the source's coefficient": operation(Transform, 0, degree_factor=False),
    "gcn turned into mean": operation(Aggregate, 0, attention="const", aggregation="mean"),
    "gcn without the target's coefficient": operation(Aggregate, 0, attention="const"),
    "max instead of sum": operation(Aggregate, 1, aggregation="max"),
    "weight code flipped": array("layer0/linear_weight", flip_largest),
    "another word kept": array("input_words", swap_words),
    "shortcut weight code flipped": array("layer1/shortcut_weight", flip_largest),
    "attention weights negated": array("layer1/source_attention_weight", negate),
    "bias changed": array("layer1/bias", lambda values: values.__setitem__(0, values[0] + 999)),
    "clamp changed": operation(Aggregate, 1, clamp_high=lambda high: high // 4),
    "softmax table entries changed": array("layer1/softmax_table", lower_second),
    "activation table shifted": array("layer0/activation_table", shift_entries),
    "row_normalize off": without_row_factor,
}


CAUGHT_BY_THE_PROOF = frozenset(
    {
        "transform shift off by one",
        "aggregate shift off by one",
        "score shift off by one",
        "bias shift off by one",
        "shortcut shift off by one",
        "gcn without the source's coefficient",
        "gcn without the target's coefficient",
        "row_normalize off",
    }
)
"""They contradict the fractions, so that reading the program names them before any form runs."""


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_program_of_other_semantics_is_caught(name: str, rich_run: Path, tmp_path: Path) -> None:
    run = runs.copied(rich_run, tmp_path / "run", qonnx=False)
    mutated = reproved(MUTATIONS[name](load_program(run / "program.npz")), check=name not in CAUGHT_BY_THE_PROOF)
    runs.replace_file(run, "program.npz", to_bytes(mutated))
    done = runs.lpgnas("verify", "--quiet", run)
    assert done.code == 1
    if name in CAUGHT_BY_THE_PROOF:
        assert "ProgramError" in done.err
        assert "but the fractions of its tensors make it" in done.err
        return
    for form in ("numpy", "numba"):  # they run from the program; the files are still the old ones
        assert f"\n  {form} on small: " in done.err, done.err
    assert "codes differ" in done.err
    assert "ONNX" not in done.err


# --- ONNX files with other semantics, behind correct hashes ---


OnnxMutation = Callable[[onnx.ModelProto], None]


def stored(name: str, change: Callable[[Any], Any]) -> OnnxMutation:
    """Change a stored tensor: packed weights as their bytes, others as their values."""

    def mutate(model: onnx.ModelProto) -> None:
        tensor = next(one for one in model.graph.initializer if one.name == name)
        packed = tensor.data_type in (onnx.TensorProto.UINT4, onnx.TensorProto.INT4)
        values = np.frombuffer(tensor.raw_data, dtype=np.uint8) if packed else numpy_helper.to_array(tensor)
        changed = np.asarray(change(values.copy()), dtype=values.dtype)
        assert changed.tobytes() != values.tobytes()
        tensor.raw_data = changed.tobytes()

    return mutate


def constant(consumer: str, position: int, change: Callable[[Any], Any]) -> OnnxMutation:
    """Give the node that makes `consumer` a constant of its own, changed, as its input number `position`."""

    def mutate(model: onnx.ModelProto) -> None:
        node = next(one for one in model.graph.node if one.output[0] == consumer)
        old = next(one for one in model.graph.initializer if one.name == node.input[position])
        values = numpy_helper.to_array(old)
        changed = np.asarray(change(values), dtype=values.dtype)
        assert changed.tobytes() != values.tobytes()
        model.graph.initializer.append(numpy_helper.from_array(changed, "mutated"))
        node.input[position] = "mutated"

    return mutate


def swapped(consumer: str, op_type: str) -> OnnxMutation:
    """Let the node that makes `consumer` be of another operator."""

    def mutate(model: onnx.ModelProto) -> None:
        node = next(one for one in model.graph.node if one.output[0] == consumer)
        assert node.op_type != op_type
        node.op_type = op_type

    return mutate


def attribute(consumer: str, name: str, value: bytes) -> OnnxMutation:
    """Give the node that makes `consumer`, or the local function of that name, another attribute of type text."""

    def mutate(model: onnx.ModelProto) -> None:
        nodes = [one for one in model.graph.node if one.output[0] == consumer]
        nodes += [one for function in model.functions if function.name == consumer for one in function.node]
        found = next(one for node in nodes for one in node.attribute if one.name == name)
        assert found.s != value
        found.s = value

    return mutate


ONNX_MUTATIONS: dict[str, tuple[str, OnnxMutation]] = {
    "int: weight byte flipped": ("model.int.onnx", stored("layer0/linear_weight", lambda values: values ^ 0x80)),
    "int: another word kept": ("model.int.onnx", stored("input_words", swap_bits)),
    "int: one word more or less": ("model.int.onnx", stored("input_words", flip_bit)),
    "int: bias changed": ("model.int.onnx", stored("layer1/bias", lambda values: values + 999)),
    "int: shift constant off by one": ("model.int.onnx", constant("logits/codes", 1, lambda power: power * 2)),
    "int: clamp changed": ("model.int.onnx", constant("logits/codes", 3, lambda high: high // 4)),
    "int: softmax table changed": ("model.int.onnx", stored("layer1/softmax_table", lambda values: values // 2)),
    "int: sum turned into max": ("model.int.onnx", attribute("SumOverEdges", "reduction", b"max")),
    "QDQ: weight changed": ("model.qdq.onnx", stored("layer0/linear_weight", lambda values: values ^ 0x80)),
    "QDQ: another word kept": ("model.qdq.onnx", stored("input_words", swap_bits)),
    "QDQ: scale changed": ("model.qdq.onnx", constant("logits", 1, lambda scale: scale * 2)),
    "QDQ: zero point changed": ("model.qdq.onnx", constant("logits/quantized", 2, lambda zero: zero + 1)),
    "QDQ: clamp changed": ("model.qdq.onnx", constant("layer1/message/clipped", 2, lambda high: high / 4)),
    "QONNX: weight changed": ("model.qonnx.onnx", stored("layer0/linear_weight", lambda values: -values)),
    "QONNX: another word kept": ("model.qonnx.onnx", stored("input_words", swap_bits)),
    "QONNX: one word more or less": ("model.qonnx.onnx", stored("input_words", flip_bit)),
    "QONNX: scale changed": ("model.qonnx.onnx", constant("logits/scaled", 1, lambda scale: scale * 2)),
    "QONNX: quantiser's rounding": (
        "model.qonnx.onnx",
        attribute("layer1/message/quantized", "rounding_mode", b"FLOOR"),
    ),
    "QONNX: rounding flipped": ("model.qonnx.onnx", swapped("logits/rounded", "Floor")),
}


@pytest.mark.parametrize("name", ONNX_MUTATIONS)
def test_an_onnx_file_of_other_semantics_is_caught(name: str, rich_run: Path, tmp_path: Path) -> None:
    file, mutate = ONNX_MUTATIONS[name]
    run = runs.copied(rich_run, tmp_path / "run", qonnx=file == "model.qonnx.onnx")
    model = onnx.load(str(run / file))
    mutate(model)
    runs.replace_file(run, file, model.SerializeToString())
    done = runs.lpgnas("verify", "--quiet", run)
    assert done.code == 1
    dialect, runtime = {
        "model.int.onnx": ("int ONNX", "onnx.reference"),
        "model.qdq.onnx": ("QDQ ONNX", "onnxruntime"),
        "model.qonnx.onnx": ("QONNX", "qonnx"),
    }[file]
    assert f"\n  {dialect} in {runtime} on small: " in done.err, done.err
    # onnxruntime expands a Quant node into its local function, which knows one rounding
    assert (f"\n  {dialect} in onnxruntime on small: " in done.err) == ("quantiser" not in name), done.err
    for other in ("numpy", "numba"):
        assert f"  {other} on" not in done.err


@pytest.mark.parametrize("word", range(runs.FEATURES))
def test_a_flipped_bit_of_the_index_is_named(word: int, rich_run: Path, tmp_path: Path) -> None:
    def flip(values: Any) -> None:
        values[word] ^= 1

    run = runs.copied(rich_run, tmp_path / "run", qonnx=False)
    mutated = array("input_words", flip)(load_program(run / "program.npz"))
    runs.replace_file(run, "program.npz", to_bytes(mutated))
    done = runs.lpgnas("verify", "--quiet", run)
    assert done.code == 1
    assert "ProgramError" in done.err
    assert "weight has shape (8, 9), expected (8, " in done.err
    assert "of 12 words" in done.err


def test_a_failed_verification_is_not_done(rich_run: Path, tmp_path: Path) -> None:
    run = runs.copied(rich_run, tmp_path / "run", qonnx=False)
    intact = (run / "program.npz").read_bytes()
    mutated = reproved(MUTATIONS["max instead of sum"](load_program(run / "program.npz")))
    runs.replace_file(run, "program.npz", to_bytes(mutated))
    assert runs.lpgnas("verify", "--quiet", run).code == 1
    again = runs.lpgnas("run", "--quiet", "--out", run)
    assert again.code == 1
    assert "numpy on small" in again.err
    assert "FAILED" in (run / "report.md").read_text()
    refused = runs.lpgnas("evaluate", "--quiet", run)
    assert refused.code == 1
    assert "stage 'verify' failed its check" in refused.err
    runs.replace_file(run, "program.npz", intact)
    assert runs.lpgnas("run", "--quiet", "--out", run).code == 0


# --- changed bytes ---


@pytest.mark.parametrize("name", [name for name in runs.FILES if name not in runs.REPORTS])  # nothing reads those
def test_one_changed_byte_is_refused_by_name(name: str, small_run: Path, tmp_path: Path) -> None:
    content = (small_run / name).read_bytes()
    for place in (0, len(content) // 2, len(content) - 1):
        run = runs.copied(small_run, tmp_path / f"run{place}")
        spoiled = bytearray(content)
        spoiled[place] ^= 1
        (run / name).write_bytes(spoiled)
        done = runs.lpgnas("verify", "--quiet", run)
        assert done.code == 1, done.err
        assert done.err.startswith(f"check failed: {run / name} was changed after")


@pytest.mark.parametrize("name", (*runs.REPEATABLE, "candidates.csv", "costs.csv"))
def test_a_missing_file_is_refused_by_name(name: str, small_run: Path, tmp_path: Path) -> None:
    run = runs.copied(small_run, tmp_path / "run")
    (run / name).unlink()
    done = runs.lpgnas("verify", "--quiet", run)
    assert done.code == 1
    assert f"{run / name} is missing" in done.err


def test_verifying_again_keeps_what_came_later(small_run: Path, tmp_path: Path) -> None:
    run = runs.copied(small_run, tmp_path / "run")
    assert runs.lpgnas("verify", "--quiet", run).code == 0
    before, after = (json.loads((folder / "record.json").read_text())["stages"] for folder in (small_run, run))
    assert after["evaluate"] == before["evaluate"]
