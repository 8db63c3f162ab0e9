"""`SearchSpace`: every spec that a search may draw, as a vector of choices with the cheapest option of each first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lpgnas.attentions.score import Attention
from lpgnas.components import WEIGHTS, Component
from lpgnas.errors import ConfigError
from lpgnas.number_formats import FIXED1, FLOAT32, FormatChoice, Rounding
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS
from lpgnas.spec import LayerSpec, ModelSpec, required_components

Choices = tuple[int, ...]
"""One option index for each gene of a `SearchSpace`."""


@dataclass(frozen=True)
class SearchSpace:
    """The choices of a search; each tuple lists its options from the cheapest upwards.

    Attributes:
        num_features: F.
        num_classes: C.
        input_format: of the features; not searched.
        input_signed: whether features may be negative.
        row_normalize: whether rows are divided by their sums.
        rounding: of every model.
        depth: number of blocks.
        attentions: of every block.
        aggregations: where the attention leaves the choice.
        activations: of every block but the last, which has none.
        widths: of every block but the last.
        heads: of learned attentions; draws that do not divide the width count as 1.
        shortcuts: of every block; the first block's input is too wide for one, so it has none.
        weight_formats: of `linear_weight` and `attention_weight`.
        code_bits: of `message`, `score`, `aggregate` and `activation`; 32 is float32.
        output_bits: of the logits; likewise.

    Raises:
        ConfigError: an empty list of options.
    """

    num_features: int
    num_classes: int
    input_format: FormatChoice = FIXED1
    input_signed: bool = False
    row_normalize: bool = False
    rounding: Rounding = Rounding.HALF_EVEN
    depth: int = 2
    attentions: tuple[str, ...] = ("gcn", "const", "gat")
    aggregations: tuple[str, ...] = ("sum", "mean", "max")
    activations: tuple[str, ...] = ("relu", "none", "relu6", "tanh")
    widths: tuple[int, ...] = (4, 8, 12, 16, 24, 32, 48, 64)
    heads: tuple[int, ...] = (1, 2, 4)
    shortcuts: tuple[str, ...] = ("none", "linear")
    weight_formats: tuple[str, ...] = ("binary", "ternary", "fixed4", "fixed8")
    code_bits: tuple[int, ...] = (4, 6, 8)
    output_bits: int = 8

    def __post_init__(self) -> None:
        for name in ("attentions", "aggregations", "activations", "widths", "heads", "shortcuts"):
            if not getattr(self, name):
                raise ConfigError(f"the search space has no options for {name}; give at least one")
        for name in ("widths", "heads", "code_bits"):
            options = getattr(self, name)
            if list(options) != sorted(set(options)):
                raise ConfigError(
                    f"{name} of the search space must rise, got {options}; costs are bounded by the first"
                )
        if self.heads[0] != 1:
            raise ConfigError(f"heads of the search space must begin with 1, got {self.heads}")
        if not self.weight_formats or not self.code_bits or self.depth < 1:
            raise ConfigError("the search space needs weight_formats, code_bits and a depth of at least 1")
        self._check_cheapest()

    def _check_cheapest(self) -> None:
        """The first option of each choice is the cheapest in everything that can be limited.

        Plain attentions, clamps and shortcuts by nothing come before the others; sum, mean and max are timed in this
        order. Two learned attentions are not comparable: each may have fewer weights or fewer multiplications.
        """
        attentions, order = [ATTENTIONS.get(name) for name in self.attentions], AGGREGATIONS.names()
        ranks = [[order.index(self.aggregation(one, kind)) for kind in self.aggregations] for one in attentions]
        bits = [FormatChoice.parse(name).bits for name in self.weight_formats]
        clamps = len(self.activations) - len(self.tables())
        right = {
            "weight_formats": bits[0] == min(bits),
            "shortcuts": "none" not in self.shortcuts[1:],
            "activations": not clamps or 0 not in self.tables(),
            "attentions": len(attentions) == 1 or not attentions[0].learned,
            "aggregations": ranks[0][0] == min(map(min, ranks)) and all(one[0] == min(one) for one in ranks),
        }
        for name, holds in right.items():
            if not holds:
                raise ConfigError(
                    f"{name} of the search space must begin with the cheapest, got {getattr(self, name)} "
                    f"(attentions {self.attentions}); costs are bounded by the first"
                )

    def tables(self) -> tuple[int, ...]:
        """Places of the activations by table."""
        return tuple(k for k, name in enumerate(self.activations) if ACTIVATIONS.get(name).function is not None)

    @staticmethod
    def aggregation(attention: Attention, wanted: str) -> str:
        """The aggregation of a block whose choice is `wanted`; an attention may leave none."""
        return wanted if wanted in attention.aggregations else sorted(attention.aggregations)[0]

    def in_float(self, depth: int) -> SearchSpace:
        """The architectures of this space with `depth` blocks, all in float32 (a search with quantisation off)."""
        bits = FLOAT32.bits
        return replace(
            self,
            depth=depth,
            input_format=FLOAT32,
            weight_formats=(str(FLOAT32),),
            code_bits=(bits,),
            output_bits=bits,
        )

    def genes(self) -> tuple[tuple[str, int], ...]:
        """Name and number of options of every choice, in the order of `Choices`."""
        result: list[tuple[str, int]] = []
        for index in range(self.depth):
            last = index == self.depth - 1
            layer = {
                "attention": len(self.attentions),
                "aggregation": len(self.aggregations),
                "activation": 1 if last else len(self.activations),
                "width": 1 if last else len(self.widths),
                "heads": 1 if last else len(self.heads),
                "shortcut": 1 if index == 0 else len(self.shortcuts),
                _format_gene(Component.LINEAR_WEIGHT): len(self.weight_formats),
                _format_gene(Component.ATTENTION_WEIGHT): len(self.weight_formats),
                _format_gene(Component.MESSAGE): len(self.code_bits),
                _format_gene(Component.SCORE): len(self.code_bits),
                _format_gene(Component.AGGREGATE): len(self.code_bits),
                _format_gene(Component.ACTIVATION): 1 if last else len(self.code_bits),
            }
            result += [(f"layer{index}.{name}", count) for name, count in layer.items()]
        return tuple(result)

    def size(self) -> int:
        """Number of choice vectors (several may name one model: a choice without effect counts)."""
        return math.prod(count for _, count in self.genes())

    def smallest(self) -> Choices:
        """The cheapest option of every choice: no model of the space costs less in anything that can be limited."""
        return (0,) * len(self.genes())

    def widest(self) -> tuple[ModelSpec, ...]:
        """Models whose parameters together hold those of every model of the space: the widest blocks with one head.

        One for each learned attention, or a single one where there is none.
        """
        learned = [place for place, name in enumerate(self.attentions) if ATTENTIONS.get(name).learned]
        linear = self.shortcuts.index("linear") if "linear" in self.shortcuts else 0
        wanted = {"width": len(self.widths) - 1, "shortcut": linear}
        genes = [(name.split(".")[1], count) for name, count in self.genes()]
        return tuple(
            self.spec(tuple(min((wanted | {"attention": place}).get(name, 0), count - 1) for name, count in genes))
            for place in learned or [0]
        )

    def feasible_options(self, fits: Callable[[ModelSpec], bool]) -> tuple[tuple[int, ...], ...]:
        """The options of every gene whose model `fits` while all others are the cheapest; never empty.

        An activation by table takes its input in a format of its own, so that its peak can be below that of a clamp:
        an option counts if it fits with either.
        """
        names = [name.split(".")[1] for name, _ in self.genes()]
        counts = [count for _, count in self.genes()]

        def completed(gene: int, option: int, activation: int) -> Choices:
            rest = (
                min(activation, n - 1) if name == "activation" else 0 for name, n in zip(names, counts, strict=True)
            )
            return tuple(option if place == gene else other for place, other in enumerate(rest))

        def alone(gene: int, option: int) -> bool:
            kinds = (0, *self.tables()[:1])
            return option == 0 or any(fits(self.spec(completed(gene, option, kind))) for kind in kinds)

        return tuple(
            tuple(option for option in range(count) if alone(gene, option))
            for gene, (_, count) in enumerate(self.genes())
        )

    def draw(self, rng: np.random.Generator, options: tuple[tuple[int, ...], ...] | None = None) -> Choices:
        """A uniform choice vector, or one of the given options of every gene."""
        options = options or tuple(tuple(range(count)) for _, count in self.genes())
        return tuple(listed[int(rng.integers(len(listed)))] for listed in options)

    def spec(self, choices: Choices) -> ModelSpec:
        """The model that a choice vector names."""
        picked = {name: index for (name, _), index in zip(self.genes(), choices, strict=True)}
        return ModelSpec(
            num_features=self.num_features,
            num_classes=self.num_classes,
            layers=tuple(self._layer(index, picked) for index in range(self.depth)),
            rounding=self.rounding,
            input_format=self.input_format,
            input_signed=self.input_signed,
            row_normalize=self.row_normalize,
        )

    def _layer(self, index: int, picked: dict[str, int]) -> LayerSpec:
        def chosen(name: str) -> int:
            return picked[f"layer{index}.{name}"]

        last = index == self.depth - 1
        attention = ATTENTIONS.get(self.attentions[chosen("attention")])
        aggregation = self.aggregation(attention, self.aggregations[chosen("aggregation")])
        width = self.num_classes if last else self.widths[chosen("width")]
        heads = self.heads[chosen("heads")] if attention.learned and not last else 1
        bare = LayerSpec(
            attention=attention.name,
            aggregation=aggregation,
            activation="none" if last else ACTIVATIONS.get(self.activations[chosen("activation")]).name,
            width=width,
            heads=heads if width % heads == 0 else 1,
            shortcut="none" if index == 0 else self.shortcuts[chosen("shortcut")],
        )
        formats: dict[Component, FormatChoice] = {}
        for component in required_components(bare, last=last):
            if component in WEIGHTS:
                formats[component] = FormatChoice.parse(self.weight_formats[chosen(_format_gene(component))])
            elif component is Component.OUTPUT:
                formats[component] = _code_format(self.output_bits)
            else:
                formats[component] = _code_format(self.code_bits[chosen(_format_gene(component))])
        ordered = {component: formats[component] for component in Component if component in formats}
        return LayerSpec(**{**bare.__dict__, "formats": ordered})

    def draw_feasible(
        self, rng: np.random.Generator, fits: Callable[[ModelSpec], bool], *, tries: int = 200
    ) -> Choices | None:
        """A random choice vector whose model `fits`; None if not even the smallest does.

        Draws uniformly and keeps what fits. Where `tries` draws fail, the budget is tight: choices of the last draw are
        set to their cheapest option one after the other, in random order, until the model fits.
        """
        if not fits(self.spec(self.smallest())):
            return None
        choices = self.draw(rng)
        for _ in range(tries):
            if fits(self.spec(choices)):
                return choices
            choices = self.draw(rng)
        cheaper = list(choices)
        for gene in rng.permutation(len(cheaper)):
            cheaper[int(gene)] = 0
            if fits(self.spec(tuple(cheaper))):
                break
        return tuple(cheaper)


def _code_format(bits: int) -> FormatChoice:
    return FLOAT32 if bits == FLOAT32.bits else FormatChoice("fixed", bits)


def _format_gene(component: Component) -> str:
    """The gene of a component's format; its operator, where there is one of the same name, has another."""
    return f"{component.value}_format"
