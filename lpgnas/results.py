"""Files of a run folder: written atomically, hashed, and refused by name when they are missing or damaged."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from lpgnas.errors import CheckFailed, RunFolderError

STAGES = ("search", "train", "lower", "export", "verify", "evaluate")
"""Of a run, in their order; each needs the ones before it."""
SEAL = "record_sha256"


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
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; choose a folder with room") from error
    finally:
        if temporary is not None:  # renamed away unless something failed, an interrupt included
            with suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
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


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        RunFolderError: it is not there, cannot be read, or is not UTF-8.
    """
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path} is not a text file in UTF-8: {error}") from error


def sealed(record: dict[str, Any]) -> str:
    """A run's record as JSON that holds the SHA-256 of the rest of itself."""
    rest = {key: value for key, value in record.items() if key != SEAL}
    return to_json({**rest, SEAL: sha256(to_json(rest).encode())})


def read_record(path: Path) -> dict[str, Any]:
    """A record that `sealed` wrote.

    Raises:
        RunFolderError: it is missing.
        CheckFailed: it was changed afterwards.
    """
    content = read_file(path)
    try:
        record = read_json(path)
        intact = sealed(record).encode() == content
    except RunFolderError:
        intact = False
    if not intact:
        raise CheckFailed(f"{path} was changed after it was written: it is not what its SHA-256 says")
    return record


def to_json(value: dict[str, Any]) -> str:
    """Canonical JSON: sorted keys, two spaces, a final newline."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def sha256(data: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    names = ("torch", "torch-geometric", "numpy", "numba", "onnx", "onnxruntime", "qonnx", "brevitas")
    return {name: importlib.metadata.version(name) for name in names}
