"""The HTML report: well-formed, self-contained, escaped, with the numbers of the record; and opened in a browser."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import runs

from lpgnas.budget import format_bits
from lpgnas.html_report import html_report
from lpgnas.markup import Html, element
from lpgnas.results import STAGES
from lpgnas.run_facts import percent, read_run

SECTIONS = ("budget", "accuracy", "architecture", "candidates", "verification", "components", "record")
VOID = {"meta", "link", "br", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced; keeps the text of every section and the rows of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.texts: dict[str, str] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self._section = "header"
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
        rows = self.rows.setdefault(self._section, [])
        if tag == "tr":
            rows.append([])
        if tag in ("td", "th"):
            rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts[self._section] = self.texts.get(self._section, "") + data
        if {"td", "th"} & set(self.open):
            self.rows[self._section][-1][-1] += data


def page_of(run: Path) -> Page:
    return Page(html_report(read_run(run)))


def record_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "record.json").read_text())
    return content


def test_elements_escape() -> None:
    assert element("p", "<b>", Html("<i></i>"), 3, title='"&', class_="x", id=None) == (
        '<p title="&quot;&amp;" class="x">&lt;b&gt;<i></i>3</p>'
    )
    assert element("meta", http_equiv="a") == '<meta http-equiv="a">'


def test_the_page_is_whole_and_fetches_nothing(small_run: Path, rich_run: Path) -> None:
    for run in (small_run, rich_run):
        text = (run / "report.html").read_text()
        page = Page(text)
        assert text.startswith("<!doctype html>\n")
        assert set(page.texts) >= {"header", *SECTIONS}
        assert not {"script", "iframe", "object", "img"} & set(page.names)
        assert {value for name, value in page.attributes if name in ("href", "src")} == {"data:,"}
        assert not re.search(r"https?:|url\(|@import", text)


def test_the_page_repeats_to_the_byte(small_run: Path) -> None:
    assert (
        html_report(read_run(small_run)) == html_report(read_run(small_run)) == (small_run / "report.html").read_text()
    )


def test_numbers_are_those_of_the_record(small_run: Path) -> None:
    record, page = record_of(small_run), page_of(small_run)
    stages = record["stages"]
    for name, limit in (("weight_bits", 3200), ("buffer_bits", 3 << 13), ("peak_bits", 20480)):
        bits = stages["lower"][name]
        shown = f"{format_bits(bits)} of {format_bits(limit)}{100 * bits / limit:.1f} %"
        assert shown in page.texts["budget"]
    for name in ("macs", "bops"):
        assert f"{stages['lower'][name]:,} {name.upper()[:-1]}s" in page.texts["budget"]
    accuracy = dict((row[0], row[1]) for row in page.rows["accuracy"])
    evaluation = stages["evaluate"]
    for text, key in (("training nodes", "train"), ("validation nodes", "val"), ("test nodes", "test")):
        assert accuracy[text] == percent(evaluation["accuracy"][key])
    assert accuracy["this model, integers"] == percent(evaluation["accuracy"]["test"])
    reference = evaluation["references"]["gcn16_fp32"]
    assert accuracy["GCN-16, float32"] == f"{percent(reference['test_mean'])} ± {100 * reference['test_std']:.1f}"
    data = record["dataset"]
    assert f"Split “{data['protocol']}” (seed {data['split_seed']})" in page.texts["accuracy"]
    cells = dict((row[0], row[1]) for row in page.rows["record"])
    for name, entry in stages.items():
        assert cells[name] == f"{entry['seconds']:.1f}"
        assert {file: cells[file] for file in entry["files"]} == entry["files"]
    assert cells["the graph"] == data["graph_sha256"]
    assert {name: cells[name] for name in record["versions"]} == record["versions"]
    told = {k: "–" if v in ("", [], None) else str(v) for k, v in record["config"].items()}
    assert {name: cells[name] for name in record["config"]} == told


def test_a_form_that_was_not_run_is_not_said_to_agree(small_run: Path, tmp_path: Path) -> None:
    def skip(record: dict[str, Any]) -> None:
        comparisons = record["stages"]["verify"]["comparisons"]
        comparisons[-1] |= {"compared": 0, "note": "not run: no C compiler"}

    header, *rows = page_of(runs.with_record(runs.copied(small_run, tmp_path / "run"), skip)).rows["verification"]
    last = record_of(small_run)["stages"]["verify"]["comparisons"][-1]
    cell = next(row[header.index(last["graph"])] for row in rows if row[0] == last["form"])
    assert cell == "–"


def test_the_chain_of_verification(small_run: Path, tmp_path: Path) -> None:
    comparisons = record_of(small_run)["stages"]["verify"]["comparisons"]
    header, *rows = page_of(small_run).rows["verification"]
    shown = {(row[0], graph): cell for row in rows for graph, cell in zip(header[1:], row[1:], strict=True)}
    assert shown == {
        (one["form"], one["graph"]): f"✓ 0 / {one['compared']:,}" if one["compared"] else "–" for one in comparisons
    }

    def fail(record: dict[str, Any]) -> None:
        record["stages"]["verify"]["passed"] = False
        record["stages"]["verify"]["comparisons"][3] |= {"mismatches": 5, "failed": True, "note": "<broke>"}

    page = page_of(runs.with_record(runs.copied(small_run, tmp_path / "run"), fail))
    assert "must not be used" in page.texts["verification"]
    assert "✗ 5 / " in page.texts["verification"]
    assert "<broke>" in page.texts["verification"]
    assert "mismatches5in" in page.texts["header"]


def test_components_are_those_of_the_costs(rich_run: Path) -> None:
    with (rich_run / "costs.csv").open(newline="") as stream:
        costs = list(csv.DictReader(stream))
    rows = page_of(rich_run).rows["components"][1:]
    assert len(rows) == len(costs)
    for row, cost in zip(rows, costs, strict=True):
        assert row[1] == cost["what"].replace("_", " ")
        assert row[3] == (format_bits(int(cost["weight_bits"])) if int(cost["weight_bits"]) else "–")
        assert row[5] == (f"{int(cost['macs']):,}" if int(cost["macs"]) else "–")


def test_the_architecture_names_every_format(rich_run: Path, small_run: Path) -> None:
    for run in (rich_run, small_run):
        facts, text = read_run(run), page_of(run).texts["architecture"]
        assert facts.spec is not None
        for index, layer in enumerate(facts.spec.layers):
            part = text.split(f"block {index}")[1].split("→block")[0]
            for component, choice in layer.formats.items():
                assert re.search(rf"{component.value.replace('_', ' ')}[^a-z]*.{{0,40}}{choice.bits} bit", part)
            for word in (layer.attention, layer.aggregation, layer.activation):
                assert word in part
    assert "The spec was given" in page_of(rich_run).texts["candidates"]
    assert not (rich_run / "pareto.png").exists()


@pytest.mark.parametrize("done", range(7))
def test_an_unfinished_run_has_a_page(done: int, small_run: Path, tmp_path: Path) -> None:
    page = page_of(runs.first_stages(runs.copied(small_run, tmp_path / "run"), done))
    assert set(page.texts) >= {"header", *SECTIONS}
    for stage, section in (("search", "architecture"), ("lower", "components"), ("verify", "verification")):
        assert ("Not yet" in page.texts[section]) == (STAGES.index(stage) >= done)
    assert (f"next: {STAGES[done]}" if done < 6 else "mismatches") in page.texts["header"]


def test_everything_is_escaped(small_run: Path, tmp_path: Path) -> None:
    evil = "<script>alert('&')</script>\"><img src=x>"

    def spoil(record: dict[str, Any]) -> None:
        record["dataset"]["name"] = record["dataset"]["protocol"] = record["config"]["dataset"] = evil
        record["lpgnas_version"] = record["versions"]["torch"] = evil
        record["stages"]["verify"]["comparisons"][0] |= {"graph": evil, "form": evil, "note": evil}
        record["stages"]["export"]["refused"] = {"qonnx": evil}

    run = runs.with_record(runs.copied(small_run, tmp_path / "run"), spoil)
    text = html_report(read_run(run))
    page = Page(text)
    assert not {"script", "img"} & set(page.names)
    assert text.count(html.escape(evil)) >= 9
    assert evil not in text


# --- in a browser ---

CHROMIUM = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--v=0", "--dump-dom",
)  # fmt: skip


def opened(path: Path, profile: Path) -> tuple[str, list[str]]:
    """The document that Chromium makes of a file, and what its console said."""
    command = (*CHROMIUM, f"--user-data-dir={profile}", path.as_uri())
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium is not on the PATH (Debian: apt install chromium)"
)
def test_a_browser_opens_it_without_a_complaint(small_run: Path, rich_run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<script>undefined.x</script>")
    assert opened(tmp_path / "bad.html", tmp_path / "p0")[1], "the console is not seen"
    for number, run in enumerate((small_run, rich_run), 1):
        document, console = opened(run / "report.html", tmp_path / f"p{number}")
        assert console == []
        for section in SECTIONS:
            assert f'<section id="{section}">' in document
        assert document.count('class="pareto"') == (2 if run == small_run else 0)
        assert document.count('class="point') == (2 * 3 + 3 if run == small_run else 0)  # and three in the legend
