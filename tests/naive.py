"""`docs/integer_semantics.md` in plain Python integers: the independent reference of every executor.

It imports nothing of lpgnas and reads only the fields of a program. Slow on purpose: no NumPy arithmetic, no tricks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

Matrix = list[list[int]]
Watch = Callable[[str, str, Any], None]
"""Told of every value on the way: the tensor or the per-edge codes, what it is, and the value itself."""


def _nobody(name: str, what: str, value: Any) -> None:
    """Watches nothing."""


def round_fraction(value: Fraction, rounding: str) -> int:
    """The integer that `rounding` makes of an exact rational."""
    if rounding == "floor":
        return math.floor(value)
    if rounding == "half_up":
        return math.floor(value + Fraction(1, 2))
    return round(value)  # Python rounds halves of a Fraction to even


def requantize(value: int, shift: int, low: int, high: int, rounding: str) -> int:
    """`value * 2^-shift` rounded once and saturated."""
    exact = Fraction(value) / (1 << shift) if shift > 0 else Fraction(value * (1 << -shift))
    return min(max(round_fraction(exact, rounding), low), high)


def rsqrt15(degree: int) -> int:
    """The largest c with (2c - 1)^2 d <= 2^32; 0 for degree 0."""
    return 0 if degree == 0 else (1 + math.isqrt((1 << 32) // degree)) // 2


def reciprocal(bits: int, denominator: int) -> int:
    """`floor(2^bits / d + 1/2)`; 0 for d = 0."""
    return 0 if denominator == 0 else math.floor(Fraction(1 << bits, denominator) + Fraction(1, 2))


def quantize_input(x: Any, fmt: Any, rounding: str) -> Matrix:
    """Codes of float32 features [N][F]."""
    rows = []
    for row in x:
        codes = []
        for value in row:
            exact = Fraction(float(value)) * Fraction(2) ** fmt.fraction
            codes.append(min(max(round_fraction(exact, rounding), fmt.low), fmt.high))
        rows.append(codes)
    return rows


def run(program: Any, x: Any, edge_index: Any, watch: Watch = _nobody) -> Matrix:
    """Codes of the logits [N][C] of `program` on features `x` [N][F] and edges [2][E].

    `watch` is told the `accumulator` and the `total` of every rounding, the `code` of every edge's probability, and the
    pair of codes of every `entry` that is looked up.
    """
    rounding = str(program.rounding)
    tensors: dict[str, Matrix] = {"x": quantize_input(x, program.input, rounding)}
    sources, targets = ([int(node) for node in row] for row in edge_index)
    edges = list(zip(sources, targets, strict=True))
    for operation in program.operations:
        kind = type(operation).__name__
        if kind == "Transform":
            tensors[operation.output] = _transform(program, operation, tensors, edges, watch)
        elif kind == "Score":
            tensors |= _node_scores(program, operation, tensors[operation.input], watch)
        elif kind == "Aggregate":
            tensors[operation.output] = _aggregate(program, operation, tensors, edges, watch)
        elif kind == "Lookup":
            tensors[operation.output] = _lookup(program, operation, tensors[operation.input], watch)
        else:
            raise AssertionError(f"the naive reference does not know {kind}")
    return tensors[program.output]


def _node_scores(program: Any, operation: Any, message: Matrix, watch: Watch) -> dict[str, Matrix]:
    result = {}
    for weight, out in (
        (operation.source_weight, operation.source_output),
        (operation.target_weight, operation.target_output),
    ):
        if out is not None:
            result[out] = _score(program, operation, message, weight)
            for row in result[out]:
                for value in row:
                    watch(out, "accumulator", value)
    return result


def _lookup(program: Any, operation: Any, rows: Matrix, watch: Watch) -> Matrix:
    table = [int(code) for code in program.array(operation.table).values]
    low = program.tensor(operation.input).low
    for row in rows:
        for code in row:
            watch(operation.output, "entry", (code, table[code - low]))
    return [[table[code - low] for code in row] for row in rows]


def _incoming(edges: list[tuple[int, int]], nodes: int, self_loops: bool) -> list[list[int]]:
    incoming: list[list[int]] = [[] for _ in range(nodes)]
    for source, target in edges:
        incoming[target].append(source)
    if self_loops:
        for node in range(nodes):
            incoming[node].append(node)
    return incoming


def _transform(
    program: Any, operation: Any, tensors: dict[str, Matrix], edges: list[tuple[int, int]], watch: Watch
) -> Matrix:
    weight = [[int(code) for code in row] for row in program.array(operation.weight).values]
    kept = [int(bit) for array in program.arrays if array.role == "index" for bit in array.values]
    out = program.tensor(operation.output)
    incoming = _incoming(edges, len(tensors["x"]), operation.self_loops)
    result = []
    for node in range(len(tensors["x"])):
        codes = []
        for weights in weight:
            total = offset = 0
            for name, align in zip(operation.inputs, operation.aligns, strict=True):
                row = whole = tensors[name][node]
                if name == "x" and kept:
                    row = [code for code, bit in zip(whole, kept, strict=True) if bit]
                part = sum(code * weights[offset + column] for column, code in enumerate(row) if code)
                watch(out.name, "accumulator", part)
                if name == "x" and operation.row_factor:
                    part *= reciprocal(24, sum(whole))
                total += part << align
                offset += len(row)
            if operation.degree_factor:
                total *= rsqrt15(len(incoming[node]))
            watch(out.name, "total", total)
            codes.append(requantize(total, operation.shift, out.low, out.high, str(program.rounding)))
        result.append(codes)
    return result


def _score(program: Any, operation: Any, message: Matrix, weight_name: str) -> Matrix:
    weight = [[int(code) for code in row] for row in program.array(weight_name).values]
    width = len(weight[0])
    return [
        [sum(row[k * width + c] * weight[k][c] for c in range(width)) for k in range(operation.heads)]
        for row in message
    ]


class _Edge:
    """What a score is made of on the edge j -> i: u, v and messages of both ends, and the edge weights of a head."""

    def __init__(
        self,
        program: Any,
        operation: Any,
        tensors: dict[str, Matrix],
        ends: tuple[int, int],
        head: int,
        watch: Watch,
    ) -> None:
        self._program, self._operation, self._watch = program, operation, watch
        source, target = ends
        none: Matrix = [[0] * operation.heads for _ in tensors["x"]]
        u = none if operation.source_scores is None else tensors[operation.source_scores]
        v = none if operation.target_scores is None else tensors[operation.target_scores]
        self.u_j, self.u_i, self.v_j, self.v_i = u[source][head], u[target][head], v[source][head], v[target][head]
        message = tensors[operation.input]
        width = len(message[0]) // operation.heads
        columns = slice(head * width, (head + 1) * width)
        self.m_j, self.m_i = message[source][columns], message[target][columns]
        self.weights = [[int(code) for code in program.array(name).values[head]] for name in operation.edge_weights]

    def look_up(self, value: int) -> int:
        """The entry of the score's table at an argument."""
        operation = self._operation
        self._watch(f"layer{operation.layer}/argument", "total", value)
        low, high = operation.score_low, operation.score_high
        code = requantize(value, operation.argument_shift, low, high, str(self._program.rounding))
        return int(self._program.array(operation.argument_table).values[code - low])


def _leaky(value: int) -> int:
    return 4 * value if value >= 0 else value


def _cos(edge: _Edge) -> int:
    return sum(a * j * i for a, j, i in zip(edge.weights[0], edge.m_j, edge.m_i, strict=True))


def _gene_linear(edge: _Edge) -> int:
    source, target, gate = edge.weights
    channels = zip(source, target, gate, edge.m_j, edge.m_i, strict=True)
    return sum(g * edge.look_up(s * j + t * i) for s, t, g, j, i in channels)


SCORES: dict[str, Callable[[Any], int]] = {
    "gat": lambda edge: _leaky(edge.u_j + edge.v_i),
    "sym-gat": lambda edge: _leaky(edge.u_j + edge.v_i) + _leaky(edge.u_i + edge.v_j),
    "cos": _cos,
    "linear": lambda edge: edge.look_up(edge.u_j),
    "gene-linear": _gene_linear,
}
"""The score of an edge before its rounding, by attention; an attention without one weighs all edges alike."""


def _probabilities(
    program: Any,
    operation: Any,
    tensors: dict[str, Matrix],
    node: int,
    head: int,
    sources: list[int],
    watch: Watch,
) -> list[int]:
    """P of each edge into `node`: the base-2 softmax of its scores, by table."""
    scores = []
    for source in sources:
        raw = SCORES[operation.attention](_Edge(program, operation, tensors, (source, node), head, watch))
        watch(f"layer{operation.layer}/score", "total", raw)
        scores.append(
            requantize(raw, operation.score_shift, operation.score_low, operation.score_high, str(program.rounding))
        )
    table = [int(code) for code in program.array(operation.table).values]
    largest = max(scores, default=0)
    result = [table[largest - score] if largest - score < len(table) else 0 for score in scores]
    for code in result:
        watch(f"layer{operation.layer}/probability", "code", code)
    return result


def _aggregate(
    program: Any, operation: Any, tensors: dict[str, Matrix], edges: list[tuple[int, int]], watch: Watch
) -> Matrix:
    message = tensors[operation.input]
    incoming = _incoming(edges, len(message), operation.self_loops)
    if operation.attention == "self":
        incoming = [[node] for node in range(len(message))]
    width = len(message[0]) // operation.heads
    bias = None if operation.bias is None else [int(code) for code in program.array(operation.bias).values]
    shortcut = None if operation.shortcut is None else tensors[operation.shortcut]
    result = []
    for node, sources in enumerate(incoming):
        by_head = [[1] * len(sources) for _ in range(operation.heads)]
        if operation.attention in SCORES:
            by_head = [
                _probabilities(program, operation, tensors, node, k, sources, watch) for k in range(operation.heads)
            ]
        codes = []
        for column in range(len(message[node])):
            weights = by_head[column // width]
            terms = [p * message[source][column] for p, source in zip(weights, sources, strict=True)]
            term = max(terms, default=0) if operation.aggregation == "max" else sum(terms)
            watch(operation.output, "accumulator", term)
            if operation.attention in SCORES:
                term *= reciprocal(26, sum(weights))
            if operation.attention == "gcn":
                term *= rsqrt15(len(sources))
            if operation.aggregation == "mean":
                term *= reciprocal(15, len(sources))
            total = term << operation.term_shift
            if bias is not None:
                total += bias[column] << operation.bias_shift
            if shortcut is not None:
                total += shortcut[node][column] << operation.shortcut_shift
            watch(operation.output, "total", total)
            codes.append(
                requantize(total, operation.shift, operation.clamp_low, operation.clamp_high, str(program.rounding))
            )
        result.append(codes)
    return result
