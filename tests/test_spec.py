"""`ModelSpec`: round trips, and every way in which a spec is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import samples

from lpgnas.components import Component
from lpgnas.errors import InputError, SpecError, UnknownName
from lpgnas.number_formats import FLOAT32, FormatChoice
from lpgnas.spec import RESERVED_SLOTS, LayerSpec, ModelSpec, required_components

INT8 = FormatChoice("fixed", 8)
INT4 = FormatChoice("fixed", 4)


def layer(width: int = 4, *, last: bool = False, **changes: Any) -> LayerSpec:
    output = Component.OUTPUT if last else Component.ACTIVATION
    formats = {Component.LINEAR_WEIGHT: INT4, Component.MESSAGE: INT8, output: INT8}
    return LayerSpec(
        **{**dict(attention="gcn", aggregation="sum", activation="relu", width=width, formats=formats), **changes}
    )


def spec(**changes: Any) -> ModelSpec:
    layers = (layer(4), layer(3, last=True, activation="none"))
    return ModelSpec(**{**dict(num_features=5, num_classes=3, layers=layers), **changes})


def formats(base: LayerSpec, **changes: str) -> dict[Component, FormatChoice]:
    return base.formats | {Component(name): FormatChoice.parse(text) for name, text in changes.items()}


@pytest.mark.parametrize("seed", range(100))
def test_json_round_trip(seed: int) -> None:
    made = samples.random_spec(np.random.default_rng(seed), 9, 4)
    text = made.to_json()
    assert ModelSpec.from_json(text) == made
    assert ModelSpec.from_json(text).to_json() == text
    assert text.endswith("}\n")


def test_properties() -> None:
    made = spec()
    assert (made.input_width(0), made.input_width(1)) == (5, 4)
    assert made.required_components(1) == {Component.LINEAR_WEIGHT, Component.MESSAGE, Component.OUTPUT}
    assert not made.is_float
    assert replace(made, input_format=FLOAT32).is_float
    reference = layer(3, last=True, formats=dict.fromkeys(layer(3, last=True).formats, FLOAT32))
    assert replace(made, layers=(made.layers[0], reference)).is_float
    gat = layer(attention="gat", activation="tanh", formats={})
    assert {"attention_weight", "score", "aggregate"} < {c.value for c in required_components(gat, last=False)}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attention": "gatt"}, UnknownName, "unknown attention 'gatt'. Did you mean 'gat'"),
        ({"aggregation": "median"}, UnknownName, "unknown aggregation"),
        ({"activation": "gelu"}, UnknownName, "unknown activation"),
        ({"aggregation": "max"}, SpecError, "'gcn' does not go with aggregation 'max'; it takes sum"),
        ({"shortcut": "dense"}, SpecError, "unknown shortcut 'dense'"),
        ({"width": 0}, SpecError, "width 0"),
        ({"heads": 0}, SpecError, "heads 0"),
        ({"heads": 3, "attention": "gat"}, SpecError, "width 4 is not a positive multiple of heads 3"),
        ({"heads": 2}, SpecError, "has no heads"),
        ({"attention": "self", "self_loops": False}, SpecError, "'self' reads a node's own message alone; set self_"),
        ({"attention": "self", "aggregation": "max"}, SpecError, "'self' does not go with aggregation 'max'"),
        ({"sources": (0, -1)}, SpecError, r"sources must rise from -1 \(the input\) on, got \(0, -1\)"),
        ({"sources": (0, 0)}, SpecError, "sources must rise"),
        ({"sources": (-2,)}, SpecError, "sources must rise"),
    ],
)
def test_layers_that_do_not_exist(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        layer(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "at least one layer"),
        ({"num_features": 0}, "must be positive"),
        ({"num_classes": 4}, "3 wide, but there are 4 classes"),
        ({"row_normalize": True, "input_signed": True, "input_format": INT8}, "unsigned input"),
        ({"input_format": FormatChoice("binary", 1)}, "not binary"),
        ({"input_signed": True}, "at least 2 bits"),
        ({"reserved": {"other": "none"}}, "unknown slot 'other'"),
        ({"reserved": {}}, "reserved slots are missing"),
        *(({"reserved": {slot: "else"}}, f"{slot}='else' is not built yet") for slot in RESERVED_SLOTS),
        ({"layers": (layer(3, last=True, shortcut="identity"),)}, "equal widths, not 5 -> 3"),
        (
            {"num_features": 3, "row_normalize": True, "layers": (layer(3, last=True, shortcut="identity"),)},
            "row-normalised input is not built",
        ),
        (
            {"layers": (layer(4), layer(3, last=True, sources=(1,)))},
            "layer 1 reads the output of layer 1, which comes no",
        ),
        ({"layers": (layer(4, sources=(0,)), layer(3, last=True))}, "layer 0 reads the output of layer 0"),
        ({"layers": (layer(4), layer(3, last=True, sources=(-1,)))}, "no later layer reads the output of layer 0"),
        (
            {"num_features": 3, "layers": (layer(3), layer(3, last=True, shortcut="identity", sources=(-1, 0)))},
            "layer 1: an identity shortcut needs one source",
        ),
        ({"layers": (layer(3),)}, "missing for: output; formats without a component: activation"),
    ],
)
def test_models_that_do_not_exist(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec(**changes)


def test_the_last_layer_has_one_head() -> None:
    last = layer(4, last=True, attention="gat", heads=2)
    last = replace(last, formats=formats(last, attention_weight="fixed4", score="fixed4"))
    with pytest.raises(SpecError, match="averaging heads is not built"):
        spec(num_classes=4, layers=(last,))


@pytest.mark.parametrize(
    ("component", "choice", "message"),
    [
        ("message", "binary", "only weights may be binary"),
        ("output", "ternary", "only weights may be ternary"),
        ("message", "fixed1", "signed and needs at least 2 bits"),
        ("output", "fixed1", "signed and needs at least 2 bits"),
        ("linear_weight", "fixed1", "signed and needs at least 2 bits"),
        ("linear_weight", "fixed9", "at most 8 bits"),
        ("attention_weight", "fixed9", "at most 8 bits"),
        ("score", "fixed9", "indexes a table"),
        ("aggregate", "fixed9", "indexes a table"),
    ],
)
def test_formats_that_a_component_cannot_have(component: str, choice: str, message: str) -> None:
    base = layer(3, last=True, attention="gat", activation="tanh")
    full = formats(base, attention_weight="fixed4", score="fixed4", aggregate="fixed4")
    spec(layers=(replace(base, formats=full),))
    changed = full | {Component(component): FormatChoice.parse(choice)}
    with pytest.raises(SpecError, match=message):
        spec(layers=(replace(base, formats=changed),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(schema_version=4), "schema version 4, this lpgnas reads up to 3; update lpgnas"),
        (lambda raw: raw.update(schema_version=0), "versions start at 1"),
        (lambda raw: raw.update(schema_version="1"), "schema_version must be int"),
        (lambda raw: raw.update(more=1), "unknown keys: more"),
        (lambda raw: raw["input"].update(more=1), "input has unknown keys: more"),
        (lambda raw: raw["layers"][1].update(more=1), r"layers\[1\] has unknown keys: more"),
        (lambda raw: raw.pop("rounding"), "lacks the key 'rounding'"),
        (lambda raw: raw["layers"][0].pop("heads"), r"layers\[0\] lacks the key 'heads'"),
        (lambda raw: raw.update(num_features=5.0), "num_features must be int"),
        (lambda raw: raw.update(num_features=True), "num_features must be int"),
        (lambda raw: raw.update(rounding="up"), "unknown rounding 'up'; known: half_even"),
        (lambda raw: raw.update(layers={}), "layers must be list"),
        (lambda raw: raw.update(layers=[3]), r"layers\[0\] must be a JSON object, got int"),
        (lambda raw: raw["layers"][0]["formats"].update(other="fixed4"), "unknown component 'other'"),
        (lambda raw: raw["layers"][0]["formats"].update(message="int4"), "unknown number format 'int4'"),
        (lambda raw: raw["layers"][0]["formats"].update(message=4), "unknown number format 4"),
        (lambda raw: raw["reserved"].update(readout="mean"), "readout='mean' is not built yet"),
        (lambda raw: raw["reserved"].update(readout=[]), "not built yet"),
        (lambda raw: raw["input"].update(signed=0), "signed must be bool"),
        (lambda raw: raw["input"].pop("words"), "input lacks the key 'words'"),
        (lambda raw: raw["input"].update(words=None), "words must be int, got None"),
        (lambda raw: raw["input"].update(words=0), "input_words is 0; of 5 features keep 1 to all"),
        (lambda raw: raw["input"].update(words=6), "input_words is 6; of 5 features keep 1 to all"),
        (lambda raw: raw["layers"][1].pop("sources"), r"layers\[1\] lacks the key 'sources'"),
        (lambda raw: raw["layers"][1].update(sources="x"), "sources must be list"),
        (lambda raw: raw["layers"][1].update(sources=["y"]), "a source is 'x' or the number of an earlier layer"),
        (lambda raw: raw["layers"][1].update(sources=[True]), "not True"),
        (lambda raw: raw["layers"][1].update(sources=[-1]), "not -1"),
        (lambda raw: raw["layers"][1].update(sources=[0, "x"]), "sources must rise"),
    ],
)
def test_json_that_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    raw = json.loads(spec().to_json())
    change(raw)
    with pytest.raises(InputError, match=message):
        ModelSpec.from_json(json.dumps(raw))


def routed() -> ModelSpec:
    """Three layers; the last reads the input and both others."""
    return spec(layers=(layer(4), layer(6), layer(3, last=True, sources=(-1, 0, 1))))


def test_routes() -> None:
    made = routed()
    assert [made.sources(k) for k in range(3)] == [(-1,), (0,), (-1, 0, 1)]
    assert (made.source_widths(2), made.input_width(2)) == ((5, 4, 6), 15)
    assert made.last_readers() == {-1: 2, 0: 2, 1: 2}
    assert [one["sources"] for one in json.loads(made.to_json())["layers"]] == [["x"], [0], ["x", 0, 1]]
    assert ModelSpec.from_json(made.to_json()) == made


def test_equal_models_have_equal_specs() -> None:
    explicit = spec(layers=(layer(4, sources=(-1,)), layer(3, last=True, activation="none", sources=(0,))))
    assert explicit == spec()
    assert explicit.to_json() == spec().to_json()
    assert explicit != routed()


def test_version_1_is_a_chain() -> None:
    raw = json.loads(spec().to_json())
    raw["schema_version"] = 1
    del raw["input"]["words"]
    for one in raw["layers"]:
        del one["sources"]
    assert ModelSpec.from_json(json.dumps(raw)) == spec()
    assert json.loads(spec().to_json(version=1)) == raw
    with pytest.raises(SpecError, match="version 1 is a chain, this one has routes"):
        routed().to_json(version=1)
    raw["layers"][1]["sources"] = [0]
    with pytest.raises(SpecError, match="unknown keys: sources"):
        ModelSpec.from_json(json.dumps(raw))


def test_kept_words() -> None:
    """All words are the empty choice; fewer are what every transform of the input has columns for."""
    assert spec(input_words=5) == spec() == ModelSpec.from_json(spec().to_json())
    assert json.loads(spec().to_json())["input"]["words"] == 5
    some = replace(routed(), input_words=2)
    assert (some.kept_words, some.input_width(0), some.source_widths(2)) == (2, 2, (2, 4, 6))
    assert ModelSpec.from_json(some.to_json()) == some != routed()


def test_version_2_keeps_all_words() -> None:
    raw = json.loads(routed().to_json())
    raw["schema_version"] = 2
    del raw["input"]["words"]
    assert ModelSpec.from_json(json.dumps(raw)) == routed()
    assert json.loads(routed().to_json(version=2)) == raw
    for version in (1, 2):
        with pytest.raises(SpecError, match=f"of schema version {version} keeps all words, this one 2"):
            spec(input_words=2).to_json(version)


def test_an_identity_shortcut_reads_every_word() -> None:
    square = (layer(5, shortcut="identity"), layer(3, last=True))
    spec(layers=square)
    with pytest.raises(SpecError, match="layer 0: an identity shortcut reads every word"):
        spec(layers=square, input_words=4)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"spec"'])
def test_text_that_is_no_spec(text: str) -> None:
    with pytest.raises(SpecError):
        ModelSpec.from_json(text)
