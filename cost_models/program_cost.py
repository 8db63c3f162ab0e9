"""The cost of a lowered program on a graph, counted from its operations, tensors and arrays.

Independent of `spec_cost` on purpose: the tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lpgnas.cost_models.energy import access
from lpgnas.cost_models.latency import DENSE, LOGITS, LOOKUP, SCORE, LatencyTable, Work, aggregate_kind, feature_kind
from lpgnas.cost_models.rows import (
    CLAMP_BITS,
    DEGREE_COEFFICIENT_BITS,
    ROW_COEFFICIENT_BITS,
    SHIFT_BITS,
    CostReport,
    CostRow,
    GraphSize,
    edge_products,
    product_row,
    transform_row,
    transform_shifts,
)
from lpgnas.errors import ProgramError
from lpgnas.integer_program import (
    Aggregate,
    IntegerProgram,
    Lookup,
    Operation,
    Score,
    Tensor,
    Transform,
    columns_read,
    reads,
    writes,
)
from lpgnas.operators import ATTENTIONS


def program_cost(program: IntegerProgram, size: GraphSize, *, latency: LatencyTable | None = None) -> CostReport:
    """The cost of a program.

    Args:
        program: a checked program.
        size: the graph.
        latency: times of operations, or None to leave the latency out.

    Raises:
        ProgramError: an operation without a cost.
        LatencyTableError: the table lacks an operation.
    """
    rows = [_array_row(array.layer, array.name, array.bits, array.values.size) for array in program.arrays]
    parameters: dict[int, int] = {-1: 2 * SHIFT_BITS}  # fractions of the input and of the logits
    for operation in program.operations:
        made = _facet(_COSTS, operation)(program, operation, size)
        if latency is not None:
            works = _facet(_WORK, operation)(program, operation, size)
            if program.output in writes(operation):
                works[-1].append(_decoding(program, size))
            for place, parts in enumerate(works, start=len(made) - len(works)):  # the tensors that it writes come last
                made[place] = replace(made[place], latency_ns=sum(latency.nanoseconds(part) for part in parts))
        rows += made
        bits = _facet(_PARAMETERS, operation)(operation)
        parameters[operation.layer] = parameters.get(operation.layer, 0) + bits
    rows += [CostRow(layer, "parameters", 0, weight_bits=bits) for layer, bits in parameters.items()]
    return CostReport(
        rows=tuple(rows),
        peak_bits=size.num_nodes * _peak_row_bits(program),
        input_bits=_tensor_bits(program.input, size),
        output_bits=_tensor_bits(program.logits, size),
        node_coefficient_bits=size.num_nodes * sum(_coefficients(program).values()),
    )


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _array_row(layer: int, name: str, bits: int, elements: int) -> CostRow:
    return CostRow(layer, _short(name), bits, weight_bits=elements * bits)


def _tensor_bits(tensor: Tensor, size: GraphSize) -> int:
    return size.num_nodes * tensor.columns * tensor.bits


def _written(
    program: IntegerProgram, name: str, size: GraphSize, macs: int, operands: tuple[int, int] | tuple[int], read_aj: int
) -> CostRow:
    tensor = program.tensor(name)
    held = _tensor_bits(tensor, size)
    buffered, moved = 0 if name == program.output else held, read_aj + access(held)
    return product_row(tensor.layer, _short(name), tensor.bits, buffered, macs, operands, moved_aj=moved)


def _transform(program: IntegerProgram, operation: Transform, size: GraphSize) -> list[CostRow]:
    tensor, weight = program.tensor(operation.output), program.array(operation.weight)
    inputs = [program.tensor(name) for name in operation.inputs]
    sources = []
    for one in inputs:
        kept = columns_read(one, program.index)
        read_aj = access(size.num_nodes * kept * one.bits, _tensor_bits(one, size))
        read_aj += access(kept * tensor.columns * weight.bits)
        sources.append((size.num_nodes * kept * tensor.columns, one.bits, read_aj, None))
    buffered = _tensor_bits(tensor, size)
    return [transform_row(tensor.layer, _short(tensor.name), tensor.bits, buffered, weight.bits, sources)]


def _score(program: IntegerProgram, operation: Score, size: GraphSize) -> list[CostRow]:
    rows = []
    for name, out in operation.products().values():
        weight = program.array(name)
        message = program.tensor(operation.input)
        read_aj = access(_tensor_bits(message, size)) + access(weight.values.size * weight.bits)
        operands = (weight.bits, message.bits)
        rows.append(_written(program, out, size, size.num_nodes * weight.values.size, operands, read_aj))
    return rows


def _aggregate(program: IntegerProgram, operation: Aggregate, size: GraphSize) -> list[CostRow]:
    message = program.tensor(operation.input)
    neighbours = ATTENTIONS.get(operation.attention).neighbours
    edges = size.edges(self_loops=operation.self_loops) if neighbours else 0
    macs, rows = edges * message.columns, edges if neighbours else size.num_nodes
    by_edge = [message, *(program.tensor(name) for name in operation.node_scores().values())]
    read_aj = sum(access(rows * one.columns * one.bits, _tensor_bits(one, size)) for one in by_edge)
    if operation.shortcut is not None:
        read_aj += access(_tensor_bits(program.tensor(operation.shortcut), size))
    operands: tuple[int, int] | tuple[int] = (message.bits,)
    if operation.table is not None:
        operands = (program.array(operation.table).bits, message.bits)
    written = _written(program, operation.output, size, macs, operands, read_aj)
    return [*_score_products(program, operation, message, macs), written]


def _score_products(program: IntegerProgram, operation: Aggregate, message: Tensor, macs: int) -> list[CostRow]:
    score = ATTENTIONS.get(operation.attention).score
    if score is None or not operation.edge_weights:
        return []
    bits = operation.score_high.bit_length() + 1
    products = edge_products(
        score, weight=program.array(operation.edge_weights[0]).bits, message=message.bits, entry=bits
    )
    return [
        product_row(operation.layer, f"score_product{k}", bits, 0, macs, operands)
        for k, operands in enumerate(products)
    ]


def _lookup(program: IntegerProgram, operation: Lookup, size: GraphSize) -> list[CostRow]:
    table, output = program.array(operation.table), program.tensor(operation.output)
    read_aj = access(_tensor_bits(program.tensor(operation.input), size))
    read_aj += access(_tensor_bits(output, size), table.values.size * table.bits)
    return [_written(program, operation.output, size, 0, (1,), read_aj)]


def _aggregate_parameters(operation: Aggregate) -> int:
    shifts = [operation.shift, operation.term_shift, operation.bias_shift]
    shifts += [operation.shortcut_shift] if operation.shortcut is not None else []
    shifts += [operation.score_shift] if operation.table is not None else []
    shifts += [operation.argument_shift] if operation.argument_table is not None else []
    return len(shifts) * SHIFT_BITS + CLAMP_BITS


def _transform_work(program: IntegerProgram, operation: Transform, size: GraphSize) -> list[list[Work]]:
    weight, columns = program.array(operation.weight), program.tensor(operation.output).columns

    def work(source: Tensor) -> Work:
        sparse = size.sparse_entries(source.bits) if source == program.input else None
        kind, codes = DENSE, size.num_nodes * source.columns
        if sparse is not None:
            kind, codes = feature_kind(size, source.bits), sparse
        return Work(kind, size.num_nodes, codes, columns, source.bits, weight.bits)

    return [[work(program.tensor(name)) for name in operation.inputs]]


def _score_work(program: IntegerProgram, operation: Score, size: GraphSize) -> list[list[Work]]:
    message, nodes = program.tensor(operation.input), size.num_nodes
    weights = (program.array(weight) for weight, _ in operation.products().values())
    return [
        [Work(SCORE, nodes, nodes, message.columns, message.bits, weight.bits, operation.heads)] for weight in weights
    ]


def _aggregate_work(program: IntegerProgram, operation: Aggregate, size: GraphSize) -> list[list[Work]]:
    kind = aggregate_kind(operation.attention, operation.aggregation)
    message, reads_edges = program.tensor(operation.input), ATTENTIONS.get(operation.attention).neighbours
    edges = size.edges(self_loops=operation.self_loops) if reads_edges else size.num_nodes
    probability = 1 if operation.table is None else program.array(operation.table).bits
    return [[Work(kind, size.num_nodes, edges, message.columns, message.bits, probability, operation.heads)]]


def _lookup_work(program: IntegerProgram, operation: Lookup, size: GraphSize) -> list[list[Work]]:
    source = program.tensor(operation.input)
    return [[Work(LOOKUP, size.num_nodes, size.num_nodes, source.columns, source.bits)]]


def _decoding(program: IntegerProgram, size: GraphSize) -> Work:
    return Work(LOGITS, size.num_nodes, size.num_nodes, program.logits.columns, program.logits.bits)


_WORK: dict[type, Callable[[IntegerProgram, Any, GraphSize], list[list[Work]]]] = {
    Transform: _transform_work,
    Score: _score_work,
    Aggregate: _aggregate_work,
    Lookup: _lookup_work,
}
"""The works of each tensor that an operation writes."""
_COSTS: dict[type, Callable[[IntegerProgram, Any, GraphSize], list[CostRow]]] = {
    Transform: _transform,
    Score: _score,
    Aggregate: _aggregate,
    Lookup: _lookup,
}
_PARAMETERS: dict[type, Callable[[Any], int]] = {
    Transform: lambda operation: transform_shifts(len(operation.inputs)) * SHIFT_BITS,
    Score: lambda _: 0,
    Aggregate: _aggregate_parameters,
    Lookup: lambda _: 0,
}


def _facet(facets: dict[type, Any], operation: Operation) -> Callable[..., Any]:
    """The entry of the operation's type; an operation without one is never free."""
    facet: Callable[..., Any] | None = facets.get(type(operation))
    if facet is None:
        raise ProgramError(f"the operation {type(operation).__name__} has no cost; add it to the cost model")
    return facet


def _peak_row_bits(program: IntegerProgram) -> int:
    """The most bits of a node that are alive at once: every tensor has one row a node."""
    born, dies = {program.input.name: 0}, {program.input.name: 0, program.output: len(program.operations) - 1}
    for step, operation in enumerate(program.operations):
        born.update(dict.fromkeys(writes(operation), step))
        for name in (*reads(operation), *writes(operation)):
            dies[name] = max(step, dies.get(name, 0))
    bits = {tensor.name: tensor.columns * tensor.bits for tensor in (program.input, *program.tensors)}
    return max(
        sum(bits[name] for name in born if born[name] <= step <= dies[name]) for step in range(len(program.operations))
    )


def _coefficients(program: IntegerProgram) -> dict[tuple[str, bool], int]:
    """Bits a node of every distinct node coefficient: its kind, and whether degrees count added self-loops."""
    found: dict[tuple[str, bool], int] = {}
    for operation in program.operations:
        if isinstance(operation, Transform):
            if operation.row_factor:
                found["row", False] = ROW_COEFFICIENT_BITS
            if operation.degree_factor:
                found["rsqrt", operation.self_loops] = DEGREE_COEFFICIENT_BITS
        elif isinstance(operation, Aggregate):
            if ATTENTIONS.get(operation.attention).degree_factors:
                found["rsqrt", operation.self_loops] = DEGREE_COEFFICIENT_BITS
            if operation.aggregation == "mean":
                found["reciprocal", operation.self_loops] = DEGREE_COEFFICIENT_BITS
    return found
