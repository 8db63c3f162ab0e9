"""One Hypothesis profile (no deadline: the first call of a kernel compiles it) and runs that many tests look at."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import runs
from hypothesis import settings
from latency_tables import random_table

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: its threads wait for each other on busy cores
settings.register_profile("lpgnas", deadline=None)
settings.load_profile("lpgnas")


@pytest.fixture(scope="session")
def small_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a graph of 60 nodes."""
    return runs.write_small(tmp_path_factory.mktemp("graph") / "small.npz")


@pytest.fixture(scope="session")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latency table of every operation."""
    path = tmp_path_factory.mktemp("table") / "latency.json"
    path.write_text(random_table(np.random.default_rng(3)).to_json())
    return path


@pytest.fixture(scope="session")
def small_run(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a searched run on it, made by the command line; to be looked at only."""
    folder = tmp_path_factory.mktemp("small") / "run"
    done = runs.lpgnas("run", "--quiet", "--dataset", small_npz, *runs.QUICK, *runs.BUDGETS, "--out", folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="session")
def rich_run(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `runs.rich_spec`, which holds every kind of operation; to be looked at only."""
    base = tmp_path_factory.mktemp("rich")
    (base / "rich.json").write_text(runs.rich_spec().to_json())
    options = (*runs.QUICK, "--epochs", 40, "--spec", base / "rich.json")
    done = runs.lpgnas("run", "--quiet", "--dataset", small_npz, *options, "--out", base / "run")
    assert done.code == 0, done.err
    return base / "run"
