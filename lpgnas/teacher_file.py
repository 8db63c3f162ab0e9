"""`teacher.npz`: the soft labels of a full-precision teacher, kept so that several runs learn from the same one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lpgnas.errors import RunFolderError
from lpgnas.results import read_file


def teacher_bytes(soft: Tensor, key: str) -> bytes:
    """The file of soft labels [N, C] float32 and of the key of what made them; equal ones give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, soft_labels=soft.numpy(), key=np.array(key))
    return buffer.getvalue()


def read_teacher(path: Path, key: str) -> Tensor | None:
    """The soft labels [N, C] in a file of `teacher_bytes`; None where it has another key.

    Raises:
        RunFolderError: it is missing or damaged.
    """
    content = read_file(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            kept, soft = str(archive["key"]), archive["soft_labels"]
    except Exception as error:  # a damaged zip file raises whatever its damage provokes
        raise RunFolderError(f"{path} is not a teacher of lpgnas ({error!r}); delete it") from error
    if kept != key:
        return None
    if soft.ndim != 2 or soft.dtype != np.float32 or not np.isfinite(soft).all():
        raise RunFolderError(f"{path} does not hold soft labels; delete it")
    return torch.from_numpy(soft)
