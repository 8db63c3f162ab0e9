"""One small registry for operators and the facets that implement them.

A duplicate raises, and an unknown name lists the choices with the closest match: nothing falls back silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from lpgnas.errors import SpecError, UnknownName

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries by name, in the order in which they were added."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> Entry:
        """Add `entry` under `name`.

        Raises:
            SpecError: the name is taken.
        """
        if name in self._entries:
            raise SpecError(f"{self._what} {name!r} is registered already; choose another name")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> Entry:
        """The entry called `name`.

        Raises:
            UnknownName: there is none; the message lists the names.
        """
        if name not in self._entries:
            raise UnknownName(self._what, name, self._entries)
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """All names, in order."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
