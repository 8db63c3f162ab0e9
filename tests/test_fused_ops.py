"""Fused training operations against the same in plain torch, with the gradients of autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from brevitas.function.ops_ste import floor_ste, round_ste
from torch import Tensor
from torch.nn import functional

from lpgnas.fused_ops import (
    Edges,
    Targets,
    aggregate,
    clamp_rows,
    drop,
    leaky,
    look_up,
    mixed_cross_entropy,
    random_bytes,
    real_softmax_numerators,
    round_rows,
    rows_at,
    softmax_numerators,
)
from lpgnas.number_formats import Rounding

SHAPES = ((7, 3), (1, 1), (4, 9))


def randn(*shape: int, seed: int = 0) -> Tensor:
    values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_()


def edges_of(nodes: int, count: int, seed: int = 0) -> Edges:
    """Random edges with an empty row, duplicates and a hub."""
    rng = np.random.default_rng(seed)
    target = np.sort(rng.choice(np.arange(nodes)[: max(1, nodes - 1)], count))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(target, minlength=nodes))])
    return Edges(torch.from_numpy(indptr), torch.from_numpy(rng.integers(0, nodes, count)), torch.from_numpy(target))


def check_gradients(fused: Tensor, plain: Tensor, inputs: list[Tensor]) -> None:
    """Equal values up to the order of sums, and equal gradients of a random weighted sum."""
    torch.testing.assert_close(fused, plain)
    weights = randn(*fused.shape, seed=9).detach()
    made = torch.autograd.grad((fused * weights).sum(), inputs)
    wanted = torch.autograd.grad((plain * weights).sum(), inputs)
    for one, other in zip(made, wanted, strict=True):
        torch.testing.assert_close(one, other)


def plainly_rounded(value: Tensor, fraction: int, low: int, high: int, rounding: Rounding) -> Tensor:
    """The rounding by operations of torch and brevitas."""
    scaled = value * 2.0**fraction
    if rounding is Rounding.HALF_EVEN:
        codes: Tensor = round_ste(scaled)
    else:
        codes = floor_ste(scaled + 0.5 if rounding is Rounding.HALF_UP else scaled)
    return codes.clamp(low, high) / 2.0**fraction


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("shape", SHAPES)
def test_rounding_of_rows(shape: tuple[int, int], rounding: Rounding) -> None:
    value, bias = randn(*shape), randn(shape[1], seed=1)
    row = randn(shape[0], 1, seed=2).detach()
    fused = round_rows(value, 2, -3, 3, rounding, row=row, bias=bias)
    plain = plainly_rounded(value * row + bias, 2, -3, 3, rounding)
    assert fused.equal(plain)
    check_gradients(fused, plain, [value, bias])
    check_gradients(round_rows(value, -1, 0, 5, rounding), plainly_rounded(value, -1, 0, 5, rounding), [value])


def test_clamped_rows() -> None:
    value, bias = randn(7, 3), randn(3, seed=1)
    row = randn(7, 1, seed=2).detach()
    check_gradients(clamp_rows(value, 0.0, None, row=row, bias=bias), (value * row + bias).relu(), [value, bias])
    check_gradients(clamp_rows(value, -0.5, 0.5, bias=bias), (value + bias).clamp(-0.5, 0.5), [value, bias])
    check_gradients(clamp_rows(value, None, None, row=row), value * row, [value])


def test_clamps_leave_what_is_not_a_number() -> None:
    value = torch.tensor([[float("nan"), -1.0]])
    assert clamp_rows(value, 0.0, None).isnan().tolist() == [[True, False]]
    assert round_rows(value, 0, -3, 3, Rounding.FLOOR).tolist() == [[-3.0, -1.0]]  # a code is a number


def test_rounding_of_ties() -> None:
    ties = torch.tensor([[-1.5, -0.5, 0.5, 1.5, 2.5]], dtype=torch.float32)
    rounded = {mode: round_rows(ties, 0, -8, 7, mode)[0].tolist() for mode in Rounding}
    assert rounded == {
        Rounding.HALF_EVEN: [-2, 0, 0, 2, 2],
        Rounding.HALF_UP: [-1, 0, 1, 2, 3],
        Rounding.FLOOR: [-2, -1, 0, 1, 2],
    }


def test_look_up_takes_value_and_slope_from_tables() -> None:
    value = torch.tensor([[-1.0, 0.5], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    table, slope = np.array([10.0, 20.0, 30.0, 40.0, 50.0]), np.arange(5.0)
    made = look_up(value, 1, -2, table, slope)
    assert made.tolist() == [[10.0, 40.0], [30.0, 50.0]]
    made.sum().backward()  # type: ignore[no-untyped-call]
    assert value.grad is not None and value.grad.tolist() == [[0.0, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize(("nodes", "count"), [(6, 14), (1, 0), (1, 3), (5, 0)])
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [3, 26])
def test_aggregation(nodes: int, count: int, largest: bool, weighted: bool, width: int) -> None:
    edges, value = edges_of(nodes, count), randn(nodes, 2, width)
    weight = randn(count, 2, seed=3)
    fused = aggregate(edges, value, weight=weight if weighted else None, largest=largest)
    messages = value[edges.source] * (weight[:, :, None] if weighted else 1.0)
    if largest:
        index = edges.target[:, None, None].expand_as(messages)
        plain = torch.zeros_like(value).scatter_reduce(0, index, messages, "amax", include_self=False)
        winners = messages == plain[edges.target]  # duplicates tie: autograd splits what the kernel gives to the first
        assert fused.equal(plain)
        made = torch.autograd.grad(fused.sum(), value)[0]
        assert made.shape == value.shape and bool(made.any()) == bool(winners.any())
        return
    plain = torch.zeros_like(value).index_add(0, edges.target, messages)
    check_gradients(fused, plain, [value, *([weight] * weighted)])


def test_the_gradient_of_the_largest() -> None:
    edges = Edges(torch.tensor([0, 2, 2]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    value = torch.tensor([[[1.0, 5.0]], [[3.0, 2.0]]], requires_grad=True)
    weight = torch.tensor([[2.0], [1.0]], requires_grad=True)
    made = aggregate(edges, value, weight=weight, largest=True)
    assert made.tolist() == [[[3.0, 10.0]], [[0.0, 0.0]]]
    made.sum().backward()  # type: ignore[no-untyped-call]
    assert value.grad is not None and value.grad.tolist() == [[[0.0, 2.0]], [[1.0, 0.0]]]
    assert weight.grad is not None and weight.grad.tolist() == [[5.0], [3.0]]


@pytest.mark.parametrize(("nodes", "count"), [(6, 14), (1, 0), (1, 3)])
def test_softmax_numerators(nodes: int, count: int) -> None:
    edges, fraction = edges_of(nodes, count), 2
    score = (randn(count, 2).detach() * 8).round().div(2**fraction).requires_grad_()
    table = np.floor(127 * np.exp2(-np.arange(12) / 2**fraction) + 0.5)
    numerator, denominator = softmax_numerators(score, edges, fraction, table)
    index = edges.target[:, None].expand_as(score)
    largest = score.new_zeros(nodes, 2).scatter_reduce(0, index, score.detach(), "amax", include_self=False)
    below = largest[edges.target] - score
    steps = (below.detach() * 2**fraction).long()
    inside = steps < len(table)
    wanted = torch.from_numpy(np.append(table, 0.0))[steps.clamp(max=len(table))]
    assert numerator.equal(wanted)
    torch.testing.assert_close(denominator, wanted.new_zeros(nodes, 2).index_add(0, edges.target, wanted))
    if count:
        weights = randn(nodes, 2, seed=5).detach()
        made = torch.autograd.grad((denominator * weights).sum() + numerator.sum(), score)[0]
        ideal = 127 * torch.exp2(-below) * inside
        expected = torch.autograd.grad((ideal * (weights[edges.target] + 1.0)).sum(), score)[0]
        torch.testing.assert_close(made, expected)


@pytest.mark.parametrize(("nodes", "count"), [(6, 14), (1, 0), (1, 3)])
def test_real_softmax_numerators(nodes: int, count: int) -> None:
    edges, score = edges_of(nodes, count), randn(count, 3)
    index = edges.target[:, None].expand_as(score)
    none = score.new_zeros(nodes, 3)
    largest = none.scatter_reduce(0, index, score.detach(), "amax", include_self=False)
    ideal = 127.0 * torch.exp2(score - largest[edges.target])
    plain = torch.cat([ideal, none.index_add(0, edges.target, ideal)])
    check_gradients(torch.cat(real_softmax_numerators(score, edges, 127.0)), plain, [score])


@pytest.mark.parametrize("shape", [(5, 2), (5, 2, 3), (1, 1)])
def test_rows_at(shape: tuple[int, ...]) -> None:
    value = randn(*shape)
    index = torch.from_numpy(np.random.default_rng(1).integers(0, shape[0], 12))
    check_gradients(rows_at(value, index), value[index], [value])
    (none,) = torch.autograd.grad(rows_at(value, index[:0]).sum(), value)  # a graph without edges
    assert not none.any()


def test_leaky_has_the_slope_of_what_is_positive_at_zero() -> None:
    value = torch.tensor([[-2.0, 0.0], [3.0, -0.5]], dtype=torch.float64, requires_grad=True)
    made = leaky(value, 0.25)
    assert made.tolist() == [[-0.5, 0.0], [3.0, -0.125]]
    (made * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()  # type: ignore[no-untyped-call]
    assert value.grad is not None and value.grad.tolist() == [[0.25, 2.0], [3.0, 1.0]]


def test_dropout_scales_what_it_keeps() -> None:
    value = torch.ones(200, 100, requires_grad=True)
    made = drop(value, 0.25, torch.Generator().manual_seed(0))
    assert sorted(set(made.flatten().tolist())) == pytest.approx([0.0, 4 / 3])
    assert abs(float((made == 0).double().mean()) - 0.25) < 0.02
    made.sum().backward()  # type: ignore[no-untyped-call]
    assert value.grad is not None and value.grad.equal(made.detach())
    assert drop(value, 0.0, torch.Generator()) is value


def test_random_bytes_are_uniform_and_repeat() -> None:
    drawn = random_bytes(100_003, torch.Generator().manual_seed(1))
    assert drawn.shape == (100_003,) and drawn.dtype == np.uint8
    counts = np.bincount(drawn, minlength=256)
    assert float(((counts - counts.mean()) ** 2 / counts.mean()).sum()) < 330  # chi-square, 255 degrees of freedom
    assert np.array_equal(drawn, random_bytes(100_003, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_cross_entropy_with_labels_and_soft_labels(share: float, temperature: float) -> None:
    logits, nodes = randn(9, 4), 9
    labels = torch.arange(nodes) % 4
    labelled = torch.arange(nodes) % 3 == 0
    soft = torch.softmax(randn(9, 4, seed=3).detach(), dim=1)
    targets = Targets(labels, labelled, 1.0 - share, soft if share else None, share * temperature**2, temperature)
    made = mixed_cross_entropy(logits, targets)
    student = functional.log_softmax(logits / temperature, dim=1)
    wanted = (1.0 - share) * functional.cross_entropy(logits[labelled], labels[labelled])
    wanted = wanted - share * temperature**2 * (soft * student).sum(dim=1).mean()
    check_gradients(made, wanted, [logits])


def test_cross_entropy_of_large_logits_is_finite() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=torch.float32, requires_grad=True)
    targets = Targets(torch.tensor([0, 0]), torch.tensor([True, True]), 1.0, None, 0.0, 1.0)
    loss = mixed_cross_entropy(logits, targets)
    assert float(loss.detach()) == pytest.approx(1e4)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0], [-0.5, 0.5]]))
