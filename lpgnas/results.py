"""Files of a run folder: written atomically, hashed, and refused by name when they are missing or damaged."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from lpgnas.errors import CheckFailed, RunFolderError

fcntl: Any
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

STAGES = ("search", "train", "lower", "export", "verify", "evaluate")
"""Of a run, in their order; each needs the ones before it."""
SEAL = "record_sha256"
_SUFFIX = ".lpgnas-tmp"
_LEFTOVER = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(_SUFFIX)}")


RECORD_VERSION = 1


def write_atomic(path: Path, content: bytes | str) -> str:
    """Write `content` beside `path`, then rename it into place; returns its SHA-256.

    Raises:
        RunFolderError: the folder cannot be written (read-only, full, a file in the way).
    """
    data = content.encode() if isinstance(content, str) else content
    made: list[Path] = []
    temporary: Path | None = None
    try:
        for folder in reversed([path.parent, *path.parent.parents]):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                made.append(folder)
        handle, temporary = _locked_temporary(path)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        made.clear()
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; choose a folder with room") from error
    finally:
        with suppress(OSError):  # renamed away unless something failed, an interrupt included
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            for folder in reversed(made):
                folder.rmdir()
    return hashlib.sha256(data).hexdigest()


def _locked_temporary(path: Path) -> tuple[int, Path]:
    """A new file beside `path` that is locked as long as its handle is open: even a killed process lets it go."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX)
        if fcntl is None:
            return handle, Path(name)
        with suppress(OSError):  # a file system without locks: its leftovers stay
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # taken for a leftover before it was locked


def is_leftover(path: Path) -> bool:
    """Whether `path` is named like a file that `write_atomic` had not renamed yet."""
    return _LEFTOVER.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left in `folder`; files that a living one is writing are locked, and stay."""
    if fcntl is None or not folder.is_dir():
        return
    for path in filter(is_leftover, folder.iterdir()):
        with suppress(OSError):
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            finally:
                os.close(handle)


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
        RunFolderError: likewise, of a schema that this version does not read.
    """
    content = read_file(path)
    try:
        record = read_json(path)
        intact = sealed(record).encode() == content
    except RunFolderError:
        intact = False
    if not intact:
        raise CheckFailed(f"{path} was changed after it was written: it is not what its SHA-256 says")
    if record.get("schema_version") != RECORD_VERSION:
        seen = record.get("schema_version")
        raise RunFolderError(f"{path} has schema version {seen!r}, this lpgnas reads {RECORD_VERSION}")
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
