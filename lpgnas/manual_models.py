"""Manual models: GCN, GraphSAGE, GAT and JKNet of two or more blocks, in float32 or with uniform formats (`WxAy`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from lpgnas.components import WEIGHTS, Component
from lpgnas.errors import ConfigError
from lpgnas.number_formats import FIXED1, FLOAT32, FormatChoice, Rounding
from lpgnas.registry import Registry
from lpgnas.search_space import SearchSpace
from lpgnas.spec import LayerSpec, ModelSpec, required_components

MOST_TABLE_BITS = 8
"""A component that indexes a table has no more bits."""
GAT_HEADS = 8
"""Heads of every block but the last, as in Velickovic et al. (2018), where the hidden size is a multiple of it."""


@dataclass(frozen=True)
class UniformFormats:
    """One format for all weights, one for all codes: `W4A8` is `UniformFormats.of("fixed4", 8)`.

    Attributes:
        weights: of `linear_weight` and `attention_weight`.
        codes: of every other component; those that index a table have at most 8 bits.
        output: of the logits; None for the format of the codes.
    """

    weights: FormatChoice = FLOAT32
    codes: FormatChoice = FLOAT32
    output: FormatChoice | None = None

    @classmethod
    def of(cls, weight_format: str, code_bits: int) -> UniformFormats:
        """Formats by their names.

        Raises:
            SpecError: no such format.
        """
        return cls(FormatChoice.parse(weight_format), FormatChoice("fixed", code_bits))

    def of_component(self, component: Component) -> FormatChoice:
        """The format of a component."""
        if component in WEIGHTS:
            return self.weights
        if component is Component.OUTPUT and self.output is not None:
            return self.output
        by_table = component in (Component.SCORE, Component.AGGREGATE)
        if by_table and self.codes.kind == "fixed" and self.codes.bits > MOST_TABLE_BITS:
            return FormatChoice("fixed", MOST_TABLE_BITS)
        return self.codes


@dataclass(frozen=True)
class ModelShape:
    """What the data decide about a model.

    Attributes:
        num_features: F.
        num_classes: C.
        input_format: of the features.
        input_signed: whether features may be negative.
        row_normalize: whether rows are divided by their sums.
        rounding: of every component.
    """

    num_features: int
    num_classes: int
    input_format: FormatChoice = FIXED1
    input_signed: bool = False
    row_normalize: bool = False
    rounding: Rounding = Rounding.HALF_EVEN

    @classmethod
    def of(cls, space: SearchSpace) -> ModelShape:
        """The shape that all models of a search space have."""
        return cls(**{item.name: getattr(space, item.name) for item in fields(cls)})


Blocks = Callable[[tuple[int, ...]], tuple[LayerSpec, ...]]
"""Bare layers (without formats) of these widths, the last one the number of classes."""
MANUAL_MODELS: Registry[Blocks] = Registry("manual model")


def manual_spec(
    name: str, shape: ModelShape, hidden: int, formats: UniformFormats | None = None, *, blocks: int = 2
) -> ModelSpec:
    """A manual model.

    Args:
        name: a name of `MANUAL_MODELS`.
        shape: of the data; with float32 formats the features are float32 too.
        hidden: width of every block but the last.
        formats: uniform ones; None for float32.
        blocks: number of blocks that read edges, at least 2.

    Raises:
        UnknownName: no such model.
        ConfigError: fewer than 2 blocks.
        SpecError: a hidden size or a format that the model cannot have.
    """
    if blocks < 2:
        raise ConfigError(f"a manual model has at least 2 blocks, got {blocks}")
    bare = MANUAL_MODELS.get(name)((*(hidden,) * (blocks - 1), shape.num_classes))
    chosen = formats or UniformFormats()
    layers = tuple(_with_formats(layer, chosen, last=k == len(bare) - 1) for k, layer in enumerate(bare))
    is_float = chosen.weights == FLOAT32 and chosen.codes == FLOAT32
    return ModelSpec(
        num_features=shape.num_features,
        num_classes=shape.num_classes,
        layers=layers,
        rounding=shape.rounding,
        input_format=FLOAT32 if is_float else shape.input_format,
        input_signed=shape.input_signed,
        row_normalize=shape.row_normalize,
    )


def _with_formats(layer: LayerSpec, formats: UniformFormats, *, last: bool) -> LayerSpec:
    needed = required_components(layer, last=last)
    return replace(layer, formats={part: formats.of_component(part) for part in Component if part in needed})


def _gcn(widths: tuple[int, ...]) -> tuple[LayerSpec, ...]:
    """Kipf & Welling (2017)."""
    return tuple(LayerSpec("gcn", "sum", _relu_but_last(k, widths), width) for k, width in enumerate(widths))


def _graphsage(widths: tuple[int, ...]) -> tuple[LayerSpec, ...]:
    """The mean aggregator of Hamilton et al. (2017): the mean of the neighbours, and a root weight as the shortcut."""
    return tuple(
        LayerSpec("const", "mean", _relu_but_last(k, widths), width, shortcut="linear", self_loops=False)
        for k, width in enumerate(widths)
    )


def _gat(widths: tuple[int, ...]) -> tuple[LayerSpec, ...]:
    """Velickovic et al. (2018): eight heads side by side, one in the last block (theirs averages there)."""
    return tuple(
        LayerSpec(
            "gat",
            "sum",
            "none" if k == len(widths) - 1 else "elu",
            width,
            heads=1 if k == len(widths) - 1 else next(n for n in (GAT_HEADS, 4, 2, 1) if width % n == 0),
        )
        for k, width in enumerate(widths)
    )


def _jknet(widths: tuple[int, ...]) -> tuple[LayerSpec, ...]:
    """Xu et al. (2018), concatenation: GCN blocks of the hidden width, and a linear layer over all their outputs."""
    hidden = (*widths[:-1], widths[-2])
    blocks = tuple(LayerSpec("gcn", "sum", "relu", width) for width in hidden)
    return (*blocks, LayerSpec("self", "sum", "none", widths[-1], sources=tuple(range(len(blocks)))))


def _relu_but_last(index: int, widths: tuple[int, ...]) -> str:
    return "none" if index == len(widths) - 1 else "relu"


MANUAL_MODELS.add("gcn", _gcn)
MANUAL_MODELS.add("graphsage", _graphsage)
MANUAL_MODELS.add("gat", _gat)
MANUAL_MODELS.add("jknet", _jknet)
