"""Files of a run folder: written atomically, hashed, and refused by name when they are missing or damaged."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from lpgnas.errors import RunFolderError


def write_atomic(path: Path, content: bytes | str) -> str:
    """Write `content` beside `path`, then rename it into place; returns its SHA-256.

    Raises:
        RunFolderError: the folder cannot be written (read-only, full, a file in the way).
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; choose a folder with room") from error
    return hashlib.sha256(data).hexdigest()


def read_file(path: Path) -> bytes:
    """The bytes of a file of a run folder.

    Raises:
        RunFolderError: it is not there or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a run folder.

    Raises:
        RunFolderError: missing, not JSON, or not an object.
    """
    try:
        value = json.loads(read_file(path))
    except ValueError as error:
        raise RunFolderError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def to_json(value: dict[str, Any]) -> str:
    """Canonical JSON: sorted keys, two spaces, a final newline."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def sha256(data: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()
