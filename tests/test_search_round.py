"""The search round: it finds what is better, costs what its samples cost, and sees sizes as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import runs
import torch
from torch import Tensor

from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import ConfigError
from lpgnas.layers import Tap
from lpgnas.number_formats import FormatChoice
from lpgnas.quantizers import quantize_weight, weight_fraction
from lpgnas.search_round import RoundSettings, SearchRound
from lpgnas.search_space import SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.supernet import SupernetTraining
from lpgnas.training import TrainingSettings, transductive_data

SPACE = SearchSpace(runs.FEATURES, runs.CLASSES, row_normalize=True, kept_words=(0.25, 0.5, 1.0))
SIZE = GraphSize(runs.NODES, runs.small_graph().num_edges)
NODES = np.arange(runs.NODES)
DATA = transductive_data(runs.small_graph(), NODES < 40, (NODES >= 40) & (NODES < 50))
SETTINGS = TrainingSettings(learning_rate=0.03, distillation=0.0)
LIMIT = 3000
WAYS = [
    RoundSettings("textbook", "adam", "expected", beta=0.1),
    RoundSettings("mixed", "sgd", "derived"),
    RoundSettings("paired", "natural", "feasible"),
    RoundSettings("paired", "adam", "expected", beta=0.1, normalise=False),
    RoundSettings("paired+mixed", "natural", "derived"),
]


class Counting(SupernetTraining):
    """Counts the models that run."""

    forwards = 0

    def logits(self, spec: ModelSpec, taps: Sequence[Tap] = ()) -> Tensor:
        self.forwards += 1
        return super().logits(spec, taps)


def fits(spec: ModelSpec) -> bool:
    return spec_cost(spec, SIZE).weight_bits <= LIMIT


def shares(spec: ModelSpec) -> np.ndarray:
    return np.array([spec_cost(spec, SIZE).weight_bits / LIMIT])


def made(settings: RoundSettings, space: SearchSpace = SPACE, seed: int = 0) -> tuple[SearchRound, Counting]:
    training = Counting(space, DATA, SETTINGS, seed, None)
    return SearchRound(space, fits, shares, training, settings, seed), training


@pytest.mark.parametrize("settings", WAYS, ids=lambda way: f"{way.gradient}-{way.update}-{way.size}")
def test_every_way_spends_its_steps_and_ends_within_the_budget(settings: RoundSettings) -> None:
    searching, training = made(settings)
    result = searching.run(13)
    assert len(result.steps) == training.forwards == 13  # no choice runs more than the sampled models
    assert len(result.snapshots) == settings.snapshots and result.snapshots[-1].step == 13
    assert all(fits(SPACE.spec(snapshot.choices)) for snapshot in result.snapshots)
    assert all(np.isfinite(step.loss) for step in result.steps)
    moved = [float(part.detach().abs().max()) for part in searching.controllers.logits if len(part) > 1]
    assert max(moved) > 0
    if settings.size == "feasible":
        assert all(fits(SPACE.spec(step.choices)) for step in result.steps[2:-1])  # warm-up, the odd one
    again, _ = made(settings)
    assert again.run(13) == result
    other, _ = made(settings, seed=1)
    assert other.run(13).steps != result.steps


def test_it_finds_the_better_width_and_operator() -> None:
    """One hidden unit cannot tell three communities apart; the maximum of binary weights' messages hardly can."""
    space = replace(
        SPACE, attentions=("const",), aggregations=("sum", "max"), activations=("relu",), widths=(1, 16),
        kept_words=(1.0,), shortcuts=("none",), weight_formats=("fixed8",), code_bits=(8,),
    )  # fmt: skip
    searching = SearchRound(
        space,
        lambda spec: True,
        lambda spec: np.zeros(0),
        SupernetTraining(space, DATA, SETTINGS, 0, None),
        RoundSettings(),
        0,
    )
    searching.run(160)
    chosen = dict(zip((name for name, _ in space.genes()), searching.derived(), strict=True))
    assert chosen["layer0.width"] == 1
    width = searching.controllers.genes.index("layer0.width")
    assert float(searching.controllers.log_probabilities()[width][1].detach().exp()) > 0.9


def test_the_size_loss_has_the_gradient_of_the_expected_size() -> None:
    """Averaged over all samples of a small space, weighted with their probabilities."""
    space = replace(
        SPACE, blocks=(1,), attentions=("const", "gat"), aggregations=("sum",), weight_formats=("binary", "fixed8"),
        code_bits=(4, 8),
    )  # fmt: skip
    searching, _ = made(replace(WAYS[0], beta=0.5), space)
    every = list(product(*(range(count) for _, count in space.genes())))
    rng = np.random.default_rng(0)
    parts = [torch.from_numpy(rng.dirichlet(np.ones(count))).requires_grad_() for _, count in space.genes()]
    sampled = [np.zeros(len(part)) for part in parts]
    expected = torch.zeros((), dtype=torch.float64)
    for choices in every:
        weight = torch.stack([part[k] for part, k in zip(parts, choices, strict=True)]).prod()
        expected = expected + weight * 0.5 * float(shares(space.spec(choices))[0])
        gates = [part.detach().clone().requires_grad_() for part in parts]
        named = dict(zip(searching.controllers.genes, gates, strict=True))
        searching._size_loss(choices, named).backward()  # type: ignore[no-untyped-call]
        for place, gate in enumerate(gates):
            sampled[place] += float(weight.detach()) * (0.0 if gate.grad is None else gate.grad.numpy())
    expected.backward()  # type: ignore[no-untyped-call]
    for total, part in zip(sampled, parts, strict=True):
        if len(part) > 1:
            assert part.grad is not None
            # a gate's entries sum to 1, so that a gradient counts up to a constant
            assert np.allclose(total - total[0], part.grad.numpy() - part.grad.numpy()[0], atol=1e-9)


def test_mixed_formats_get_the_gradient_of_the_mixture_and_change_no_value() -> None:
    searching, _ = made(RoundSettings("mixed", "adam"))
    gate = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64, requires_grad=True)
    weight, slope = torch.randn(5, 6), torch.randn(5, 6)
    quantized = torch.randn(5, 6, requires_grad=True)
    same = searching._mixed(gate, weight, quantized, (0, 1, 3))
    assert same.equal(quantized)
    (same * slope).sum().backward()  # type: ignore[no-untyped-call]
    for option, name in enumerate(SPACE.weight_formats):
        choice = FormatChoice.parse(name)
        expected = (quantize_weight(weight, choice, weight_fraction(weight, choice)) * slope).sum()
        assert gate.grad is not None
        assert np.isclose(float(gate.grad[option]), 0.0 if option == 2 else float(expected), rtol=1e-5)
    assert quantized.grad is not None
    assert quantized.grad.equal(slope)


def test_gates_change_no_logits() -> None:
    choices = SPACE.draw(np.random.default_rng(3))
    spec = SPACE.spec(choices)
    plain = made(RoundSettings("paired"))[1].logits(spec)
    searching, training = made(RoundSettings("textbook", "adam"))
    gates = {name: torch.eye(n, dtype=torch.float64)[k] for k, (name, n) in zip(choices, SPACE.genes(), strict=True)}
    assert training.logits(spec, searching._taps(choices, gates)).equal(plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient": "none"}, "unknown gradient 'none'; known: textbook, mixed, paired"),
        ({"update": "lamb"}, "unknown update 'lamb'"),
        ({"size": "none"}, "unknown size 'none'"),
        ({"gradient": "textbook"}, "a natural update needs paired samples"),
        ({"beta": -1.0}, "beta -1.0"),
        ({"warm_up": 1.0}, "warm_up 1.0"),
        ({"snapshots": 0}, "snapshots 0"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(RoundSettings(), **changes)
