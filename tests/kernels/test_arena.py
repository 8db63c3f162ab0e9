"""The arena: tensors that are alive together never share bytes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import samples

from lpgnas.integer_program import writes
from lpgnas.kernels.arena import ALIGNMENT, last_uses, plan_arena
from lpgnas.kernels.executor import Executor
from lpgnas.kernels.quantize import code_dtype


def test_tensors_alive_together_do_not_overlap() -> None:
    smaller = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        program = samples.random_program(rng, 6, 3, 9)[1]
        nodes = int(rng.integers(1, 50))
        plan, last = plan_arena(program, nodes), last_uses(program)
        born = {name: step for step, operation in enumerate(program.operations) for name in writes(operation)}
        size = {t.name: nodes * t.columns * code_dtype(t.bits, signed=t.signed).itemsize for t in program.tensors}
        assert set(plan.offsets) == set(size)
        for a, b in combinations(size, 2):
            apart_in_time = last[a] < born[b] or last[b] < born[a]
            apart_in_space = (
                plan.offsets[a] + size[a] <= plan.offsets[b] or plan.offsets[b] + size[b] <= plan.offsets[a]
            )
            assert apart_in_time or apart_in_space, (a, b)
        assert all(offset % ALIGNMENT == 0 for offset in plan.offsets.values())
        assert plan.size <= sum(size.values()) + ALIGNMENT * len(size)
        smaller += plan.size < sum(size.values())
    assert smaller > 30  # dead tensors do make room


def test_prediction_reports_the_arena() -> None:
    program = samples.random_program(np.random.default_rng(0), 6, 3, 9)[1]
    graph = samples.random_graph(np.random.default_rng(0), 20, 30, 6)
    assert Executor(program).run(graph.x, graph.edge_index).arena_bytes == plan_arena(program, 20).size
