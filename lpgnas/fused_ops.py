"""The kernels of `lpgnas.kernels.training` as torch operations with straight-through gradients (CPU, one thread).

In float64 the values are exactly those of `docs/integer_semantics.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lpgnas.kernels import sparse_products
from lpgnas.kernels import training as kernels
from lpgnas.number_formats import Rounding

DRAW_RANGE = 256
"""Dropout compares one random byte an entry: probabilities are multiples of 1/256."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Edges:
    """The incoming edges of every node, those of a target side by side.

    Attributes:
        indptr: [N + 1] int64, first edge of each target.
        source: [E'] int64.
        target: [E'] int64, ascending.
    """

    indptr: Tensor
    source: Tensor
    target: Tensor


def random_bytes(count: int, generator: torch.Generator) -> Array:
    """`count` uniform bytes, uint8, from one draw of the generator."""
    seed = torch.empty(1, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    words = np.empty((count + 7) // 8, np.uint64)
    sparse_products.fill_random(seed.numpy().view(np.uint64)[0], words)
    return words.view(np.uint8)[:count]


def _saved(ctx: Any) -> tuple[Array, ...]:  # noqa: ANN401
    """What a forward pass saved, through autograd: its hooks see it, and a tensor changed since is refused."""
    return tuple(as_array(one) for one in ctx.saved_tensors)


def kept_share(probability: float) -> tuple[int, float]:
    """Threshold of a random byte that drops with `probability`, and the factor that makes up for what is dropped."""
    threshold = min(DRAW_RANGE - 1, round(probability * DRAW_RANGE))
    return threshold, DRAW_RANGE / (DRAW_RANGE - threshold)


def dropped(values: Array, draws: Array, probability: float) -> Array:
    """`values` (any shape) with entries dropped by `draws` (as many bytes) and the rest scaled up."""
    threshold, factor = kept_share(probability)
    result = np.empty_like(values)
    kernels.drop(values.reshape(-1), draws, threshold, values.dtype.type(factor), result.reshape(-1))
    return result


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, probability: float, generator: torch.Generator) -> Tensor:  # noqa: ANN401
        ctx.probability, draws = probability, random_bytes(value.numel(), generator)
        ctx.save_for_backward(torch.from_numpy(draws))
        return torch.from_numpy(dropped(as_array(value), draws, probability))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (draws,) = _saved(ctx)
        return torch.from_numpy(dropped(as_array(gradient), draws, ctx.probability)), None, None


def drop(value: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Dropout of every entry of `value` (any shape)."""
    if probability == 0.0:
        return value
    result: Tensor = _Dropout.apply(value, probability, generator)  # type: ignore[no-untyped-call]
    return result


class _RoundRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, row: Tensor, bias: Tensor, grid: tuple[int, float, float, int]) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(value, row, bias)
        values, rows, biases = (as_array(part) for part in (value, row, bias))
        real, (fraction, low, high, mode) = values.dtype.type, grid
        ctx.grid = real(2.0**fraction), real(low), real(high), mode
        scale, smallest, largest, mode = ctx.grid
        result = np.empty_like(values)
        kernels.round_rows(values, rows, biases, scale, smallest, largest, mode, result)
        return torch.from_numpy(result)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor | None, None]:  # noqa: ANN401
        (values, rows, biases), (scale, low, high, mode) = _saved(ctx), ctx.grid
        wanted = ctx.needs_input_grad[2]
        to_values, to_bias = np.empty_like(values), np.zeros(values.shape[1] if wanted else 0, values.dtype)
        kernels.round_rows_backward(
            as_array(gradient), values, rows, biases, scale, low, high, mode, to_values, to_bias
        )
        if not wanted:
            return torch.from_numpy(to_values), None, None, None
        shared = to_bias if len(biases) == len(to_bias) else to_bias.sum(keepdims=True)
        return torch.from_numpy(to_values), None, torch.from_numpy(shared), None


def round_rows(
    value: Tensor,
    fraction: int,
    low: int,
    high: int,
    rounding: Rounding,
    *,
    row: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """`value * row + bias` on the grid `2^-fraction`, rounded once and saturated to codes [low, high].

    Args:
        value: [N, K].
        fraction: places of the grid.
        low: smallest code.
        high: largest code.
        rounding: ties.
        row: [N, 1] constant factors, or None for 1.
        bias: [K], or None for 0.
    """
    return _on_rows(value, row, bias, (fraction, low, high, kernels.MODES[rounding]))


def clamp_rows(
    value: Tensor, low: float | None, high: float | None, *, row: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """`value * row + bias` within [low, high], where None is no bound; the arguments are those of `round_rows`."""
    bounds = (-np.inf if low is None else low, np.inf if high is None else high)
    return _on_rows(value, row, bias, (0, *bounds, kernels.UNROUNDED))


@cache
def _constant(value: float, dtype: torch.dtype) -> Tensor:
    return torch.full((1,), value, dtype=dtype)


def _on_rows(value: Tensor, row: Tensor | None, bias: Tensor | None, grid: tuple[int, float, float, int]) -> Tensor:
    row = _constant(1.0, value.dtype) if row is None else row.reshape(-1)
    bias = _constant(0.0, value.dtype) if bias is None else bias
    result: Tensor = _RoundRows.apply(value, row, bias, grid)  # type: ignore[no-untyped-call]
    return result


class _ScaledCodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, codes: Tensor, scale: float) -> Tensor:  # noqa: ANN401
        ctx.scale = scale
        return codes.to(latent.dtype) * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return gradient * ctx.scale, None, None


def scaled_codes(latent: Tensor, codes: Tensor, scale: float) -> Tensor:
    """`codes * scale` (any shape), whose gradient passes straight to the latent codes `latent`."""
    result: Tensor = _ScaledCodes.apply(latent, codes, scale)  # type: ignore[no-untyped-call]
    return result


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, fraction: int, low: int, table: Array, slope: Array) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(value)
        ctx.grid, ctx.slope = (fraction, low), slope
        return torch.from_numpy(_looked_up(as_array(value), fraction, low, table))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        fraction, low = ctx.grid
        (values,) = _saved(ctx)
        slopes = torch.from_numpy(_looked_up(values, fraction, low, ctx.slope))
        return gradient * slopes, None, None, None, None


def _looked_up(array: Array, fraction: int, low: int, table: Array) -> Array:
    result = np.empty_like(array)
    real = array.dtype.type
    kernels.look_up(array.reshape(-1), real(2.0**fraction), low, table.astype(array.dtype), result.reshape(-1))
    return result


def look_up(value: Tensor, fraction: int, low: int, table: Array, slope: Array) -> Tensor:
    """`table[value * 2^fraction - low]` for `value` (any shape) on that grid, with the gradient `slope` likewise."""
    result: Tensor = _LookUp.apply(value, fraction, low, table, slope)  # type: ignore[no-untyped-call]
    return result


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: Tensor, edges: Edges) -> Tensor:  # noqa: ANN401
        ctx.edges, weights, values = edges, as_array(weight), as_array(value)
        ctx.save_for_backward(weight, value)
        result = np.empty((len(edges.indptr) - 1, *values.shape[1:]), values.dtype)
        kernels.weighted_sum(edges.indptr.numpy(), edges.source.numpy(), weights, values, result)
        return torch.from_numpy(result)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        weights, values = _saved(ctx)
        to_weight, to_value = np.empty_like(weights), np.zeros_like(values)
        indptr, source = ctx.edges.indptr.numpy(), ctx.edges.source.numpy()
        kernels.weighted_sum_backward(indptr, source, weights, values, as_array(gradient), to_weight, to_value)
        return torch.from_numpy(to_weight), torch.from_numpy(to_value), None


class _WeightedMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: Tensor, edges: Edges) -> Tensor:  # noqa: ANN401
        ctx.source, weights, values = edges.source.numpy(), as_array(weight), as_array(value)
        result = np.empty((len(edges.indptr) - 1, *values.shape[1:]), values.dtype)
        winner = np.empty(result.shape, np.int32)
        ctx.save_for_backward(weight, value, torch.from_numpy(winner))
        kernels.weighted_max(edges.indptr.numpy(), ctx.source, weights, values, result, winner)
        return torch.from_numpy(result)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        weights, values, winner = _saved(ctx)
        to_weight, to_value = np.zeros_like(weights), np.zeros_like(values)
        kernels.weighted_max_backward(winner, ctx.source, weights, values, as_array(gradient), to_weight, to_value)
        return torch.from_numpy(to_weight), torch.from_numpy(to_value), None


def as_array(tensor: Tensor) -> Array:
    """The values of a tensor, C-contiguous; shared where they are so already."""
    array: Array = tensor.detach().numpy()
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def aggregate(edges: Edges, value: Tensor, *, weight: Tensor | None = None, largest: bool = False) -> Tensor:
    """Sum, or the `largest`, of the incoming rows: [N, H, K]; 0 where there is no edge.

    Args:
        edges: who brings what to whom.
        value: [M, H, K].
        weight: [E', H] factor of each edge, or None for 1.
        largest: columnwise maximum instead of the sum.
    """
    if weight is None:
        weight = value.new_ones(1 if largest else len(edges.source), value.shape[1])
    operation = _WeightedMax if largest else _WeightedSum
    result: Tensor = operation.apply(weight, value, edges)  # type: ignore[no-untyped-call]
    return result


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: Tensor, edges: Edges, fraction: int, table: Array) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        ctx.save_for_backward(score)
        ctx.indptr, values = edges.indptr.numpy(), as_array(score)
        real = values.dtype.type
        ctx.scale, ctx.peak, ctx.length = real(2.0**fraction), real(table[0]), len(table)
        numerator = np.empty_like(values)
        denominator = np.empty((len(edges.indptr) - 1, score.shape[1]), real)
        kernels.softmax_numerators(ctx.indptr, values, ctx.scale, table.astype(real), numerator, denominator)
        return torch.from_numpy(numerator), torch.from_numpy(denominator)

    @staticmethod
    def backward(ctx: Any, to_numerator: Tensor, to_denominator: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (score,) = _saved(ctx)
        to_score = np.empty_like(score)
        gradients = as_array(to_numerator), as_array(to_denominator)
        kernels.softmax_backward(ctx.indptr, score, ctx.scale, ctx.peak, ctx.length, *gradients, to_score)
        return torch.from_numpy(to_score), None, None, None


def softmax_numerators(score: Tensor, edges: Edges, fraction: int, table: Array) -> tuple[Tensor, Tensor]:
    """Numerators [E', H] of the base-2 softmax over the incoming edges, by table, and their sums [N, H].

    Args:
        score: [E', H] on the grid `2^-fraction`.
        edges: of the scores.
        fraction: places of the grid.
        table: numerators by distance from the largest score, in steps of the grid; 0 beyond.
    """
    result: tuple[Tensor, Tensor] = _Softmax.apply(score, edges, fraction, table)  # type: ignore[no-untyped-call]
    return result


class _RealSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: Tensor, edges: Edges, peak: float) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        ctx.indptr, values = edges.indptr.numpy(), as_array(score)
        ctx.peak, below = values.dtype.type(peak), np.empty_like(values)
        kernels.below_target_largest(ctx.indptr, values, below)
        power = torch.from_numpy(below).exp2_()  # torch's is vectorised, a compiled kernel's is not
        ctx.save_for_backward(power)
        numerator, denominator = np.empty_like(values), np.empty((len(ctx.indptr) - 1, values.shape[1]), values.dtype)
        kernels.real_numerators(ctx.indptr, power.numpy(), ctx.peak, numerator, denominator)
        return torch.from_numpy(numerator), torch.from_numpy(denominator)

    @staticmethod
    def backward(ctx: Any, to_numerator: Tensor, to_denominator: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (power,) = _saved(ctx)
        to_score, gradients = np.empty_like(power), (as_array(to_numerator), as_array(to_denominator))
        kernels.real_numerators_backward(ctx.indptr, power, ctx.peak, *gradients, to_score)
        return torch.from_numpy(to_score), None, None


def real_softmax_numerators(score: Tensor, edges: Edges, peak: float) -> tuple[Tensor, Tensor]:
    """As `softmax_numerators`, but `peak * 2^(score - largest)` of real scores [E', H], not rounded."""
    result: tuple[Tensor, Tensor] = _RealSoftmax.apply(score, edges, peak)  # type: ignore[no-untyped-call]
    return result


class _RowsAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, index: Tensor) -> Tensor:  # noqa: ANN401
        ctx.index, ctx.shape = index, value.shape
        return value.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        rows = as_array(gradient).reshape(len(gradient), math.prod(ctx.shape[1:]))
        result = np.zeros((ctx.shape[0], rows.shape[1]), rows.dtype)
        kernels.add_at(ctx.index.numpy(), rows, result)
        return torch.from_numpy(result.reshape(ctx.shape)), None


def rows_at(value: Tensor, index: Tensor) -> Tensor:
    """The rows of `value` [N, ...] at `index` [E] int64; torch takes four times as long for the gradient."""
    result: Tensor = _RowsAt.apply(value, index)  # type: ignore[no-untyped-call]
    return result


class _Leaky(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, slope: float) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(value)
        values = as_array(value)
        ctx.slope, result = values.dtype.type(slope), np.empty_like(values)
        kernels.leaky(values.reshape(-1), ctx.slope, result.reshape(-1))
        return torch.from_numpy(result)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (values,) = _saved(ctx)
        result = np.empty_like(values)
        kernels.leaky_backward(values.reshape(-1), ctx.slope, as_array(gradient).reshape(-1), result.reshape(-1))
        return torch.from_numpy(result), None


def leaky(value: Tensor, slope: float) -> Tensor:
    """`value` (any shape), entries below 0 times `slope`."""
    result: Tensor = _Leaky.apply(value, slope)  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True)
class Targets:
    """What logits are compared with.

    Attributes:
        labels: [N] int64 classes.
        labelled: [N] bool, nodes whose labels count.
        label_weight: of the mean cross-entropy over these.
        soft: soft labels [N, C], or None.
        soft_weight: of the mean cross-entropy with the soft labels over all nodes.
        temperature: that logits are divided by for the soft labels.
    """

    labels: Tensor
    labelled: Tensor
    label_weight: float
    soft: Tensor | None
    soft_weight: float
    temperature: float


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Targets) -> Tensor:  # noqa: ANN401
        values = as_array(logits)
        real, labelled = values.dtype.type, targets.labelled.numpy()
        soft = values[:0] if targets.soft is None else as_array(targets.soft).astype(values.dtype, copy=False)
        gradient, powers = np.empty_like(values), np.empty_like(values)
        ctx.save_for_backward(torch.from_numpy(gradient))
        kernels.below_largest(values, real(targets.temperature), powers)
        np.exp(powers, out=powers)  # NumPy's is vectorised, a compiled kernel's is not
        total = kernels.mixed_cross_entropy(
            values,
            targets.labels.numpy(),
            labelled,
            real(targets.label_weight / max(1, int(labelled.sum()))),
            soft,
            real(targets.soft_weight / len(values)),
            real(targets.temperature),
            powers,
            gradient,
        )
        return torch.tensor(total, dtype=logits.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (own,) = ctx.saved_tensors
        return own * gradient, None


def mixed_cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    """The weighted sum of the mean cross-entropies of logits [N, C] with labels and with soft labels."""
    result: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return result
