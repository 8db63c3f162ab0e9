"""Reports and figures of the tables, from rows that are made up."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from lpgnas.fronts import hypervolume
from lpgnas.reproduce_report import COMPARED, FAMILIES, bit_widths, figure, reference_point, report
from lpgnas.reproduce_tables import FRONT_BUDGETS, GCN16, TABLES, UNLIMITED, Table

PUBMED = "planetoid/PubMed"


def made_up(table: Table, seeds: int, gain: float = 0.01) -> pd.DataFrame:
    """Rows in which ours are better than anything of their size by `gain` on every split."""
    rng = np.random.default_rng(0)
    splits = rng.normal(0.0, 0.015, seeds)
    rows = []
    for number, entry in enumerate(table.entries):
        budget = entry.config.budget().get("weight_bits") or 8192 * (20 + number)
        base = 0.8 + 0.01 * np.log2(budget / 4096) + gain * (entry.family == "ours") - 0.005 * (entry.kind == "uniform")
        formats = {"layer0.message": f"fixed{4 + number % 3}", "layer1.linear_weight": "ternary"}
        shared = {"dataset": entry.config.dataset, "model": entry.model, "weight_bits": budget, "steps": 2040}
        shared |= {"buffer_bits": 8 * budget, "formats": json.dumps(formats)}
        rows += [shared | {"seed": seed, "test_accuracy": base + splits[seed]} for seed in range(seeds)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", TABLES.names())
def test_every_table_has_a_report_and_a_figure(name: str) -> None:
    table = TABLES.get(name)
    every = made_up(table, 2)
    one = every[every["model"] == table.entries[0].model]
    for rows in (every, one):
        assert report(table, rows).startswith(f"# {table.title}\n")
        assert f"split: {table.protocol}; seeds: 0, 1" in report(table, rows)
    drawn = figure(table, one)
    assert drawn.startswith(b"\x89PNG") and drawn == figure(table, one)
    assert figure(table, one[:1].assign(weight_bits=8192 * 5000)).startswith(b"\x89PNG")  # log axes of one point
    assert "seeds: none yet" in report(table, made_up(table, 1)[:0])


def test_the_front_is_compared_with_rivals_and_with_random() -> None:
    table = TABLES.get("pareto")
    rows = made_up(table, 5)
    text = report(table, rows)
    corner = reference_point(rows)
    assert corner.bits == rows["weight_bits"].max()
    assert 0.0 < corner.accuracy <= rows.groupby("model")["test_accuracy"].mean().min() - 0.05
    means = rows.groupby("model").agg(bits=("weight_bits", "mean"), accuracy=("test_accuracy", "mean"))
    family = {entry.model: entry.family for entry in table.entries}
    sides = {
        name: hypervolume(
            [(row.bits, row.accuracy) for model, row in means.iterrows() if family[str(model)] == name], corner
        )
        for name in ("ours", "random")
    }
    lines = [line for line in text.splitlines() if line.startswith("| ours, distilled | random draws")]
    assert len(lines) == 1
    cells = [cell.strip() for cell in lines[0].split("|")[1:-1]]
    assert cells[2] == "5" and cells[3] == f"{sides['ours'] - sides['random']:+.1f}" and cells[5] == "yes"
    assert len(re.findall(r"^\| (ours, distilled|LPGNAS, our gradient) \|", text, re.MULTILINE)) == len(COMPARED)
    assert figure(table, rows).startswith(b"\x89PNG")
    same = report(table, made_up(table, 5, gain=0.0))
    assert [line.split("|")[-2].strip() for line in same.splitlines() if "random draws" in line] == ["no"]


def test_the_fronts_need_two_seeds_that_all_lines_have() -> None:
    table = TABLES.get("pareto")
    text = report(table, made_up(table, 1))
    assert "Hypervolume" in text and "minus that of" not in text


def test_the_pareto_table_has_what_it_promises() -> None:
    table = TABLES.get("pareto")
    names = [entry.model for entry in table.entries]
    rivals = [entry.model for entry in table.entries if entry.family in ("manual", "quantised", "pdnas", "lpgnas")]
    assert len(rivals) >= 7 and {entry.config.dataset for entry in table.entries} == {PUBMED}
    for model in ("GraphSAGE", "GAT", "JKNet", "GCN"):
        assert {model, f"{model} W4A8", f"{model} W8A8"} <= set(names)
    assert {"PDNAS-2", "PDNAS-3", "PDNAS-4"} <= set(names)
    assert all(f"ours {size}, distilled" in names for size in FRONT_BUDGETS)
    assert {entry.family for entry in table.entries} == set(FAMILIES)


def test_bit_widths_are_counted_by_component() -> None:
    formats = [
        {"layer0.message": "fixed4", "layer1.message": "fixed8", "layer0.linear_weight": "binary"},
        {"layer0.message": "fixed4", "layer0.linear_weight": "ternary"},
    ]
    counted = bit_widths(pd.DataFrame({"formats": [json.dumps(one) for one in formats]}))
    assert counted == {"message": Counter({4: 2, 8: 1}), "linear_weight": Counter({1: 1, 2: 1})}


def test_the_statistics_table_says_which_bits_were_chosen() -> None:
    table = TABLES.get("statistics")
    graphs = {entry.config.dataset for entry in table.entries}
    assert len(graphs) == 5 and {f"GCN-16 {label}, no search" for label in GCN16} < {e.model for e in table.entries}
    assert not any(entry.config.distillation for entry in table.entries)
    assert figure(table, made_up(table, 2)).startswith(b"\x89PNG")
    text = report(table, made_up(table, 2))
    assert f"## Chosen bit-widths of `{UNLIMITED}`" in text
    assert re.search(r"^\| linear_weight \| 100 % \|", text, re.MULTILINE)
    assert re.search(r"^\| message \| 0 % \|", text, re.MULTILINE)


def test_the_w4a8_claim_is_a_paired_difference() -> None:
    table = TABLES.get("statistics")
    rows = made_up(table, 3)
    at = (rows["dataset"] == "cora") & (rows["model"] == "GCN-16 W2A8, no search")
    full = rows[(rows["dataset"] == "cora") & (rows["model"] == "GCN-16 W8A8, no search")]
    within = rows["model"] == "LPGNAS within W2A8 of GCN-16"
    rows.loc[at, "test_accuracy"] = full["test_accuracy"].to_numpy() - [0.01, 0.02, 0.03]
    rows.loc[(rows["dataset"] == "cora") & within, "test_accuracy"] = rows.loc[at, "test_accuracy"].to_numpy() + 0.005
    text = report(table, rows[~((rows["dataset"] == "amazon/Photo") & within)])
    assert "| cora | W2A8 | -2.0 ± 1.0 | +0.5 ± 0.0 |" in text
    assert re.search(r"^\| cora \| W2A4 \| [-+0-9.]+ ± 0.0 \|  \|$", text, re.MULTILINE)
    assert re.search(r"^\| amazon/Photo \| W2A8 \| [-+0-9.]+ ± 0.0 \|  \|$", text, re.MULTILINE)
