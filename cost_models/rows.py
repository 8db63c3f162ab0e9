"""What a cost model reports: rows of typed counts with their units in the names.

Sizes are in bits, 1 KiB = 1,024 bytes = 8,192 bits. Definitions:

- weight size: what a device stores for the model: packed weights, biases, tables, integer parameters and, where some
  words of the features have no weights, the index of one bit a word that says which. Not the
  graph, and not the node coefficients, which are reported apart.
- buffer size: all intermediate tensors between the features and the logits, both excluded. Edge scores of a learned
  attention are made inside the aggregation, a block of edges at a time, so there are no edge tensors.
- peak: the most that is alive at once in the schedule, features and logits included. A tensor lives from its making
  until its last reader has finished.
- MACs: a transform N * F_in * width (counted dense; of the features, the kept words), a product stored by node
  N * width, an aggregation E' * width, where E' is E plus N for a block with self-loops (the attention `self` reads no
  edges and has none); each product in the formula of an edge's score E' * width (rows `score_product<k>`). Epilogues
  and table look-ups are not counted.
- BOPs: MACs * bits of both operands; an aggregation without edge weights multiplies by 1 bit.
- MixQ's BitOPs: MACs * mean bits of the operands; an aggregation without edge weights has one operand.
- energy: an estimate from published figures; its assumptions are in `lpgnas.cost_models.energy`.
- latency: the sum of the operations' times by a table (`lpgnas.cost_models.latency`); counted only where one is given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from lpgnas.attentions.score import EdgeScore, Side
from lpgnas.cost_models.energy import access, arithmetic
from lpgnas.errors import GraphError, LatencyTableError
from lpgnas.graph import Graph, most_entries

if TYPE_CHECKING:
    import pandas as pd

BIAS_BITS = 16
SCORE_BITS = 32
"""Stored bits of the exact accumulators u and v of a learned attention."""
SHIFT_BITS = 8
"""Stored bits of a shift or of a fraction."""
CLAMP_BITS = 16
"""Stored bits of the upper clamp of a block's rounding; the lower clamp follows from the signedness."""
DEGREE_COEFFICIENT_BITS = 16
ROW_COEFFICIENT_BITS = 32


@dataclass(frozen=True)
class GraphSize:
    """What a cost depends on of a graph.

    Attributes:
        num_nodes: N >= 1.
        num_edges: E >= 0 directed edges as given, without self-loops that a model adds.
        num_nonzeros: entries of the features that are not 0, which the first transforms run over where the kernels keep
            them sparse; None for features without zeros worth it. Latency alone depends on it.
        num_entries: all entries of dense features; 0 for sparse ones, which stay sparse.

    Raises:
        GraphError: impossible counts.
    """

    num_nodes: int
    num_edges: int
    num_nonzeros: int | None = None
    num_entries: int = 0

    def __post_init__(self) -> None:
        if self.num_nodes < 1 or self.num_edges < 0:
            raise GraphError(f"a graph of {self.num_nodes} nodes and {self.num_edges} edges does not exist")
        if self.num_nonzeros is not None and self.num_nonzeros < 0:
            raise GraphError(f"features with {self.num_nonzeros} non-zeros do not exist")

    @classmethod
    def of(cls, graph: Graph) -> GraphSize:
        """The size of a graph."""
        if isinstance(graph.x, np.ndarray):
            return cls(graph.num_nodes, graph.num_edges, int(np.count_nonzero(graph.x)), graph.x.size)
        return cls(graph.num_nodes, graph.num_edges, int(graph.x.nnz))

    def sparse_entries(self, bits: int) -> int | None:
        """How many codes of the features a transform reads where kernels keep them sparse in `bits`, None for dense."""
        if self.num_nonzeros is None or (
            self.num_entries and self.num_nonzeros > most_entries(bits) * self.num_entries
        ):
            return None
        return self.num_nonzeros

    def edges(self, *, self_loops: bool) -> int:
        """E'."""
        return self.num_edges + (self.num_nodes if self_loops else 0)


@dataclass(frozen=True, slots=True)
class CostRow:
    """The cost of one array or tensor, with the operation that writes it.

    Attributes:
        layer: index of the block; -1 for what belongs to the whole model.
        what: name of the array or tensor within its block, or `parameters`.
        bits: stored bits of one element; 0 for `parameters`, whose widths differ.
        weight_bits: bits stored with the model.
        buffer_bits: bits of an intermediate tensor.
        macs: multiply-accumulates of the operation that writes the tensor.
        bops: their bit operations.
        mixq_bitops: the same after MixQ's definition.
        energy_aj: estimated attojoules of that operation, with what it reads and writes.
        latency_ns: time of that operation by a latency table, noted where its last tensor is; None without a table.
    """

    layer: int
    what: str
    bits: int
    weight_bits: int = 0
    buffer_bits: int = 0
    macs: int = 0
    bops: int = 0
    mixq_bitops: float = 0.0
    energy_aj: int = 0
    latency_ns: int | None = None


@dataclass(frozen=True)
class CostReport:
    """The cost of a model on a graph.

    Attributes:
        rows: every array and every tensor that the model computes.
        peak_bits: the most that is alive at once.
        input_bits: the features, N * F * bits.
        output_bits: the logits, N * C * bits.
        node_coefficient_bits: degree and row coefficients of the graph, each kind once.
    """

    rows: tuple[CostRow, ...]
    peak_bits: int
    input_bits: int
    output_bits: int
    node_coefficient_bits: int

    @property
    def weight_bits(self) -> int:
        """The model's stored bits."""
        return sum(row.weight_bits for row in self.rows)

    @property
    def buffer_bits(self) -> int:
        """Bits of all intermediate tensors."""
        return sum(row.buffer_bits for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(row.macs for row in self.rows)

    @property
    def bops(self) -> int:
        """Bit operations."""
        return sum(row.bops for row in self.rows)

    @property
    def mixq_bitops(self) -> float:
        """Bit operations after MixQ's definition."""
        return sum(row.mixq_bitops for row in self.rows)

    @property
    def energy_aj(self) -> int:
        """Estimated attojoules of an inference."""
        return sum(row.energy_aj for row in self.rows)

    @property
    def latency_ns(self) -> int | None:
        """Time of all operations by the latency table; None without one."""
        times = [row.latency_ns for row in self.rows if row.latency_ns is not None]
        return sum(times) if times else None

    def quantity(self, name: str) -> int:
        """The total called `name`.

        Raises:
            LatencyTableError: latency, which was counted without a table.
        """
        value: int | None = getattr(self, name)
        if value is None:
            raise LatencyTableError(f"{name} is limited but was not counted; give a table with --latency-table")
        return value

    def totals(self) -> dict[str, int | float]:
        """The totals by name, in the order of `TOTALS`; then the latency, if it was counted."""
        latency = {} if self.latency_ns is None else {"latency_ns": self.latency_ns}
        return {name: getattr(self, name) for name in TOTALS} | latency

    def table(self) -> pd.DataFrame:
        """The rows as a data frame, one column a field of `CostRow`; without the latency if it was not counted."""
        import pandas as pd

        kept = [field.name for field in fields(CostRow) if field.name != "latency_ns" or self.latency_ns is not None]
        return pd.DataFrame([asdict(row) for row in self.rows], columns=kept).astype(
            {"latency_ns": "Int64"} if "latency_ns" in kept else {}
        )

    def to_json(self) -> str:
        """Totals and rows as JSON with sorted keys."""
        rows = [{name: value for name, value in asdict(row).items() if value is not None} for row in self.rows]
        content = {"totals": self.totals(), "rows": rows}
        return json.dumps(content, indent=2, sort_keys=True) + "\n"


TOTALS = (
    "weight_bits",
    "buffer_bits",
    "peak_bits",
    "macs",
    "bops",
    "mixq_bitops",
    "input_bits",
    "output_bits",
    "node_coefficient_bits",
    "energy_aj",
)
"""Names of a report's totals; `latency_ns` comes behind them where there is a table."""


def product_row(
    layer: int,
    what: str,
    bits: int,
    buffer_bits: int,
    macs: int,
    operands: tuple[int, int] | tuple[int],
    latency_ns: int | None = None,
    moved_aj: int = 0,
) -> CostRow:
    """The row of a computed tensor whose operation multiplies `operands` bits (one entry: plain additions).

    `moved_aj` is the energy of what it reads and writes.
    """
    mixq = macs * sum(operands) / len(operands)
    return CostRow(
        layer,
        what,
        bits,
        buffer_bits=buffer_bits,
        macs=macs,
        bops=macs * math.prod(operands),
        mixq_bitops=mixq,
        energy_aj=arithmetic(macs, operands) + moved_aj,
        latency_ns=latency_ns,
    )


def transform_row(
    layer: int,
    what: str,
    bits: int,
    buffer_bits: int,
    weight_bits: int,
    sources: Iterable[tuple[int, int, int, int | None]],
) -> CostRow:
    """The row of a transform.

    Its `sources` are the MACs, the bits, the energy of moving and the nanoseconds of each of its inputs; the result is
    moved to its own memory.
    """
    parts = [
        product_row(layer, what, bits, 0, macs, (weight_bits, source), ns, moved) for macs, source, moved, ns in sources
    ]
    macs, bops, mixq = sum(p.macs for p in parts), sum(p.bops for p in parts), sum(p.mixq_bitops for p in parts)
    times = [part.latency_ns for part in parts if part.latency_ns is not None]
    time = sum(times) if times else None
    energy = sum(part.energy_aj for part in parts) + access(buffer_bits)
    return CostRow(
        layer, what, bits, buffer_bits=buffer_bits, macs=macs, bops=bops, mixq_bitops=mixq, energy_aj=energy,
        latency_ns=time,
    )  # fmt: skip


def transform_shifts(inputs: int) -> int:
    """Shifts that a transform stores: of its result and, of several inputs, the alignment of each."""
    return 1 + (inputs if inputs > 1 else 0)


class _ProductBits:
    """`ScoreAlgebra` of bit-widths, which notes the operands of every product."""

    def __init__(self, weight: int, message: int, entry: int) -> None:
        self._weight, self._message, self._entry = weight, message, entry
        self.products: list[tuple[int, int]] = []

    def node(self, weight: str, at: Side) -> int:
        return SCORE_BITS

    def message(self, at: Side) -> int:
        return self._message

    def weight(self, name: str) -> int:
        return self._weight

    def add(self, left: int, right: int) -> int:
        return max(left, right)

    def multiply(self, left: int, right: int) -> int:
        self.products.append((left, right))
        return left + right

    def leaky(self, value: int) -> int:
        return value

    def look_up(self, value: int) -> int:
        return self._entry

    def over_channels(self, value: int) -> int:
        return value


def edge_products(score: EdgeScore, *, weight: int, message: int, entry: int) -> tuple[tuple[int, int], ...]:
    """Bits of both operands of every product in a score's formula, each made once an edge and column.

    Args:
        score: the attention's.
        weight: bits of an attention weight.
        message: bits of a message.
        entry: bits of an entry of the score's table.
    """
    algebra = _ProductBits(weight, message, entry)
    score.formula(algebra)
    return tuple(algebra.products)
