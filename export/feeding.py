"""Run an exported file in the runtimes that it is meant for; each is imported when it is used.

A runtime reports an index out of range in its own words. These runners turn that into the named errors of lpgnas.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from lpgnas.errors import DegreeError, ExportError, LpgnasError
from lpgnas.export.constant_graph import ConstantProgram, IntArray
from lpgnas.graph import check_edges

Features = npt.NDArray[np.float32]
Edges = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]
OPTIMIZATIONS = ("none", "basic", "extended", "all")
_SILENT = 4
"""onnxruntime's log level `fatal`: errors arrive as exceptions."""
_QONNX_IR_VERSION = 10


def onnxruntime_session(content: bytes, *, threads: int = 1, optimization: str = "all") -> Any:  # noqa: ANN401
    """A session of onnxruntime on the CPU; the arguments are those of `run_onnxruntime`, errors onnxruntime's own.

    Raises:
        ExportError: no such optimization.
    """
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    known = (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_EXTENDED, levels.ORT_ENABLE_ALL)
    if optimization not in OPTIMIZATIONS:
        raise ExportError(f"unknown optimization {optimization!r}; choose one of {', '.join(OPTIMIZATIONS)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = known[OPTIMIZATIONS.index(optimization)]
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, x: Features, edge_index: Edges) -> Logits:  # noqa: ANN401 - onnxruntime's
    """Logits [N, C] of an open session."""
    names = [entry.name for entry in session.get_inputs()]
    logits: Logits = session.run(None, dict(zip(names, (x, edge_index), strict=True)))[0]
    return logits


def run_onnxruntime(
    content: bytes, x: Features, edge_index: Edges, *, threads: int = 1, optimization: str = "all"
) -> Logits:
    """Logits [N, C] of a file in onnxruntime on the CPU.

    Args:
        content: an ONNX file with the inputs `x`, `edge_index` and the output `logits`, in this order by any name.
        x: [N, F] float32.
        edge_index: [2, E] int64.
        threads: of one operator.
        optimization: how much onnxruntime may rewrite the graph: `none`, `basic`, `extended` or `all`.

    Raises:
        GraphError: an edge index out of range.
        DegreeError: a node with more incoming edges than the file's `max_degree`.
        ExportError: any other refusal of the runtime.
    """
    try:
        return run_session(onnxruntime_session(content, threads=threads, optimization=optimization), x, edge_index)
    except ExportError:
        raise
    except Exception as error:
        raise _named("onnxruntime", content, x, edge_index, error) from error


def run_constant_graph(content: bytes, constant: ConstantProgram, codes: IntArray) -> IntArray:
    """Codes of the logits [N, C] int64 of a file with its graph compiled in, in onnxruntime on the CPU.

    Args:
        content: an ONNX file with the input `x` [1, N, columns] float64 and the output `logits` [1, N, C].
        constant: the program on its graph.
        codes: of the input [N, columns] int64, as `ConstantProgram.input_codes` makes them.

    Raises:
        ExportError: the runtime refuses the file, or gives values that are no codes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    x = np.ldexp(codes.astype(np.float64), -constant.input.fraction)[None]
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        logits = session.run(None, {"x": x})[0][0]
    except Exception as error:
        raise ExportError(f"onnxruntime refused the file: {error}") from error
    scaled = np.ldexp(logits, constant.program.logits.fraction)
    made: IntArray = scaled.astype(np.int64)
    if not np.array_equal(made, scaled):
        raise ExportError("the file gave values between the codes of the logits")
    return made


def run_onnx_reference(content: bytes, x: Features, edge_index: Edges) -> Logits:
    """Logits [N, C] of a file in ONNX's reference evaluator; slow, in plain NumPy. Errors as `run_onnxruntime`."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        with np.errstate(over="ignore"):  # huge features overflow to infinity before they saturate
            evaluator = ReferenceEvaluator(onnx.load_from_string(content))
            logits: Logits = evaluator.run(None, {"x": x, "edge_index": edge_index})[0]
    except Exception as error:
        raise _named("onnx.reference", content, x, edge_index, error) from error
    return logits


@contextmanager
def qonnx_with_this_onnxruntime() -> Iterator[None]:
    """Let qonnx run single nodes in an onnxruntime that is older than the installed onnx.

    qonnx 1.0 wraps every node into a model of onnx's newest IR version, which onnxruntime may not read yet. Its
    executor, and transformations that use it (`cleanup_model`), work inside this context.
    """
    from qonnx.core import onnx_exec

    original = onnx_exec.qonnx_make_model

    def make_model(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the signature is qonnx's
        model = original(*arguments, **options)
        model.ir_version = min(model.ir_version, _QONNX_IR_VERSION)
        return model

    onnx_exec.qonnx_make_model = make_model
    try:
        yield
    finally:
        onnx_exec.qonnx_make_model = original


def with_sizes(content: bytes, num_nodes: int, num_edges: int) -> bytes:
    """A dynamic file for graphs of one size, as the qonnx executor needs it; nodes and constants stay as they are.

    Raises:
        ExportError: not an ONNX file, or a damaged one.
    """
    import onnx

    sizes = {"num_nodes": num_nodes, "num_edges": num_edges}
    try:
        model = onnx.load_from_string(content)
        for value in (*model.graph.input, *model.graph.output):
            for dimension in value.type.tensor_type.shape.dim:
                if dimension.dim_param in sizes:
                    dimension.dim_value = sizes[dimension.dim_param]
        made: bytes = onnx.shape_inference.infer_shapes(model, data_prop=True).SerializeToString()
    except Exception as error:
        raise ExportError(f"not an ONNX file that sizes can be written into: {error}") from error
    return made


def run_qonnx_executor(content: bytes, x: Features, edge_index: Edges) -> Logits:
    """Logits [N, C] of a static QONNX file in qonnx's own executor, node by node. Errors as `run_onnxruntime`.

    It takes a file for the sizes of this graph: exported with `num_nodes` and `num_edges`, or made by `with_sizes`.
    """
    import onnxruntime
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    onnxruntime.set_default_logger_severity(_SILENT)
    try:
        # Huge features overflow to infinity before they saturate, which NumPy would report.
        with qonnx_with_this_onnxruntime(), np.errstate(over="ignore"), warnings.catch_warnings():
            # ONNX infers no length of a Range from sizes that only a Shape node knows.
            warnings.filterwarnings("ignore", message="Output shapes disagree after node", category=UserWarning)
            model = ModelWrapper(content)
            names = [entry.name for entry in model.graph.input]
            outputs = execute_onnx(model, dict(zip(names, (x, edge_index), strict=True)))
            logits: Logits = outputs[model.graph.output[0].name]
    except Exception as error:
        raise _named("the qonnx executor", content, x, edge_index, error) from error
    return logits


def _named(runtime: str, content: bytes, x: Features, edge_index: Edges, error: Exception) -> LpgnasError:
    """The named error behind a runtime's exception."""
    import onnx

    try:
        check_edges(edge_index, len(x), "edge_index")
    except LpgnasError as found:
        return found
    try:
        properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    except Exception:
        properties = {}
    degrees = np.bincount(edge_index[1], minlength=len(x))
    limit = int(properties.get("max_degree", degrees.max()))
    if degrees.max() > limit:
        node = int(np.argmax(degrees))
        return DegreeError(int(degrees[node]), limit, node)
    return ExportError(f"{runtime} refused the file: {error}")
