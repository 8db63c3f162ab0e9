"""Small graphs, and runs of the command line on them, for the tests of whole runs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lpgnas.cli import main
from lpgnas.components import Component
from lpgnas.datasets import graph_to_npz
from lpgnas.export.c_build import find_compiler
from lpgnas.graph import Graph
from lpgnas.number_formats import FIXED1, FormatChoice
from lpgnas.results import STAGES, is_leftover, read_record, sealed, sha256
from lpgnas.spec import LayerSpec, ModelSpec, required_components
from lpgnas.verification import NO_COMPILER

ROOT = Path(__file__).parents[1]
NODES, FEATURES, CLASSES = 60, 12, 3
QUICK = (
    "--epochs", "10", "--candidates", "3", "--supernet-steps", "12", "--restarts", "1", "--reference-seeds", "1",
    "--max-degree", "40",
)  # fmt: skip
"""A run of seconds; the small degree keeps the hub of the verification small."""
BUDGETS = ("--weight-budget", "400B", "--buffer-budget", "3KiB", "--peak-budget", "2.5KiB")
C_FILES = ("c/lpgnas_model.h", "c/lpgnas_model.c")
UNCHECKED = "" if find_compiler() else NO_COMPILER
"""Why this machine does not check C code."""
TOLD_UNCHECKED = UNCHECKED and f"C code not checked: {UNCHECKED}\n"
"""What `lpgnas export` says of it."""
EXPORTED = ("model.int.onnx", "model.qdq.onnx", "model.qonnx.onnx", *C_FILES)
REPEATABLE = ("spec.json", "program.npz", "model.safetensors", *EXPORTED)
"""Files that one seed repeats to the byte."""
REPORTS = ("report.md", "report.html", "pareto.png")
FILES = (*REPEATABLE, "candidates.csv", "supernet.csv", "config.toml", "costs.csv", "record.json", *REPORTS)

STAGED = (*REPEATABLE, "supernet.csv", "config.toml", "costs.csv")
"""Files that a stage writes once."""
FINAL = (*STAGED, "candidates.csv")


@dataclass(frozen=True)
class Result:
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str


def lpgnas(*arguments: object) -> Result:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as refusal:  # argparse leaves this way
            code = int(refusal.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def python(*arguments: object, folder: Path | None = None, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a Python of its own in `folder` (the repository by default), which finds lpgnas in `path`."""
    command = [sys.executable, *(str(argument) for argument in arguments)]
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(command, env=environment, cwd=folder or ROOT, capture_output=True, text=True, check=False)


def small_arrays(seed: int = 5) -> dict[str, Any]:
    """The arrays of a graph of three communities with binary features that tell them apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(NODES) % CLASSES
    upper = np.triu(rng.random((NODES, NODES)) < np.where(y[:, None] == y[None, :], 0.25, 0.02), 1)
    edges = np.argwhere(upper | upper.T).T
    own = np.arange(FEATURES) // (FEATURES // CLASSES) == y[:, None]
    x = (rng.random((NODES, FEATURES)) < np.where(own, 0.6, 0.1)).astype(np.float32)
    return {"x": x, "edge_index": edges.astype(np.int64), "y": y.astype(np.int64), "num_classes": np.array(CLASSES)}


def small_graph(seed: int = 5) -> Graph:
    """`small_arrays` as a graph."""
    arrays = small_arrays(seed)
    return Graph("small", arrays["x"], arrays["edge_index"], arrays["y"], CLASSES)


def write_small(path: Path, seed: int = 5) -> Path:
    """`small_graph` as a file."""
    graph_to_npz(small_graph(seed), path)
    return path


def layer(
    attention: str, aggregation: str, activation: str, width: int, *, last: bool = False, **more: Any
) -> LayerSpec:
    """A layer with 4-bit weights and 6-bit codes (8-bit logits)."""
    bare = LayerSpec(attention, aggregation, activation, width, **more)
    formats = {
        component: FormatChoice("fixed", 8 if last and component is Component.OUTPUT else 6)
        for component in required_components(bare, last=last)
    }
    for weight in (Component.LINEAR_WEIGHT, Component.ATTENTION_WEIGHT):
        if weight in formats:
            formats[weight] = FormatChoice("fixed", 4)
    return LayerSpec(**{**bare.__dict__, "formats": formats})


def spec(*layers: LayerSpec) -> ModelSpec:
    """A model on the small graph: binary features, normalised rows."""
    return ModelSpec(num_features=FEATURES, num_classes=CLASSES, layers=layers, input_format=FIXED1, row_normalize=True)


def rich_spec() -> ModelSpec:
    """Two layers with coefficients, both kinds of tables, scores and a shortcut, of nine words."""
    whole = spec(
        layer("gcn", "sum", "tanh", 8),
        layer("gat", "sum", "none", CLASSES, last=True, shortcut="linear"),
    )
    return replace(whole, input_words=9)


def every_operation() -> ModelSpec:
    """Four layers with everything that a block can be made of."""
    return spec(
        layer("gcn", "sum", "relu", 8),
        layer("const", "max", "tanh", 8, shortcut="identity"),
        layer("gat", "sum", "relu6", 8, heads=2),
        layer("const", "mean", "none", CLASSES, last=True, shortcut="linear"),
    )


def jumping_spec() -> ModelSpec:
    """JKNet's shape: a linear output layer over the outputs of both blocks and the input."""
    return spec(
        layer("gcn", "sum", "relu", 8),
        layer("const", "mean", "tanh", 4, sources=(-1, 0)),
        layer("self", "sum", "none", CLASSES, last=True, sources=(-1, 0, 1)),
    )


def edgeless_spec() -> ModelSpec:
    """Linear layers only: nothing of the graph enters but its nodes."""
    return spec(layer("self", "sum", "relu", 8), layer("self", "sum", "none", CLASSES, last=True, sources=(-1, 0)))


def copied(run: Path, to: Path, *, qonnx: bool = True) -> Path:
    """A copy of a run folder that a test may spoil; without its QONNX file, it verifies five times as fast."""
    shutil.copytree(run, to)
    if not qonnx:
        (to / "model.qonnx.onnx").unlink()
        record = json.loads((to / "record.json").read_text())
        del record["stages"]["export"]["files"]["model.qonnx.onnx"]
        (to / "record.json").write_text(sealed(record))
    return to


def replace_file(run: Path, name: str, content: bytes) -> None:
    """Put other bytes into a run folder, and their hash into its record, as if they had always been there."""
    (run / name).write_bytes(content)
    record = json.loads((run / "record.json").read_text())
    for stage in record["stages"].values():
        if name in stage["files"]:
            stage["files"][name] = hashlib.sha256(content).hexdigest()
    (run / "record.json").write_text(sealed(record))


def with_record(run: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A run folder whose record was changed and sealed again."""
    record = json.loads((run / "record.json").read_text())
    change(record)
    (run / "record.json").write_text(sealed(record))
    return run


def first_stages(run: Path, done: int) -> Path:
    """A run folder that has come no further than its first `done` stages."""

    def forget(record: dict[str, Any]) -> None:
        record["stages"] = {name: record["stages"][name] for name in STAGES[:done]}

    return with_record(run, forget)


def paths_of(run: Path) -> dict[str, Path]:
    """The files of a run folder, those of its folders too, by their names in it."""
    return {path.relative_to(run).as_posix(): path for path in run.rglob("*") if path.is_file()}


def bytes_of(run: Path, names: tuple[str, ...] = REPEATABLE) -> dict[str, bytes]:
    """The contents of files of a run folder."""
    return {name: (run / name).read_bytes() for name in names}


def check_whole(run: Path, uninterrupted: Path) -> None:
    """Every file under its final name is complete: that of the uninterrupted run, or a valid state on the way to it."""
    for name, path in paths_of(run).items() if run.exists() else ():
        if name in STAGED:
            assert path.read_bytes() == (uninterrupted / name).read_bytes(), path
        elif path.name == "candidates.csv":
            rows = path.read_bytes()
            assert rows.endswith(b"\n")
            assert (uninterrupted / path.name).read_bytes().startswith(rows)
        elif path.name == "record.json":
            for stage in read_record(path)["stages"].values():
                assert {file: sha256((run / file).read_bytes()) for file in stage["files"]} == stage["files"]
        elif path.name in REPORTS:
            ends = {".md": b"\n", ".html": b"</html>\n", ".png": b"IEND\xaeB`\x82"}
            assert path.read_bytes().endswith(ends[path.suffix]), path
        else:
            assert is_leftover(path), path
