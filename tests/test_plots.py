"""The Pareto plot: its data against `candidates.csv`, its front against a brute-force one, its drawings by bytes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lpgnas.plots import Panel, pareto_front, pareto_panels, pareto_png, pareto_svg
from lpgnas.run_facts import RunFacts, read_run

LIMITS = {"weights": 400 / 1024, "buffers": 3.0}
"""The budgets of `small_run` in KiB."""


def in_kib(panel: Panel, value: float) -> float:
    return value / 1024 if panel.x.label.endswith(" B") else value


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = pareto_front([(float(x), float(y)) for x, y in points])
    beaten = {(x, y) for x, y in points for other in points if other != (x, y) and other[0] <= x and other[1] >= y}
    assert list(front) == sorted((float(x), float(y)) for x, y in set(points) - beaten)


def test_every_candidate_is_a_point(small_run: Path) -> None:
    with (small_run / "candidates.csv").open(newline="") as stream:
        last = {int(row["candidate"]): row for row in csv.DictReader(stream)}
    winner = json.loads((small_run / "record.json").read_text())["stages"]["search"]["winner"]
    panels = pareto_panels(read_run(small_run))
    assert [panel.title for panel in panels] == list(LIMITS)
    for panel in panels:
        assert {point.number for point in panel.points} == {k for k, row in last.items() if float(row["accuracy"]) >= 0}
        assert [point.number for point in panel.points if point.kind == "chosen"] == [winner]
        for point in panel.points:
            row = last[point.number]
            assert point.y == 100 * float(row["accuracy"])
            assert in_kib(panel, point.x) * 8192 == int(row[f"{panel.title[:-1]}_bits"])
            assert panel.x.low <= point.x <= panel.x.high
            assert panel.y.low <= point.y <= panel.y.high
        if panel.limit is not None:
            assert in_kib(panel, panel.limit) == LIMITS[panel.title]
            assert panel.x.low < panel.limit < panel.x.high
        assert len(panel.x.ticks) >= 2
        assert all(panel.x.low <= tick <= panel.x.high for tick in panel.x.ticks)


def facts_with(facts: RunFacts, accuracies: list[float], **options: str) -> RunFacts:
    made = [replace(facts.candidates[0], number=k, accuracy=value) for k, value in enumerate(accuracies)]
    record = {**facts.record, "config": {**facts.record["config"], **options}}
    return replace(facts, candidates=tuple(made), record=record)


def test_unusual_searches(small_run: Path) -> None:
    facts = read_run(small_run)
    assert pareto_panels(facts_with(facts, [])) == ()
    assert pareto_panels(facts_with(facts, [-1.0, -1.0])) == ()
    for accuracies in ([0.0], [1.0, 1.0], [0.5, -1.0]):
        for panel in pareto_panels(facts_with(facts, accuracies)):
            assert len(panel.points) == sum(value >= 0 for value in accuracies)
            assert pareto_svg(panel).count('class="point') == len(panel.points)
        assert pareto_png(pareto_panels(facts_with(facts, accuracies)))
    far = pareto_panels(facts_with(facts, [0.5, 0.7], weight_budget="1GiB", buffer_budget=""))
    assert [(panel.limit, panel.limit_label) for panel in far] == [(None, "budget 1 GiB"), (None, "")]


def test_drawings_repeat_to_the_byte(small_run: Path) -> None:
    panels = pareto_panels(read_run(small_run))
    image = pareto_png(panels)
    assert image == pareto_png(panels) == (small_run / "pareto.png").read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    for chunk in (b"tEXt", b"tIME", b"iTXt"):
        assert chunk not in image
    assert pareto_svg(panels[0]) == pareto_svg(panels[0])


def test_drawing_leaves_pyplot_alone(small_run: Path) -> None:
    import sys

    pareto_png(pareto_panels(read_run(small_run)))
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
