"""Tables over models, graphs and seeds: every kind of line, resumed, on a small graph."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lpgnas.errors import ConfigError, DatasetError, UnknownName
from lpgnas.registry import Registry
from lpgnas.reproduce import Reproduction, entry_of
from lpgnas.reproduce_report import report
from lpgnas.reproduce_tables import PLAIN, TABLES, Entry, Published, Table

W2A6: dict[str, Any] = {
    "strategy": "uniform", "architecture": "gcn", "weight_format": "fixed2", "activation_bits": 6, "weight_budget": ""
}  # fmt: skip


def registry(*tables: Table) -> Registry[Table]:
    made: Registry[Table] = Registry("table")
    for table in tables:
        made.add(table.name, table)
    return made


@pytest.fixture(scope="module")
def small(small_npz: Path) -> Iterator[Table]:
    plain = replace(
        PLAIN, dataset=str(small_npz), epochs=5, candidates=2, supernet_steps=4, restarts=1, max_degree=40,
        weight_budget="400B",
    )  # fmt: skip
    made = Table(
        "small",
        "A small table",
        "default",
        (
            Entry("searched", "run", plain),
            Entry("once", "retrained", plain),
            Entry("JKNet", "manual", replace(plain, architecture="jknet")),
            Entry("GCN W2A6", "uniform", replace(plain, **W2A6), family="quantised"),
            Entry("PDNAS-3", "pdnas", plain, 3),
        ),
        (Published(str(small_npz), "someone's", "12.3", "4 KB"),),
        seeds=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpgnas.reproduce.TABLES", registry(made))
        yield made


@pytest.fixture(scope="module")
def measured(small: Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole table, measured in two calls."""
    folder = tmp_path_factory.mktemp("table")
    first = Reproduction("small", folder, folder / "work").run(1, only=("searched", "PDNAS-3"))
    assert "searched | 1 |" in first and "PDNAS-3 | 1 |" in first and "JKNet | " not in first
    Reproduction("small", folder, folder / "work").run()
    return folder


def test_a_table_is_measured_and_goes_on(small: Table, measured: Path) -> None:
    rows, text = pd.read_csv(measured / "small.csv"), (measured / "small.md").read_text()
    assert len(rows) == 10 and rows["key"].is_unique
    assert text == report(small, rows)
    assert "*someone's, published*" in text and "| 12.3 | 4 KB |" in text
    assert (measured / "small.png").read_bytes()[:4] == b"\x89PNG"
    # a finished table measures nothing: its run folders are not needed
    before = (measured / "small.csv").read_bytes()
    assert Reproduction("small", measured, measured / "elsewhere").run() == text
    assert not (measured / "elsewhere").exists() and (measured / "small.csv").read_bytes() == before


def test_rows_of_other_settings_are_not_shown(small: Table, measured: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(measured / "small.csv")
    other = rows.assign(key=[f"old{number}" for number in range(len(rows))], test_accuracy=0.0)
    pd.concat([rows, other]).to_csv(tmp_path / "small.csv", index=False)
    made = Reproduction("small", tmp_path, tmp_path / "work")
    assert made.run() == (measured / "small.md").read_text()
    assert len(pd.read_csv(tmp_path / "small.csv")) == 2 * len(rows)


def test_rows_of_another_table_are_taken_over(
    small: Table, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tuple(replace(entry, model=f"{entry.model} here") for entry in small.entries)
    other = replace(small, name="other", entries=lines)
    monkeypatch.setattr("lpgnas.reproduce.TABLES", registry(small, other))
    before = pd.read_csv(measured / "small.csv", dtype=str)
    before.to_csv(tmp_path / "small.csv", index=False)
    Reproduction("other", tmp_path, tmp_path / "work").run(1)
    assert not (tmp_path / "work").exists()
    after = pd.read_csv(tmp_path / "other.csv", dtype=str)
    assert set(after["model"]) == {f"{entry.model} here" for entry in small.entries}
    first = before[before["seed"] == "0"].assign(model=lambda rows: rows["model"] + " here")
    assert after.sort_values("key").to_csv(index=False) == first.sort_values("key").to_csv(index=False)


def test_options_of_the_search_are_no_part_of_lines_without_one(small: Table, tmp_path: Path) -> None:
    made = Reproduction("small", tmp_path, tmp_path / "work")

    def keys(change: dict[str, Any]) -> dict[str, str]:
        return {one.model: made.key(replace(one, config=replace(one.config, **change)), 0) for one in small.entries}

    before = keys({})
    same = {model for model, key in keys({"supernet_steps": 5}).items() if key == before[model]}
    assert same == {"JKNet", "GCN W2A6"}
    assert not set(before.values()) & set(keys({"epochs": 6}).values())


def test_what_the_rows_say(measured: Path) -> None:
    rows = pd.read_csv(measured / "small.csv").set_index(["model", "seed"])
    assert (rows.loc["searched"]["weight_bits"] <= 400 * 8).all()
    once = rows.loc["once"]
    assert once["formats"].nunique() == once["weight_bits"].nunique() == 1  # one search for all seeds
    for model in ("JKNet", "PDNAS-3"):
        assert set(json.loads(rows.loc[(model, 0), "formats"]).values()) == {"float32"}
    assert set(json.loads(rows.loc[("GCN W2A6", 0), "formats"]).values()) == {"fixed2", "fixed6"}
    assert rows.loc[("GCN W2A6", 0), "steps"] == 5 * 12  # as many trainings as JKNet's
    assert rows.loc[("JKNet", 0), "steps"] == 5 * 12
    assert rows["test_accuracy"].between(0, 1).all()


def test_a_row_is_measured_again_from_its_settings(measured: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(measured / "small.csv")
    made = Reproduction("small", tmp_path, tmp_path / "work")
    for model in ("searched", "once", "JKNet", "GCN W2A6", "PDNAS-3"):
        row = rows[(rows["model"] == model) & (rows["seed"] == 1)].iloc[0]
        again = asdict(made.measure(entry_of(model, row["settings"]), int(row["seed"])))
        assert again == {name: row[name] for name in again}


def test_the_time_is_told_before_it_starts(small: Table, measured: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    Reproduction("small", tmp_path, tmp_path / "work", stream=stream).run(1, only=("JKNet",))
    told = stream.getvalue().splitlines()[0]
    assert re.fullmatch(r"A small table: 1 of 1 rows to measure, about \d+ min by the rows that are done .*", told)
    stream = io.StringIO()
    Reproduction("small", measured, tmp_path / "none", stream=stream).run()
    assert stream.getvalue().splitlines()[0] == "A small table: 0 of 10 rows to measure"


def test_graphs_without_data(small: Table, small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table refuses before anything is written; an optional one goes on with the graphs that are there."""
    entries = (small.entries[2], replace(small.entries[2], config=replace(small.entries[2].config, dataset="Yelp")))
    for optional in (False, True):
        table = replace(small, entries=entries, published=(), optional=optional)
        monkeypatch.setattr("lpgnas.reproduce.TABLES", registry(table))
        stream = io.StringIO()
        made = Reproduction("small", tmp_path / str(optional), tmp_path / "work", stream=stream)
        with pytest.raises(DatasetError, match="'Yelp': multi-label targets are not built yet"):
            made.run(1, datasets=("Yelp",))
        if not optional:
            with pytest.raises(DatasetError, match="'Yelp'"):
                made.run(1)
        assert not (tmp_path / str(optional)).exists()
        if optional:
            text = made.run(1)
            assert f"## {small_npz}" in text and "Yelp" not in text
            assert "without Yelp: dataset 'Yelp'" in stream.getvalue()


def test_unknown_names(small: Table, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no model 'jknet'; known: searched, once, JKNet, GCN W2A6, PDNAS-3"):
        Reproduction("small", tmp_path, tmp_path / "work").run(only=("jknet",))
    with pytest.raises(ConfigError, match=r"has no graph 'cora'; known: .*small.npz"):
        Reproduction("small", tmp_path, tmp_path / "work").run(datasets=("cora",))
    with pytest.raises(ConfigError, match="seeds is -1"):
        Reproduction("small", tmp_path, tmp_path / "work").run(-1)
    assert not list(tmp_path.iterdir())


def test_the_tables() -> None:
    with pytest.raises(UnknownName, match=r"unknown table 'citations'. Did you mean 'citation'\?"):
        TABLES.get("citations")
    for name in TABLES.names():
        table = TABLES.get(name)
        assert table.shown == "models" or table.name in ("pareto", "statistics")
        assert len({(entry.model, entry.config.dataset) for entry in table.entries}) == len(table.entries)
        assert {entry.config.protocol for entry in table.entries} == {table.protocol}
        for entry in table.entries:
            assert entry.config.reference_seeds == 0
            assert entry.config.distillation is ("distilled" in entry.model)
