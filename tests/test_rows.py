"""Rows of a table: saved one by one, found by key, and told apart from those of other settings."""

from __future__ import annotations

from pathlib import Path

from lpgnas.rows import Rows, key_of


def row(place: int, setting: str) -> dict[str, object]:
    facts = {"place": place, "setting": setting}
    return {"key": key_of(facts), "place": place, "value": 0.1 * place}


def current_places(rows: Rows, setting: str) -> list[int]:
    return list(rows.current(lambda one: key_of({"place": one["place"], "setting": setting}))["place"])


def test_rows_are_kept_and_found_again(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.csv")
    for place in range(3):
        rows.add(row(place, "a"))
    again = Rows(tmp_path / "rows.csv")
    assert again.table.equals(rows.table)
    assert key_of({"place": 1, "setting": "a"}) in again and key_of({"place": 3, "setting": "a"}) not in again


def test_rows_of_other_settings_are_not_current(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.csv")
    for place, setting in ((0, "a"), (0, "b"), (1, "b")):
        rows.add(row(place, setting))
    assert current_places(rows, "a") == [0]
    assert current_places(rows, "b") == [0, 1]
    assert current_places(rows, "c") == []
    assert len(Rows(tmp_path / "rows.csv").table) == 3
