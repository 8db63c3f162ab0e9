"""The cost of a `ModelSpec` on a graph, in closed form and without lowering: fast enough for every step of a search.

`program_cost` counts the same from a lowered program; the two agree exactly once the score fractions are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lpgnas.attentions.score import EdgeScore
from lpgnas.components import Component
from lpgnas.cost_models.energy import access
from lpgnas.cost_models.latency import DENSE, LOGITS, LOOKUP, SCORE, LatencyTable, Work, aggregate_kind, feature_kind
from lpgnas.cost_models.rows import (
    BIAS_BITS,
    CLAMP_BITS,
    DEGREE_COEFFICIENT_BITS,
    ROW_COEFFICIENT_BITS,
    SCORE_BITS,
    SHIFT_BITS,
    CostReport,
    CostRow,
    GraphSize,
    edge_products,
    product_row,
    transform_row,
    transform_shifts,
)
from lpgnas.errors import SpecError
from lpgnas.integer_program import MAX_SCORE_FRACTION, WORDS_NAME
from lpgnas.number_formats import FLOAT32
from lpgnas.operators import ACTIVATIONS, ATTENTIONS
from lpgnas.registry import Registry
from lpgnas.spec import INPUT, LayerSpec, ModelSpec

PROBABILITY_BITS = 7


@dataclass(frozen=True)
class AggregationCost:
    """What an aggregation adds: the name of the node coefficient that it reads, or None."""

    coefficient: str | None


@dataclass(frozen=True)
class ShortcutCost:
    """What a shortcut adds: whether it has a transform of its own, and whether it keeps the block's input alive."""

    transform: bool
    keeps_input: bool


AGGREGATION_COSTS: Registry[AggregationCost] = Registry("cost of aggregation")
SHORTCUT_COSTS: Registry[ShortcutCost] = Registry("cost of shortcut")
"""An operator without an entry raises `UnknownName`: it never costs zero. Attentions and activations are costed from
their own rows."""

AGGREGATION_COSTS.add("sum", AggregationCost(None))
AGGREGATION_COSTS.add("mean", AggregationCost("reciprocal"))
AGGREGATION_COSTS.add("max", AggregationCost(None))
SHORTCUT_COSTS.add("none", ShortcutCost(transform=False, keeps_input=False))
SHORTCUT_COSTS.add("identity", ShortcutCost(transform=False, keeps_input=True))
SHORTCUT_COSTS.add("linear", ShortcutCost(transform=True, keeps_input=False))


def spec_cost(
    spec: ModelSpec,
    size: GraphSize,
    score_fractions: tuple[int, ...] | None = None,
    *,
    latency: LatencyTable | None = None,
) -> CostReport:
    """The cost of a model with these choices; a float32 block has biases of 32 bits, and no tables, shifts or clamps.

    Args:
        spec: the choices.
        size: the graph.
        score_fractions: fraction of the edge scores of each layer, 0 to 4 (ignored where there are none). Only training
            fixes it, and the softmax table has `8 << fraction` entries; without it the table is counted at its largest,
            so that the weight size is an upper bound and everything else is exact.
        latency: times of operations, or None to leave the latency out.

    Raises:
        UnknownName: an operator without a cost.
        SpecError: not one score fraction a layer.
        LatencyTableError: the table lacks an operation.
    """
    if score_fractions is None:
        score_fractions = (MAX_SCORE_FRACTION,) * len(spec.layers)
    if len(score_fractions) != len(spec.layers):
        raise SpecError(f"{len(score_fractions)} score fractions for {len(spec.layers)} layers")
    # fractions of the input and of the logits
    rows = [] if spec.is_float else [CostRow(-1, "parameters", 0, weight_bits=2 * SHIFT_BITS)]
    if spec.input_words is not None:
        rows.append(CostRow(-1, WORDS_NAME, 1, weight_bits=spec.num_features))
    source = _Source(spec.num_features, spec.input_format.bits, read=spec.kept_words, is_input=True)
    peak, sources = 0, {INPUT: source}
    coefficients: set[tuple[str, bool]] = {("row", False)} if spec.row_normalize else set()
    last_readers = spec.last_readers()
    for index, layer in enumerate(spec.layers):
        read = [sources[one] for one in spec.sources(index)]
        block = _Block(index, layer, index == len(spec.layers) - 1, read, size, latency)
        rows += block.weight_rows(score_fractions[index])
        rows += block.tensor_rows()
        # what is read again later is alive throughout; the rest of what the block reads goes when it is done with it
        later = sum(sources[one].row_bits for one, reader in last_readers.items() if one < index < reader)
        ending = sum(sources[one].row_bits for one in spec.sources(index) if last_readers[one] == index)
        peak = max(peak, *(size.num_nodes * (later + bits) for bits in block.alive(ending)))
        coefficients |= block.coefficients()
        sources[index] = _Source(layer.width, block.output_bits, read=layer.width)
    output = sources[len(spec.layers) - 1]
    return CostReport(
        rows=tuple(rows),
        peak_bits=peak,
        input_bits=size.num_nodes * spec.num_features * spec.input_format.bits,
        output_bits=size.num_nodes * output.row_bits,
        node_coefficient_bits=size.num_nodes
        * sum(ROW_COEFFICIENT_BITS if kind == "row" else DEGREE_COEFFICIENT_BITS for kind, _ in coefficients),
    )


@dataclass(frozen=True)
class _Source:
    """A tensor that blocks read: `columns` columns of `bits` bits, of which weights read `read`."""

    columns: int
    bits: int
    read: int
    is_input: bool = False

    @property
    def row_bits(self) -> int:
        return self.columns * self.bits


class _Block:
    """One layer that reads `sources`."""

    def __init__(
        self,
        index: int,
        layer: LayerSpec,
        last: bool,
        sources: list[_Source],
        size: GraphSize,
        latency: LatencyTable | None,
    ) -> None:
        self._latency = latency
        self._index, self._layer, self._last, self._size = index, layer, last, size
        self._sources = sources
        self._attention = ATTENTIONS.get(layer.attention)
        self._score = self._attention.score
        self._aggregation = AGGREGATION_COSTS.get(layer.aggregation)
        self._shortcut = SHORTCUT_COSTS.get(layer.shortcut)
        # a float block computes its functions: it has no tables, shifts or clamps
        self._float = layer.formats[Component.MESSAGE] == FLOAT32
        self._table = ACTIVATIONS.get(layer.activation).function is not None and not self._float
        self._weight_bits = layer.formats[Component.LINEAR_WEIGHT].bits
        self._message_bits = layer.formats[Component.MESSAGE].bits
        self.output_bits = layer.formats[Component.OUTPUT if last else Component.ACTIVATION].bits

    def weight_rows(self, score_fraction: int) -> Iterator[CostRow]:
        index, layer = self._index, self._layer
        columns, bits = sum(source.read for source in self._sources), self._weight_bits
        weights = columns * layer.width * bits
        yield CostRow(index, "linear_weight", bits, weight_bits=weights)
        if self._shortcut.transform:
            yield CostRow(index, "shortcut_weight", bits, weight_bits=weights)
        if self._score is not None:
            yield from self._score_weight_rows(self._score, score_fraction)
        bias_bits = FLOAT32.bits if self._float else BIAS_BITS
        yield CostRow(index, "bias", bias_bits, weight_bits=layer.width * bias_bits)
        if self._float:
            return
        if self._table:
            table = (1 << layer.formats[Component.AGGREGATE].bits) * self.output_bits
            yield CostRow(index, "activation_table", self.output_bits, weight_bits=table)
        # Those of each transform; the aggregation's term, bias and result; a shortcut's, a score's and its argument's.
        shifts = (1 + self._shortcut.transform) * transform_shifts(len(self._sources))
        shifts += 3 + (layer.shortcut != "none")
        if self._score is not None:
            shifts += 1 if self._score.table is None else 2
        yield CostRow(index, "parameters", 0, weight_bits=shifts * SHIFT_BITS + CLAMP_BITS)

    def _score_weight_rows(self, score: EdgeScore, score_fraction: int) -> Iterator[CostRow]:
        index, layer = self._index, self._layer
        bits = layer.formats[Component.ATTENTION_WEIGHT].bits
        for name in score.weights:
            yield CostRow(index, f"{name}_attention_weight", bits, weight_bits=layer.width * bits)
        if self._float:
            return
        entries = 8 << score_fraction
        yield CostRow(index, "softmax_table", PROBABILITY_BITS, weight_bits=entries * PROBABILITY_BITS)
        if score.table is not None:
            bits = layer.formats[Component.SCORE].bits
            yield CostRow(index, "argument_table", bits, weight_bits=(1 << bits) * bits)

    def _score_product_rows(self, score: EdgeScore, macs: int) -> Iterator[CostRow]:
        formats = self._layer.formats
        bits, weight = formats[Component.SCORE].bits, formats[Component.ATTENTION_WEIGHT].bits
        products = edge_products(score, weight=weight, message=self._message_bits, entry=bits)
        for k, operands in enumerate(products):
            yield product_row(self._index, f"score_product{k}", bits, 0, macs, operands)

    def _time(self, *works: Work) -> int | None:
        """Time of operations by the table, if there is one."""
        return None if self._latency is None else sum(self._latency.nanoseconds(work) for work in works)

    def _transform_time(self, source: _Source) -> int | None:
        size, width, bits = self._size, self._layer.width, (source.bits, self._weight_bits)
        entries = size.sparse_entries(source.bits) if source.is_input else None
        if entries is not None:
            return self._time(Work(feature_kind(size, source.bits), size.num_nodes, entries, width, *bits))
        return self._time(Work(DENSE, size.num_nodes, size.num_nodes * source.columns, width, *bits))

    def _moved(self, source: _Source) -> int:
        """Energy of reading a transform's input and its weights."""
        nodes, weights = self._size.num_nodes, source.read * self._layer.width * self._weight_bits
        return access(nodes * source.read * source.bits, nodes * source.row_bits) + access(weights)

    def _gathered(self, rows: int) -> int:
        """Energy of reading what an aggregation of `rows` edges reads."""
        layer, nodes = self._layer, self._size.num_nodes
        message, scores = layer.width * self._message_bits, layer.heads * SCORE_BITS
        moved = access(rows * message, nodes * message)
        if self._score is not None:
            moved += len(self._score.node_weights) * access(rows * scores, nodes * scores)
        if self._shortcut.transform:
            moved += access(nodes * message)
        elif self._shortcut.keeps_input:
            moved += access(nodes * self._sources[0].row_bits)
        return moved

    def tensor_rows(self) -> Iterator[CostRow]:
        index, layer, nodes = self._index, self._layer, self._size.num_nodes
        width, bits = layer.width, self._message_bits
        sources = [
            (nodes * one.read * width, one.bits, self._moved(one), self._transform_time(one)) for one in self._sources
        ]
        yield transform_row(index, "message", bits, nodes * width * bits, self._weight_bits, sources)
        if self._shortcut.transform:
            yield transform_row(index, "shortcut", bits, nodes * width * bits, self._weight_bits, sources)
        edge_operands: tuple[int, int] | tuple[int] = (bits,)
        if self._score is not None:
            operands = (layer.formats[Component.ATTENTION_WEIGHT].bits, bits)
            for side in self._score.node_weights:
                scores = nodes * layer.heads * SCORE_BITS
                time = self._time(Work(SCORE, nodes, nodes, width, bits, operands[0], layer.heads))
                moved = access(nodes * width * bits) + access(width * operands[0]) + access(scores)
                yield product_row(index, f"{side}_score", SCORE_BITS, scores, nodes * width, operands, time, moved)
            edge_operands = (PROBABILITY_BITS, bits)
        edges = self._size.edges(self_loops=layer.self_loops)
        macs = edges * width if self._attention.neighbours else 0
        kind, rows = aggregate_kind(layer.attention, layer.aggregation), edges if self._attention.neighbours else nodes
        factor = PROBABILITY_BITS if self._score is not None else 1
        aggregation = Work(kind, nodes, rows, width, bits, factor, layer.heads)
        if self._score is not None:
            yield from self._score_product_rows(self._score, macs)
        name = "logits" if self._last else "activation"
        output = 0 if self._last else nodes * width * self.output_bits
        written, gathered = access(nodes * width * self.output_bits), self._gathered(rows)
        decoded = [Work(LOGITS, nodes, nodes, width, self.output_bits)] if self._last else []
        if self._table:
            bits = layer.formats[Component.AGGREGATE].bits
            time = self._time(aggregation)
            held = nodes * width * bits
            yield product_row(index, "aggregate", bits, held, macs, edge_operands, time, gathered + access(held))
            time = self._time(Work(LOOKUP, nodes, nodes, width, bits), *decoded)
            entries = access(nodes * width * self.output_bits, (1 << bits) * self.output_bits)
            energy = access(held) + entries + written
            yield CostRow(index, name, self.output_bits, buffer_bits=output, energy_aj=energy, latency_ns=time)
        else:
            time = self._time(aggregation, *decoded)
            yield product_row(index, name, self.output_bits, output, macs, edge_operands, time, gathered + written)

    def alive(self, ending: int) -> Iterator[int]:
        """Bits of a node alive in each step: transforms, scores, aggregation, lookup.

        `ending` are those of the sources that nothing reads afterwards.
        """
        layer = self._layer
        message = layer.width * self._message_bits
        shortcut = message if self._shortcut.transform else 0
        yield ending + message + shortcut
        held = message + shortcut + (ending if self._shortcut.keeps_input else 0)
        if self._score is not None and self._score.node_weights:
            held += len(self._score.node_weights) * layer.heads * SCORE_BITS
            yield held
        output = layer.width * self.output_bits
        if self._table:
            aggregate = layer.width * layer.formats[Component.AGGREGATE].bits
            yield held + aggregate
            yield aggregate + output
        else:
            yield held + output

    def coefficients(self) -> set[tuple[str, bool]]:
        """Node coefficients that the block reads: their kind, and whether the degree counts added self-loops."""
        kinds = {"rsqrt" if self._attention.degree_factors else None, self._aggregation.coefficient} - {None}
        return {(kind, self._layer.self_loops) for kind in kinds if kind is not None}
