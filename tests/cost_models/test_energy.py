"""Energy: published figures, a block counted by hand, more never takes less, and a spec takes what its program does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import samples

from lpgnas.components import Component
from lpgnas.cost_models.energy import DRAM, KIB, access, arithmetic, format_energy
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.number_formats import FormatChoice
from lpgnas.spec import LayerSpec, ModelSpec

PICO = 10**6
"""Attojoules of a picojoule."""


def test_published_figures() -> None:
    assert arithmetic(10, (8,)) == PICO  # ten additions of 32 bits
    assert arithmetic(10, (8, 8)) == PICO + 2 * PICO  # and ten products of 8 bits
    assert arithmetic(1, (32, 32)) - arithmetic(1, (32,)) == pytest.approx(3.1 * PICO, rel=0.05)
    assert [access(64, kib * KIB) for kib in (8, 32, 1024)] == [10 * PICO, 20 * PICO, 100 * PICO]
    assert access(64, 8 * KIB + 1) == access(64, 32 * KIB)
    assert 1.3 * 1000 * PICO <= access(64, 1024 * KIB + 1) == 64 * DRAM <= 2.6 * 1000 * PICO
    assert access(100) == access(100, 100)


def test_a_block_by_hand() -> None:
    """One GCN block of 4-bit weights on 10 nodes and 30 edges, 6 features of 2 bits, 8-bit messages and logits."""
    fixed = {Component.LINEAR_WEIGHT: 4, Component.MESSAGE: 8, Component.OUTPUT: 8}
    formats = {component: FormatChoice("fixed", bits) for component, bits in fixed.items()}
    layer = LayerSpec("gcn", "sum", "none", 3, formats=formats)
    report = spec_cost(ModelSpec(6, 3, (layer,), input_format=FormatChoice("fixed", 2)), GraphSize(10, 30))
    bit = 10 * PICO // 64  # everything is small enough for 8 KiB
    transform = 10 * 6 * 3 * (100_000 + 4 * 2 * 3125) + (10 * 6 * 2 + 6 * 3 * 4 + 10 * 3 * 8) * bit
    aggregation = 40 * 3 * 100_000 + (40 * 3 * 8 + 10 * 3 * 8) * bit
    assert {row.what: row.energy_aj for row in report.rows if row.energy_aj} == {
        "message": transform,
        "logits": aggregation,
    }
    assert report.energy_aj == report.totals()["energy_aj"] == transform + aggregation


def test_spec_and_program_take_the_same() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        spec, program = samples.random_program(rng, 12, 5, 40)
        size = GraphSize(int(rng.integers(1, 4000)), int(rng.integers(0, 9000)))
        planned, lowered = spec_cost(spec, size), program_cost(program, size)
        energies = [
            sorted((row.layer, row.what, row.energy_aj) for row in one.rows if row.energy_aj)
            for one in (planned, lowered)
        ]
        assert energies[0] == energies[1]
        assert planned.energy_aj == lowered.energy_aj > 0
        larger = replace(size, num_nodes=size.num_nodes + 100, num_edges=size.num_edges + 1)
        assert spec_cost(spec, larger).energy_aj > planned.energy_aj


def test_for_people() -> None:
    texts = {0: "0 pJ", 123_456: "0.123 pJ", 5 * 10**9: "5 nJ", 123_456 * 10**9: "123 uJ", 5 * 10**21: "5,000 J"}
    assert {amount: format_energy(amount) for amount in texts} == texts
