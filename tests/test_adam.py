"""Adam against that of torch."""

from __future__ import annotations

import torch

from lpgnas.adam import Adam, ParameterGroup


def test_steps_are_those_of_torch() -> None:
    torch.manual_seed(0)
    shapes = [(5, 3), (7,), (2, 2)]
    ours = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    theirs = [one.detach().clone().requires_grad_() for one in ours]
    adam = Adam([ParameterGroup(tuple(ours[:1]), 0.03, 0.1), ParameterGroup(tuple(ours[1:]), 0.03)])
    groups: list[dict[str, object]] = [{"params": theirs[:1], "weight_decay": 0.1}, {"params": theirs[1:]}]
    other = torch.optim.Adam(groups, lr=0.03)
    for step in range(30):
        for parameters in (ours, theirs):
            some = parameters[: 2 if step % 3 else 3]  # the last one has no gradient at most steps
            (sum(((one - 0.5) ** 2).sum() for one in some) * (step + 1.0)).backward()  # type: ignore[union-attr]
        adam.step()
        other.step()
        adam.zero_grad()
        other.zero_grad()
        for one, wanted in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, wanted)
            assert one.grad is None
