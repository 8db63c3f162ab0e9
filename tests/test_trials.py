"""`supernet.csv`: written, read again, and refused where it is damaged."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpgnas.errors import RunFolderError
from lpgnas.search_space import SearchSpace
from lpgnas.supernet import SupernetStep
from lpgnas.trials import read_supernet, supernet_csv

SPACE = SearchSpace(12, 3)


def steps(count: int = 6) -> list[SupernetStep]:
    rng = np.random.default_rng(0)
    return [SupernetStep(SPACE.draw(rng), float(rng.random() / 3)) for _ in range(count)]


def written(folder: Path, text: str) -> Path:
    path = folder / "supernet.csv"
    path.write_text(text)
    return path


def test_steps_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = written(tmp_path, supernet_csv(SPACE, steps()))
    assert read_supernet(path, SPACE) == steps()
    assert re.match("loss in space [0-9a-f]{12},layer0.attention,", path.read_text())


def test_another_space_has_no_steps_here(tmp_path: Path) -> None:
    path = written(tmp_path, supernet_csv(SPACE, steps()))
    assert read_supernet(path, SearchSpace(12, 3, blocks=(3,))) is None
    widths = tuple(2 * width for width in SPACE.widths)
    assert read_supernet(path, replace(SPACE, widths=widths)) is None
    assert read_supernet(tmp_path / "none.csv", SPACE) is None
    assert read_supernet(written(tmp_path, ""), SPACE) is None


@pytest.mark.parametrize("damage", ["0.5,1", "x", "9"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    text = supernet_csv(SPACE, steps())
    row = text.splitlines()[-1].split(",")
    bad = {"0.5,1": "0.5,1", "x": ",".join(["x", *row[1:]]), "9": ",".join([row[0], "9", *row[2:]])}
    line = bad.get(damage, ",".join([damage, *row[1:]]))
    with pytest.raises(RunFolderError, match=r"is damaged .*delete it to search again"):
        read_supernet(written(tmp_path, text + line + "\n"), SPACE)
