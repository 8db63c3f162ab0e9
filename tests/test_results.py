"""Files of a run folder: whole or not at all, and refused by name."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from lpgnas import results
from lpgnas.errors import CheckFailed, RunFolderError
from lpgnas.results import (
    is_leftover,
    read_file,
    read_json,
    read_record,
    read_text,
    remove_leftovers,
    sealed,
    to_json,
    write_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writing_makes_folders_and_returns_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    assert write_atomic(path, "grün") == hashlib.sha256("grün".encode()).hexdigest()
    assert write_atomic(path, b"\x00new") == hashlib.sha256(b"\x00new").hexdigest()
    assert path.read_bytes() == b"\x00new"
    assert names(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(
    failing: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(RunFolderError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write_atomic(path, "new")
    if isinstance(error, OSError):
        assert f"cannot write {path}: No space left on device" in str(caught.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "below.txt", Path("/proc/none/file.txt")):
        with pytest.raises(RunFolderError, match="cannot write"):
            write_atomic(path, "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunFolderError, match="cannot write"):
        write_atomic(tmp_path / "folder", "text")
    assert names(tmp_path) == ["file", "folder"]


def test_a_write_that_fails_takes_its_new_folders_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "new/folder/file.txt", tmp_path / "there/file.txt"):
        with pytest.raises(RunFolderError, match="No space left on device"):
            write_atomic(path, "text")
    assert names(tmp_path) == ["there"]
    assert names(tmp_path / "there") == []


def test_leftovers_go_when_nobody_writes_them(tmp_path: Path) -> None:
    handle, temporary = results._locked_temporary(tmp_path / "file.txt")
    foreign = [".file.txt.abcdefgh", "file.txt.abcdefgh.lpgnas-tmp", ".lpgnas-tmp", ".file.txt.abc.lpgnas-tmp"]
    for name in foreign:
        (tmp_path / name).write_text("not ours")
    assert [path for path in tmp_path.iterdir() if is_leftover(path)] == [temporary]
    remove_leftovers(tmp_path)
    assert temporary.exists()  # its writer lives
    os.close(handle)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(foreign)
    remove_leftovers(tmp_path / "none")


def test_a_file_that_is_taken_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = results.fcntl.flock
    taken: list[int] = []

    def late(handle: int, kind: int) -> None:
        if not taken:
            taken.append(handle)
            next(tmp_path.iterdir()).unlink()
        flock(handle, kind)

    monkeypatch.setattr(results.fcntl, "flock", late)
    write_atomic(tmp_path / "file.txt", "text")
    assert len(taken) == 1
    assert names(tmp_path) == ["file.txt"]


def test_without_locks_leftovers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "fcntl", None)
    write_atomic(tmp_path / "file.txt", "text")
    (tmp_path / ".file.txt.abcdefgh.lpgnas-tmp").touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".file.txt.abcdefgh.lpgnas-tmp", "file.txt"]


def test_reading_refuses_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"cannot read .*none: No such file"):
        read_file(tmp_path / "none")
    with pytest.raises(RunFolderError, match="cannot read"):
        read_text(tmp_path)
    for content, message in ((b"{", "is not JSON"), (b"[]", "holds a list"), (b"\xff", "is not JSON")):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(RunFolderError, match=message):
            read_json(tmp_path / "file")
    with pytest.raises(RunFolderError, match="not a text file"):
        read_text(tmp_path / "file")


def test_json_is_canonical() -> None:
    assert to_json({"b": 1, "a": [True]}) == '{\n  "a": [\n    true\n  ],\n  "b": 1\n}\n'


def test_a_record_notices_every_change(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = {"schema_version": 1, "stages": {"search": {"files": {"a": "b"}}}, "accuracy": 0.5}
    text = sealed(record)
    path.write_text(text)
    kept = read_record(path)
    assert {name: kept[name] for name in record} == record
    assert sealed(kept) == text  # sealing again changes nothing
    for changed in (text.replace("0.5", "0.9"), text + "\n", text[:-2], json.dumps(record), "[]", ""):
        path.write_text(changed)
        with pytest.raises(CheckFailed, match=r"record\.json was changed"):
            read_record(path)
    for place in range(len(text)):
        spoiled = bytearray(text.encode())
        spoiled[place] ^= 1
        path.write_bytes(spoiled)
        with pytest.raises(CheckFailed):
            read_record(path)
    path.write_text(sealed({**record, "schema_version": 99}))
    with pytest.raises(RunFolderError, match="schema version 99"):
        read_record(path)
    path.unlink()
    with pytest.raises(RunFolderError):
        read_record(path)
