"""Writes the reports of a run folder: `report.md`, `report.html` and, where something was searched, `pareto.png`."""

from __future__ import annotations

from pathlib import Path

from lpgnas.html_report import html_report
from lpgnas.plots import pareto_panels, pareto_png
from lpgnas.report import markdown_report
from lpgnas.results import write_atomic
from lpgnas.run_facts import read_run


def write_reports(folder: Path) -> str:
    """Write them all, each atomically; returns the Markdown.

    Raises:
        RunFolderError: no record in the folder, a missing or damaged file, or no way to write.
        CheckFailed: a record that was changed.
    """
    facts = read_run(folder)
    text = markdown_report(facts)
    write_atomic(folder / "report.md", text)
    write_atomic(folder / "report.html", html_report(facts))
    panels = pareto_panels(facts)
    if panels:
        write_atomic(folder / "pareto.png", pareto_png(panels))
    return text
