"""No choice multiplies the tensors: a supernet takes at most twice the memory of the largest float32 model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from saved_tensors import saved_tensors

from lpgnas.budget import Budget
from lpgnas.config import RunConfig
from lpgnas.dropout import Dropout
from lpgnas.layers import QuantizedModel
from lpgnas.preparation import Prepared, prepare, search_space
from lpgnas.search_round import RoundSettings, SearchRound
from lpgnas.search_space import SearchSpace
from lpgnas.strategy import round_tools
from lpgnas.supernet import SupernetTraining
from lpgnas.training import TrainingSettings, training_loss

SETTINGS = TrainingSettings(epochs=1)
LIMIT = 2.0
STEPS = 40


@pytest.fixture(scope="module")
def cora() -> Prepared:
    return prepare(RunConfig("cora"), None)


@pytest.fixture(scope="module", params=["default", "whole"])
def space(cora: Prepared, request: pytest.FixtureRequest) -> SearchSpace:
    return search_space(cora.data.graph, RunConfig("cora", space=request.param))


def float_models(space: SearchSpace) -> Iterator[QuantizedModel]:
    """The largest models of a space in float32."""
    for spec in replace(space.in_float(space.depth), blocks=space.blocks).widest():
        yield QuantizedModel(spec, 0)


def float_bytes(cora: Prepared, space: SearchSpace) -> int:
    """What the backward pass of the largest float32 model needs."""
    peaks = []
    for model in float_models(space):
        graph, dropout = cora.data.tensors(model, stop=False), Dropout(SETTINGS.dropout, 0)
        with saved_tensors() as peak:
            logits = model(graph, dropout=dropout)
            training_loss(logits, cora.data, SETTINGS, None).backward()  # type: ignore[no-untyped-call]
        assert peak.alive == 0 and peak.bytes > 4 * cora.graph.num_nodes * space.widths[-1]
        peaks.append(peak.bytes)
    return max(peaks)


def test_shared_weights(cora: Prepared, space: SearchSpace) -> None:
    training = SupernetTraining(space, cora.data, SETTINGS, 0, None)
    shared = sum(tensor.numel() for tensor in training.supernet.parameters.values())
    largest = max(sum(one.numel() for one in model.parameters()) for model in float_models(space))
    assert largest <= shared <= LIMIT * largest


def test_a_step_of_the_largest_models(cora: Prepared, space: SearchSpace) -> None:
    training, limit = SupernetTraining(space, cora.data, SETTINGS, 0, None), LIMIT * float_bytes(cora, space)
    for spec in space.widest():
        with saved_tensors() as peak:
            training.step(training.loss(training.logits(spec)))
        assert 0 < peak.bytes <= limit


def test_steps_of_a_search_round(cora: Prepared, space: SearchSpace) -> None:
    """Pairs of samples and formats mixed over the weights' tensors, as the strategy `lpgnas` has them."""
    training = SupernetTraining(space, cora.data, SETTINGS, 0, None)
    fits, shares = round_tools(Budget(weights="3KiB", buffers="60KiB"), cora.size)
    searching = SearchRound(space, fits, shares, training, replace(RoundSettings(), snapshots=1), 0)
    with saved_tensors() as peak:
        searching.run(STEPS)
    assert 0 < peak.bytes <= LIMIT * float_bytes(cora, space)


def test_the_count_sees_what_is_kept() -> None:
    value = torch.ones(1000, requires_grad=True)
    with saved_tensors() as peak:
        kept = (value * 2.0).exp().exp()
        assert peak.alive == peak.bytes == 2 * 4000  # the results of both exponentials
        kept.sum().backward()  # type: ignore[no-untyped-call]
    assert peak.alive == 0 and peak.bytes == 2 * 4000
