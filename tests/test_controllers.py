"""The controllers: what they sample, and gradients against enumeration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from lpgnas.controllers import Controllers, PairLearner, arg_max, is_format, split_genes
from lpgnas.preferences import one_hot
from lpgnas.search_space import Choices, SearchSpace

SPACE = SearchSpace(
    12, 3, blocks=(1,), attentions=("const", "gcn"), aggregations=("sum", "mean"), weight_formats=("binary", "fixed4"),
    code_bits=(8,),
)  # fmt: skip
COUNTS = [count for _, count in SPACE.genes()]
OPEN = [tuple(range(count)) for count in COUNTS]
ALL = list(product(*(range(count) for count in COUNTS)))
NOISE = 0.7


def controllers(seed: int = 0, options: Sequence[tuple[int, ...]] | None = None) -> Controllers:
    made = Controllers(SPACE, options or OPEN, np.random.default_rng(seed))
    rng = np.random.default_rng(99)
    with torch.no_grad():
        for part in made.logits:
            part.copy_(torch.from_numpy(rng.normal(size=len(part)) * 0.5))
    return made


def probabilities(made: Controllers, noise: float) -> Tensor:
    """Probability of every choice vector of `ALL`."""
    parts = [torch.log_softmax(part / noise, 0) for part in made.logits]
    return torch.stack(
        [sum((part[k] for part, k in zip(parts, one, strict=True)), parts[0].sum() * 0) for one in ALL]
    ).exp()


def effect(choices: Choices) -> float:
    """Not additive, so that an interaction must not bias the gradient."""
    return float(0.3 * choices[0] - 0.7 * choices[1] + choices[6] * choices[0] + 0.2 * choices[7] * choices[1])


def fitting(choices: Choices) -> bool:
    return choices[0] + choices[6] + choices[7] <= 2


@pytest.mark.parametrize("allowed", [lambda choices: True, fitting])
def test_the_difference_of_two_samples_is_an_unbiased_gradient(allowed: Callable[[Choices], bool]) -> None:
    """Also on feasible models only: the mean over all pairs is the gradient of the conditional mean."""
    made = controllers()
    inside = torch.tensor([float(allowed(one)) for one in ALL], dtype=torch.float64)
    weights = probabilities(made, NOISE) * inside
    weights = weights / weights.sum()
    values = torch.tensor([effect(one) for one in ALL], dtype=torch.float64)
    (weights * values).sum().backward()  # type: ignore[no-untyped-call]
    expected = np.concatenate([part.grad.numpy() for part in made.logits if part.grad is not None])
    rows, shares = one_hot(SPACE, ALL), weights.detach().numpy()
    mean, learner = np.zeros(sum(COUNTS)), PairLearner(SPACE)
    for (a, b), share in np.ndenumerate(np.outer(shares, shares)):
        if share:
            mean += share * learner.score_gradient(ALL[a], ALL[b], effect(ALL[a]) - effect(ALL[b]), NOISE)
    assert np.allclose(mean, expected, atol=1e-12)
    assert np.abs(expected).max() > 0.05
    assert rows.shape == (len(ALL), len(mean))


def test_noised_arg_max_draws_from_the_softmax() -> None:
    made, draws = controllers(), 2_000
    counts, draws_of = [np.zeros(count) for count in COUNTS], made.noised(NOISE)
    for _ in range(draws):
        for count, option in zip(counts, arg_max(next(draws_of)), strict=True):
            count[option] += 1
    for count, part in zip(counts, made.logits, strict=True):
        expected = torch.softmax(part.detach() / NOISE, 0).numpy()
        assert np.allclose(count / draws, expected, atol=5 * (0.25 / draws) ** 0.5)


def test_gates_are_one_hot_with_the_gradient_of_the_softmax() -> None:
    made = controllers()
    noised = next(made.noised(1.0))
    gates = list(made.gates(noised, 0.5).values())
    weights = [torch.arange(len(gate), dtype=torch.float64) for gate in gates]
    for gate, option in zip(gates, arg_max(noised), strict=True):
        assert torch.equal(gate.detach().round(decimals=12), torch.eye(len(gate), dtype=torch.float64)[option])
    sum((gate * weight).sum() for gate, weight in zip(gates, weights, strict=True)).backward()  # type: ignore[union-attr]
    for part, shifted, weight in zip(made.logits, noised, weights, strict=True):
        soft = np.exp(shifted / 0.5) / np.exp(shifted / 0.5).sum()
        expected = soft * (weight.numpy() - (soft * weight.numpy()).sum()) / 0.5
        assert part.grad is not None
        assert np.allclose(part.grad.numpy(), expected)


def test_closed_options_are_never_drawn() -> None:
    options = [(0,)] * len(COUNTS)
    options[1] = (1,)
    made = controllers(options=options)
    assert {arg_max(next(made.noised(1.0))) for _ in range(20)} == {made.favourite()}
    assert made.favourite() == tuple(one[0] for one in options)
    assert all(np.isfinite(part).all() for part in made.preferences())
    assert all(torch.isfinite(gate).all() for gate in made.gates(next(made.noised(1.0)), 1.0).values())


def test_gates_of_weights_alone() -> None:
    made = controllers()
    noised = next(made.noised(1.0))
    some, every = made.gates(noised, 1.0, of_weights=True), made.gates(noised, 1.0)
    assert set(some) == {"layer0.linear_weight_format", "layer0.attention_weight_format"}
    assert len(every) == len(COUNTS) and all(gate.equal(every[name]) for name, gate in some.items())


def test_two_controllers_hold_all_logits() -> None:
    made = controllers()
    both = [len(made.parameters(quantisation=part)) for part in (False, True)]
    assert sum(both) == len(made.logits) and min(both) > 0
    assert is_format("layer0.message_format") and not is_format("layer0.attention")


@pytest.mark.parametrize("natural", [True, False])
def test_pairs_find_the_best_option(natural: bool) -> None:
    """A value with noise ten times the smallest effect, and a trend that moves both samples of a pair."""
    made, rng = Controllers(SPACE, OPEN, np.random.default_rng(0)), np.random.default_rng(1)
    learner = PairLearner(SPACE)
    effects = [rng.permutation(count) * 0.1 for count in COUNTS]
    for step in range(600):
        one, other = (arg_max(next(made.noised(1.0))) for _ in range(2))
        values = [
            sum(e[k] for e, k in zip(effects, c, strict=True)) + 50.0 / (1 + step) + rng.normal() * 0.1
            for c in (one, other)
        ]
        difference = values[0] - values[1]
        flat = (
            learner.natural_gradient(one, other, difference)
            if natural
            else learner.score_gradient(one, other, difference, 1.0)
        )
        with torch.no_grad():
            for part, gradient in zip(made.logits, split_genes(SPACE, flat), strict=True):
                part.sub_(torch.from_numpy(gradient) * (0.05 if natural else 1.0))
    assert made.favourite() == tuple(int(part.argmin()) for part in effects)
    if natural:
        learned = split_genes(SPACE, flat)
        for found, true in zip(learned, effects, strict=True):
            if len(true) > 1:
                assert np.corrcoef(found, true)[0, 1] > 0.8


def test_equal_values_teach_nothing() -> None:
    assert not PairLearner(SPACE).natural_gradient(ALL[0], ALL[-1], 0.0).any()


def test_a_pair_is_unbiased_where_genes_have_no_part() -> None:
    """The width of a second block counts in some models only; it is drawn in all."""
    space = SearchSpace(
        12, 3, blocks=(1, 2), attentions=("gcn",), aggregations=("sum",), activations=("relu",), widths=(4, 8),
        heads=(1,), shortcuts=("none",), weight_formats=("binary",), code_bits=(8,),
    )  # fmt: skip
    counts = [count for _, count in space.genes()]
    models = list(product(*(range(count) for count in counts)))
    logits = torch.from_numpy(0.3 * np.random.default_rng(3).normal(size=sum(counts))).requires_grad_()
    rows = torch.from_numpy(one_hot(space, models, inactive=True))
    normal = torch.cat([torch.log_softmax(part / NOISE, 0) for part in torch.split(logits, counts)])
    chance = (rows @ normal).exp()
    values = np.array([space.spec(one).layers[0].width + 3.0 * len(space.spec(one).layers) for one in models])
    (chance * torch.from_numpy(values)).sum().backward()  # type: ignore[no-untyped-call]
    learner, found = PairLearner(space), np.zeros(sum(counts))
    for (k, one), (m, other) in product(enumerate(models), repeat=2):
        weight = float(chance[k].detach() * chance[m].detach())
        found += weight * learner.score_gradient(one, other, values[k] - values[m], NOISE)
    assert logits.grad is not None and float(logits.grad.abs().max()) > 0.1
    np.testing.assert_allclose(found, logits.grad.numpy(), atol=1e-9)
