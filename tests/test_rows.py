"""Rows of a table: saved one by one, found by key, and told apart from those of other settings."""

from __future__ import annotations

from pathlib import Path

from lpgnas.rows import Rows, key_of


def row(place: int, setting: str) -> dict[str, object]:
    facts = {"place": place, "setting": setting}
    return {"key": key_of(facts), "seed": place, "value": 0.1 * place}


def test_rows_are_kept_and_found_again(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.csv")
    for place in range(3):
        rows.add(row(place, "a"))
    again = Rows(tmp_path / "rows.csv")
    assert again.table.equals(rows.table)
    assert key_of({"place": 1, "setting": "a"}) in again and key_of({"place": 3, "setting": "a"}) not in again


def test_rows_of_other_settings_are_left_out(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.csv")
    assert not len(rows.among(["none"])) and list(rows.seeds()) == []
    for place, setting in ((0, "a"), (0, "b"), (2, "b")):
        rows.add(row(place, setting))
    assert list(rows.seeds()) == [0, 1, 2]
    for setting, places in (("a", [0]), ("b", [0, 2]), ("c", [])):
        found = rows.among(key_of({"place": place, "setting": setting}) for place in rows.seeds())
        assert list(found["seed"]) == places
    assert len(Rows(tmp_path / "rows.csv").table) == 3
