"""The fake-quantised model: a spec as a torch module that computes what `docs/integer_semantics.md` says.

Everything is a value `code * 2^-fraction`; in float64 the codes equal those of the integer program. The same module
with `float32` formats is the full-precision reference. Parameters start as in PyG (Glorot weights, zero biases).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lpgnas.attentions.score import EdgeScore, FloatArray, ScoreTable, fraction_name
from lpgnas.components import Component
from lpgnas.dropout import Dropout
from lpgnas.errors import LoweringError
from lpgnas.fused_ops import (
    Edges,
    aggregate,
    clamp_rows,
    look_up,
    real_softmax_numerators,
    round_rows,
    softmax_numerators,
)
from lpgnas.graph_tensors import GraphTensors, Neighbourhood, Product
from lpgnas.input_words import check_words
from lpgnas.integer_program import MAX_PROBABILITY, MAX_SCORE_FRACTION, RECIPROCAL_BITS, softmax_table
from lpgnas.lowering import BIAS_BITS, LayerCodes, Quantized, activation_table, clamp_range, score_activation
from lpgnas.number_formats import FLOAT32, FixedPoint, FormatChoice, Rounding
from lpgnas.operators import ACTIVATIONS, ATTENTIONS, Activation
from lpgnas.quantizers import (
    calibrated_fraction,
    code_range,
    fake_quantize,
    quantize_weight,
    range_fraction,
    weight_fraction,
)
from lpgnas.spec import INPUT, ModelSpec
from lpgnas.torch_scores import TorchScores

BIAS_EXTRA_PLACES = 8
"""A bias needs no more binary places than its block's output plus these."""

Tap = Callable[[Component, Tensor, Tensor], Tensor]
"""What a supernet does with a quantised tensor before it is used: component, real tensor, quantised tensor -> tensor of
the same values, whose gradient also reaches choices."""


def part_name(prefix: str, reader: int, source: int) -> str:
    """The parameter for one source of a block: `prefix` alone for the block before it, else with the source's name."""
    if source == reader - 1:
        return prefix
    return f"{prefix}_from_{'x' if source == INPUT else source}"


@dataclass(frozen=True)
class Source:
    """What a block may read.

    Attributes:
        product: maps a transposed weight [columns, k] to `source @ it` [N, k] (sparse for the features).
        value: the source itself [N, columns], made when it is asked for.
    """

    product: Product
    value: Callable[[], Tensor]


class QuantizedLayer(nn.Module):
    """One block with its trainable parameters and its calibrated fractions (buffers, int64 scalars).

    Shapes: `weight` and `shortcut_weight` [width, source width], of every source a part of its own (`part_name`) and of
    `x` the kept words alone; `bias` [width]; for each weight of a learned attention `<name>_attention` [heads, width /
    heads]. The parts of a weight are quantised together, with one fraction.
    """

    def __init__(self, model: ModelSpec, index: int, words: Tensor | None = None, gain: float = 1.0) -> None:
        super().__init__()
        self._features, self._words, self._gain = model.num_features, words, gain
        spec, sources = model.layers[index], model.sources(index)
        self.spec = spec
        self.rounding = model.rounding
        self.activation = ACTIVATIONS.get(spec.activation)
        self.attention = ATTENTIONS.get(spec.attention)
        self.output = Component.OUTPUT if index == len(model.layers) - 1 else Component.ACTIVATION
        self.tap: Tap | None = None
        self._sources, self._widths = sources, list(model.source_widths(index))
        self._parts = {
            prefix: [part_name(prefix, index, source) for source in sources] for prefix in ("weight", "shortcut_weight")
        }
        self._add_parts("weight")
        self.bias = nn.Parameter(torch.zeros(spec.width))
        if spec.shortcut == "linear":
            self._add_parts("shortcut_weight")
        fractions = ["weight", "shortcut_weight", "attention", "bias", "message", "shortcut", "score", "aggregate"]
        fractions.append("output")
        score = self.attention.score
        if score is not None:
            fractions += [name for name in score.fraction_groups() if name not in fractions]
            fractions += [] if score.table is None else ["argument"]
            for name in score.weights:
                self.register_parameter(f"{name}_attention", _glorot(spec.heads, spec.width // spec.heads))
        for name in fractions:
            self.register_buffer(f"{name}_fraction", torch.tensor(0))

    def _add_parts(self, prefix: str) -> None:
        whole = _glorot(self.spec.width, sum(self._widths)).detach()
        for name, part in zip(self._parts[prefix], torch.split(whole, self._widths, dim=1), strict=True):
            self.register_parameter(name, nn.Parameter(part.contiguous()))

    def input_parts(self) -> set[str]:
        """Names of the parameters whose columns are those of the features."""
        if self._sources[0] != INPUT:
            return set()
        return {names[0] for names in self._parts.values() if hasattr(self, names[0])}

    def fold_gain(self) -> None:
        """Make the gain of the input part of its parameters: the block computes what it did."""
        with torch.no_grad():
            for name in self.input_parts():
                self.get_parameter(name).mul_(self._gain)
        self._gain = 1.0

    def whole(self, prefix: str) -> Tensor:
        """The trainable `weight` or `shortcut_weight` [width, input width], the parts of all sources side by side."""
        parts: list[Tensor] = [getattr(self, name) for name in self._parts[prefix]]  # plain tensors in a supernet
        if self._gain != 1.0 and self._sources[0] == INPUT:
            parts[0] = parts[0] * self._gain
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def forward(self, sources: Sequence[Source], graph: GraphTensors, *, observe: bool) -> Tensor:
        """The block's output [N, width].

        Args:
            sources: what it reads, in order.
            graph: edges and coefficients; its row factor belongs to the source `x`.
            observe: choose all fractions anew from what flows through.
        """
        if observe:
            self._choose_weight_fractions()
        factor = self._near(graph).rsqrt if self.attention.degree_factors else None
        message = self._transform(sources, "weight")
        message = self._quantize(message, Component.MESSAGE, "message", observe=observe, row=factor)
        total, factor = self._aggregate(message, graph, observe=observe)
        if self.spec.shortcut != "none" and factor is not None:
            total, factor = total * factor, None
        if self.spec.shortcut == "identity":
            total = total + sources[0].value()
        elif self.spec.shortcut == "linear":
            skip = self._transform(sources, "shortcut_weight")
            total = total + self._quantize(skip, Component.MESSAGE, "shortcut", observe=observe)
        return self._tapped(self.output, total, self._activate(total, factor, observe=observe))

    def _transform(self, sources: Sequence[Source], prefix: str) -> Tensor:
        """The sum [N, width] of the sources' products with their columns of a weight."""
        weight = self._weight(self.whole(prefix), Component.LINEAR_WEIGHT, prefix)
        whole = (weight,) if len(self._widths) == 1 else torch.split(weight, self._widths, dim=1)
        parts = [part.t() for part in whole]
        if self._words is not None and self._sources[0] == INPUT:  # the other words have zeros
            none = parts[0].new_zeros(self._features, self.spec.width)
            parts[0] = none.index_copy(0, self._words, parts[0])
        products = [source.product(part) for source, part in zip(sources, parts, strict=True)]
        return sum(products[1:], start=products[0])

    def _near(self, graph: GraphTensors) -> Neighbourhood:
        return graph.with_loops if self.spec.self_loops else graph.without_loops

    def codes(self) -> LayerCodes:
        """The codes and fractions that lowering needs (float64, exact)."""
        shortcut, score = None, self.attention.score
        if self.spec.shortcut == "linear":
            shortcut = self._weight_codes(self.whole("shortcut_weight"), Component.LINEAR_WEIGHT, "shortcut_weight")
        bias = np.rint(self._bias(self.bias.detach().double()).numpy() * 2.0 ** self._fraction("bias"))
        return LayerCodes(
            weight=self._weight_codes(self.whole("weight"), Component.LINEAR_WEIGHT, "weight"),
            bias=Quantized(bias.astype(np.int64), self._fraction("bias")),
            message_fraction=self._fraction("message"),
            output_fraction=self._fraction("output"),
            aggregate_fraction=self._fraction("aggregate"),
            shortcut_weight=shortcut,
            shortcut_fraction=self._fraction("shortcut"),
            attention=tuple(self._attention_codes(name) for name in (() if score is None else score.weights)),
            score_fraction=self._fraction("score"),
            argument_fraction=0 if score is None or score.table is None else self._fraction("argument"),
        )

    def _fraction(self, name: str) -> int:
        return int(self.get_buffer(f"{name}_fraction"))

    def _set_fraction(self, name: str, fraction: int) -> None:
        self.get_buffer(f"{name}_fraction").fill_(fraction)

    def _choice(self, component: Component) -> FormatChoice:
        return self.spec.formats[component]

    def _choose_weight_fractions(self) -> None:
        choice = self._choice(Component.LINEAR_WEIGHT)
        if choice != FLOAT32:
            self._set_fraction("weight", weight_fraction(self.whole("weight"), choice))
            if self.spec.shortcut == "linear":
                self._set_fraction("shortcut_weight", weight_fraction(self.whole("shortcut_weight"), choice))
        score = self.attention.score
        if score is not None and self._choice(Component.ATTENTION_WEIGHT) != FLOAT32:
            for group, names in score.fraction_groups().items():
                together = torch.cat([self.attention_weight(name) for name in names])
                self._set_fraction(group, weight_fraction(together, self._choice(Component.ATTENTION_WEIGHT)))

    def attention_weight(self, name: str) -> Tensor:
        """The trainable attention weight of this name [heads, width / heads]."""
        weight: Tensor = getattr(self, f"{name}_attention")  # a supernet puts a plain tensor in the parameter's place
        return weight

    def _attention_codes(self, name: str) -> Quantized:
        weight = self.attention_weight(name)
        return self._weight_codes(weight, Component.ATTENTION_WEIGHT, fraction_name(name))

    def _weight(self, weight: Tensor, component: Component, name: str) -> Tensor:
        return self._tapped(component, weight, quantize_weight(weight, self._choice(component), self._fraction(name)))

    def _tapped(self, component: Component, real: Tensor, quantized: Tensor) -> Tensor:
        return quantized if self.tap is None else self.tap(component, real, quantized)

    def _weight_codes(self, weight: Tensor, component: Component, name: str) -> Quantized:
        fraction = self._fraction(name)
        values = quantize_weight(weight.detach().double(), self._choice(component), fraction).numpy()
        return Quantized(np.rint(values * 2.0**fraction).astype(np.int64), fraction)

    def _bias(self, bias: Tensor) -> Tensor:
        low, high = code_range(BIAS_BITS, signed=True)
        return fake_quantize(bias, self._fraction("bias"), low, high, Rounding.HALF_EVEN)

    def _quantize(
        self, value: Tensor, component: Component, name: str, *, observe: bool, row: Tensor | None = None
    ) -> Tensor:
        """`value` [N, K] times `row` [N, 1] as a signed fixed-point tensor, with the fraction called `name`."""
        choice = self._choice(component)
        if choice == FLOAT32:
            return self._tapped(component, value, _scaled(value, row))
        if observe:
            fraction = calibrated_fraction(_scaled(value, row), choice.bits, signed=True, rounding=self.rounding)
            if component is Component.SCORE:
                fraction = max(0, min(MAX_SCORE_FRACTION, fraction))
            self._set_fraction(name, fraction)
        low, high = code_range(choice.bits, signed=True)
        rounded = round_rows(value, self._fraction(name), low, high, self.rounding, row=row)
        return self._tapped(component, value, rounded)

    def _aggregate(self, message: Tensor, graph: GraphTensors, *, observe: bool) -> tuple[Tensor, Tensor | None]:
        """Sum or max of the weighted messages, [N, width], and the factor [N, 1] that the target side owes them."""
        if not self.attention.neighbours:
            return message, None
        near = self._near(graph)
        mean = near.recip if self.spec.aggregation == "mean" else None
        if self.attention.score is not None:
            return self._attend(self.attention.score, message, near.edges, observe=observe), mean
        if self.spec.aggregation == "max":
            return aggregate(near.edges, message[:, None], largest=True).squeeze(1), None
        return near.sum.product(message), near.rsqrt if self.attention.degree_factors else mean

    def _attend(self, rule: EdgeScore, message: Tensor, edges: Edges, *, observe: bool) -> Tensor:
        by_head = message.view(len(message), self.spec.heads, -1)

        def weight_of(name: str) -> Tensor:
            weight = self.attention_weight(name)
            return self._weight(weight, Component.ATTENTION_WEIGHT, fraction_name(name))

        def by_table(value: Tensor) -> Tensor:
            return value if rule.table is None else self._score_table(rule.table, value, observe=observe)

        raw: Tensor = rule.formula(TorchScores(edges.source, edges.target, by_head, weight_of, by_table))
        final = rule.table is not None and rule.table.is_score  # its fraction is that of the table's entries
        score = self._quantize(raw, Component.SCORE, "score", observe=observe and not final)
        weight, denominator = self._softmax_numerator(score, edges)
        total = aggregate(edges, by_head, weight=weight, largest=self.spec.aggregation == "max")
        return (total * self._reciprocal(denominator)[:, :, None]).reshape(len(message), -1)

    def _score_table(self, table: ScoreTable, value: Tensor, *, observe: bool) -> Tensor:
        """The entries of the score's table at `value` [E', ...], rounded to codes of the score's bits first."""
        choice, function = self._choice(Component.SCORE), score_activation(table)
        if choice == FLOAT32:
            return _real_activation(function, value)
        target = FixedPoint(choice.bits, table.entry_fraction(choice.bits))
        if observe:
            fraction = calibrated_fraction(value, choice.bits, signed=True, rounding=self.rounding)
            self._set_fraction("argument", fraction)
            if table.is_score:
                self._set_fraction("score", target.fraction)
        source = FixedPoint(choice.bits, self._fraction("argument"))
        rows = value.flatten(1)
        argument = round_rows(rows, source.fraction, source.low, source.high, self.rounding)
        entries, slope = _activation_values(function, source, target, self.rounding)
        return look_up(argument, source.fraction, source.low, entries, slope).view(value.shape)

    def _softmax_numerator(self, score: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """P of each edge and head [E', heads], 127 * 2^(score - max), and their sums [N, heads]."""
        if self._choice(Component.SCORE) != FLOAT32:
            fraction = self._fraction("score")
            return softmax_numerators(score, edges, fraction, softmax_table(fraction))
        return real_softmax_numerators(score, edges, MAX_PROBABILITY)

    def _reciprocal(self, denominator: Tensor) -> Tensor:
        """1 / P as the integer reciprocal gives it; 0 for P = 0."""
        positive = denominator > 0
        ideal = torch.where(positive, 1.0 / denominator.clamp(min=1.0), torch.zeros_like(denominator))
        if self._choice(Component.SCORE) == FLOAT32:
            return ideal
        safe = denominator.detach().double().clamp(min=1.0)
        exact = torch.floor((2.0 ** (RECIPROCAL_BITS + 1) + safe) / (2.0 * safe)) * 2.0**-RECIPROCAL_BITS
        exact = torch.where(positive, exact.to(denominator.dtype), torch.zeros_like(denominator))
        return ideal + (exact - ideal).detach()

    def _activate(self, total: Tensor, row: Tensor | None, *, observe: bool) -> Tensor:
        """The activation of `total` [N, width] times `row` [N, 1] plus the bias."""
        choice = self._choice(self.output)
        if choice == FLOAT32 and self.activation.function is None:
            return clamp_rows(total, self.activation.low, self.activation.high, row=row, bias=self.bias)
        if choice == FLOAT32:
            return _real_activation(self.activation, _scaled(total, row) + self.bias)
        if observe:
            self._choose_output_fractions(_scaled(total, row) + self.bias, choice)
        bias = self._bias(self.bias)
        fmt = FixedPoint(choice.bits, self._fraction("output"), self.activation.signed)
        if self.activation.function is None:
            low, high = clamp_range(self.activation, fmt, self.rounding)
            return round_rows(total, fmt.fraction, low, high, self.rounding, row=row, bias=bias)
        source = FixedPoint(self._choice(Component.AGGREGATE).bits, self._fraction("aggregate"))
        value = round_rows(total, source.fraction, source.low, source.high, self.rounding, row=row, bias=bias)
        value = self._tapped(Component.AGGREGATE, total, value)
        table, slope = _activation_values(self.activation, source, fmt, self.rounding)
        return look_up(value, source.fraction, source.low, table, slope)  # the table's value, the function's slope

    def _choose_output_fractions(self, total: Tensor, choice: FormatChoice) -> None:
        target = total
        if self.activation.function is not None:
            aggregate = self._choice(Component.AGGREGATE)
            fraction = calibrated_fraction(total, aggregate.bits, signed=True, rounding=self.rounding)
            self._set_fraction("aggregate", fraction)
            target = _real_activation(self.activation, total)
        elif self.activation.high is not None:
            target = total.clamp(max=self.activation.high)
        signed = self.activation.signed
        fraction = calibrated_fraction(target, choice.bits, signed=signed, rounding=self.rounding)
        self._set_fraction("output", fraction)
        largest = range_fraction(self.bias, (1 << (BIAS_BITS - 1)) - 1)
        self._set_fraction("bias", min(largest, fraction + BIAS_EXTRA_PLACES))


class QuantizedModel(nn.Module):
    """A `ModelSpec` as a trainable module.

    Args:
        spec: the choices.
        input_fraction: of the features.
        words: [K] int64, the kept columns of the features, rising, where the spec does not keep all; else None.
        gain: what parameters that read the features are multiplied by (`lpgnas.graph_tensors.input_gain`), a power of
            two; `fold_gain` ends it.

    Raises:
        ConfigError: words that are not those of the spec.
    """

    words: Tensor | None

    def __init__(self, spec: ModelSpec, input_fraction: int, words: Tensor | None = None, gain: float = 1.0) -> None:
        super().__init__()
        check_words(None if words is None else words.numpy(), spec.input_words, spec.num_features)
        self.register_buffer("words", words)
        self.spec = spec
        self.input_fraction = input_fraction
        self.layers = nn.ModuleList(QuantizedLayer(spec, index, words, gain) for index in range(len(spec.layers)))

    def fold_gain(self) -> None:
        """Make the gain part of the parameters; the model computes what it did."""
        for layer in self.blocks:
            layer.fold_gain()

    def forward(
        self,
        graph: GraphTensors,
        *,
        observe: bool = False,
        dropout: Dropout | None = None,
    ) -> Tensor:
        """Logits [N, C].

        Args:
            graph: features and edges.
            observe: choose all fractions anew.
            dropout: what is dropped of what blocks read, in training. Every source is drawn once: all blocks that read
                it see the same entries.
        """
        features = None if dropout is None else dropout.features(graph.features)
        sources = {INPUT: Source(graph.product(features), graph.features.dense)}
        value = torch.empty(0)
        for index, layer in enumerate(self.blocks):
            if index:
                sources[index - 1] = _output_source(value if dropout is None else dropout.entries(value))
            value = layer([sources[one] for one in self.spec.sources(index)], graph, observe=observe)
        return value

    def layer_codes(self) -> tuple[LayerCodes, ...]:
        """What lowering needs of every block."""
        return tuple(layer.codes() for layer in self.blocks)

    def word_codes(self) -> npt.NDArray[np.int64] | None:
        """The kept columns of the features, for lowering; None for all."""
        return None if self.words is None else self.words.numpy()

    @property
    def blocks(self) -> tuple[QuantizedLayer, ...]:
        """The blocks, first to last."""
        return tuple(layer for layer in self.layers if isinstance(layer, QuantizedLayer))

    @property
    def input_format(self) -> FixedPoint | None:
        """The features' format, None in a float reference."""
        choice = self.spec.input_format
        return None if choice == FLOAT32 else FixedPoint(choice.bits, self.input_fraction, self.spec.input_signed)


def _glorot(rows: int, columns: int) -> nn.Parameter:
    weight = torch.empty(rows, columns)
    nn.init.xavier_uniform_(weight)
    return nn.Parameter(weight)


def _output_source(value: Tensor) -> Source:
    return Source(value.matmul, lambda: value)


def _scaled(value: Tensor, row: Tensor | None) -> Tensor:
    return value if row is None else value * row


def _applied(activation: Activation, value: Tensor) -> Tensor:
    """The real function of an activation by table, elementwise in float64; no gradient."""
    if activation.function is None:
        raise LoweringError(f"activation {activation.name!r} is a clamp and has no function")
    return torch.from_numpy(activation.function(value.double().numpy())).to(value.dtype)


def _slope(activation: Activation, value: Tensor, step: float) -> Tensor:
    """Central difference of the function, so that an activation needs no derivative of its own."""
    return (_applied(activation, value + step) - _applied(activation, value - step)) / (2.0 * step)


@lru_cache(maxsize=256)
def _activation_values(
    activation: Activation, source: FixedPoint, target: FixedPoint, rounding: Rounding
) -> tuple[FloatArray, FloatArray]:
    """Values of an activation's table for every code of `source`, lowest first, and the function's slopes there."""
    codes = activation_table(activation, source, target, rounding).astype(np.float64)
    step = 2.0**-source.fraction
    inputs = torch.arange(source.low, source.high + 1, dtype=torch.float64) * step
    return codes * 2.0**-target.fraction, _slope(activation, inputs, 0.5 * step).numpy()


def _real_activation(activation: Activation, value: Tensor) -> Tensor:
    """The activation without quantisation, with its gradient."""
    if activation.function is not None:
        detached = value.detach()
        return _applied(activation, detached) + _slope(activation, detached, 1e-3) * (value - detached)
    if activation.low is None and activation.high is None:
        return value
    return value.clamp(min=activation.low, max=activation.high)
