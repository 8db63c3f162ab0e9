"""The controller: its posterior, what it takes from the supernet, and what from real trainings."""

from __future__ import annotations

import numpy as np

from lpgnas.preferences import (
    EFFECT_VARIANCE,
    NOISE_VARIANCE,
    Controller,
    Effects,
    normal_scores,
    one_hot,
    supernet_opinion,
)
from lpgnas.search_space import SearchSpace

SPACE = SearchSpace(20, 3)
GENES = [name for name, _ in SPACE.genes()]
COUNTS = [count for _, count in SPACE.genes()]
WIDTH = GENES.index("layer0.width")
FIRST = sum(COUNTS[:WIDTH])


def drawn(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [SPACE.draw(rng) for _ in range(count)]


def test_one_hot_marks_one_option_of_each_gene() -> None:
    choices = drawn(5)
    rows = one_hot(SPACE, choices)
    assert rows.shape == (5, sum(COUNTS)) and set(np.unique(rows)) == {0.0, 1.0}
    for row, vector in zip(rows, choices, strict=True):
        parts = np.split(row, np.cumsum(COUNTS)[:-1])
        assert tuple(int(part.argmax()) for part in parts) == vector and row.sum() == len(COUNTS)


def test_genes_of_absent_blocks_are_zero() -> None:
    space = SearchSpace(20, 3, blocks=(1, 2, 3), routes=True)
    rng = np.random.default_rng(0)
    choices = [space.draw(rng) for _ in range(40)]
    splits = np.cumsum([count for _, count in space.genes()])[:-1]
    for row, vector in zip(one_hot(space, choices), choices, strict=True):
        sums = tuple(bool(part.sum()) for part in np.split(row, splits))
        assert sums == space.active(vector)
    assert len({space.active(vector) for vector in choices}) > 5


def test_normal_scores_keep_the_order_only() -> None:
    scores = normal_scores(np.array([3.0, -100.0, 4.0]))
    assert scores[1] < scores[0] < scores[2]
    assert scores[0] == 0.0 and np.isclose(scores[1], -scores[2])
    assert not normal_scores(np.ones(5)).any()
    first, second, third = normal_scores(np.array([-1.0, 2.0, -1.0]))
    assert first == third < second


def test_the_posterior_is_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    rows, ratings = one_hot(SPACE, drawn(40)), rng.normal(size=40)
    centred = rows - rows.mean(axis=0)
    penalty = NOISE_VARIANCE / EFFECT_VARIANCE
    expected = np.linalg.solve(
        centred.T @ centred + penalty * np.eye(rows.shape[1]), centred.T @ (ratings - ratings.mean())
    )
    posterior = Effects.prior(rows.shape[1]).given(rows, ratings)
    assert np.allclose(posterior.mean, expected)
    assert (np.diag(posterior.covariance) <= EFFECT_VARIANCE + 1e-12).all()
    sample = np.array([posterior.draw(rng) for _ in range(4000)])
    assert np.allclose(sample.mean(axis=0), posterior.mean, atol=0.03)
    assert np.allclose(sample.var(axis=0), np.diag(posterior.covariance), atol=0.02)


def test_the_supernet_tells_effects_from_its_learning_curve() -> None:
    choices = drawn(300)
    decay = 2.0 * np.exp(-np.arange(300) / 80)
    losses = np.array([np.exp(-0.1 * vector[WIDTH]) for vector in choices]) * (0.5 + decay)
    opinion = supernet_opinion(SPACE, choices, losses)
    widths = opinion[FIRST : FIRST + COUNTS[WIDTH]]
    assert np.corrcoef(widths, np.arange(COUNTS[WIDTH]))[0, 1] > 0.9
    others = np.delete(opinion, np.s_[FIRST : FIRST + COUNTS[WIDTH]])
    assert np.abs(others).max() < np.abs(widths).max()


def test_too_few_steps_or_equal_losses_say_nothing() -> None:
    assert not supernet_opinion(SPACE, [], np.array([])).any()
    assert not supernet_opinion(SPACE, drawn(3), np.ones(3)).any()
    assert np.abs(supernet_opinion(SPACE, drawn(40), np.ones(40))).max() < 1e3


def test_losses_without_a_logarithm_do_not_spoil_the_others() -> None:
    choices = drawn(200)
    losses = np.array([np.exp(-0.1 * vector[WIDTH]) for vector in choices])
    clean = supernet_opinion(SPACE, choices, losses)
    losses[[100, 150, 170]] = 0.0, np.inf, np.nan
    assert np.isfinite(supernet_opinion(SPACE, choices, losses)).all()
    losses[100] = np.nan
    assert np.corrcoef(supernet_opinion(SPACE, choices, losses), clean)[0, 1] > 0.95


def test_real_trainings_overrule_the_supernet() -> None:
    opinion = np.zeros(sum(COUNTS))
    opinion[FIRST] = 2.0  # the supernet likes the narrowest
    controller = Controller(SPACE, opinion)
    assert int(controller.preferences()[WIDTH].argmax()) == 0
    choices = drawn(60, seed=1)
    controller.learn(choices, np.array([float(vector[WIDTH]) for vector in choices]))
    assert int(controller.preferences()[WIDTH].argmax()) > COUNTS[WIDTH] // 2
    one, other = (controller.preferences(np.random.default_rng(seed)) for seed in (0, 1))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_one_rating_teaches_nothing() -> None:
    controller = Controller(SPACE, np.zeros(sum(COUNTS)))
    before = controller.effects
    controller.learn(drawn(1), np.array([0.5]))
    assert controller.effects is before
