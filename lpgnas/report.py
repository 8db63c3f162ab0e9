"""The report of a run folder as plain Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lpgnas.budget import format_bits
from lpgnas.run_facts import RunFacts, percent, read_run
from lpgnas.spec import INPUT, ModelSpec


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
    return markdown_report(read_run(folder))


def markdown_report(facts: RunFacts) -> str:
    """The report of `facts` as Markdown."""
    parts = [f"# Run on {facts.dataset['name']}\n", _summary(facts)]
    if facts.spec is not None:
        parts += ["## Model\n", _model(facts.spec)]
    if facts.sizes:
        parts += ["## Sizes\n", _sizes(facts), _components(facts)]
    if "verify" in facts.stages:
        parts += ["## Verification\n", _verification(facts)]
    if facts.candidates:
        parts += ["## Candidates\n", _candidates(facts)]
    parts += ["## Stages\n", _stages(facts)]
    return "\n".join(parts)


def _summary(facts: RunFacts) -> str:
    dataset = facts.dataset
    lines = [
        f"{dataset['num_nodes']:,} nodes, {dataset['num_edges']:,} edges, {dataset['num_features']:,} features, "
        f"{dataset['num_classes']} classes; "
        f"split `{dataset['protocol']}` (seed {dataset['split_seed']}): {dataset['train_nodes']} train, "
        f"{dataset['validation_nodes']} validation, {dataset['test_nodes']} test nodes; {facts.mode}.\n"
    ]
    if facts.accuracies:
        lines.append(markdown_table(["test accuracy", "", ""], facts.accuracies))
    return "\n".join(lines)


def _model(spec: ModelSpec) -> str:
    rows = [
        [
            index,
            ", ".join("x" if source == INPUT else str(source) for source in spec.sources(index)),
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
    header = ["block", "reads", "attention", "aggregation", "activation", "width", "heads", "shortcut", "formats"]
    kept = "" if spec.input_words is None else f", {spec.input_words:,} of {spec.num_features:,} words kept"
    normalised = ", rows normalised" if spec.row_normalize else ""
    source = f"Input {spec.input_format}{normalised}{kept}; rounding {spec.rounding}.\n"
    return source + "\n" + markdown_table(header, rows)


def _sizes(facts: RunFacts) -> str:
    lowered = facts.stages["lower"]
    rows = [[size.what, size.text, size.limit_text, size.share] for size in facts.sizes]
    rows.append(["node coefficients (apart)", format_bits(lowered["node_coefficient_bits"]), "", ""])
    proved = (
        f"\n{lowered['macs']:,} MACs, {lowered['bops']:,} BOPs{facts.energy}; proved for in-degrees up to "
        f"{lowered['max_degree']}.\n"
    )
    return markdown_table(["size", "used", "budget", "share"], rows) + proved


def _components(facts: RunFacts) -> str:
    if not facts.costs:
        return ""
    return "\n" + markdown_table(list(facts.costs[0]), [list(row.values()) for row in facts.costs])


def _verification(facts: RunFacts) -> str:
    rows = [
        [
            item["form"],
            item["graph"],
            item["compared"],
            item["mismatches"],
            item["note"] or ("FAILED" if item["failed"] else "equal"),
        ]
        for item in facts.stages["verify"]["comparisons"]
    ]
    return markdown_table(["form", "graph", "codes", "mismatches", "result"], rows)


def _candidates(facts: RunFacts) -> str:
    rows = [
        [
            one.number,
            one.rung + 1,
            one.note or f"{100 * one.score:.1f}",
            one.note or percent(one.accuracy),
            format_bits(one.weight_bits),
            format_bits(one.buffer_bits),
        ]
        for one in facts.candidates
    ]
    return markdown_table(["candidate", "rungs", "score", "selection accuracy", "weights", "buffers"], rows)


def _stages(facts: RunFacts) -> str:
    rows = [
        [name, f"{entry['seconds']:.1f}", ", ".join(f"`{file}`" for file in entry["files"])]
        for name, entry in facts.stages.items()
    ]
    return markdown_table(["stage", "seconds", "files"], rows)
