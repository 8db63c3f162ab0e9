"""`SearchSpace`: every spec that a search may draw, as a vector of choices with the cheapest option of each first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import takewhile

import numpy as np

from lpgnas.attentions.score import Attention
from lpgnas.components import WEIGHTS, Component
from lpgnas.errors import ConfigError
from lpgnas.macros import Macro, Route, all_routes, derive, routings
from lpgnas.number_formats import FIXED1, FLOAT32, FormatChoice, Rounding
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS
from lpgnas.spec import INPUT, LayerSpec, ModelSpec, required_components

Choices = tuple[int, ...]
"""One option index for each gene of a `SearchSpace`."""
MAX_ROUTED_BLOCKS = 5
"""Six blocks have a million macro-architectures, of which a projection looks at every one."""
INPUT_GROUP = "input"
"""Group of the genes that all blocks share."""
WORDS_GENE = f"{INPUT_GROUP}.words"
CODED = (Component.MESSAGE, Component.SCORE, Component.AGGREGATE, Component.ACTIVATION)
"""Components whose formats are numbers of bits."""
MACRO_TRIES = 50
"""Uniform draws of macro genes before those that fit are listed."""


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
        blocks: numbers of blocks to choose from, rising.
        routes: whether every block chooses what it reads among the input and the blocks before it; otherwise it reads
            the block before it.
        attentions: of every block.
        aggregations: where the attention leaves the choice.
        activations: of every block but the last, which has none.
        widths: of every block but the last.
        heads: of learned attentions; draws that do not divide the width count as 1.
        shortcuts: of every block; the first block's input is too wide for one, so it has none.
        weight_formats: of `linear_weight` and `attention_weight`.
        code_bits: of `message`, `score`, `aggregate` and `activation`; 32 is float32.
        output_bits: of the logits; likewise.
        kept_words: shares of the input words that weights have bits for, in 0 to 1, rising; of every model.

    Raises:
        ConfigError: an empty list of options.
    """

    num_features: int
    num_classes: int
    input_format: FormatChoice = FIXED1
    input_signed: bool = False
    row_normalize: bool = False
    rounding: Rounding = Rounding.HALF_EVEN
    blocks: tuple[int, ...] = (2,)
    routes: bool = False
    attentions: tuple[str, ...] = ("gcn", "const", "gat")
    aggregations: tuple[str, ...] = ("sum", "mean", "max")
    activations: tuple[str, ...] = ("relu", "none", "relu6", "tanh")
    widths: tuple[int, ...] = (4, 8, 12, 16, 24, 32, 48, 64)
    heads: tuple[int, ...] = (1, 2, 4)
    shortcuts: tuple[str, ...] = ("none", "linear")
    weight_formats: tuple[str, ...] = ("binary", "ternary", "fixed4", "fixed8")
    code_bits: tuple[int, ...] = (3, 4, 6, 8)
    output_bits: int = 8
    kept_words: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name in ("attentions", "aggregations", "activations", "widths", "heads", "shortcuts"):
            if not getattr(self, name):
                raise ConfigError(f"the search space has no options for {name}; give at least one")
        if not self.kept_words or not all(0.0 < share <= 1.0 for share in self.kept_words):
            raise ConfigError(f"kept_words of the search space are shares above 0 and up to 1, got {self.kept_words}")
        for name in ("blocks", "widths", "heads", "code_bits", "kept_words"):
            options = getattr(self, name)
            if list(options) != sorted(set(options)):
                raise ConfigError(
                    f"{name} of the search space must rise, got {options}; costs are bounded by the first"
                )
        if self.heads[0] != 1:
            raise ConfigError(f"heads of the search space must begin with 1, got {self.heads}")
        if not self.weight_formats or not self.code_bits or not self.blocks or self.blocks[0] < 1:
            raise ConfigError("the search space needs weight_formats, code_bits and at least 1 block")
        if self.routes and self.depth > MAX_ROUTED_BLOCKS:
            raise ConfigError(
                f"routes among {self.depth} blocks are too many to search; use {MAX_ROUTED_BLOCKS} at most"
            )
        if self.routes and "identity" in self.shortcuts:
            raise ConfigError("an identity shortcut needs one source, which routes leave open; use 'none' and 'linear'")
        self._check_cheapest()

    def _check_cheapest(self) -> None:
        """The first option of each choice is the cheapest in everything that can be limited.

        Attentions without neighbours, plain ones, clamps and shortcuts by nothing come before the others; sum, mean and
        max are timed in this order. Two learned attentions are not comparable: each may have fewer weights or fewer
        multiplications.
        """
        attentions, order = [ATTENTIONS.get(name) for name in self.attentions], AGGREGATIONS.names()
        ranks = [[order.index(self.aggregation(one, kind)) for kind in self.aggregations] for one in attentions]
        reads = [one.neighbours for one in attentions]
        bits = [FormatChoice.parse(name).bits for name in self.weight_formats]
        clamps = len(self.activations) - len(self.tables())
        right = {
            "weight_formats": bits[0] == min(bits),
            "shortcuts": "none" not in self.shortcuts[1:],
            "activations": not clamps or 0 not in self.tables(),
            "attentions": len(attentions) == 1 or (not attentions[0].learned and reads[0] == min(reads)),
            "aggregations": ranks[0][0] == min(map(min, ranks)) and all(one[0] == min(one) for one in ranks),
        }
        for name, holds in right.items():
            if not holds:
                raise ConfigError(
                    f"{name} of the search space must begin with the cheapest, got {getattr(self, name)} "
                    f"(attentions {self.attentions}); costs are bounded by the first"
                )

    @cached_property
    def word_counts(self) -> tuple[int, ...]:
        """Numbers of kept words to choose from, rising.

        Beside all of them, a number is left out if its index may cost more bits than it saves: with the narrowest block
        and the fewest bits a weight.
        """
        counts = {max(1, int(share * self.num_features)) for share in self.kept_words}
        if self.num_features in counts:
            alone = self.blocks[0] == 1 or self.routes  # the output block may be the only reader
            narrowest = min((self.widths[0], *((self.num_classes,) if alone else ())))
            saved = narrowest * FormatChoice.parse(self.weight_formats[0]).bits
            all_of_them = {self.num_features}
            counts = {k for k in counts if (self.num_features - k) * saved >= self.num_features} | all_of_them
        return tuple(sorted(counts))

    def tables(self) -> tuple[int, ...]:
        """Places of the activations by table."""
        return tuple(k for k, name in enumerate(self.activations) if ACTIVATIONS.get(name).function is not None)

    @staticmethod
    def aggregation(attention: Attention, wanted: str) -> str:
        """The aggregation of a block whose choice is `wanted`; an attention may leave none."""
        return wanted if wanted in attention.aggregations else sorted(attention.aggregations)[0]

    def in_float(self, blocks: int) -> SearchSpace:
        """The architectures of this space with `blocks` blocks, all in float32 (a search with quantisation off)."""
        bits = FLOAT32.bits
        return replace(
            self,
            blocks=(blocks,),
            input_format=FLOAT32,
            weight_formats=(str(FLOAT32),),
            code_bits=(bits,),
            output_bits=bits,
            kept_words=(1.0,),
        )

    @property
    def depth(self) -> int:
        """Blocks of the deepest models: groups of genes."""
        return self.blocks[-1]

    def macro_genes(self) -> tuple[tuple[str, int], ...]:
        """Name and number of options of the choices of a macro-architecture, the first of `genes`."""
        result = [("blocks", len(self.blocks))] if len(self.blocks) > 1 else []
        return (*result, *((route_gene(route), 2) for route in self._routes()))

    def _routes(self) -> tuple[Route, ...]:
        return all_routes(self.depth) if self.routes else ()

    def genes(self) -> tuple[tuple[str, int], ...]:
        """Name and number of options of every choice, in the order of `Choices`.

        `layer<k>.from_<source>` is a route; the others of a group `layer<k>` are those of a block (`lpgnas.macros`).
        `input.words` is there if there is more than one number of kept words.
        """
        return self._genes

    @cached_property
    def _genes(self) -> tuple[tuple[str, int], ...]:
        result = list(self.macro_genes())
        result += [(WORDS_GENE, len(self.word_counts))] if len(self.word_counts) > 1 else []
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

    def option_names(self) -> dict[str, tuple[str, ...]]:
        """Names of the options of every choice, by what a gene's name ends in; a gene has the first of them.

        Those of a macro-architecture are not among them.
        """
        weights, codes = self.weight_formats, tuple(map(str, self.code_bits))
        return {
            "words": tuple(map(str, self.word_counts)),
            "attention": self.attentions,
            "aggregation": self.aggregations,
            "activation": self.activations,
            "width": tuple(map(str, self.widths)),
            "heads": tuple(map(str, self.heads)),
            "shortcut": self.shortcuts,
            _format_gene(Component.LINEAR_WEIGHT): weights,
            _format_gene(Component.ATTENTION_WEIGHT): weights,
            **{_format_gene(component): codes for component in CODED},
        }

    def size(self) -> int:
        """Number of choice vectors (several may name one model: a choice without effect counts)."""
        return math.prod(count for _, count in self.genes())

    def macro(self, choices: Choices) -> Macro:
        """The macro-architecture that a choice vector, or its macro genes alone, name."""
        varied = len(self.blocks) > 1
        blocks = self.blocks[choices[0]] if varied else self.depth
        routes = self._routes()
        taken = choices[varied : varied + len(routes)]
        return derive(blocks, self.depth, frozenset(route for route, on in zip(routes, taken, strict=True) if on))

    def active(self, choices: Choices) -> tuple[bool, ...]:
        """Whether each gene has a part in the model that `choices` names: not those of a block that it lacks.

        Within a block that the model has, every gene counts, also where another one leaves it without effect.
        """
        macro = self.macro(choices)
        groups, routes = {f"layer{group}" for group in macro.groups}, {route_gene(one) for one in macro.open_routes}
        groups.add(INPUT_GROUP)
        macros = len(self.macro_genes())
        return tuple(
            name == "blocks" or name in routes if place < macros else name.split(".")[0] in groups
            for place, (name, _) in enumerate(self.genes())
        )

    def macro_choices(self) -> tuple[Choices, ...]:
        """All values of the macro genes that differ in an active gene, the fewest blocks and routes first."""
        return _macro_choices(self.blocks, self.routes)

    def smallest(self) -> Choices:
        """The cheapest option of every choice; of one chain, no model costs less in anything that can be limited."""
        return (0,) * len(self.genes())

    def smallest_models(self) -> Iterator[Choices]:
        """The cheapest rest for every macro-architecture, chains first: no model is smaller than all of them."""
        rest = (0,) * (len(self.genes()) - len(self.macro_genes()))
        found: dict[tuple[tuple[int, ...], ...], Choices] = {}
        for choices in self.macro_choices():  # the cheapest options of all groups are the same
            found.setdefault(self.macro(choices).sources, choices)
        for chain in (True, False):
            yield from ((*one, *rest) for one in found.values() if self.macro(one).is_chain is chain)

    def widest(self) -> tuple[ModelSpec, ...]:
        """Models whose parameters together hold those of every model of the space: the widest blocks with one head.

        One for each learned attention (a single one where there is none) and each number of blocks; with routes, the
        deepest with all of them suffices.
        """
        learned = [place for place, name in enumerate(self.attentions) if ATTENTIONS.get(name).learned]
        linear = self.shortcuts.index("linear") if "linear" in self.shortcuts else 0
        wanted = {"width": len(self.widths) - 1, "shortcut": linear, "words": len(self.word_counts) - 1}
        deepest = len(self.blocks) - 1
        tops = [deepest] if self.routes else range(deepest + 1)
        macros = [((top,) if deepest else ()) + (1,) * len(self._routes()) for top in tops]
        return tuple(
            self.spec(self._completed(macro, wanted | {"attention": place}))
            for place in learned or [0]
            for macro in macros
        )

    def _completed(self, macro: Choices, options: Mapping[str, int] | None = None) -> Choices:
        """The macro genes, and for every other gene an option by its name within the group; the cheapest by default."""
        rest, wanted = self.genes()[len(macro) :], options or {}
        return (*macro, *(min(wanted.get(name.split(".")[1], 0), count - 1) for name, count in rest))

    def feasible_options(
        self, fits: Callable[[ModelSpec], bool], macro: Choices | None = None
    ) -> tuple[tuple[int, ...], ...]:
        """The options of every gene whose model `fits` while all others are the cheapest; never empty.

        With the macro genes `macro`, these are fixed, and a gene without a part in the model keeps its cheapest option.
        Without them, an option counts if it does in a chain of some number of blocks, and a route if it fits there.

        An activation by table takes its input in a format of its own, so that its peak can be below that of a clamp:
        an option counts if it fits with either.
        """
        if macro is None and self.macro_genes():
            return self._options_of_chains(fits)
        fixed = macro or ()
        active = self.active(self._completed(fixed))
        bases = [self._completed(fixed, {"activation": kind}) for kind in (0, *self.tables()[:1])]
        specs = [self.spec(base) for base in bases]
        fitting = [fits(spec) for spec in specs]

        def alone(gene: int, option: int) -> bool:
            if option == 0:
                return True
            for base, spec, known in zip(bases, specs, fitting, strict=True):
                made = self.spec((*base[:gene], option, *base[gene + 1 :]))
                if known if made == spec else fits(made):  # many options have no effect beside the cheapest others
                    return True
            return False

        genes = list(enumerate(self.genes()))[len(fixed) :]
        return tuple((option,) for option in fixed) + tuple(
            tuple(option for option in range(count if active[gene] else 1) if alone(gene, option))
            for gene, (_, count) in genes
        )

    def _options_of_chains(self, fits: Callable[[ModelSpec], bool]) -> tuple[tuple[int, ...], ...]:
        macros = len(self.macro_genes())
        found = [{0} for _ in self.genes()]
        for chain in self._chains():
            if not fits(self.spec(chain)):
                continue
            for options, more in zip(found, self.feasible_options(fits, chain[:macros]), strict=True):
                options |= set(more)
            for place in range(macros - len(self._routes()), macros):
                routed = (*chain[:place], 1, *chain[place + 1 :])
                found[place] |= {1} if self.active(routed)[place] and fits(self.spec(routed)) else set()
        return tuple(tuple(sorted(options)) for options in found)

    def _chains(self) -> Iterator[Choices]:
        """The smallest models that are chains, one for each number of blocks that can be."""
        return takewhile(lambda choices: self.macro(choices).is_chain, self.smallest_models())

    def draw(self, rng: np.random.Generator, options: tuple[tuple[int, ...], ...] | None = None) -> Choices:
        """A uniform choice vector, or one of the given options of every gene."""
        options = options or tuple(tuple(range(count)) for _, count in self.genes())
        return tuple(listed[int(rng.integers(len(listed)))] for listed in options)

    def spec(self, choices: Choices) -> ModelSpec:
        """The model that a choice vector names."""
        picked = {name: index for (name, _), index in zip(self.genes(), choices, strict=True)}
        macro = self.macro(choices)
        layers = zip(macro.groups, macro.sources, strict=True)
        return ModelSpec(
            num_features=self.num_features,
            num_classes=self.num_classes,
            layers=tuple(
                self._layer(group, picked, sources, first=place == 0) for place, (group, sources) in enumerate(layers)
            ),
            rounding=self.rounding,
            input_format=self.input_format,
            input_signed=self.input_signed,
            row_normalize=self.row_normalize,
            input_words=self.word_counts[picked.get(WORDS_GENE, 0)],
        )

    def _layer(self, group: int, picked: dict[str, int], sources: tuple[int, ...], *, first: bool) -> LayerSpec:
        def chosen(name: str) -> int:
            return picked[f"layer{group}.{name}"]

        last = group == self.depth - 1
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
            shortcut="none" if first else self.shortcuts[chosen("shortcut")],
            sources=sources,
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

        Draws the macro genes among those whose smallest model fits, the others uniformly, and keeps what fits. Where
        `tries` draws fail, the budget is tight: choices of the last draw are set to their cheapest option one after the
        other, in random order, until the model fits.
        """
        macro = self._draw_macro(rng, fits)
        if macro is None:
            return None
        options = (*((option,) for option in macro), *(tuple(range(n)) for _, n in self.genes()[len(macro) :]))
        choices = self.draw(rng, options)
        for _ in range(tries):
            if fits(self.spec(choices)):
                return choices
            choices = self.draw(rng, options)
        cheaper = list(choices)
        for gene in rng.permutation(len(cheaper) - len(macro)):
            cheaper[len(macro) + int(gene)] = 0
            if fits(self.spec(tuple(cheaper))):
                break
        return tuple(cheaper)

    def _draw_macro(self, rng: np.random.Generator, fits: Callable[[ModelSpec], bool]) -> Choices | None:
        """Macro genes whose smallest model fits, uniformly unless they are rare; None if there are none."""
        genes = self.macro_genes()
        for _ in range(MACRO_TRIES if genes else 1):
            macro = tuple(int(rng.integers(count)) for _, count in genes)
            if fits(self.spec(self._completed(macro))):
                return macro
        feasible = [choices for choices in self._chains() if fits(self.spec(choices))]
        if not feasible and genes:
            feasible = [choices for choices in self.smallest_models() if fits(self.spec(choices))]
        return feasible[int(rng.integers(len(feasible)))][: len(genes)] if feasible else None


@lru_cache(maxsize=8)
def _macro_choices(blocks: tuple[int, ...], routes: bool) -> tuple[Choices, ...]:
    depth = blocks[-1]
    listed = all_routes(depth) if routes else ()
    return tuple(
        ((option,) if len(blocks) > 1 else ()) + tuple(int(route in chosen) for route in listed)
        for option, count in enumerate(blocks)
        for chosen in routings(count, depth, routes=routes)
    )


def route_gene(route: Route) -> str:
    """The gene of a route."""
    group, source = route
    return f"layer{group}.from_{'x' if source == INPUT else source}"


def _code_format(bits: int) -> FormatChoice:
    return FLOAT32 if bits == FLOAT32.bits else FormatChoice("fixed", bits)


def _format_gene(component: Component) -> str:
    """The gene of a component's format; its operator, where there is one of the same name, has another."""
    return f"{component.value}_format"
