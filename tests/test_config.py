"""`RunConfig`: to and from TOML, and what it refuses."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpgnas.budget import Budget
from lpgnas.config import RunConfig
from lpgnas.errors import ConfigError, SpecError, UnknownName

CONFIG = RunConfig("cora", inductive=True, weight_budget="3KiB", peak_budget="1 MiB", seed=7, distillation=False)


def test_toml_round_trip() -> None:
    assert RunConfig.from_toml(CONFIG.to_toml()) == CONFIG
    assert RunConfig.from_toml('dataset = "cora"') == RunConfig("cora")
    assert set(tomllib.loads(replace(CONFIG, routes=False).to_toml())) == set(CONFIG.__dict__)


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_path_survives(path: str) -> None:
    config = replace(CONFIG, dataset=path, spec=path)
    assert RunConfig.from_toml(config.to_toml()) == config


def test_budget() -> None:
    assert CONFIG.budget() == Budget(weights=24_576, peak=8 << 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": 0}, "candidates is 0; it must be at least 1"),
        (
            {"strategy": "best"},
            "strategy is 'best'; it must be one of feasible, lpgnas, lpgnas-textbook, random, uniform",
        ),
        ({"strategy": "pdnas"}, "'pdnas' searches float32 models, .* `lpgnas reproduce` runs it"),
        ({"hidden": 0}, "hidden is 0; it must be in 1 to 65536"),
        ({"activation_bits": 1}, "activation_bits is 1; it must be in 2 to 16"),
        ({"activation_bits": 17}, "activation_bits is 17"),
        ({"weight_format": "float32"}, "weight_format is float32, which cannot be lowered"),
        ({"supernet_steps": -1}, "supernet_steps is -1; it must not be negative"),
        ({"epochs": 4}, "epochs is 4; it must be at least 5"),
        ({"restarts": 0}, "restarts is 0"),
        ({"reference_seeds": -1}, "reference_seeds is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"split_seed": -1}, "split_seed is -1"),
        ({"max_degree": -1}, "max_degree is -1"),
        ({"buffer_budget": "3"}, "buffer budget: cannot read '3'"),
        ({"teacher_file": "t.npz", "distillation": False}, "teacher_file is 't.npz', but distillation is off"),
        ({"supernet_file": "s.csv", "strategy": "random"}, "supernet_file is 's.csv', but the strategy random has no"),
        ({"supernet_file": "s.csv", "spec": "spec.json"}, "supernet_file is 's.csv', but the spec is given"),
    ],
)
def test_values_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


def test_names_that_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown manual model 'gin'"):
        replace(CONFIG, architecture="gin")
    with pytest.raises(SpecError, match="unknown number format 'int4'"):
        replace(CONFIG, weight_format="int4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset = cora", "is not TOML"),
        ("", "lacks the key 'dataset'"),
        ('dataset = "cora"\nsede = 1\nbudjet = 2', "unknown keys in the config: budjet, sede; known: dataset,"),
        ('dataset = "cora"\nepochs = 10.0', "epochs must be of type int, got 10.0"),
        ('dataset = "cora"\nepochs = true', "epochs must be of type int, got True"),
        ('dataset = "cora"\ninductive = 1', "inductive must be of type bool, got 1"),
        ("dataset = 1", "dataset must be of type str, got 1"),
        ('dataset = "cora"\n[seed]\na = 1', "seed must be of type int"),
    ],
)
def test_texts_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_toml(text)
