"""A teacher's file: what it holds, and that a damaged one is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lpgnas.errors import RunFolderError
from lpgnas.teacher_file import read_teacher, teacher_bytes

SOFT = torch.softmax(torch.arange(12.0).view(4, 3), dim=1)


def test_a_teacher_round_trips_under_its_key(tmp_path: Path) -> None:
    path = tmp_path / "teacher.npz"
    path.write_bytes(teacher_bytes(SOFT, "key"))
    soft = read_teacher(path, "key")
    assert soft is not None and soft.equal(SOFT)
    assert teacher_bytes(soft, "key") == path.read_bytes()
    assert read_teacher(path, "other") is None
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive.files) == {"soft_labels", "key"}


def test_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.npz"
    with pytest.raises(RunFolderError, match="cannot read"):
        read_teacher(path, "key")
    whole = teacher_bytes(SOFT, "key")
    for content in (b"", b"text", whole[:-30], whole[:200]):
        path.write_bytes(content)
        with pytest.raises(RunFolderError, match="is not a teacher of lpgnas"):
            read_teacher(path, "key")
    for wrong in (SOFT.double(), SOFT[0], SOFT * float("nan")):
        path.write_bytes(teacher_bytes(wrong, "key"))
        with pytest.raises(RunFolderError, match="does not hold soft labels"):
            read_teacher(path, "key")
