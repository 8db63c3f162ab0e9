"""What every target keeps to: names, versions and sizes of files, and what they do with foreign input."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import runs
import samples
from export_cases import PROGRAMS, case, expected_logits, extreme_program, operators, pubmed_program
from onnx import TensorProto

from lpgnas import program_file
from lpgnas.errors import DegreeError, ExportError, GraphError, LpgnasError, UnknownName
from lpgnas.export.feeding import run_onnx_reference, run_onnxruntime, run_qonnx_executor, with_sizes
from lpgnas.export.files import export_files
from lpgnas.export.qonnx import export_qonnx
from lpgnas.export.targets import C_HEADER, C_SOURCE, TARGETS, default_targets
from lpgnas.kernels.executor import Executor

ONNX = tuple(name for name in TARGETS if all(file.endswith(".onnx") for file in TARGETS.get(name).files))
BASE = {"onnx-int": (8, 18), "onnx-qdq": (9, 19), "qonnx": (8, 18)}
"""IR version and opset of a file of each target that holds nothing smaller than a byte."""
each_target = pytest.mark.parametrize("target", ONNX)


def content_of(target: str, program: Any) -> bytes:
    (content,) = TARGETS.get(target).export(program).values()
    return content


@cache
def exported(target: str, index: int) -> bytes:
    """The file of a case."""
    return content_of(target, case(index).program)


# --- the registry ---


def test_targets_have_files_of_their_own() -> None:
    files = [file for name in TARGETS for file in TARGETS.get(name).files]
    assert len(set(files)) == len(files)
    assert default_targets() == ("onnx-int", "onnx-qdq", "qonnx", "c")
    made = export_files(case(0).program)
    assert list(made.files) == [*(f"model.{one}.onnx" for one in ("int", "qdq", "qonnx")), C_HEADER, C_SOURCE]
    for name in ONNX:
        assert export_files(case(0).program, [name]).files == {
            f"model.{name.removeprefix('onnx-')}.onnx": exported(name, 0)
        }


def test_targets_that_cannot_hold_a_program() -> None:
    """By default they are left out with their reason; by name they are an error; the integer file is exact."""
    program = extreme_program(600, input_bits=8, weight_bits=8)
    made = export_files(program)
    assert list(made.files) == ["model.int.onnx", C_HEADER, C_SOURCE]
    assert set(made.refused) == {"onnx-qdq", "qonnx"}
    assert all("beyond 2^24" in reason for reason in made.refused.values())
    for name in made.refused:
        with pytest.raises(ExportError, match=rf"target {name}: layer 0 transform: .* use the target onnx-int"):
            export_files(program, ["onnx-int", name])
    x = np.random.default_rng(0).integers(0, 256, (8, 600)).astype(np.float32)
    graph = samples.SampleGraph("wide", x, np.array([[0, 1, 2], [1, 2, 3]]))
    expected = expected_logits(program, graph)
    assert np.unique(expected).size > 8
    np.testing.assert_array_equal(run_onnxruntime(made.files["model.int.onnx"], x, graph.edge_index), expected)


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(UnknownName, match=r"unknown target 'onnx-qqd'\. Did you mean 'onnx-qdq'"):
        export_files(case(0).program, ["onnx-int", "onnx-qqd"])


# --- files ---


@each_target
def test_files_pass_the_checker_and_need_what_they_say(target: str) -> None:
    seen = set()
    for index in range(0, PROGRAMS, 3):
        model = onnx.load_from_string(exported(target, index))
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        kinds = {one.data_type for one in model.graph.initializer}
        versions = BASE[target]
        if kinds & {TensorProto.INT2, TensorProto.UINT2}:
            versions = (13, 25)
        elif kinds & {TensorProto.INT4, TensorProto.UINT4}:
            versions = (10, 21)
        assert (model.ir_version, model.opset_import[0].version) == versions
        assert model.ir_version <= 10 or kinds & {TensorProto.INT2, TensorProto.UINT2}
        seen.add(versions)
        assert "ScatterND" not in operators(model)
    assert seen == ({(8, 18)} if target == "qonnx" else {BASE[target], (10, 21), (13, 25)})


def test_no_quantisation_nodes_in_the_integer_file() -> None:
    for index in range(0, PROGRAMS, 3):
        kinds = operators(onnx.load_from_string(exported("onnx-int", index)))
        assert not kinds & {"QuantizeLinear", "DequantizeLinear", "Quant", "BipolarQuant"}


_DIGESTS = """
import hashlib, sys
from pathlib import Path
from lpgnas.export.files import export_files
from lpgnas.program_file import load_program
for name, content in export_files(load_program(Path(sys.argv[1]))).files.items():
    print(name, hashlib.sha256(content).hexdigest())
"""


def test_another_process_makes_the_same_bytes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "program.npz"
    path.write_bytes(program_file.to_bytes(case(7).program))
    told = set()
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        done = runs.python("-c", _DIGESTS, path)
        assert done.returncode == 0, done.stderr
        told.add(done.stdout)
    assert len(told) == 1
    assert told.pop().count("\n") == 5


@pytest.mark.parametrize("target", ["onnx-int", "onnx-qdq"])
def test_files_of_pubmeds_shape_shrink_with_the_bits(target: str) -> None:
    sizes, stored = {}, {}
    for weights in ("fixed8", "fixed4", "fixed2", "ternary", "binary"):
        content = content_of(target, pubmed_program(weights))
        sizes[weights] = len(content)
        tensors = onnx.load_from_string(content).graph.initializer
        stored[weights] = sum(len(one.raw_data) for one in tensors if one.name.endswith("linear_weight"))
    assert stored == {
        name: (500 * 64 + 64 * 3) * bits // 8
        for name, bits in {"fixed8": 8, "fixed4": 4, "fixed2": 2, "ternary": 2, "binary": 1}.items()
    }
    assert sizes["fixed4"] <= 0.65 * sizes["fixed8"]
    assert max(sizes["fixed2"], sizes["ternary"]) <= 0.45 * sizes["fixed8"]
    assert sizes["binary"] < sizes["fixed2"]


# --- foreign input ---


@each_target
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("bad", [-1, -12, 12, 2**40])
def test_an_index_out_of_range_is_refused(target: str, row: int, bad: int) -> None:
    """Also by the file alone, without the function that feeds it."""
    x, edges = case(5).graphs[0].x, case(5).graphs[0].edge_index.copy()
    edges[row, 3] = bad
    content = exported(target, 5)
    with pytest.raises(GraphError, match=re.escape(f"edge_index[{row}, 3]")):
        run_onnxruntime(content, x, edges)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match=r"[Ii]nd(ex|ices)"):
        session.run(None, {"x": x, "edge_index": edges})


@each_target
@pytest.mark.parametrize("index", range(0, PROGRAMS, 20))
def test_a_degree_beyond_the_proof_is_refused(target: str, index: int) -> None:
    content, x = exported(target, index), case(index).graphs[0].x
    edges = np.zeros((2, 201), dtype=np.int64)
    run_onnxruntime(content, x, edges[:, :200])
    with pytest.raises(DegreeError, match="node 0 has 201 incoming edges"):
        run_onnxruntime(content, x, edges)


Reader = Callable[[bytes, Any, Any], Any]


def _sized(content: bytes, x: Any, edges: Any) -> Any:
    return run_onnxruntime(with_sizes(content, len(x), edges.shape[1]), x, edges)


READERS: dict[str, Reader] = {"onnxruntime": run_onnxruntime, "reference": run_onnx_reference, "sizes": _sized}


@each_target
@pytest.mark.parametrize("reader", READERS)
def test_truncated_and_edited_files_are_named_or_harmless(target: str, reader: str) -> None:
    """A cut file is refused; a byte in a name, a text or an attribute that nobody reads may change nothing."""
    content, graph, expected = exported(target, 7), case(7).graphs[1], case(7).expected[1]
    rng = np.random.default_rng(1)
    cut = [content[:end] for end in (0, 1, len(content) - 1, *rng.integers(0, len(content), 5))]
    for spoiled in cut:
        with pytest.raises(ExportError):
            READERS[reader](spoiled, graph.x, graph.edge_index)
    refused = 0
    for place in rng.integers(0, len(content), 12):
        edited = bytearray(content)
        edited[place] ^= 1 << int(rng.integers(8))
        try:
            logits = READERS[reader](bytes(edited), graph.x, graph.edge_index)
        except LpgnasError:
            refused += 1
        else:
            assert logits.shape == expected.shape
    assert refused


@pytest.mark.parametrize("reader", [*READERS, "qonnx"])
@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04" + bytes(60)])
def test_foreign_files_are_named(content: bytes, reader: str) -> None:
    graph = case(7).graphs[1]
    with pytest.raises(ExportError):
        {**READERS, "qonnx": run_qonnx_executor}[reader](content, graph.x, graph.edge_index)
    with pytest.raises(ExportError):
        READERS[reader if reader in READERS else "sizes"](
            program_file.to_bytes(case(7).program), graph.x, graph.edge_index
        )


def test_a_cut_file_is_named_by_the_qonnx_executor() -> None:
    graph = case(7).graphs[1]
    static = export_qonnx(case(7).program, num_nodes=len(graph.x), num_edges=graph.edge_index.shape[1])
    with pytest.raises(ExportError, match="the qonnx executor refused the file"):
        run_qonnx_executor(static[: len(static) // 2], graph.x, graph.edge_index)


# --- repeats ---


@pytest.mark.slow
@each_target
def test_a_hundred_repeats_on_a_large_graph(target: str) -> None:
    """Every sum is the same whatever the threads do."""
    program = pubmed_program("fixed4")
    rng = np.random.default_rng(0)
    nodes, edges = 3_000, 60_000
    x = (rng.random((nodes, 500)) * (rng.random((nodes, 500)) < 0.1)).astype(np.float32)
    graph = samples.SampleGraph("large", x, rng.integers(0, nodes, (2, edges)).astype(np.int64))
    content = content_of(target, program)
    codes = Executor(program).run(x, graph.edge_index).codes
    expected = np.ldexp(codes.astype(np.float64), -program.logits.fraction).astype(np.float32)
    assert np.unique(expected, axis=0).shape[0] > 50
    for threads in (1, 2, 4):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for _ in range(100):
            (logits,) = session.run(None, {"x": x, "edge_index": graph.edge_index})
            np.testing.assert_array_equal(logits, expected)
