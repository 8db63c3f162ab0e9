"""Lowering: a spec and trained codes become an `IntegerProgram` with proved accumulators. No torch here.

The trained model hands over `LayerCodes` (see `layers.QuantizedModel.layer_codes`); this file decides every shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lpgnas.attentions.bounds import Operand
from lpgnas.attentions.score import SIDES, EdgeScore, ScoreTable
from lpgnas.components import Component
from lpgnas.errors import ConfigError, LoweringError, ProgramError
from lpgnas.input_words import check_words
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    MAX_DEGREE_LIMIT,
    MAX_PROBABILITY,
    MAX_SCORE_FRACTION,
    WORDS_NAME,
    Aggregate,
    Array,
    Codes,
    IntegerProgram,
    Lookup,
    Operation,
    Part,
    Score,
    Tensor,
    Transform,
    accumulator_bits,
    narrow,
    softmax_table,
    transform_parts,
)
from lpgnas.number_formats import FixedPoint, FormatChoice, Rounding, round_to_int
from lpgnas.operators import ACTIVATIONS, ATTENTIONS, Activation
from lpgnas.proofs import (
    aggregate_bounds,
    check_program,
    edge_score_facts,
    part_places,
    score_bound,
    term_places,
    transform_bounds,
)
from lpgnas.spec import INPUT, LayerSpec, ModelSpec

BIAS_BITS = 16


@dataclass(frozen=True)
class Quantized:
    """Integer codes (any shape) and the fraction of their format."""

    codes: npt.NDArray[np.int64]
    fraction: int


@dataclass(frozen=True)
class LayerCodes:
    """What training fixes of one block: codes of its parameters and the fractions of its tensors.

    Attributes:
        weight: [width, F_in], the columns of all sources side by side.
        bias: [width], 16-bit codes.
        message_fraction: of the transform's output.
        output_fraction: of `activation`, or of `output` in the last block.
        aggregate_fraction: of `aggregate`; used by activations by table.
        shortcut_weight: [width, F_in] for a linear shortcut.
        shortcut_fraction: of the linear shortcut's output.
        attention: [heads, width / heads] each, the weights of a learned attention in the order of `EdgeScore.weights`.
        score_fraction: of the edge scores, 0 to 4.
        argument_fraction: of the argument of the score's table, where it has one.
    """

    weight: Quantized
    bias: Quantized
    message_fraction: int
    output_fraction: int
    aggregate_fraction: int = 0
    shortcut_weight: Quantized | None = None
    shortcut_fraction: int = 0
    attention: tuple[Quantized, ...] = ()
    score_fraction: int = 0
    argument_fraction: int = 0


def activation_table(activation: Activation, source: FixedPoint, target: FixedPoint, rounding: Rounding) -> Codes:
    """One code of `target` for each code of `source`, lowest first (float64 at lowering; data afterwards).

    Raises:
        LoweringError: the activation is a clamp and has no table.
    """
    if activation.function is None:
        raise LoweringError(f"activation {activation.name!r} is a clamp and has no table")
    values = np.ldexp(np.arange(source.low, source.high + 1, dtype=np.float64), -source.fraction)
    scaled = np.ldexp(activation.function(values), target.fraction)
    codes = np.clip(round_to_int(scaled, rounding), target.low, target.high).astype(np.int64)
    return narrow(codes, target.low, target.high)


def score_activation(table: ScoreTable) -> Activation:
    """The function of a score's table as the row of an activation."""
    return Activation("score", signed=True, function=table.function)


def clamp_range(activation: Activation, fmt: FixedPoint, rounding: Rounding) -> tuple[int, int]:
    """Lowest and highest code that a clamping activation leaves in `fmt`."""
    low, high = fmt.low, fmt.high
    if activation.low is not None:
        low = max(low, int(round_to_int(np.ldexp(np.float64(activation.low), fmt.fraction), rounding)))
    if activation.high is not None:
        high = min(high, int(round_to_int(np.ldexp(np.float64(activation.high), fmt.fraction), rounding)))
    return low, high


def lower(
    spec: ModelSpec,
    codes: tuple[LayerCodes, ...],
    *,
    input_fraction: int,
    max_degree: int,
    words: npt.NDArray[np.int64] | None = None,
    metadata: dict[str, str] | None = None,
) -> IntegerProgram:
    """The integer program of a trained model.

    Args:
        spec: the choices.
        codes: one entry a layer.
        input_fraction: fraction of the features' format.
        max_degree: most incoming edges of a node that the program is proved for.
        words: the kept columns of the features, rising, where the spec does not keep all; else None.
        metadata: facts to keep in the file.

    Raises:
        LoweringError: a Float32 component, words that are not those of the spec, or a bound that cannot be proved; the
            message names it.
    """
    refuse_float(spec)
    if not 0 <= max_degree <= MAX_DEGREE_LIMIT:
        raise LoweringError(f"max_degree {max_degree} is not in 0 to {MAX_DEGREE_LIMIT}")
    if len(codes) != len(spec.layers):
        raise LoweringError(f"{len(codes)} layers of codes for a spec of {len(spec.layers)} layers")
    source = Tensor(
        "x", spec.num_features, spec.input_format.bits, input_fraction, spec.input_signed, 0, Component.INPUT
    )
    builder = _Builder(spec, max_degree, source, _word_index(spec, words))
    for index, layer_codes in enumerate(codes):
        try:
            builder.add_layer(index, layer_codes)
        except ProgramError as error:
            raise LoweringError(f"layer {index}: {error}") from error
    program = IntegerProgram(
        num_features=spec.num_features,
        num_classes=spec.num_classes,
        rounding=spec.rounding,
        row_normalize=spec.row_normalize,
        max_degree=max_degree,
        input=source,
        output=builder.outputs[len(spec.layers) - 1].name,
        tensors=tuple(builder.tensors),
        operations=tuple(builder.operations),
        arrays=tuple(builder.arrays),
        metadata=metadata or {},
    )
    try:
        check_program(program)
    except ProgramError as error:
        raise LoweringError(f"this model has no exact integer form: {error}") from error
    return program


def _word_index(spec: ModelSpec, words: npt.NDArray[np.int64] | None) -> Array | None:
    """The index of the kept words, one bit each; None where all are kept."""
    try:
        check_words(words, spec.input_words, spec.num_features)
    except ConfigError as error:
        raise LoweringError(str(error)) from error
    if words is None:
        return None
    bits = np.isin(np.arange(spec.num_features), words).astype(np.int64)
    return Array(WORDS_NAME, "index", "fixed", 1, 0, False, -1, None, narrow(bits, 0, 1))


def refuse_float(spec: ModelSpec) -> None:
    """Refuse a spec with a float32 component.

    Raises:
        LoweringError: naming every such component.
    """
    floats = ["input"] if spec.input_format.kind == "float32" else []
    for index, layer in enumerate(spec.layers):
        floats += [f"layer {index} {c.value}" for c, choice in layer.formats.items() if choice.kind == "float32"]
    if floats:
        raise LoweringError(
            f"Float32 components cannot be lowered: {', '.join(floats)}; choose fixed, binary or ternary formats"
        )


class _Builder:
    """Appends the operations of one block after the other."""

    def __init__(self, spec: ModelSpec, max_degree: int, source: Tensor, index: Array | None) -> None:
        self._spec = spec
        self._max_degree = max_degree
        self._index = index
        self.outputs = {INPUT: source}
        self.tensors: list[Tensor] = []
        self.operations: list[Operation] = []
        self.arrays: list[Array] = [] if index is None else [index]

    def add_layer(self, index: int, codes: LayerCodes) -> None:
        layer = self._spec.layers[index]
        message = self._transform(index, layer, codes.weight, codes.message_fraction, "message")
        shortcut = None
        if layer.shortcut == "identity":
            shortcut = self.outputs[self._spec.sources(index)[0]]
        elif layer.shortcut == "linear":
            shortcut = self._linear_shortcut(index, layer, codes)
        self._aggregate(index, layer, codes, message, shortcut)

    def _linear_shortcut(self, index: int, layer: LayerSpec, codes: LayerCodes) -> Tensor:
        if codes.shortcut_weight is None:
            raise LoweringError(f"layer {index}: a linear shortcut without a weight")
        return self._transform(index, layer, codes.shortcut_weight, codes.shortcut_fraction, "shortcut")

    def _tensor(self, name: str, columns: int, fmt: FixedPoint, layer: int, component: Component) -> Tensor:
        tensor = Tensor(name, columns, fmt.bits, fmt.fraction, fmt.signed, layer, component)
        self.tensors.append(tensor)
        return tensor

    def _constant(self, name: str, choice: FormatChoice, values: Quantized, layer: int, component: Component) -> Array:
        kind: Literal["fixed", "binary", "ternary"]
        kind = "binary" if choice.kind == "binary" else "ternary" if choice.kind == "ternary" else "fixed"
        low, high = (-1, 1) if kind != "fixed" else (-(1 << (choice.bits - 1)), (1 << (choice.bits - 1)) - 1)
        stored = narrow(values.codes, low, high)
        array = Array(name, "weight", kind, choice.bits, values.fraction, True, layer, component, stored)
        self.arrays.append(array)
        return array

    def _transform(self, index: int, layer: LayerSpec, weight: Quantized, fraction: int, name: str) -> Tensor:
        array_name = f"layer{index}/{'linear' if name == 'message' else name}_weight"
        choice = layer.formats[Component.LINEAR_WEIGHT]
        array = self._constant(array_name, choice, weight, index, Component.LINEAR_WEIGHT)
        sources = [self.outputs[source] for source in self._spec.sources(index)]
        _check_columns(array, layer.width, self._spec.input_width(index))
        fmt = FixedPoint(layer.formats[Component.MESSAGE].bits, fraction)
        out = self._tensor(f"layer{index}/{name}", layer.width, fmt, index, Component.MESSAGE)
        row_factor = self._spec.row_normalize and INPUT in self._spec.sources(index)
        degree_factor = name == "message" and ATTENTIONS.get(layer.attention).degree_factors
        bare = Transform(
            layer=index,
            inputs=tuple(source.name for source in sources),
            aligns=(0,) * len(sources),
            output=out.name,
            weight=array.name,
            row_factor=row_factor,
            degree_factor=degree_factor,
            self_loops=layer.self_loops,
            shift=0,
            accumulator_bits=32,
            accumulator_bound=0,
            total_bound=0,
        )
        self.operations.append(_proved(bare, transform_parts(bare, sources, array, self._index), fraction))
        return out

    def _attention_weights(self, index: int, layer: LayerSpec, codes: LayerCodes, score: EdgeScore) -> dict[str, Array]:
        if len(codes.attention) != len(score.weights):
            raise LoweringError(f"layer {index}: attention {layer.attention} without attention weights")
        choice = layer.formats[Component.ATTENTION_WEIGHT]
        return {
            name: self._constant(
                f"layer{index}/{name}_attention_weight", choice, values, index, Component.ATTENTION_WEIGHT
            )
            for name, values in zip(score.weights, codes.attention, strict=True)
        }

    def _node_scores(
        self, index: int, layer: LayerSpec, message: Tensor, weights: dict[str, Array]
    ) -> dict[str, Operand]:
        """The products that are stored by node, as `layer<k>/<side>_score`; none without weights."""
        if not weights:
            return {}
        outputs = {
            side: Tensor(
                f"layer{index}/{side}_score", layer.heads, 32, message.fraction + array.fraction, True, index, None
            )
            for side, array in weights.items()
        }
        self.tensors += outputs.values()
        named: dict[str, str | None] = {f"{side}_{part}": None for side in SIDES for part in ("output", "weight")}
        named |= {f"{side}_output": out.name for side, out in outputs.items()}
        named |= {f"{side}_weight": array.name for side, array in weights.items()}
        bound = score_bound([array.values for array in weights.values()], message)
        self.operations.append(
            Score(layer=index, input=message.name, heads=layer.heads, accumulator_bound=bound, **named)
        )
        return {side: Operand(bound, out.fraction) for side, out in outputs.items()}

    def _argument_table(self, index: int, table: ScoreTable, source: FixedPoint) -> Array:
        target = FixedPoint(source.bits, table.entry_fraction(source.bits))
        array = Array(
            f"layer{index}/argument_table",
            "table",
            "fixed",
            target.bits,
            target.fraction,
            True,
            index,
            Component.SCORE,
            activation_table(score_activation(table), source, target, self._spec.rounding),
        )
        self.arrays.append(array)
        return array

    def _scores(
        self, index: int, layer: LayerSpec, codes: LayerCodes, score: EdgeScore, message: Tensor
    ) -> dict[str, Any]:
        """Adds what the scores of a block need; the fields of its `Aggregate` about them."""
        if not 0 <= codes.score_fraction <= MAX_SCORE_FRACTION:
            raise LoweringError(
                f"layer {index}: score fraction {codes.score_fraction} is not 0 to {MAX_SCORE_FRACTION}"
            )
        weights = self._attention_weights(index, layer, codes, score)
        softmax = narrow(softmax_table(codes.score_fraction), 0, MAX_PROBABILITY)
        self.arrays.append(
            Array(f"layer{index}/softmax_table", "table", "fixed", 7, 0, False, index, Component.SCORE, softmax)
        )
        argument = FixedPoint(layer.formats[Component.SCORE].bits, codes.argument_fraction)
        table = None if score.table is None else self._argument_table(index, score.table, argument)
        nodes = self._node_scores(index, layer, message, {name: weights[name] for name in score.node_weights})
        edge_weights = [weights[name] for name in score.edge_weights]
        facts = edge_score_facts(score, layer.heads, message, nodes, edge_weights, table)
        return {
            **{f"{side}_scores": f"layer{index}/{side}_score" for side in nodes},
            "score_shift": facts.places - codes.score_fraction,
            "score_low": argument.low,
            "score_high": argument.high,
            "table": f"layer{index}/softmax_table",
            "edge_weights": tuple(array.name for array in edge_weights),
            "argument_table": None if table is None else table.name,
            "argument_shift": 0 if table is None else facts.argument_places - argument.fraction,
            "argument_fraction": 0 if table is None else argument.fraction,
        }

    def _aggregate(
        self, index: int, layer: LayerSpec, codes: LayerCodes, message: Tensor, shortcut: Tensor | None
    ) -> None:
        attention, activation = ATTENTIONS.get(layer.attention), ACTIVATIONS.get(layer.activation)
        scored: dict[str, Any] = {"source_scores": None, "target_scores": None, "table": None}
        scored |= {"score_shift": 0, "score_low": 0, "score_high": 0}
        if attention.score is not None:
            scored |= self._scores(index, layer, codes, attention.score, message)
        bias = Array(
            f"layer{index}/bias",
            "bias",
            "fixed",
            BIAS_BITS,
            codes.bias.fraction,
            True,
            index,
            None,
            narrow(codes.bias.codes, -(1 << 15), (1 << 15) - 1),
        )
        self.arrays.append(bias)
        term = term_places(message, attention, layer.aggregation)
        finest = max(term, bias.fraction, term if shortcut is None else shortcut.fraction)
        target, clamp = self._rounded_format(index, layer, codes, activation)
        aggregate = Aggregate(
            layer=index,
            input=message.name,
            output=target.name,
            attention=layer.attention,
            aggregation=layer.aggregation,
            self_loops=layer.self_loops,
            heads=layer.heads,
            term_shift=finest - term,
            bias=bias.name,
            bias_shift=finest - bias.fraction,
            shortcut=None if shortcut is None else shortcut.name,
            shortcut_shift=0 if shortcut is None else finest - shortcut.fraction,
            shift=finest - target.fraction,
            clamp_low=clamp[0],
            clamp_high=clamp[1],
            accumulator_bits=32,
            accumulator_bound=0,
            total_bound=0,
            **scored,
        )
        bound, total = aggregate_bounds(aggregate, message, shortcut, bias.values, self._max_degree)
        self.operations.append(
            replace(aggregate, accumulator_bits=accumulator_bits(bound), accumulator_bound=bound, total_bound=total)
        )
        self.outputs[index] = target
        if activation.function is not None:
            self._lookup(index, layer, codes, activation, target)

    def _output(self, index: int, layer: LayerSpec, fraction: int) -> tuple[str, FixedPoint, Component]:
        last = index == len(self._spec.layers) - 1
        component = Component.OUTPUT if last else Component.ACTIVATION
        signed = ACTIVATIONS.get(layer.activation).signed
        name = "logits" if last else f"layer{index}/activation"
        return name, FixedPoint(layer.formats[component].bits, fraction, signed), component

    def _rounded_format(
        self, index: int, layer: LayerSpec, codes: LayerCodes, activation: Activation
    ) -> tuple[Tensor, tuple[int, int]]:
        """The tensor that the aggregation rounds into, and its clamp."""
        if activation.function is not None:
            fmt = FixedPoint(layer.formats[Component.AGGREGATE].bits, codes.aggregate_fraction)
            out = self._tensor(f"layer{index}/aggregate", layer.width, fmt, index, Component.AGGREGATE)
            return out, (fmt.low, fmt.high)
        name, fmt, component = self._output(index, layer, codes.output_fraction)
        return self._tensor(name, layer.width, fmt, index, component), clamp_range(activation, fmt, self._spec.rounding)

    def _lookup(self, index: int, layer: LayerSpec, codes: LayerCodes, activation: Activation, source: Tensor) -> None:
        name, fmt, component = self._output(index, layer, codes.output_fraction)
        table = activation_table(
            activation, FixedPoint(source.bits, source.fraction, source.signed), fmt, self._spec.rounding
        )
        array = Array(
            f"layer{index}/activation_table",
            "table",
            "fixed",
            fmt.bits,
            fmt.fraction,
            fmt.signed,
            index,
            component,
            table,
        )
        self.arrays.append(array)
        out = self._tensor(name, layer.width, fmt, index, component)
        self.operations.append(Lookup(layer=index, input=source.name, output=out.name, table=array.name))
        self.outputs[index] = out


def _check_columns(weight: Array, rows: int, columns: int) -> None:
    if weight.values.shape != (rows, columns):
        raise ProgramError(f"{weight.name} has shape {weight.values.shape}, expected ({rows}, {columns})")


def _proved(bare: Transform, parts: Sequence[Part], fraction: int) -> Transform:
    """A transform into `fraction` binary places, aligned to the finest of its parts, with its bounds."""
    places = [part_places(part) for part in parts]
    aligned = [replace(part, align=max(places) - own) for part, own in zip(parts, places, strict=True)]
    shift = max(places) + (COEFFICIENT_BITS if bare.degree_factor else 0) - fraction
    bound, total = transform_bounds(aligned, degree_factor=bare.degree_factor, shift=shift)
    return replace(
        bare,
        aligns=tuple(part.align for part in aligned),
        shift=shift,
        accumulator_bits=accumulator_bits(bound),
        accumulator_bound=bound,
        total_bound=total,
    )
