"""`finn/model.onnx`: a program on a constant graph as products with constant matrices and thresholds, for FINN.

Tensors are float32 integers, the codes themselves: `x` [nodes, columns] holds the codes of the input and `logits`
[nodes, classes] those of the output. A transform is `x @ W`, an aggregation `transpose(transpose(H) @ transpose(A))`
with the number of edges as the constant transpose(A): each a `MatMul` with a constant weight behind a `Quant` or
`BipolarQuant` of scale 1, which FINN turns into an MVAU. Everything behind a product (coefficients of nodes, biases,
the rounding, the clamp) is one `MultiThreshold` of QONNX's domain, FINN's own form of a quantised activation.
Its thresholds are the smallest accumulators that reach each code, computed in integers: exact in every rounding mode,
where a `Quant` would come out of FINN's conversion as floor(x + 1/2). A table is a `MultiThreshold` of its own.

Coefficients that differ by node, with biases that differ by column, give a row of thresholds for each element of the
tensor, which is then reshaped to one row. Where rows of the features are normalised, their factor is no constant: the
host makes the transforms of `x` (sums of a few weight rows a node), and their outputs are the inputs of the circuit.
A sum beyond 2^24, codes of more than 8 bits behind a rounding, and a table that falls somewhere are refused by name.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from lpgnas.errors import ExportError
from lpgnas.export import local_functions
from lpgnas.export.constant_graph import (
    AggregateStep,
    ConstantProgram,
    IntArray,
    LookupStep,
    TransformStep,
    constant_program,
)
from lpgnas.export.graph_builder import LOGITS, GraphBuilder, to_bytes
from lpgnas.export.metadata import describe, file_metadata
from lpgnas.graph import Features, Graph
from lpgnas.integer_program import INPUT_NAME, Aggregate, Array, IntegerProgram, Lookup, Tensor, Transform
from lpgnas.kernels.csr import CsrGraph
from lpgnas.number_formats import Rounding
from lpgnas.registry import Registry

MODEL, GRAPH = "model.onnx", "graph.npz"
FILES = (MODEL, GRAPH)
FLOAT32_LIMIT = 1 << 24
MAX_THRESHOLD_BITS = 8
"""FINN's conversion takes no wider activation, and thresholds double with every bit."""
MULTI_THRESHOLD = """
MultiThreshold <out_dtype, out_scale, out_bias, data_layout> (v, thresholds) => (y) {
  last = Constant <value_ints = [-1]> ()
  each = Unsqueeze (v, last)
  reached = GreaterOrEqual (each, thresholds)
  ones = Cast <to = 1> (reached)
  count = ReduceSum <keepdims = 0> (ones, last)
  scale = Constant <value_float: float = @out_scale> ()
  bias = Constant <value_float: float = @out_bias> ()
  scaled = Mul (count, scale)
  y = Add (scaled, bias)
}"""
"""The number of thresholds [channels or 1, K] that `v` [rows, channels] reaches, with QONNX's attributes."""


@dataclass
class _Context:
    """The file in the making; `values` and `transposed` [columns, nodes] by the tensor of the program."""

    constant: ConstantProgram
    builder: GraphBuilder = field(default_factory=partial(GraphBuilder, all_named=True))
    values: dict[str, str] = field(default_factory=dict)
    transposed: dict[str, str] = field(default_factory=dict)

    def value(self, name: str) -> str:
        """A tensor [nodes, columns]."""
        if name not in self.values:
            self.values[name] = self.builder.add("Transpose", f"{name}/rows", self.transposed[name], perm=[1, 0])
        return self.values[name]

    def columns(self, name: str) -> str:
        """A tensor [columns, nodes]."""
        if name not in self.transposed:
            self.transposed[name] = self.builder.add("Transpose", f"{name}/columns", self.values[name], perm=[1, 0])
        return self.transposed[name]


def export_finn(program: IntegerProgram, graph: CsrGraph) -> bytes:
    """The bytes of `finn/model.onnx` of a program on a graph; equal arguments give equal bytes.

    Raises:
        ProgramError: a proof of the program does not hold.
        DegreeError: a node beyond `max_degree`.
        ExportError: what is no product with a constant matrix, and what the module's page says.
    """
    constant = constant_program(program, graph)
    context = _Context(constant)
    inputs = input_tensors(constant)
    for tensor in inputs:
        context.values[tensor.name] = tensor.name
        context.builder.annotate(tensor.name, code_datatype(tensor))
    for step in constant.steps:
        if step.output in inputs:
            continue
        EMITTERS.get(type(step.operation).__name__)(context, step)
    context.builder.add("Identity", LOGITS, context.value(program.output))
    context.builder.annotate(LOGITS, code_datatype(program.logits))
    nodes = constant.num_nodes
    float32 = TensorProto.FLOAT
    model = context.builder.model(
        "lpgnas_finn",
        [helper.make_tensor_value_info(one.name, float32, [nodes, one.columns]) for one in inputs],
        [helper.make_tensor_value_info(LOGITS, float32, [nodes, program.num_classes])],
        doc=describe(program, f"{nodes} nodes compiled in; float32 codes, matrices and thresholds for FINN"),
        metadata=file_metadata(program, "finn"),
    )
    return to_bytes(onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True))


def input_tensors(constant: ConstantProgram) -> tuple[Tensor, ...]:
    """What the circuit reads, in order: `x`, or where rows are normalised the outputs of the transforms of `x`.

    Raises:
        ExportError: rows are normalised, and a transform reads `x` beside other tensors.
    """
    if not constant.program.row_normalize:
        return (constant.input,)
    reading = [
        step
        for step in constant.steps
        if isinstance(step, TransformStep) and any(term.source == INPUT_NAME for term in step.terms)
    ]
    for step in reading:
        if len(step.terms) > 1:
            raise ExportError(
                f"{_where(step)}: it adds features whose rows are normalised to other tensors: the factor of a row is "
                f"no constant, and the host has not the rest; use a model without routes, or the target hls4ml, "
                f"onnx-int or c"
            )
        _check(step, 0)
    return tuple(step.output for step in reading)


def circuit_inputs(constant: ConstantProgram, x: Features) -> dict[str, IntArray]:
    """Codes [N, columns] int64 of what the circuit reads, by name, from features [N, F] float32, dense or CSR.

    Raises:
        GraphError: features that the program cannot read, or of another number of nodes.
    """
    made = constant.run_codes(constant.input_codes(x))
    return {tensor.name: made[tensor.name] for tensor in input_tensors(constant)}


def export_files(program: IntegerProgram, graph: Graph) -> Mapping[str, bytes]:
    """The files by path in a run folder; `graph.npz` is a graph file like a user's own. Errors as `export_finn`."""
    csr = CsrGraph.from_edges(graph.edge_index, graph.num_nodes, self_loops=False)
    buffer = io.BytesIO()
    x = graph.x if isinstance(graph.x, np.ndarray) else np.asarray(graph.x.toarray(), dtype=np.float32)
    np.savez(buffer, allow_pickle=False, x=x, edge_index=graph.edge_index)
    return {f"finn/{MODEL}": export_finn(program, csr), f"finn/{GRAPH}": buffer.getvalue()}


def code_datatype(tensor: Tensor) -> str:
    """The QONNX datatype of a tensor of codes."""
    if tensor.signed:
        return f"INT{tensor.bits}"
    return "BINARY" if tensor.bits == 1 else f"UINT{tensor.bits}"


def least_totals(codes: IntArray, shift: int, rounding: Rounding) -> IntArray:
    """The smallest total that `requantize(total, shift)` makes at least each code, int64 of the same shape.

    With q = 2^shift, `total / q` rounds to c or more from c (floor) or c - 1/2 on; an odd c loses its tie to half_even.
    """
    if shift <= 0:
        return -(-codes >> -shift)
    wanted = codes << shift
    if rounding is Rounding.FLOOR:
        return wanted
    half = wanted - (1 << (shift - 1))
    return half + (codes & 1) if rounding is Rounding.HALF_EVEN else half


def thresholds(
    step: TransformStep | AggregateStep, rounding: Rounding, factor: IntArray, added: IntArray, bound: int
) -> IntArray:
    """Thresholds of `factor * acc + added` for every code of the output but the lowest, [..., 2^bits - 1] int64.

    Args:
        step: shift, clamp and output.
        rounding: of the program.
        factor: >= 0, any shape that goes with `added`.
        added: what stands in the total beside the accumulator.
        bound: most of |acc|; thresholds lie in [-bound, bound + 1], the last of which nothing reaches.
    """
    out = step.output
    codes = np.arange(out.low + 1, out.high + 1, dtype=np.int64)
    missing = least_totals(codes, step.shift, rounding) - added[..., None]
    by = np.maximum(factor, 1)[..., None]
    needed = np.where(factor[..., None] > 0, -(-missing // by), np.where(missing <= 0, -bound, bound + 1))
    needed = np.where(codes <= step.low, -bound, np.where(codes > step.high, bound + 1, needed))
    limited: IntArray = np.clip(needed, -bound, bound + 1)
    return limited


def _where(step: TransformStep | AggregateStep | LookupStep) -> str:
    return f"layer {step.operation.layer} {type(step.operation).__name__.lower()}"


def _check(step: TransformStep | AggregateStep | LookupStep, bound: int, what: str = "sums") -> None:
    if bound >= FLOAT32_LIMIT:
        raise ExportError(
            f"{_where(step)}: its {what} may reach {bound}, beyond 2^24, which float32 does not hold exactly; use the "
            f"target hls4ml, onnx-int or c, fewer bits or a smaller graph"
        )
    if step.output.bits > MAX_THRESHOLD_BITS:
        raise ExportError(
            f"{_where(step)}: its output has {step.output.bits} bits, but thresholds are made for at most "
            f"{MAX_THRESHOLD_BITS}; use fewer bits, or the target hls4ml, onnx-int or c"
        )


def _integers(context: _Context, name: str, values: IntArray) -> str:
    """A constant of integers with its datatype."""
    b = context.builder
    stored = b.initializer(name, values.astype(np.float32))
    b.annotate(stored, f"INT{int(np.abs(values).max(initial=1)).bit_length() + 1}")
    return stored


def _steps(context: _Context, name: str, value: str, table: IntArray, output: Tensor) -> str:
    """A `MultiThreshold` that makes codes of `output`; `table` is [channels or 1, K]."""
    b = context.builder
    stored = _integers(context, f"{name}/thresholds", table)
    made = b.call(
        MULTI_THRESHOLD,
        f"{name}/codes",
        value,
        stored,
        domain=local_functions.QONNX_DOMAIN,
        out_dtype=code_datatype(output),
        out_scale=1.0,
        out_bias=float(output.low),
        data_layout="NC",
    )
    b.annotate(made, code_datatype(output))
    return made


def _weight(context: _Context, name: str, values: IntArray, array: Array | None) -> str:
    """A constant matrix [in, out] behind the quantiser of its codes; counts of edges have no array."""
    b, domain = context.builder, local_functions.QONNX_DOMAIN
    stored, one = b.initializer(name, values.astype(np.float32)), b.constant(1.0, np.float32)
    # columns that an index leaves out are zeros, which no binary weight is
    if array is not None and array.kind == "binary" and bool((values != 0).all()):
        made = b.call(local_functions.BIPOLAR_QUANT, f"{name}/quantized", stored, one, domain=domain)
        b.annotate(made, "BIPOLAR")
        return made
    narrow = array is not None and array.kind != "fixed"
    bits = 2 if narrow else int(np.abs(values).max(initial=1)).bit_length() + 1 if array is None else array.bits
    parameters = (one, b.constant(0.0, np.float32), b.constant(float(bits), np.float32))
    body = local_functions.QUANT_BODIES["ROUND"]
    options: dict[str, Any] = {"signed": 1, "narrow": int(narrow), "rounding_mode": "ROUND"}
    made = b.call(body, f"{name}/quantized", stored, *parameters, domain=domain, **options)
    b.annotate(made, "TERNARY" if narrow else f"INT{bits}")
    return made


def _emit_transform(context: _Context, step: TransformStep) -> None:
    _check(step, step.sum_bound)
    b, name, total = context.builder, step.output.name, ""
    for number, term in enumerate(step.terms):
        source = context.value(term.source)
        prefix = f"{name}/accumulator" if len(step.terms) == 1 else f"{name}/accumulator_of_{term.source}"
        weight = _weight(context, term.array.name, np.ascontiguousarray(term.weight.T), term.array)
        part = b.add("MatMul", prefix, source, weight)
        if term.align:
            part = b.add("Mul", f"{prefix}/aligned", part, b.constant(2.0**term.align, np.float32))
        total = b.add("Add", f"{name}/sum_{number}", total, part) if number else part
    rounding, bound = context.constant.rounding, step.sum_bound
    if step.factor is None:
        one, none = np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        table = thresholds(step, rounding, one, none, bound)
        context.values[name] = _steps(context, name, total, table, step.output)
        return
    table = thresholds(step, rounding, step.factor, np.zeros_like(step.factor), bound)  # nodes are channels
    columns = b.add("Transpose", f"{name}/accumulator_columns", total, perm=[1, 0])
    context.transposed[name] = _steps(context, f"{name}/columns", columns, table, step.output)


def _emit_aggregate(context: _Context, step: AggregateStep) -> None:
    b, name, nodes = context.builder, step.output.name, context.constant.num_nodes
    _check(step, step.sum_bound)
    bias = np.zeros(step.output.columns, dtype=np.int64) if step.bias is None else step.bias
    rounding, bound, shift = context.constant.rounding, step.sum_bound, step.term_shift
    own = np.array_equal(step.counts, np.eye(nodes, dtype=np.int64))
    columns = "" if own else _summed(context, step)
    if step.shortcut is not None:
        rows = context.value(step.source) if own else b.add("Transpose", f"{name}/sum", columns, perm=[1, 0])
        _with_shortcut(context, step, rows, bias)
    elif step.factor is None:
        rows = context.value(step.source) if own else b.add("Transpose", f"{name}/sum", columns, perm=[1, 0])
        table = thresholds(step, rounding, np.full(bias.shape, 1 << shift, dtype=np.int64), bias, bound)
        context.values[name] = _steps(context, name, rows, table, step.output)
    else:
        # one row of thresholds an element: the tensor becomes one row
        columns = context.columns(step.source) if own else columns
        flat = b.add("Reshape", f"{name}/flat_sum", columns, b.constant([1, -1], np.int64))
        factor = np.broadcast_to(step.factor << shift, (len(bias), nodes)).reshape(-1)
        table = thresholds(step, rounding, factor, np.repeat(bias, nodes), bound)
        codes = _steps(context, f"{name}/flat", flat, table, step.output)
        shape = b.constant([len(bias), nodes], np.int64)
        context.transposed[name] = b.add("Reshape", f"{name}/columns", codes, shape)


def _summed(context: _Context, step: AggregateStep) -> str:
    """`transpose(H) @ transpose(A)`, [columns, nodes]."""
    name = f"{step.output.name}/edges"
    matrix = _weight(context, name, np.ascontiguousarray(step.counts.T), None)
    return context.builder.add("MatMul", f"{step.output.name}/sum_columns", context.columns(step.source), matrix)


def _with_shortcut(context: _Context, step: AggregateStep, rows: str, bias: IntArray) -> None:
    """The total without the bias, which the thresholds hold, and these."""
    b, name = context.builder, step.output.name
    _check(step, step.total_bound, "sums with their shortcut")
    factor = np.full(1, 1 << step.term_shift, dtype=np.int64)
    if step.factor is not None:
        factor = step.factor << step.term_shift
    if bool((factor != 1).any()):
        rows = b.add("Mul", f"{name}/scaled", rows, _integers(context, f"{name}/factor", factor[:, None]))
    skip = context.value(str(step.shortcut))
    if step.shortcut_shift:
        by = _integers(context, f"{name}/shortcut_factor", np.full((1, 1), 1 << step.shortcut_shift, dtype=np.int64))
        skip = b.add("Mul", f"{name}/shortcut", skip, by)
    total = b.add("Add", f"{name}/with_shortcut", rows, skip)
    bound = step.total_bound + int(np.abs(bias).max(initial=0))
    table = thresholds(step, context.constant.rounding, np.ones_like(bias), bias, bound)
    context.values[name] = _steps(context, name, total, table, step.output)


def _emit_lookup(context: _Context, step: LookupStep) -> None:
    source, out, entries = context.constant.tensor(step.source), step.output, step.entries
    _check(step, source.magnitude)
    if bool((np.diff(entries) < 0).any()):
        raise ExportError(
            f"{_where(step)}: its table falls somewhere, so that no thresholds make it; use the target onnx-int or c"
        )
    codes = np.arange(out.low + 1, out.high + 1)
    table = (source.low + np.searchsorted(entries, codes)).astype(np.int64)[None]
    context.values[out.name] = _steps(context, out.name, context.value(step.source), table, out)


EMITTERS: Registry[Callable[[_Context, Any], None]] = Registry("finn emitter of operation")
EMITTERS.add(Transform.__name__, _emit_transform)
EMITTERS.add(Aggregate.__name__, _emit_aggregate)
EMITTERS.add(Lookup.__name__, _emit_lookup)


def run_finn_file(content: bytes, constant: ConstantProgram, x: Features) -> IntArray:
    """Codes of the logits [N, C] int64 of a file in the qonnx executor, node by node.

    Args:
        content: of `finn/model.onnx`, as it is or cleaned up.
        constant: the program on its graph.
        x: features [N, F] float32, dense or CSR.

    Raises:
        ExportError: the executor refuses the file.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    from lpgnas.export.feeding import qonnx_with_this_onnxruntime

    codes = [one.astype(np.float32) for one in circuit_inputs(constant, x).values()]
    try:
        with qonnx_with_this_onnxruntime():
            model = ModelWrapper(content)
            names = [one.name for one in model.graph.input]
            made = execute_onnx(model, dict(zip(names, codes, strict=True)))[model.graph.output[0].name]
    except Exception as error:
        raise ExportError(f"the qonnx executor refused the file: {error}") from error
    logits: npt.NDArray[np.int64] = made.astype(np.int64)
    if not np.array_equal(logits, made):
        raise ExportError("the qonnx executor gave values between the codes of the logits")
    return logits
