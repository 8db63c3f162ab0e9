"""The registry: no duplicates, no silent fall-back."""

from __future__ import annotations

import pytest

from lpgnas.errors import SpecError, UnknownName
from lpgnas.registry import Registry


def test_entries_keep_their_order() -> None:
    registry: Registry[int] = Registry("thing")
    assert registry.add("b", 1) == 1
    registry.add("a", 2)
    assert registry.names() == ("b", "a") == tuple(registry)
    assert registry.get("a") == 2
    assert "a" in registry
    assert "c" not in registry


def test_a_duplicate_is_refused() -> None:
    registry: Registry[int] = Registry("thing")
    registry.add("a", 1)
    with pytest.raises(SpecError, match="thing 'a' is registered already"):
        registry.add("a", 1)
    assert registry.get("a") == 1


def test_an_unknown_name_lists_the_choices_and_the_closest() -> None:
    registry: Registry[int] = Registry("thing")
    registry.add("relu", 1)
    registry.add("tanh", 2)
    with pytest.raises(UnknownName, match=r"unknown thing 'rellu'. Did you mean 'relu'\? Known: relu, tanh"):
        registry.get("rellu")
    with pytest.raises(UnknownName, match=r"unknown thing 3. Known: relu, tanh"):
        registry.get(3)  # type: ignore[arg-type]
