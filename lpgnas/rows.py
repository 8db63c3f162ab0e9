"""Rows of a table: keyed by a hash of what they measure and saved one by one, so that a table resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lpgnas.results import write_atomic


def key_of(facts: dict[str, object]) -> str:
    """Hash of everything that decides a measurement."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Rows:
    """The rows of one CSV file."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.table = pd.read_csv(target, dtype={"key": str}) if target.exists() else pd.DataFrame(columns=["key"])

    def __contains__(self, key: str) -> bool:
        return key in set(self.table["key"])

    def add(self, line: dict[str, object]) -> None:
        """Append a row with its `key` and save the table."""
        made = pd.DataFrame([line])
        self.table = made if self.table.empty else pd.concat([self.table, made], ignore_index=True)
        write_atomic(self._target, self.table.to_csv(index=False, lineterminator="\n"))

    def seeds(self) -> range:
        """All seeds up to the largest one of the rows."""
        return range(int(self.table["seed"].max()) + 1 if len(self.table) else 0)

    def among(self, keys: Iterable[str]) -> pd.DataFrame:
        """The rows with these keys: those of other settings or versions stay in the file unread."""
        return self.table[self.table["key"].isin(set(keys))] if len(self.table) else self.table
