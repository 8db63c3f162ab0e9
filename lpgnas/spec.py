"""`ModelSpec`: every choice of a model as typed values, to and from versioned JSON.

A spec holds choices (operators, widths, kinds and bits of formats). Fractions are not choices: they are calibrated in
training and live in the trained model and in the program.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from lpgnas.components import WEIGHTS, Component
from lpgnas.errors import SpecError
from lpgnas.json_objects import JsonObject as _Reader
from lpgnas.number_formats import FIXED1, FLOAT32, FormatChoice, Rounding
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS, SHORTCUTS

SCHEMA_VERSION = 3
MAX_WIDTH = 1 << 16
INPUT = -1
"""The number of the raw input `x` among the sources of a layer."""

RESERVED_SLOTS: dict[str, str] = {
    "edge_features": "none",
    "edge_weights": "none",
    "readout": "none",
    "targets": "single_label",
    "relations": "none",
    "blocks": "square",
    "scale_granularity": "per_tensor",
}
"""Slots of the schema whose other values are not built yet; anything else than this default is refused by name."""


@dataclass(frozen=True)
class LayerSpec:
    """One block: transform -> attention -> aggregation -> activation.

    Attributes:
        attention: a name of `lpgnas.operators.ATTENTIONS`.
        aggregation: a name of `AGGREGATIONS` that the attention allows.
        activation: a name of `ACTIVATIONS`.
        width: output columns, all heads together; a multiple of `heads`.
        heads: heads of a learned attention, concatenated; 1 otherwise.
        shortcut: `none`, `identity` (widths must agree) or `linear`.
        self_loops: whether the block adds an edge i -> i for every node.
        sources: what it reads, rising: `INPUT` (-1) for `x`, else the number of an earlier layer, whose output it is;
            empty for the layer before it alone (the first layer: `x`).
        formats: the choice for each component that the block has (see `required_components`).

    Raises:
        SpecError: an unknown or impossible combination; the message names it.
    """

    attention: str
    aggregation: str
    activation: str
    width: int
    heads: int = 1
    shortcut: str = "none"
    self_loops: bool = True
    formats: dict[Component, FormatChoice] = field(default_factory=dict)
    sources: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        attention = ATTENTIONS.get(self.attention)
        AGGREGATIONS.get(self.aggregation)
        ACTIVATIONS.get(self.activation)
        if self.aggregation not in attention.aggregations:
            raise SpecError(
                f"attention {self.attention!r} does not go with aggregation {self.aggregation!r}; "
                f"it takes {', '.join(sorted(attention.aggregations))}"
            )
        if self.shortcut not in SHORTCUTS:
            raise SpecError(f"unknown shortcut {self.shortcut!r}; known: {', '.join(SHORTCUTS)}")
        if self.width > MAX_WIDTH:
            raise SpecError(f"width {self.width} is beyond {MAX_WIDTH}")
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise SpecError(f"width {self.width} is not a positive multiple of heads {self.heads}")
        if self.heads > 1 and not attention.learned:
            raise SpecError(f"attention {self.attention!r} has no heads; set heads to 1, not {self.heads}")
        if not attention.neighbours and not self.self_loops:
            raise SpecError(f"attention {self.attention!r} reads a node's own message alone; set self_loops to true")
        if list(self.sources) != sorted({source for source in self.sources if source >= INPUT}):
            raise SpecError(f"sources must rise from {INPUT} (the input) on, got {self.sources}")


@dataclass(frozen=True)
class ModelSpec:
    """A whole model.

    Attributes:
        num_features: F, columns of `x`.
        num_classes: C, columns of `logits`; the last layer's width.
        layers: the blocks, at least one.
        rounding: the one rounding mode.
        input_format: format of the features, `fixed<bits>` or `float32`.
        input_signed: whether features may be negative.
        row_normalize: divide each row by its sum (in the first transform's epilogue; needs an unsigned input).
        input_words: columns of `x` that weights have bits for, the same in every transform that reads `x`; the others
            have none (0 bits) and add nothing to a product, though they count in a row's sum. None for all of them.
            Which ones they are is decided before training and is no choice.
        reserved: slots whose defaults are all that is built (`RESERVED_SLOTS`).

    Raises:
        SpecError: layers that do not fit together, a missing or surplus format, a slot that is not built.
    """

    num_features: int
    num_classes: int
    layers: tuple[LayerSpec, ...]
    rounding: Rounding = Rounding.HALF_EVEN
    input_format: FormatChoice = FIXED1
    input_signed: bool = False
    row_normalize: bool = False
    input_words: int | None = None
    reserved: dict[str, str] = field(default_factory=lambda: dict(RESERVED_SLOTS))

    def __post_init__(self) -> None:
        if not self.layers:
            raise SpecError("a model has at least one layer, got none")
        if self.num_features < 1 or self.num_classes < 1:
            raise SpecError(f"num_features {self.num_features} and num_classes {self.num_classes} must be positive")
        if self.layers[-1].width != self.num_classes:
            raise SpecError(f"the last layer is {self.layers[-1].width} wide, but there are {self.num_classes} classes")
        if self.row_normalize and self.input_signed:
            raise SpecError("row_normalize needs unsigned input: the sum of signed codes may be zero or negative")
        if self.input_format.kind not in ("fixed", "float32"):
            raise SpecError(f"the input is fixed point (or float32 in a reference), not {self.input_format}")
        if self.input_signed and self.input_format.bits < 2:
            raise SpecError(f"a signed input needs at least 2 bits, got {self.input_format}")
        if self.input_words is not None and not 1 <= self.input_words <= self.num_features:
            raise SpecError(f"input_words is {self.input_words}; of {self.num_features} features keep 1 to all")
        self._check_slots()
        if self.input_words == self.num_features:
            object.__setattr__(self, "input_words", None)
        # equal models have equal specs: the layer before it alone is the empty choice
        layers = (replace(one, sources=()) if one.sources == (k - 1,) else one for k, one in enumerate(self.layers))
        object.__setattr__(self, "layers", tuple(layers))
        self._check_sources()
        for index, layer in enumerate(self.layers):
            self._check_layer(index, layer)

    @property
    def is_float(self) -> bool:
        """Whether any component is float32 (a reference: it cannot be lowered)."""
        formats = [self.input_format, *(fmt for layer in self.layers for fmt in layer.formats.values())]
        return any(fmt == FLOAT32 for fmt in formats)

    def sources(self, index: int) -> tuple[int, ...]:
        """What layer `index` reads, at least one: `INPUT` or numbers of earlier layers, rising."""
        return self.layers[index].sources or (index - 1,)

    @property
    def kept_words(self) -> int:
        """Columns of `x` that weights have bits for."""
        return self.num_features if self.input_words is None else self.input_words

    def source_width(self, source: int) -> int:
        """Columns of a source that transforms read: the kept ones of the input, or those of a layer's output."""
        return self.kept_words if source == INPUT else self.layers[source].width

    def source_widths(self, index: int) -> tuple[int, ...]:
        """Columns of each source of layer `index`."""
        return tuple(self.source_width(source) for source in self.sources(index))

    def input_width(self, index: int) -> int:
        """Columns that layer `index` reads, all sources together."""
        return sum(self.source_widths(index))

    def last_readers(self) -> dict[int, int]:
        """For every source the last layer that reads it; the output of the last layer has none."""
        return {source: index for index in range(len(self.layers)) for source in self.sources(index)}

    def required_components(self, index: int) -> frozenset[Component]:
        """The components that layer `index` has a format for (`INPUT` is the model's own)."""
        return required_components(self.layers[index], last=index == len(self.layers) - 1)

    def to_json(self, version: int = SCHEMA_VERSION) -> str:
        """Canonical JSON of a schema version: sorted keys, two spaces, a final newline.

        Raises:
            SpecError: an older version that cannot hold the routes or the kept words of this model.
        """
        return json.dumps(_to_dict(self, version), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """The spec that `to_json` wrote.

        Raises:
            SpecError: not JSON, a newer schema, a missing or unknown key, or a value that is refused.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise SpecError(f"the spec is not JSON: {error}") from error
        return _from_dict(raw)

    def _check_slots(self) -> None:
        for key, value in self.reserved.items():
            if key not in RESERVED_SLOTS:
                raise SpecError(f"unknown slot {key!r}; known: {', '.join(sorted(RESERVED_SLOTS))}")
            if value != RESERVED_SLOTS[key]:
                raise SpecError(f"{key}={value!r} is not built yet; the only value today is {RESERVED_SLOTS[key]!r}")
        missing = sorted(set(RESERVED_SLOTS) - set(self.reserved))
        if missing:
            raise SpecError(f"reserved slots are missing: {', '.join(missing)}")

    def _check_sources(self) -> None:
        for index in range(len(self.layers)):
            ahead = [source for source in self.sources(index) if source >= index]
            if ahead:
                raise SpecError(f"layer {index} reads the output of layer {ahead[0]}, which comes no earlier")
        unread = sorted(set(range(len(self.layers) - 1)) - set(self.last_readers()))
        if unread:
            raise SpecError(f"no later layer reads the output of layer {unread[0]}; let one read it, or leave it out")

    def _check_layer(self, index: int, layer: LayerSpec) -> None:
        last, width = index == len(self.layers) - 1, self.input_width(index)
        where = f"layer {index}"
        if layer.shortcut == "identity":
            if len(self.sources(index)) > 1:
                raise SpecError(f"{where}: an identity shortcut needs one source, not several; use 'linear'")
            if INPUT in self.sources(index) and self.input_words is not None:
                raise SpecError(f"{where}: an identity shortcut reads every word; use 'linear', or keep all of them")
            if layer.width != width:
                raise SpecError(
                    f"{where}: an identity shortcut needs equal widths, not {width} -> {layer.width}; use 'linear'"
                )
            if INPUT in self.sources(index) and self.row_normalize:
                raise SpecError(f"{where}: an identity shortcut of a row-normalised input is not built; use 'linear'")
        if last and layer.heads > 1:
            raise SpecError(f"{where}: the last layer has {layer.heads} heads; averaging heads is not built, use 1")
        needed, given = required_components(layer, last=last), frozenset(layer.formats)
        if needed != given:
            missing = ", ".join(sorted(c.value for c in needed - given)) or "none"
            surplus = ", ".join(sorted(c.value for c in given - needed)) or "none"
            raise SpecError(f"{where}: formats missing for: {missing}; formats without a component: {surplus}")
        for component, choice in layer.formats.items():
            _check_choice(where, component, choice, ACTIVATIONS.get(layer.activation).signed)


def required_components(layer: LayerSpec, *, last: bool) -> frozenset[Component]:
    """The components that a layer has a format for."""
    needed = {Component.LINEAR_WEIGHT, Component.MESSAGE, Component.OUTPUT if last else Component.ACTIVATION}
    if ATTENTIONS.get(layer.attention).learned:
        needed |= {Component.ATTENTION_WEIGHT, Component.SCORE}
    if ACTIVATIONS.get(layer.activation).function is not None:
        needed |= {Component.AGGREGATE}
    return frozenset(needed)


def _check_choice(where: str, component: Component, choice: FormatChoice, signed_activation: bool) -> None:
    if choice == FLOAT32:
        return
    if choice.kind != "fixed" and component not in WEIGHTS:
        raise SpecError(f"{where}: {component.value} is fixed point, not {choice}: only weights may be {choice.kind}")
    unsigned = component in (Component.ACTIVATION, Component.OUTPUT) and not signed_activation
    if choice.kind == "fixed" and choice.bits < 2 and not unsigned:
        raise SpecError(f"{where}: {component.value} is signed and needs at least 2 bits, got {choice}")
    if component in (Component.AGGREGATE, Component.SCORE) and choice.bits > 8:
        raise SpecError(f"{where}: {component.value} indexes a table and has at most 8 bits, got {choice}")
    if component in WEIGHTS and choice.bits > 8:
        raise SpecError(f"{where}: {component.value} has at most 8 bits, got {choice}")


def _to_dict(spec: ModelSpec, version: int) -> dict[str, Any]:
    if version == 1 and any(layer.sources for layer in spec.layers):
        raise SpecError("a spec of schema version 1 is a chain, this one has routes")
    if version < 3 and spec.input_words is not None:
        raise SpecError(f"a spec of schema version {version} keeps all words, this one {spec.input_words}")
    return {
        "schema_version": version,
        "num_features": spec.num_features,
        "num_classes": spec.num_classes,
        "rounding": spec.rounding.value,
        "input": {
            "format": str(spec.input_format),
            "signed": spec.input_signed,
            "row_normalize": spec.row_normalize,
            **({} if version < 3 else {"words": spec.kept_words}),
        },
        "layers": [
            {
                "attention": layer.attention,
                "aggregation": layer.aggregation,
                "activation": layer.activation,
                "width": layer.width,
                "heads": layer.heads,
                "shortcut": layer.shortcut,
                "self_loops": layer.self_loops,
                **({} if version == 1 else {"sources": _source_names(spec, index)}),
                "formats": {component.value: str(choice) for component, choice in layer.formats.items()},
            }
            for index, layer in enumerate(spec.layers)
        ],
        "reserved": dict(spec.reserved),
    }


def _source_names(spec: ModelSpec, index: int) -> list[str | int]:
    return ["x" if source == INPUT else source for source in spec.sources(index)]


def _from_dict(raw: object) -> ModelSpec:
    top = _Reader("the spec", raw)
    version = top.take("schema_version", int)
    if version > SCHEMA_VERSION:
        raise SpecError(
            f"the spec has schema version {version}, this lpgnas reads up to {SCHEMA_VERSION}; update lpgnas"
        )
    if version < 1:
        raise SpecError(f"the spec has schema version {version}; versions start at 1")
    source = _Reader("input", top.take("input", dict))
    layers = top.take("layers", list)
    spec = ModelSpec(
        num_features=top.take("num_features", int),
        num_classes=top.take("num_classes", int),
        layers=tuple(_layer_from_dict(index, layer, version) for index, layer in enumerate(layers)),
        rounding=_rounding(top.take("rounding", str)),
        input_format=FormatChoice.parse(source.take("format", str)),
        input_signed=source.take("signed", bool),
        row_normalize=source.take("row_normalize", bool),
        # versions 1 and 2 kept all words
        input_words=None if version < 3 else source.take("words", int),
        reserved=top.take("reserved", dict),
    )
    source.finish()
    top.finish()
    return spec


def _layer_from_dict(index: int, raw: object, version: int) -> LayerSpec:
    reader = _Reader(f"layers[{index}]", raw)
    formats = {
        _component(name, index): FormatChoice.parse(choice) for name, choice in reader.take("formats", dict).items()
    }
    layer = LayerSpec(
        attention=reader.take("attention", str),
        aggregation=reader.take("aggregation", str),
        activation=reader.take("activation", str),
        width=reader.take("width", int),
        heads=reader.take("heads", int),
        shortcut=reader.take("shortcut", str),
        self_loops=reader.take("self_loops", bool),
        formats=formats,
        # version 1 knew chains only
        sources=() if version == 1 else tuple(_source(one, index) for one in reader.take("sources", list)),
    )
    reader.finish()
    return layer


def _source(raw: object, index: int) -> int:
    if raw == "x":
        return INPUT
    if type(raw) is not int or raw < 0:
        raise SpecError(f"layers[{index}]: a source is 'x' or the number of an earlier layer, not {raw!r}")
    return raw


def _component(name: str, index: int) -> Component:
    try:
        return Component(name)
    except ValueError:
        known = ", ".join(component.value for component in Component)
        raise SpecError(f"layers[{index}]: unknown component {name!r}; known: {known}") from None


def _rounding(name: str) -> Rounding:
    try:
        return Rounding(name)
    except ValueError:
        known = ", ".join(mode.value for mode in Rounding)
        raise SpecError(f"unknown rounding {name!r}; known: {known}") from None
