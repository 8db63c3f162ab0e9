"""The supernet: shared weights are slices, and a step trains them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import runs
import torch

from lpgnas.graph_tensors import input_fraction
from lpgnas.layers import QuantizedModel
from lpgnas.operators import ATTENTIONS
from lpgnas.search_space import SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.supernet import Supernet, train_supernet
from lpgnas.training import TrainingSettings, transductive_data

SPACE = SearchSpace(runs.FEATURES, runs.CLASSES, row_normalize=True)
NODES = np.arange(runs.NODES)
DATA = transductive_data(runs.small_graph(), NODES < 30, (NODES >= 30) & (NODES < 40))
SETTINGS = TrainingSettings(learning_rate=0.03, distillation=0.0)
FRACTION = input_fraction(DATA.graph, 1, signed=False)


WORDS = replace(SPACE, kept_words=(0.25, 0.5, 1.0))
CHAINS = replace(SPACE, blocks=(1, 2, 4))
ROUTED = replace(SPACE, blocks=(1, 2, 3), routes=True, attentions=("self", "gcn", "gat"))


def test_every_model_of_the_space_finds_its_weights() -> None:
    torch.manual_seed(0)
    wide = replace(SPACE, attentions=("self", *(name for name in ATTENTIONS if name != "self")))
    for space in (
        SPACE,
        replace(SPACE, attentions=("const",), shortcuts=("none",)),
        replace(SPACE, blocks=(3,)),
        wide,
        CHAINS,
        ROUTED,
    ):
        supernet, rng = Supernet(space, FRACTION), np.random.default_rng(0)
        for _ in range(40):
            spec = space.spec(space.draw(rng))
            model = QuantizedModel(spec, FRACTION)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    shared = supernet.parameters[supernet.shared_names(model)[name]]
                    wanted = shared.flatten()[: parameter.numel()].view(parameter.shape)
                    if "attention" not in name:
                        wanted = shared[tuple(slice(0, size) for size in parameter.shape)]
                    parameter.copy_(wanted)
                graph = DATA.tensors(model, stop=False)
                assert supernet.logits(spec, graph).equal(model(graph, observe=True))


def test_models_share_by_reader_and_source() -> None:
    """The output block shares with the output block, at whatever place, and each source has columns of its own."""
    supernet = Supernet(ROUTED, FRACTION)
    zeros = (0,) * (len(ROUTED.genes()) - len(ROUTED.macro_genes()))
    names = {}
    for macro in ((0, 0, 0, 0, 0, 0), (1, 0, 0, 1, 1, 0), (2, 0, 0, 0, 0, 1), (2, 1, 0, 1, 1, 1)):
        model = QuantizedModel(ROUTED.spec((*macro, *zeros)), FRACTION)
        names[macro] = {name for name in supernet.shared_names(model).values() if "weight" in name}
    one, two, three, routed = names.values()
    assert one == {"layers.2.weight_from_x"}
    assert two == {"layers.0.weight", "layers.2.weight_from_x", "layers.2.weight_from_0"}
    assert three == {"layers.0.weight", "layers.1.weight", "layers.2.weight"}
    assert routed == {
        "layers.0.weight", "layers.1.weight_from_x",
        "layers.2.weight_from_x", "layers.2.weight_from_0", "layers.2.weight",
    }  # fmt: skip
    assert routed <= set(supernet.parameters)


def test_models_take_the_columns_of_their_words() -> None:
    torch.manual_seed(0)
    space = replace(ROUTED, kept_words=(0.25, 0.5, 1.0))
    supernet, rng = Supernet(space, FRACTION, DATA.kept_words), np.random.default_rng(0)
    seen = set()
    for _ in range(120):
        spec = space.spec(space.draw(rng))
        graph = DATA.tensors(QuantizedModel(replace(spec, input_words=None), FRACTION), stop=False)
        model, words = supernet.model(spec, graph), DATA.kept_words(spec)
        kept = range(runs.FEATURES) if words is None else words.tolist()
        names = supernet.shared_names(model)
        for index, layer in enumerate(model.blocks):
            if -1 in spec.sources(index):
                name = "weight" if index == 0 else "weight_from_x"
                own, shared = getattr(layer, name), supernet.parameters[names[f"layers.{index}.{name}"]]
                for column, word in enumerate(kept):
                    assert own[:, column].equal(shared[: len(own), word])
                seen.add((index, len(kept)))
        assert supernet.logits(spec, graph).equal(model(graph, observe=True))
    assert seen >= {(0, 3), (0, 6), (0, 12), (1, 3), (1, 6), (1, 12)}


def test_models_have_the_gain_in_their_weights() -> None:
    """The shared weights of the features are in the larger unit, those of a model of its own are not."""
    torch.manual_seed(0)
    supernet, rng = Supernet(ROUTED, FRACTION, gain=8.0), np.random.default_rng(0)
    for _ in range(20):
        spec = ROUTED.spec(ROUTED.draw(rng))
        graph = DATA.tensors(QuantizedModel(spec, FRACTION), stop=False)
        model = supernet.model(spec, graph)
        plain = QuantizedModel(spec, FRACTION)
        plain.load_state_dict(model.state_dict())
        assert supernet.logits(spec, graph).equal(plain(graph))
        shared = supernet.parameters[supernet.shared_names(model)["layers.0.weight"]]
        own = model.blocks[0].get_parameter("weight")
        assert own.equal(8.0 * shared[: len(own), : own.shape[1]])


def test_a_step_reaches_the_kept_words_only() -> None:
    torch.manual_seed(0)
    supernet = Supernet(WORDS, FRACTION, DATA.kept_words)
    spec = WORDS.spec(WORDS.smallest())
    words = DATA.kept_words(spec)
    assert words is not None and len(words) == 3
    graph = DATA.tensors(QuantizedModel(spec, FRACTION, words), stop=False)
    supernet.logits(spec, graph).square().sum().backward()  # type: ignore[no-untyped-call]
    gradient = supernet.parameters["layers.0.weight"].grad
    assert gradient is not None
    assert gradient.shape[1] == runs.FEATURES
    assert set(gradient.abs().sum(dim=0).nonzero().flatten().tolist()) == set(words.tolist())


def test_routed_models_train() -> None:
    steps = train_supernet(ROUTED, lambda spec: True, DATA, SETTINGS, 1, steps=80)
    assert np.median([step.loss for step in steps[-20:]]) < np.median([step.loss for step in steps[:20]])
    assert len({len(ROUTED.spec(step.choices).layers) for step in steps}) == 3


def test_a_step_reaches_the_weights_of_the_sampled_model_only() -> None:
    torch.manual_seed(0)
    supernet = Supernet(SPACE, FRACTION)
    spec = SPACE.spec(SPACE.smallest())
    graph = DATA.tensors(QuantizedModel(spec, FRACTION), stop=False)
    supernet.logits(spec, graph).square().sum().backward()  # type: ignore[no-untyped-call]
    gradient = supernet.parameters["layers.0.weight"].grad
    width = spec.layers[0].width
    assert gradient is not None and bool(gradient[:width].any()) and not bool(gradient[width:].any())


def test_training_lowers_the_loss_and_repeats() -> None:
    def fits(spec: ModelSpec) -> bool:
        return True

    calls: list[int] = []
    first = train_supernet(SPACE, fits, DATA, SETTINGS, 5, steps=120, on_step=lambda: calls.append(1))
    assert len(first) == len(calls) == 120
    assert np.median([step.loss for step in first[-30:]]) < np.median([step.loss for step in first[:30]]) - 0.1
    assert train_supernet(SPACE, fits, DATA, SETTINGS, 5, steps=20) == first[:20]
    assert train_supernet(SPACE, fits, DATA, SETTINGS, 6, steps=20) != first[:20]


def test_only_options_that_can_fit_are_sampled() -> None:
    def narrow(spec: ModelSpec) -> bool:
        return spec.layers[0].width <= 8

    steps = train_supernet(SPACE, narrow, DATA, SETTINGS, 0, steps=30)
    assert {SPACE.spec(step.choices).layers[0].width for step in steps} == {4, 8}
