"""A table of models as Markdown and as a figure, from its measured rows; the same bytes for the same rows."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lpgnas.budget import format_bits
from lpgnas.fronts import Reference, SeededFront, paired_bootstrap
from lpgnas.number_formats import FormatChoice
from lpgnas.plots import pareto_front
from lpgnas.report import markdown_table
from lpgnas.reproduce_tables import GCN16, UNLIMITED, Family, Table, searched, unsearched

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIB = 8 << 10
FAMILIES: dict[Family, tuple[str, str]] = {
    "manual": ("manual, float32", "#6b7785"),
    "quantised": ("manual, uniform formats", "#9a6b2f"),
    "pdnas": ("PDNAS, float32", "#7b52ab"),
    "lpgnas": ("LPGNAS, our gradient", "#2f8f5b"),
    "random": ("random, distilled", "#c2a11c"),
    "ours": ("ours, distilled", "#d9480f"),
    "distilled": ("float32, distilled", "#2f6fb0"),
}
"""What a family is called, and its colour."""
COMPARED: tuple[tuple[Family, tuple[Family, ...], str], ...] = (
    ("ours", ("manual", "quantised"), "the manual models, float32 and quantised"),
    ("ours", ("random",), "random draws under the same budgets with the same halving"),
    ("ours", ("lpgnas",), "LPGNAS"),
    ("lpgnas", ("manual", "quantised"), "the manual models, float32 and quantised"),
)
"""Fronts that are compared: whose, with which families', in words."""
UNLABELLED = ("random", "lpgnas")
"""Families whose points stand at the budgets of ours in the figure of a front."""
LEAST_ACCURACY_MARGIN = 0.05
"""The reference point lies so far below the least accurate line."""


def report(table: Table, rows: pd.DataFrame) -> str:
    """The table as Markdown: for each graph mean and standard deviation over the seeds, then the papers' figures."""
    parts = [
        f"# {table.title}\n",
        f"Made by `lpgnas reproduce {table.name}`; split: {table.protocol}; seeds: {_seeds(rows)}. Accuracies are "
        "those of the test nodes, mean and standard deviation over the seeds; sizes are medians. Integer models are "
        "verified programs. Where a line says one search, the seeds are trainings of its one model.\n",
    ]
    header = ["model", "seeds", "test accuracy %", "weights", "buffers", "search steps"]
    for dataset in datasets_of(table):
        lines = []
        for model, part in lines_of(table, rows, dataset):
            accuracy = 100 * part["test_accuracy"]
            spread = f" ± {accuracy.std(ddof=1):.1f}" if len(part) > 1 else ""
            sizes = [format_bits(int(part[name].median())) for name in ("weight_bits", "buffer_bits")]
            lines.append([model, len(part), f"{accuracy.mean():.1f}{spread}", *sizes, int(part["steps"].median())])
        lines += [
            [f"*{one.model}, published*", "", one.accuracy, one.weights, "", ""]
            for one in table.published
            if one.dataset == dataset
        ]
        if lines:
            parts += [f"## {dataset}\n", markdown_table(header, lines)]
            parts += list(_fronts(table, rows, dataset)) if table.shown == "front" else []
    if table.shown == "statistics" and len(rows):
        parts += [*_bit_widths(rows), *_claim(table, rows)]
    return "\n".join(parts)


def datasets_of(table: Table) -> list[str]:
    """The graphs of a table, in its order."""
    return list(dict.fromkeys(entry.config.dataset for entry in table.entries))


def lines_of(table: Table, rows: pd.DataFrame, dataset: str) -> list[tuple[str, pd.DataFrame]]:
    """The rows of every measured model on a graph, in the table's order."""
    models = dict.fromkeys(entry.model for entry in table.entries if entry.config.dataset == dataset)
    parts = ((model, rows[(rows["dataset"] == dataset) & (rows["model"] == model)]) for model in models)
    return [(model, part) for model, part in parts if len(part)]


def _seeds(rows: pd.DataFrame) -> str:
    seeds = sorted(set(rows["seed"].astype(int))) if len(rows) else []
    return ", ".join(map(str, seeds)) or "none yet"


def _families(table: Table, dataset: str) -> dict[str, Family]:
    """The family of every model on a graph."""
    return {entry.model: entry.family for entry in table.entries if entry.config.dataset == dataset}


# --- fronts ---


def reference_point(rows: pd.DataFrame) -> Reference:
    """Of the fronts on one graph: the largest model, and 5 points below the worst mean accuracy, in whole points."""
    worst = float(rows.groupby("model")["test_accuracy"].mean().min())
    floor = max(0.0, np.floor(100 * (worst - LEAST_ACCURACY_MARGIN)) / 100)
    return Reference(float(rows["weight_bits"].max()), float(floor))


def _front_of(lines: list[pd.DataFrame], seeds: list[int]) -> SeededFront:
    columns = [part.set_index("seed").loc[seeds] for part in lines]
    return SeededFront(
        np.array([part["weight_bits"].to_numpy(dtype=np.float64) for part in columns]),
        np.array([part["test_accuracy"].to_numpy(dtype=np.float64) for part in columns]),
    )


def _fronts(table: Table, rows: pd.DataFrame, dataset: str) -> Iterator[str]:
    """The differences of the families' hypervolumes, from the seeds that all lines of both sides have."""
    lines, family = lines_of(table, rows, dataset), _families(table, dataset)
    if not lines:
        return
    corner = reference_point(pd.concat([part for _, part in lines]))
    found = []
    for ours, theirs, words in COMPARED:
        own = [part for model, part in lines if family[model] == ours]
        other = [part for model, part in lines if family[model] in theirs]
        if not own or not other:
            continue
        shared = set.intersection(*(set(part["seed"].astype(int)) for part in own + other))
        if len(shared) < 2:
            continue
        difference = paired_bootstrap(_front_of(own, sorted(shared)), _front_of(other, sorted(shared)), corner)
        found.append(
            [
                FAMILIES[ours][0],
                words,
                difference.seeds,
                f"{difference.value:+.1f}",
                f"{difference.low:+.1f} to {difference.high:+.1f}",
                "yes" if difference.clear else "no",
            ]
        )
    yield (
        "Hypervolume of mean test accuracy over the binary logarithm of the weights, in percentage points times "
        f"octaves, within {format_bits(int(corner.bits))} and {100 * corner.accuracy:.0f} %; the interval holds 95 % "
        "of a paired bootstrap over the seeds.\n"
    )
    if found:
        yield markdown_table(["front of", "minus that of", "seeds", "difference", "interval", "clear"], found)


# --- statistics ---


def bit_widths(rows: pd.DataFrame) -> dict[str, Counter[int]]:
    """How often each number of bits was chosen for each component, over all blocks of the models in `rows`."""
    counted: dict[str, Counter[int]] = {}
    for text in rows["formats"]:
        for name, choice in json.loads(text).items():
            counted.setdefault(name.split(".")[1], Counter())[FormatChoice.parse(choice).bits] += 1
    return counted


def _bit_widths(rows: pd.DataFrame) -> Iterator[str]:
    searched = rows[rows["model"] == UNLIMITED]
    if not len(searched):
        return
    counted = bit_widths(searched)
    bits = sorted({one for counts in counted.values() for one in counts})
    lines = [
        [component, *(f"{100 * counts[one] / counts.total():.0f} %" for one in bits), counts.total()]
        for component, counts in counted.items()
    ]
    yield f"## Chosen bit-widths of `{UNLIMITED}`\n"
    yield (
        f"Share of each number of bits among the blocks of {len(searched)} models on "
        f"{searched['dataset'].nunique()} graphs; ternary weights count 2 bits, the logits have 8.\n"
    )
    yield markdown_table(["component", *(f"{one} bit" for one in bits), "blocks"], lines)


def _claim(table: Table, rows: pd.DataFrame) -> Iterator[str]:
    """What fewer bits than W8A8 cost without search, and what a search gains within the same sizes, by paired seeds."""
    lines = []
    for dataset in datasets_of(table):
        seen = {model: part.set_index("seed")["test_accuracy"] for model, part in lines_of(table, rows, dataset)}
        full = seen.get(unsearched("W8A8"))
        for label in (label for label in GCN16 if label != "W8A8"):
            plain, found = seen.get(unsearched(label)), seen.get(searched(label))
            cells = [_paired(plain, full), _paired(found, plain)]
            lines += [[dataset, label, *cells]] if any(cells) else []
    if lines:
        yield "## At and below W4A8\n"
        yield (
            "Differences of the test accuracy in points, mean and standard deviation over the seeds that both have: a "
            "uniform GCN-16 beside its W8A8, and a searched model within the sizes of the uniform one beside that.\n"
        )
        yield markdown_table(["graph", "formats", "without search, to W8A8", "search, to no search"], lines)


def _paired(ours: pd.Series | None, theirs: pd.Series | None) -> str:
    difference = None if ours is None or theirs is None else 100 * (ours - theirs).dropna()
    if difference is None or not len(difference):
        return ""
    return f"{difference.mean():+.1f}" + (f" ± {difference.std(ddof=1):.1f}" if len(difference) > 1 else "")


# --- figures ---


def figure(table: Table, rows: pd.DataFrame) -> bytes:
    """Mean test accuracy over weights, a panel for each graph, as PNG; with histograms where a table has them."""
    datasets = [dataset for dataset in datasets_of(table) if lines_of(table, rows, dataset)]
    counted = bit_widths(rows[rows["model"] == UNLIMITED]) if table.shown == "statistics" else {}
    columns = max(len(datasets), len(counted))
    made = Figure(
        figsize=(5.5 * columns, 4.6 if not counted else 8.0), dpi=130, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(made)
    grid = made.subplots(2 if counted else 1, columns, squeeze=False)
    for axes, dataset in zip(grid[0], datasets, strict=False):
        _panel(axes, table, rows, dataset)
    for axes, (component, counts) in zip(grid[1] if counted else (), counted.items(), strict=False):
        bits = sorted(counts)
        axes.bar(bits, [100 * counts[one] / counts.total() for one in bits], color="#2f6fb0", width=0.7)
        axes.set_title(component)
        axes.set_xlabel("bits")
        axes.set_ylabel("share, %")
        axes.set_xlim(0.0, 9.0)
    for axes, shown in ((grid[0], len(datasets)), (grid[-1], len(counted))):
        for empty in axes[shown:] if counted else ():
            empty.set_visible(False)
    content = io.BytesIO()
    made.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _panel(axes: Axes, table: Table, rows: pd.DataFrame, dataset: str) -> None:
    """One graph: a point with its standard deviation for every line, and the front of all of them."""
    axes.set_title(f"{dataset}, split {table.protocol}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("weights, KiB")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    family, told = _families(table, dataset), set[str]()
    points = []
    for model, part in lines_of(table, rows, dataset):
        size, accuracy = part["weight_bits"].median() / KIB, 100 * part["test_accuracy"]
        spread = accuracy.std(ddof=1) if len(part) > 1 else 0.0
        name, shade = FAMILIES[family[model]]
        colour, label = (shade, None if name in told else name) if table.shown != "models" else (None, None)
        told.add(name)
        axes.errorbar(size, accuracy.mean(), yerr=spread, fmt="o", capsize=2, color=colour, label=label)
        if table.shown != "front" or family[model] not in UNLABELLED:
            told_as = model if table.shown == "models" else model.split(",")[0]
            axes.annotate(told_as, (size, accuracy.mean()), xytext=(4, 4), textcoords="offset points", fontsize=7)
        points.append((float(size), float(accuracy.mean())))
    sizes = [size for size, _ in points]
    if min(sizes) == max(sizes):  # matplotlib leaves a logarithmic axis of one point without any width
        axes.set_xlim(sizes[0] / 2, sizes[0] * 2)
    x, y = zip(*pareto_front(points), strict=True)
    axes.step(x, y, where="post", color="#1f2933", linewidth=1.0, alpha=0.6, zorder=1)
    if table.shown != "models":
        axes.legend(fontsize=7, loc="lower right")
