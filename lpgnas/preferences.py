"""What a search has learned about each choice: a Bayesian linear model with one effect for every option of every gene.

The controller of the search. Its effects add up, so that `lpgnas.projection` finds the best feasible model of a drawn
set of effects exactly (Thompson sampling). It starts from what is known of each option on other graphs
(`lpgnas.known_effects`) and from the supernet's losses, then learns from real trainings, where either opinion is one
more regressor: shared weights rank models badly, but single choices well enough to start.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lpgnas.projection import Preferences
from lpgnas.search_space import Choices, SearchSpace

Floats = npt.NDArray[np.float64]

EFFECT_VARIANCE, NOISE_VARIANCE = 0.07, 0.7
"""Prior variance of an effect, and of what effects do not explain, for ratings of variance 1: additive models of random
feasible specs explained about a third of their rating."""
SMALLEST_LOSS = 1e-12
"""A loss of 0, which float32 reaches on nodes that are easy, has no logarithm."""
SUPERNET_TRUST, KNOWN_TRUST, TRUST_VARIANCE = 0.15, 1.0, 0.1
"""Prior means of the weights of the supernet's opinion and of the known effects among those of real trainings, and the
variance of either."""
RESIDUAL_VARIANCE = 0.04
"""Prior variance of an effect beside these: that of one graph against that of others."""


def one_hot(space: SearchSpace, choices: list[Choices], *, inactive: bool = False) -> Floats:
    """Choice vectors as rows [n, options of all genes] of zeros and ones, unused genes zero unless `inactive`."""
    counts = [count for _, count in space.genes()]
    offsets = np.cumsum([0, *counts[:-1]])
    rows = np.zeros((len(choices), sum(counts)))
    for row, vector in zip(rows, choices, strict=True):
        row[offsets + np.asarray(vector)] = 1.0 if inactive else space.active(vector)
    return rows


def normal_scores(values: Floats) -> Floats:
    """Ranks as quantiles of the standard normal distribution: a few hopeless models must not decide the fit."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # equal values share the middle of their ranks
    quantiles = [NormalDist().inv_cdf(rank / len(values)) for rank in middle]
    return np.array(quantiles)[place]


@dataclass(frozen=True)
class Effects:
    """Posterior of the effects: normal with `mean` [P] and `covariance` [P, P]."""

    mean: Floats
    covariance: Floats

    @classmethod
    def prior(cls, count: int) -> Effects:
        """Nothing known about `count` effects."""
        return cls(np.zeros(count), EFFECT_VARIANCE * np.eye(count))

    def given(self, rows: Floats, ratings: Floats) -> Effects:
        """The posterior after `ratings` [n] (variance about 1) of models with regressors `rows` [n, P]."""
        centred = rows - rows.mean(axis=0)
        precision = np.linalg.inv(self.covariance)
        posterior = np.linalg.inv(precision + centred.T @ centred / NOISE_VARIANCE)
        posterior = (posterior + posterior.T) / 2
        return Effects(
            posterior @ (precision @ self.mean + centred.T @ (ratings - ratings.mean()) / NOISE_VARIANCE), posterior
        )

    def draw(self, rng: np.random.Generator) -> Floats:
        """One set of effects [P]."""
        return rng.multivariate_normal(self.mean, self.covariance, method="cholesky")


def supernet_opinion(space: SearchSpace, choices: list[Choices], losses: Floats) -> Floats:
    """Effects [P] of every option on the supernet's loss, better is larger, scaled to predictions of variance 1.

    The loss falls while the weights learn: a quadratic trend of `-log(loss)` is taken out, and the first quarter of the
    steps left out.
    """
    count = sum(options for _, options in space.genes())
    start = len(losses) // 4
    usable = [step for step in range(start, len(losses)) if np.isfinite(losses[step])]
    if len(usable) < 4:
        return np.zeros(count)
    kept, steps = -np.log(np.maximum(losses[usable], SMALLEST_LOSS)), np.array(usable, dtype=np.float64) - start
    ratings = kept - np.polyval(np.polyfit(steps, kept, 2), steps)
    deviation = float(ratings.std())
    rows = one_hot(space, [choices[step] for step in usable])
    effects = Effects.prior(count).given(rows, ratings / deviation).mean if deviation > 0 else np.zeros(count)
    spread = float((rows @ effects).std())
    return effects / spread if spread > 0 else effects


class Controller:
    """Draws preferences, and learns from real trainings.

    Args:
        space: whose options have effects.
        opinion: of the supernet [P], as `supernet_opinion` gives it; zeros for none.
        known: effects on other graphs [P] (`lpgnas.known_effects`); None for none.
    """

    def __init__(self, space: SearchSpace, opinion: Floats, known: Floats | None = None) -> None:
        self._space, count = space, len(opinion)
        self._opinions = np.stack([opinion, np.zeros(count) if known is None else known])
        mean = np.array([*np.zeros(count), SUPERNET_TRUST, KNOWN_TRUST])
        variances = [*[RESIDUAL_VARIANCE] * count, TRUST_VARIANCE, TRUST_VARIANCE]
        self.effects = self._prior = Effects(mean, np.diag(variances))

    def learn(self, choices: list[Choices], ratings: Floats) -> None:
        """Take all real trainings so far: `ratings` [n], more is better."""
        if len(choices) > 1:
            rows = one_hot(self._space, choices)
            regressors = np.column_stack([rows, rows @ self._opinions.T])
            self.effects = self._prior.given(regressors, normal_scores(ratings))

    def preferences(self, rng: np.random.Generator | None = None) -> Preferences:
        """Effects of every option, gene by gene: the mean ones, or a draw.

        Where blocks can be absent, effects are those beside the best option of each gene: with any other zero, another
        block would be worth something just by having genes.
        """
        drawn = self.effects.mean if rng is None else self.effects.draw(rng)
        total = drawn[:-2] + drawn[-2:] @ self._opinions
        counts, macro = [count for _, count in self._space.genes()], len(self._space.macro_genes())
        parts = np.split(total, np.cumsum(counts)[:-1])
        return [*parts[:macro], *(part - part.max() for part in parts[macro:])] if macro else parts
