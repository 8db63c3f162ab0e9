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


def test_every_model_of_the_space_finds_its_weights() -> None:
    torch.manual_seed(0)
    wide = replace(SPACE, attentions=tuple(ATTENTIONS))
    for space in (SPACE, replace(SPACE, attentions=("const",), shortcuts=("none",)), replace(SPACE, blocks=(3,)), wide):
        supernet, rng = Supernet(space, FRACTION), np.random.default_rng(0)
        for _ in range(40):
            spec = space.spec(space.draw(rng))
            model = QuantizedModel(spec, FRACTION)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    shared = supernet.parameters[name]
                    wanted = shared.flatten()[: parameter.numel()].view(parameter.shape)
                    if "attention" not in name:
                        wanted = shared[tuple(slice(0, size) for size in parameter.shape)]
                    parameter.copy_(wanted)
                graph = DATA.tensors(model, stop=False)
                assert supernet.logits(spec, graph).equal(model(graph, observe=True))


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
    first = train_supernet(SPACE, fits, DATA, SETTINGS, 3, steps=120, on_step=lambda: calls.append(1))
    assert len(first) == len(calls) == 120
    assert np.median([step.loss for step in first[-30:]]) < np.median([step.loss for step in first[:30]]) - 0.1
    assert train_supernet(SPACE, fits, DATA, SETTINGS, 3, steps=20) == first[:20]
    assert train_supernet(SPACE, fits, DATA, SETTINGS, 4, steps=20) != first[:20]


def test_only_options_that_can_fit_are_sampled() -> None:
    def narrow(spec: ModelSpec) -> bool:
        return spec.layers[0].width <= 8

    steps = train_supernet(SPACE, narrow, DATA, SETTINGS, 0, steps=30)
    assert {SPACE.spec(step.choices).layers[0].width for step in steps} == {4, 8}
