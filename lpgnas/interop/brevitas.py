"""Models as torch modules of brevitas layers on PyG's message passing, and back, with the same numbers.

Every weight is that of a `QuantLinear`, every rounding a `QuantIdentity`, with constant power-of-two scales. What
multiplies between them (degree coefficients, row factors) has the values of `docs/integer_semantics.md`. In float64 the
codes are those of the fake-quantised model; float32 is refused unless every sum is proved to stay within 2^24.
Learned attentions are refused: their softmax is a table of integers, which brevitas has not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.core.quant import BinaryQuant, ClampedBinaryQuant, RescalingIntQuant, TernaryQuant
from brevitas.function.ops_ste import floor_ste
from brevitas.inject.enum import FloatToIntImplType, QuantType, RestrictValueType, ScalingImplType
from brevitas.quant.base import IntQuant, PerTensorPoTScaling8bit
from brevitas.quant.solver import ActQuantSolver, WeightQuantSolver
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import add_self_loops

from lpgnas.components import Component
from lpgnas.errors import ConfigError, DegreeError, InteropError, SpecError
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    ROW_FACTOR_BITS,
    Aggregate,
    IntegerProgram,
    Transform,
    reciprocal,
    rsqrt15,
)
from lpgnas.layers import QuantizedLayer, QuantizedModel, part_name
from lpgnas.lowering import BIAS_BITS, activation_table, lower, refuse_float
from lpgnas.number_formats import MAX_FRACTION, FixedPoint, FormatChoice, Rounding
from lpgnas.operators import ACTIVATIONS, ATTENTIONS, LEAKY_SLOPE
from lpgnas.quantizers import TERNARY_THRESHOLD
from lpgnas.spec import INPUT, LayerSpec, ModelSpec

FLOAT32_LIMIT = 1 << 24
_FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "leaky_relu": lambda: nn.LeakyReLU(LEAKY_SLOPE),
    "elu": nn.ELU,
}


class HalfUp(nn.Module):
    """floor(x + 1/2), which brevitas has not; the gradient passes straight through.

    The half is compared and not added: x + 1/2 may itself round up.
    """

    def __init__(self) -> None:  # brevitas reads its arguments: there are none
        super().__init__()

    def forward(self, value: Tensor) -> Tensor:
        """The rounded tensor, any shape."""
        low: Tensor = floor_ste(value)
        return low + (value - low >= 0.5).to(value.dtype)


class FixedPointWeight(IntQuant, PerTensorPoTScaling8bit, WeightQuantSolver):  # type: ignore[misc]
    """Signed two's complement weights with a constant power-of-two scale."""

    scaling_impl_type = ScalingImplType.CONST


class BinaryWeight(WeightQuantSolver):  # type: ignore[misc]
    """-1 and +1 times a constant scale."""

    quant_type = QuantType.BINARY
    scaling_impl_type = ScalingImplType.CONST
    restrict_scaling_type = RestrictValueType.FP
    narrow_range = True
    signed = True


class TernaryWeight(BinaryWeight):
    """-1, 0 and +1 times a constant scale."""

    quant_type = QuantType.TERNARY
    threshold = TERNARY_THRESHOLD


class FixedPointCodes(IntQuant, PerTensorPoTScaling8bit, ActQuantSolver):  # type: ignore[misc]
    """Fixed-point codes with a constant power-of-two scale."""

    scaling_impl_type = ScalingImplType.CONST


def weight_quantizer(choice: FormatChoice, fraction: int) -> type:
    """The `weight_quant` of a `QuantLinear` for a format of ours.

    Raises:
        InteropError: a float32 format.
    """
    if choice.kind == "float32":
        raise InteropError("a float32 weight has no quantiser; choose a fixed, binary or ternary format")
    if choice.kind == "fixed":
        largest = 2.0 ** (choice.bits - 1 - fraction)
        made = FixedPointWeight.let(bit_width=choice.bits, scaling_const=largest, scaling_init=largest)
    else:
        base, scale = BinaryWeight if choice.kind == "binary" else TernaryWeight, 2.0**-fraction
        made = base.let(scaling_const=scale, scaling_init=scale)
    return made  # type: ignore[no-any-return]


def codes_quantizer(fmt: FixedPoint, rounding: Rounding) -> qnn.QuantIdentity:
    """A `QuantIdentity` that rounds into a format of ours; it returns plain tensors."""
    largest = 2.0 ** (fmt.bits - int(fmt.signed) - fmt.fraction)
    options: dict[str, Any] = {"float_to_int_impl_type": FloatToIntImplType.ROUND}
    if rounding is Rounding.FLOOR:
        options = {"float_to_int_impl_type": FloatToIntImplType.FLOOR}
    elif rounding is Rounding.HALF_UP:
        options = {"float_to_int_impl": HalfUp}
    low = -largest if fmt.signed else 0.0
    quantizer = FixedPointCodes.let(bit_width=fmt.bits, signed=fmt.signed, min_val=low, max_val=largest, **options)
    return qnn.QuantIdentity(act_quant=quantizer)


class BrevitasBlock(MessagePassing):  # type: ignore[misc]
    """One block: transform, aggregation, activation.

    Args:
        layer: operators and routes; its formats and its width are those of the layers, not read here.
        linears: one `QuantLinear` without bias for each source, weights [width, its columns that are read].
        message: rounds what they make.
        output: rounds the activation.
        bias: [width].
        bias_quant: its format, signed, 16 bits at most, ties to even.
        aggregate: of an activation that is no clamp: rounds its argument.
        shortcut_linears: of a linear shortcut, as `linears`.
        shortcut: of a linear shortcut: rounds what they make.

    Raises:
        InteropError: an operator that cannot be exact here, or a part that is missing.
    """

    def __init__(
        self,
        layer: LayerSpec,
        linears: Sequence[qnn.QuantLinear],
        message: qnn.QuantIdentity,
        output: qnn.QuantIdentity,
        bias: Tensor,
        bias_quant: qnn.QuantIdentity,
        aggregate: qnn.QuantIdentity | None = None,
        shortcut_linears: Sequence[qnn.QuantLinear] = (),
        shortcut: qnn.QuantIdentity | None = None,
    ) -> None:
        check_operators(layer)
        _check_parts(layer, linears, aggregate, shortcut_linears, shortcut)
        super().__init__(aggr="max" if layer.aggregation == "max" else "sum")
        self.layer = layer
        self.linears, self.shortcut_linears = nn.ModuleList(linears), nn.ModuleList(shortcut_linears)
        self.message_quant, self.shortcut_quant = message, shortcut
        self.bias, self.bias_quant = nn.Parameter(bias), bias_quant
        self.aggregate_quant, self.output_quant = aggregate, output
        self.function = _FUNCTIONS[layer.activation]()

    def forward(self, sources: Sequence[Tensor], row: Sequence[Tensor | None], edge_index: Tensor) -> Tensor:
        """The block's output [N, width].

        Args:
            sources: values [N, columns] of what it reads.
            row: [N, 1] row factor of each source, or None.
            edge_index: [2, E] int64.
        """
        attention, nodes = ATTENTIONS.get(self.layer.attention), len(sources[0])
        if self.layer.self_loops and attention.neighbours:
            edge_index, _ = add_self_loops(edge_index, num_nodes=nodes)
        degree = torch.bincount(edge_index[1], minlength=nodes).cpu().numpy()
        message = self._transform(self.linears, sources, row)
        if attention.degree_factors:
            factor = _coefficient(rsqrt15(degree), COEFFICIENT_BITS, message)
            message = message * factor
        total = self.message_quant(message)
        if attention.neighbours:
            total = self.propagate(edge_index, x=total, size=(nodes, nodes))
        if attention.degree_factors:
            total = total * factor
        elif self.layer.aggregation == "mean":
            total = total * _coefficient(reciprocal(COEFFICIENT_BITS, degree), COEFFICIENT_BITS, total)
        if self.layer.shortcut == "identity":
            total = total + sources[0]
        elif self.shortcut_quant is not None:
            total = total + self.shortcut_quant(self._transform(self.shortcut_linears, sources, row))
        total = total + self.bias_quant(self.bias)
        if self.aggregate_quant is not None:
            total = self.aggregate_quant(total)
        result: Tensor = self.output_quant(self.function(total))
        return result

    @staticmethod
    def _transform(linears: nn.ModuleList, sources: Sequence[Tensor], row: Sequence[Tensor | None]) -> Tensor:
        total: Tensor | None = None
        for linear, source, factor in zip(linears, sources, row, strict=True):
            part = linear(source) if factor is None else linear(source) * factor
            total = part if total is None else total + part
        if total is None:
            raise InteropError("a block without sources")
        return total

    def message(self, x_j: Tensor) -> Tensor:
        """Messages are added as they are."""
        return x_j


class BrevitasGnn(nn.Module):
    """Blocks behind a quantised input.

    Args:
        blocks: first to last; `layer.sources` of each says what it reads.
        input_quant: rounds the features.
        num_features: F, columns of the features.
        row_normalize: whether rows of the features are divided by their sum.
        words: [K] int64, the columns of the features that have weights, rising; None for all.
        max_degree: most incoming edges of a node that its sums are proved for; None for any.

    Raises:
        InteropError: no blocks.
    """

    words: Tensor | None

    def __init__(
        self,
        blocks: Sequence[BrevitasBlock],
        input_quant: qnn.QuantIdentity,
        num_features: int,
        *,
        row_normalize: bool = False,
        words: Tensor | None = None,
        max_degree: int | None = None,
    ) -> None:
        super().__init__()
        if not blocks:
            raise InteropError("a model needs at least one block")
        self.max_degree = max_degree
        self.layers = nn.ModuleList(blocks)
        self.input_quant, self.num_features, self.row_normalize = input_quant, num_features, row_normalize
        self.register_buffer("words", words)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Logits [N, C] in the type of the parameters.

        Args:
            x: features [N, F]; they are rounded in float64, whatever the type of the rest.
            edge_index: [2, E] int64, row 0 source, row 1 target; a multigraph, as given.

        Raises:
            DegreeError: a node with more than `max_degree` incoming edges.
        """
        if self.max_degree is not None and edge_index.shape[1]:
            degree = torch.bincount(edge_index[1])
            if int(degree.max()) > self.max_degree:
                raise DegreeError(int(degree.max()), self.max_degree, int(degree.argmax()))
        dtype = self.blocks[0].bias.dtype
        features = self.input_quant(x.double())
        row = self._row_factor(features) if self.row_normalize else None
        features = features.to(dtype)
        read = features if self.words is None else features.index_select(1, self.words)
        values: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            routes = block.layer.sources or (index - 1,)
            sources = [read if one == INPUT else values[one] for one in routes]
            factors = [None if row is None or one != INPUT else row.to(dtype) for one in routes]
            values[index] = block(sources, factors, edge_index)
        return values[len(self.blocks) - 1]

    @property
    def blocks(self) -> tuple[BrevitasBlock, ...]:
        """The blocks, first to last."""
        return tuple(block for block in self.layers if isinstance(block, BrevitasBlock))

    def _row_factor(self, features: Tensor) -> Tensor:
        """What a product with values of the features is multiplied by, [N, 1] float64."""
        scale = float(self.input_quant.act_quant.scale())
        sums = torch.round(features.detach().sum(dim=1) / scale).long().cpu().numpy()
        return _coefficient(reciprocal(ROW_FACTOR_BITS, sums), ROW_FACTOR_BITS, features) / scale


def _coefficient(codes: np.ndarray[Any, Any], places: int, like: Tensor) -> Tensor:
    """`codes` [N] with their binary places as a column in the type of `like`."""
    return torch.from_numpy(codes * 2.0**-places).to(like)[:, None]


def check_operators(layer: LayerSpec) -> None:
    """Refuse what brevitas and PyG do not compute exactly.

    Raises:
        InteropError: naming the operator.
    """
    if ATTENTIONS.get(layer.attention).learned:
        raise InteropError(
            f"the softmax of the attention {layer.attention} is a table of integers, which brevitas layers have not; "
            f"use const, gcn or self"
        )
    if layer.activation not in _FUNCTIONS:
        raise InteropError(f"torch has no module for the activation {layer.activation}; use {', '.join(_FUNCTIONS)}")


def _check_parts(
    layer: LayerSpec,
    linears: Sequence[qnn.QuantLinear],
    aggregate: qnn.QuantIdentity | None,
    shortcut_linears: Sequence[qnn.QuantLinear],
    shortcut: qnn.QuantIdentity | None,
) -> None:
    sources = max(1, len(layer.sources))
    linear = layer.shortcut == "linear"
    if len(linears) != sources or len(shortcut_linears) != (sources if linear else 0) or (shortcut is None) == linear:
        raise InteropError(
            f"a block of {sources} sources and shortcut {layer.shortcut} got {len(linears)} linear layers, "
            f"{len(shortcut_linears)} of the shortcut and {'no' if shortcut is None else 'a'} rounding of it"
        )
    if (aggregate is None) != (ACTIVATIONS.get(layer.activation).function is None):
        raise InteropError(f"activation {layer.activation}: an aggregate format goes with tables, and only with them")


# --- out ---


def to_brevitas(
    model: QuantizedModel, *, dtype: torch.dtype = torch.float64, max_degree: int | None = None
) -> BrevitasGnn:
    """A trained model as brevitas layers, with its trainable parameters; in eval mode.

    Args:
        model: calibrated, its gain folded.
        dtype: float64; or float32, which is exact if every sum stays within 2^24.
        max_degree: for float32, the most incoming edges of a node.

    Raises:
        InteropError: an operator that brevitas layers cannot compute exactly, float32 without a proof, or a weight that
            their quantiser rounds to another code.
        LoweringError: a float32 component.
    """
    refuse_float(model.spec)
    for layer in model.spec.layers:
        check_operators(layer)
    if dtype == torch.float32:
        _check_float32(model, max_degree)
    elif dtype != torch.float64:
        raise InteropError(f"numbers are exact in float64, or where proved in float32, not in {dtype}")
    spec = model.spec
    fmt = FixedPoint(spec.input_format.bits, model.input_fraction, spec.input_signed)
    blocks = [_Writer(model, index, dtype).block() for index in range(len(spec.layers))]
    words = None if model.words is None else model.words.clone()
    quant = codes_quantizer(fmt, spec.rounding)
    proved = max_degree if dtype == torch.float32 else None
    made = BrevitasGnn(
        blocks, quant, spec.num_features, row_normalize=spec.row_normalize, words=words, max_degree=proved
    )
    made = made.to(dtype).eval()
    again = from_brevitas(made)
    for index, (one, other) in enumerate(zip(model.layer_codes(), again.layer_codes(), strict=True)):
        _check_codes(index, one, other)
    return made


def _check_codes(index: int, one: Any, other: Any) -> None:  # noqa: ANN401 - two LayerCodes
    for name in ("weight", "shortcut_weight", "bias"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours is not None and (ours.fraction != theirs.fraction or (ours.codes != theirs.codes).any()):
            raise InteropError(f"layer {index}: brevitas rounds {name} to other codes than the model has")


def _check_float32(model: QuantizedModel, max_degree: int | None) -> None:
    if max_degree is None:
        raise InteropError("float32 needs max_degree, the most incoming edges of a node, for the proof of its sums")
    program = lower_model(model, max_degree)
    for one in program.operations:
        if isinstance(one, (Transform, Aggregate)) and max(one.accumulator_bound, one.total_bound) > FLOAT32_LIMIT:
            raise InteropError(
                f"layer {one.layer} {type(one).__name__.lower()}: its sums may reach "
                f"{max(one.accumulator_bound, one.total_bound)}, beyond 2^24, which float32 does not hold exactly; "
                f"use float64"
            )


def lower_model(model: QuantizedModel, max_degree: int) -> IntegerProgram:
    """The integer program of a model.

    Raises:
        LoweringError: a bound that cannot be proved.
    """
    return lower(
        model.spec,
        model.layer_codes(),
        input_fraction=model.input_fraction,
        max_degree=max_degree,
        words=model.word_codes(),
    )


@dataclass(frozen=True)
class _Writer:
    """Makes one block of a model."""

    model: QuantizedModel
    index: int
    dtype: torch.dtype

    @property
    def source(self) -> QuantizedLayer:
        return self.model.blocks[self.index]

    def block(self) -> BrevitasBlock:
        layer, spec = self.source.spec, self.model.spec
        activation = ACTIVATIONS.get(layer.activation)
        last = self.index == len(spec.layers) - 1
        out = self._codes(Component.OUTPUT if last else Component.ACTIVATION, "output", signed=activation.signed)
        aggregate, linear = None, layer.shortcut == "linear"
        if activation.function is not None:
            aggregate = self._codes(Component.AGGREGATE, "aggregate")
            source = self._format(Component.AGGREGATE, "aggregate")
            target = self._format(Component.OUTPUT if last else Component.ACTIVATION, "output", activation.signed)
            check_function(layer.activation, source, target, spec.rounding, self.dtype)
        return BrevitasBlock(
            layer,
            self._linears("weight"),
            self._codes(Component.MESSAGE, "message"),
            out,
            self.source.bias.detach().clone(),
            codes_quantizer(FixedPoint(BIAS_BITS, self._fraction("bias")), Rounding.HALF_EVEN),
            aggregate,
            self._linears("shortcut_weight") if linear else (),
            self._codes(Component.MESSAGE, "shortcut") if linear else None,
        )

    def _fraction(self, name: str) -> int:
        return int(self.source.get_buffer(f"{name}_fraction"))

    def _format(self, component: Component, name: str, signed: bool = True) -> FixedPoint:
        return FixedPoint(self.source.spec.formats[component].bits, self._fraction(name), signed)

    def _codes(self, component: Component, name: str, *, signed: bool = True) -> qnn.QuantIdentity:
        return codes_quantizer(self._format(component, name, signed), self.model.spec.rounding)

    def _linears(self, prefix: str) -> list[qnn.QuantLinear]:
        choice = self.source.spec.formats[Component.LINEAR_WEIGHT]
        whole, spec = self.source.whole(prefix).detach(), self.model.spec
        widths = spec.source_widths(self.index)
        quantizer = weight_quantizer(choice, self._fraction(prefix))
        made = []
        for part in torch.split(whole, list(widths), dim=1):
            linear = qnn.QuantLinear(part.shape[1], part.shape[0], bias=False, weight_quant=quantizer)
            linear.weight.data.copy_(part)
            made.append(linear)
        return made


def check_function(
    name: str, source: FixedPoint, target: FixedPoint, rounding: Rounding, dtype: torch.dtype = torch.float64
) -> None:
    """Compare torch's function on every code of `source` with the table that a program has.

    Raises:
        InteropError: an entry that differs.
    """
    codes = torch.arange(source.low, source.high + 1, dtype=dtype)
    rounded = codes_quantizer(target, rounding).to(dtype).eval()
    made = rounded(_FUNCTIONS[name]()(codes * 2.0**-source.fraction)) * 2.0**target.fraction
    table = activation_table(ACTIVATIONS.get(name), source, target, rounding)
    different = np.flatnonzero(made.detach().double().numpy() != table)
    if different.size:
        raise InteropError(
            f"activation {name}: torch gives another code than the table at {different.size} of {table.size} "
            f"arguments, the first {source.low + int(different[0])} * 2^-{source.fraction}"
        )


# --- in ---


def from_brevitas(module: BrevitasGnn) -> QuantizedModel:
    """The model of a module: its formats from the quantisers, its weights as they come out of them.

    Raises:
        InteropError: a quantiser that has no format here: another scale than one power of two for the whole tensor, a
            zero point, narrow codes, a rounding of its own; a parameter of another shape, or that is not finite; words
            that do not rise; the message names it.
    """
    readers = [_Reader(index, block, len(module.blocks)) for index, block in enumerate(module.blocks)]
    source, rounding = read_codes(module.input_quant, "the input")
    for reader in readers:
        reader.check_rounding(rounding)
    widths = [len(reader.block.bias) for reader in readers]
    try:
        spec = ModelSpec(
            num_features=module.num_features,
            num_classes=widths[-1],
            layers=tuple(replace(reader.spec(), width=width) for reader, width in zip(readers, widths, strict=True)),
            rounding=rounding,
            input_format=FormatChoice("fixed", source.bits),
            input_signed=source.signed,
            row_normalize=module.row_normalize,
            input_words=None if module.words is None else len(module.words),
        )
    except SpecError as error:
        raise InteropError(f"these blocks are no model: {error}") from error
    words = None if module.words is None else module.words.detach().cpu().clone()
    try:
        model = QuantizedModel(spec, source.fraction, words)
    except ConfigError as error:
        raise InteropError(f"the words of this module: {error}") from error
    with torch.no_grad():
        for reader, layer in zip(readers, model.blocks, strict=True):
            reader.fill(layer, spec)
    return model


def read_codes(quant: qnn.QuantIdentity, where: str) -> tuple[FixedPoint, Rounding]:
    """The format and the rounding of a `QuantIdentity`.

    Raises:
        InteropError: it has none here.
    """
    proxy = quant.act_quant
    if not proxy.is_quant_enabled or not isinstance(_core(proxy), RescalingIntQuant):
        raise InteropError(f"{where}: its activation quantiser is not one of integers")
    if proxy.fused_activation_quant_proxy.activation_impl.__class__.__name__ != "Identity":
        raise InteropError(f"{where}: round with a QuantIdentity; the block has the activation")
    if proxy.is_narrow_range:
        raise InteropError(f"{where}: its codes are narrow; set narrow_range to False")
    _check_zero_point(proxy.zero_point(), where)
    fraction, bits = _fraction_of(proxy.scale(), where), int(proxy.bit_width())
    try:
        return FixedPoint(bits, fraction, bool(proxy.is_signed)), _rounding_of(_core(proxy), where)
    except SpecError as error:
        raise InteropError(f"{where}: {error}") from error


def read_weight(linear: qnn.QuantLinear, where: str) -> tuple[FormatChoice, int, Tensor]:
    """The format of a `QuantLinear`'s weight, its fraction, and its quantised values [out, in] float64.

    Raises:
        InteropError: it has no such format, or the layer has a bias or quantisers of its own.
    """
    proxy = linear.weight_quant
    if linear.bias is not None:
        raise InteropError(f"{where}: a linear layer has no bias here; the block adds it behind the aggregation")
    if linear.input_quant.is_quant_enabled or linear.output_quant.is_quant_enabled:
        raise InteropError(f"{where}: a linear layer rounds neither input nor output here; the block does")
    core = getattr(proxy, "tensor_quant", None)
    if not proxy.is_quant_enabled or not isinstance(
        core, (RescalingIntQuant, BinaryQuant, ClampedBinaryQuant, TernaryQuant)
    ):
        raise InteropError(f"{where}: its weight quantiser is not one of integers")
    training = linear.training
    linear.eval()
    with torch.no_grad():
        made = linear.quant_weight()
    linear.train(training)
    fraction, bits = _fraction_of(made.scale, where), int(made.bit_width)
    _check_zero_point(made.zero_point, where)
    if isinstance(core, RescalingIntQuant):
        if not bool(proxy.is_signed):
            raise InteropError(f"{where}: weights are signed here")
        choice = FormatChoice("fixed", bits)
    else:
        choice = FormatChoice.parse("ternary" if isinstance(core, TernaryQuant) else "binary")
    return choice, fraction, made.value.detach().double().cpu()


def _core(proxy: Any) -> Any:  # noqa: ANN401 - brevitas has no types
    fused = proxy.fused_activation_quant_proxy
    return None if fused is None else fused.tensor_quant


def _check_zero_point(zero_point: Tensor, where: str) -> None:
    if bool((zero_point != 0).any()):
        raise InteropError(f"{where}: it has the zero point {zero_point.flatten()[0]:g}; formats here have none")


def _fraction_of(scale: Tensor, where: str) -> int:
    """The binary places of one power of two."""
    if scale.numel() != 1:
        raise InteropError(f"{where}: it has {scale.numel()} scales; formats here have one a tensor")
    value = float(scale)
    mantissa, exponent = math.frexp(value)
    if mantissa != 0.5 or abs(1 - exponent) > MAX_FRACTION:
        raise InteropError(
            f"{where}: its scale {value:g} is not a power of two from 2^-{MAX_FRACTION} to 2^{MAX_FRACTION}; take a "
            f"fixed-point quantiser (lpgnas.interop.brevitas.codes_quantizer, weight_quantizer)"
        )
    return 1 - exponent


def _rounding_of(core: Any, where: str) -> Rounding:  # noqa: ANN401 - brevitas has no types
    impl = core.int_quant.float_to_int_impl
    known = {"RoundSte": Rounding.HALF_EVEN, "FloorSte": Rounding.FLOOR, "HalfUp": Rounding.HALF_UP}
    rounding = known.get(type(impl).__name__)
    if rounding is None:
        raise InteropError(f"{where}: its rounding {type(impl).__name__} is none of {', '.join(known)}")
    return rounding


@dataclass(frozen=True)
class _Reader:
    """Reads one block of a module."""

    index: int
    block: BrevitasBlock
    count: int

    @property
    def where(self) -> str:
        return f"block {self.index}"

    def _roundings(self) -> dict[str, tuple[FixedPoint, Rounding]]:
        """Format and rounding of every tensor, by the name of its fraction."""
        found = {"message": self.block.message_quant, "output": self.block.output_quant}
        found |= {"aggregate": self.block.aggregate_quant, "shortcut": self.block.shortcut_quant}
        return {name: read_codes(quant, f"{self.where} {name}") for name, quant in found.items() if quant is not None}

    def check_rounding(self, rounding: Rounding) -> None:
        for name, (_, other) in self._roundings().items():
            if other is not rounding:
                raise InteropError(
                    f"{self.where} {name}: it rounds {other.value}, the input {rounding.value}; "
                    f"a model has one rounding"
                )

    def spec(self) -> LayerSpec:
        """The block's layer, of width as it says, with the formats found."""
        codes = {name: fmt for name, (fmt, _) in self._roundings().items()}
        if "shortcut" in codes and (codes["shortcut"].bits, codes["shortcut"].signed) != (codes["message"].bits, True):
            raise InteropError(f"{self.where}: the linear shortcut has other bits than the message")
        activation = ACTIVATIONS.get(self.block.layer.activation)
        wanted = {"message": True, "aggregate": True, "output": activation.signed}
        for name, signed in wanted.items():
            if name in codes and codes[name].signed != signed:
                raise InteropError(f"{self.where} {name}: its codes have to be {'' if signed else 'un'}signed")
        choice, _, _ = self.weights("weight")
        out = Component.OUTPUT if self.index == self.count - 1 else Component.ACTIVATION
        formats = {Component.LINEAR_WEIGHT: choice, Component.MESSAGE: FormatChoice("fixed", codes["message"].bits)}
        formats[out] = FormatChoice("fixed", codes["output"].bits)
        if "aggregate" in codes:
            formats[Component.AGGREGATE] = FormatChoice("fixed", codes["aggregate"].bits)
        return replace(self.block.layer, formats=formats)

    def weights(self, prefix: str) -> tuple[FormatChoice, int, list[Tensor]]:
        """Format, fraction and values of the parts of a weight."""
        linears = self.block.linears if prefix == "weight" else self.block.shortcut_linears
        found = [read_weight(one, f"{self.where} {prefix}") for one in linears]
        if len({(choice, fraction) for choice, fraction, _ in found}) != 1:
            raise InteropError(f"{self.where} {prefix}: its parts have different formats")
        return found[0][0], found[0][1], [values for _, _, values in found]

    def fill(self, layer: QuantizedLayer, spec: ModelSpec) -> None:
        """Write parameters and fractions into a layer of ours."""
        choice = self.block.layer.activation
        for prefix in ("weight", "shortcut_weight")[: 2 if len(self.block.shortcut_linears) else 1]:
            kind, fraction, parts = self.weights(prefix)
            if kind != layer.spec.formats[Component.LINEAR_WEIGHT]:
                raise InteropError(f"{self.where}: the linear shortcut's weights have another format")
            layer.get_buffer(f"{prefix}_fraction").fill_(fraction)
            for source, values in zip(spec.sources(self.index), parts, strict=True):
                _write(layer.get_parameter(part_name(prefix, self.index, source)), values, f"{self.where} {prefix}")
        bias, _ = read_codes(self.block.bias_quant, f"{self.where} bias")
        if bias.bits > BIAS_BITS or not bias.signed:
            raise InteropError(f"{self.where} bias: it has signed codes of at most {BIAS_BITS} bits here")
        layer.get_buffer("bias_fraction").fill_(bias.fraction)
        _write(layer.get_parameter("bias"), self.block.bias_quant(self.block.bias).detach().cpu(), f"{self.where} bias")
        codes = self._roundings()
        for name, (fmt, _) in codes.items():
            layer.get_buffer(f"{name}_fraction").fill_(fmt.fraction)
        if "aggregate" in codes:
            check_function(choice, codes["aggregate"][0], codes["output"][0], spec.rounding)


def _write(parameter: Tensor, values: Tensor, where: str) -> None:
    """Values into a parameter of ours, whose type holds every code exactly.

    Raises:
        InteropError: they have another shape, are not finite, or the type does not hold them.
    """
    if values.shape != parameter.shape:
        raise InteropError(f"{where}: it has the shape {list(values.shape)}, but needs {list(parameter.shape)}")
    if not bool(torch.isfinite(values).all()):
        raise InteropError(f"{where}: it has values that are not finite")
    made = values.to(parameter.dtype)
    if not torch.equal(made.double(), values.double()):
        raise InteropError(f"{where}: it has values beyond the range of {parameter.dtype}")
    parameter.copy_(made)
