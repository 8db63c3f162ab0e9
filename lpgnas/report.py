"""The report of a run folder: plain Markdown from `record.json`, `spec.json`, `candidates.csv` and `costs.csv`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lpgnas.budget import Budget, format_bits
from lpgnas.results import STAGES, read_record, read_text, write_atomic
from lpgnas.spec import ModelSpec


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table with a final newline."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def run_report(folder: Path) -> str:
    """The report of a run as Markdown, as far as the run has come.

    Raises:
        RunFolderError: no record in the folder, or a missing file.
        CheckFailed: a record that was changed.
    """
    record = read_record(folder / "record.json")
    stages: dict[str, Any] = record["stages"]
    parts = [f"# Run on {record['dataset']['name']}\n", _summary(record)]
    if "search" in stages:
        parts += ["## Model\n", _model(folder)]
    if "lower" in stages:
        parts += ["## Sizes\n", _sizes(record), _components(folder)]
    if "verify" in stages:
        parts += ["## Verification\n", _verification(stages["verify"])]
    if "candidates.csv" in stages.get("search", {}).get("files", {}):  # not for a spec that was given
        parts += ["## Candidates\n", _candidates(folder)]
    parts += ["## Stages\n", _stages(stages)]
    return "\n".join(parts)


def write_report(folder: Path) -> str:
    """Write the report of a run into its folder, and return it.

    Raises:
        RunFolderError, CheckFailed: as `run_report`, or the folder cannot be written.
    """
    text = run_report(folder)
    write_atomic(folder / "report.md", text)
    return text


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _summary(record: dict[str, Any]) -> str:
    dataset, stages = record["dataset"], record["stages"]
    mode = "inductive" if dataset["inductive"] else "transductive: all features and edges take part in training"
    lines = [
        f"{dataset['num_nodes']:,} nodes, {dataset['num_edges']:,} directed edges, "
        f"{dataset['num_features']:,} features, {dataset['num_classes']} classes; "
        f"split `{dataset['protocol']}` (seed {dataset['split_seed']}): {dataset['train_nodes']} train, "
        f"{dataset['validation_nodes']} validation, {dataset['test_nodes']} test nodes; {mode}.\n"
    ]
    if "evaluate" in stages:
        evaluation = stages["evaluate"]
        own = evaluation["accuracy"]["test"]
        rows = [["this model, integers", "no test nodes" if own is None else _percent(own), "1 program"]]
        names = {"gcn16_fp32": "GCN-16, float32", "gcn16_fp32_distilled": "GCN-16, float32, distilled"}
        for name, reference in evaluation["references"].items():
            spread = f"{_percent(reference['test_mean'])} ± {100 * reference['test_std']:.1f}"
            rows.append(
                [names[name], spread, f"{reference['seeds']} seeds, learning rate {reference['learning_rate']}"]
            )
        lines.append(markdown_table(["test accuracy", "", ""], rows))
    return "\n".join(lines)


def _model(folder: Path) -> str:
    spec = ModelSpec.from_json(read_text(folder / "spec.json"))
    rows = [
        [
            index,
            layer.attention,
            layer.aggregation,
            layer.activation,
            layer.width,
            layer.heads,
            layer.shortcut,
            ", ".join(f"{component.value} {choice}" for component, choice in layer.formats.items()),
        ]
        for index, layer in enumerate(spec.layers)
    ]
    header = ["block", "attention", "aggregation", "activation", "width", "heads", "shortcut", "formats"]
    source = (
        f"Input {spec.input_format}{', rows normalised' if spec.row_normalize else ''}; rounding {spec.rounding}.\n"
    )
    return source + "\n" + markdown_table(header, rows)


def _sizes(record: dict[str, Any]) -> str:
    config, sizes = record["config"], record["stages"]["lower"]
    budget = Budget.parse(
        config["weight_budget"] or None, config["buffer_budget"] or None, config["peak_budget"] or None
    )
    rows = []
    for name, what in (("weight_bits", "weights"), ("buffer_bits", "buffers"), ("peak_bits", "peak")):
        limit = getattr(budget, name)
        share = "" if limit is None else f"{100 * sizes[name] / limit:.1f} %"
        rows.append([what, format_bits(sizes[name]), "none" if limit is None else format_bits(limit), share])
    rows.append(["node coefficients (apart)", format_bits(sizes["node_coefficient_bits"]), "", ""])
    facts = f"\n{sizes['macs']:,} MACs, {sizes['bops']:,} BOPs; proved for in-degrees up to {sizes['max_degree']}.\n"
    return markdown_table(["size", "used", "budget", "share"], rows) + facts


def _csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(read_text(path).splitlines()))


def _components(folder: Path) -> str:
    rows = _csv_rows(folder / "costs.csv")
    return "\n" + markdown_table(list(rows[0]), [list(row.values()) for row in rows]) if rows else ""


def _verification(stage: dict[str, Any]) -> str:
    rows = [
        [
            item["form"],
            item["graph"],
            item["compared"],
            item["mismatches"],
            item["note"] or ("FAILED" if item["failed"] else "equal"),
        ]
        for item in stage["comparisons"]
    ]
    return markdown_table(["form", "graph", "codes", "mismatches", "result"], rows)


def _candidates(folder: Path) -> str:
    best: dict[str, dict[str, str]] = {}
    for row in _csv_rows(folder / "candidates.csv"):
        best[row["candidate"]] = row  # later rungs come later in the file
    ordered = sorted(best.values(), key=lambda row: (-int(row["rung"]), -float(row["score"])))
    rows = [
        [
            row["candidate"],
            int(row["rung"]) + 1,
            row["note"] or f"{100 * float(row['score']):.1f}",
            row["note"] or _percent(float(row["accuracy"])),
            format_bits(int(row["weight_bits"])),
            format_bits(int(row["buffer_bits"])),
        ]
        for row in ordered
    ]
    return markdown_table(["candidate", "rungs", "score", "selection accuracy", "weights", "buffers"], rows)


def _stages(stages: dict[str, Any]) -> str:
    rows = [
        [name, f"{entry['seconds']:.1f}", ", ".join(f"`{file}`" for file in entry["files"])]
        for name, entry in sorted(stages.items(), key=lambda item: STAGES.index(item[0]))
    ]
    return markdown_table(["stage", "seconds", "files"], rows)
