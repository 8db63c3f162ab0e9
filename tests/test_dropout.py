"""Dropout of a step: what repeats, what is drawn anew, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from lpgnas.dropout import DRAWS_KEPT, FRESH_EVERY, Dropout
from lpgnas.errors import ConfigError
from lpgnas.graph_tensors import CsrMatrix

MATRIX = CsrMatrix.of(sparse.csr_array(np.arange(1.0, 401.0).reshape(20, 20)), torch.float64)


def test_features_are_drawn_anew_at_some_steps_and_come_back_at_the_others() -> None:
    dropout = Dropout(0.5, 3)
    seen: list[CsrMatrix] = []
    fresh = []
    for step in range(60):
        one = dropout.features(MATRIX)
        assert dropout.features(MATRIX) is one
        if all(one is not other for other in seen):
            fresh.append(step)
        seen.append(one)
        dropout.next_step()
    assert fresh == list(range(0, 60, FRESH_EVERY))
    last = [seen[step] for step in fresh[-DRAWS_KEPT:]]
    assert any(seen[-1] is one for one in last)
    assert len({one.dense().numpy().tobytes() for one in (seen[step] for step in fresh)}) == len(fresh)


def test_a_step_can_be_repeated() -> None:
    dropout, value = Dropout(0.25, 1), torch.ones(50)
    for _ in range(5):
        features, entries = dropout.features(MATRIX), dropout.entries(value)
        assert not torch.equal(entries, dropout.entries(value))
        dropout.repeat_step()
        assert dropout.features(MATRIX) is features
        assert torch.equal(entries, dropout.entries(value))
        dropout.next_step()


def test_no_dropout_leaves_everything() -> None:
    dropout = Dropout(0.0, 0)
    value = torch.ones(3)
    assert dropout.features(MATRIX) is MATRIX and dropout.entries(value) is value


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_a_probability_out_of_range_is_refused(probability: float) -> None:
    with pytest.raises(ConfigError, match=str(probability)):
        Dropout(probability, 0)
