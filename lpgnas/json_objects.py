"""Typed reading of JSON objects: every key is asked for, and whatever is left over is refused."""

from __future__ import annotations

from typing import Any

from lpgnas.errors import InputError, SpecError


class JsonObject:
    """Takes typed keys out of a JSON object, then refuses whatever is left.

    Args:
        where: what errors call the object.
        raw: the object.
        error: the class of every error.

    Raises:
        InputError: of that class: not an object, a missing key, a value of another type, an unknown key.
    """

    def __init__(self, where: str, raw: object, error: type[InputError] = SpecError) -> None:
        self._where, self._error = where, error
        if not isinstance(raw, dict):
            raise error(f"{where} must be a JSON object, got {type(raw).__name__}")
        self._left: dict[str, Any] = dict(raw)

    def take(self, key: str, kind: type) -> Any:  # noqa: ANN401 - a JSON value of the type asked for
        """The value of `key`, which must be of exactly this type."""
        if key not in self._left:
            raise self._error(f"{self._where} lacks the key {key!r}")
        value = self._left.pop(key)
        if type(value) is not kind:  # bool is an int to isinstance
            raise self._error(f"{self._where}: {key} must be {kind.__name__}, got {value!r}")
        return value

    def finish(self) -> None:
        """Refuse the keys that nobody took."""
        if self._left:
            raise self._error(f"{self._where} has unknown keys: {', '.join(sorted(self._left))}")
