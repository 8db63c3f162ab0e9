"""The tables that `lpgnas reproduce` makes: which models on which graphs, under which protocol, with which seeds.

Everything is fixed here before anything is measured. Models that bear a name of the paper are trained without
distillation; where there is a teacher, the name of the line says so. Budgets are ours: the paper's sizes are not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from lpgnas.config import RunConfig
from lpgnas.registry import Registry

Kind = Literal["run", "retrained", "manual", "pdnas"]
"""`run`: a whole `lpgnas run` a seed. `retrained`: one search with seed 0, its model trained by each seed. `manual`: a
float32 model of `config.architecture`, tuned by twelve trainings, 2,400 steps. `pdnas`: the float32 search."""
PLAIN = RunConfig("cora", distillation=False, reference_seeds=0)
DISTILLED = replace(PLAIN, distillation=True)


@dataclass(frozen=True)
class Entry:
    """A kind of model on a graph.

    Attributes:
        model: what a reader is told.
        kind: how it is measured.
        config: of a run, but for its seeds.
        blocks: of a float32 model.
    """

    model: str
    kind: Kind
    config: RunConfig
    blocks: int = 2

    def seeded(self, seed: int) -> RunConfig:
        """The config of one seed; a drawn split has the same."""
        split = 0 if self.config.protocol == "public" else seed
        return replace(self.config, seed=seed, split_seed=split)


@dataclass(frozen=True)
class Published:
    """A figure from a paper, for comparison: accuracy in percent, as printed there."""

    dataset: str
    model: str
    accuracy: str
    weights: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: on the command line.
        title: what it shows.
        protocol: of all its splits; no table mixes two.
        entries: its lines.
        published: figures of papers under the same protocol.
        seeds: how many unless asked otherwise.
    """

    name: str
    title: str
    protocol: str
    entries: tuple[Entry, ...]
    published: tuple[Published, ...] = ()
    seeds: int = 10


def _public() -> Iterator[Entry]:
    limits = {
        "planetoid/Cora": (("3KiB", "60KiB"), ("1.5KiB", "40KiB")),
        "planetoid/CiteSeer": (("7.5KiB", "65KiB"),),
        "planetoid/PubMed": (("1.05KiB", "150KiB"),),
    }
    for dataset, budgets in limits.items():
        plain = replace(PLAIN, dataset=dataset, protocol="public")
        yield Entry("GCN fp32", "manual", replace(plain, architecture="gcn"))
        yield Entry("GCN fp32, distilled", "manual", replace(plain, architecture="gcn", distillation=True))
        uniform = replace(plain, strategy="uniform", architecture="gcn", hidden=16)
        yield Entry("GCN-16 W4A8, not tuned", "run", replace(uniform, weight_format="fixed4", activation_bits=8))
        for weights, buffers in budgets:
            limited = replace(plain, distillation=True, weight_budget=weights, buffer_budget=buffers)
            yield Entry(f"ours, {weights} and {buffers}, distilled, one search", "retrained", limited)
    largest = replace(PLAIN, dataset="planetoid/Cora", protocol="public", weight_budget="11.5KiB")
    yield Entry("ours, 11.5KiB, one search", "retrained", largest)


def _supervised(budgets: dict[str, dict[str, tuple[str, str]]]) -> Iterator[Entry]:
    """Rivals, the paper's search and ours, fully supervised."""
    for dataset, limits in budgets.items():
        plain = replace(PLAIN, dataset=dataset, protocol="full")
        for name, architecture in (("GraphSAGE", "graphsage"), ("GAT", "gat"), ("JKNet", "jknet")):
            yield Entry(name, "manual", replace(plain, architecture=architecture))
        for blocks in (2, 3, 4):
            yield Entry(f"PDNAS-{blocks}", "pdnas", plain, blocks)
        for size, (weights, buffers) in limits.items():
            limited = replace(plain, weight_budget=weights, buffer_budget=buffers)
            yield Entry(f"LPGNAS{size}, our gradient", "run", replace(limited, strategy="lpgnas"))
            yield Entry(f"ours{size}, distilled", "run", replace(limited, distillation=True))
        yield Entry("GCN fp32, distilled", "manual", replace(plain, architecture="gcn", distillation=True))


CITATION = {
    "planetoid/Cora": {"-small": ("3KiB", "60KiB"), "": ("48KiB", "240KiB")},
    "planetoid/CiteSeer": {"-small": ("7.5KiB", "65KiB"), "": ("120KiB", "300KiB")},
    "planetoid/PubMed": {"-small": ("2KiB", "350KiB"), "": ("16KiB", "2MiB")},
}
AMAZON = {
    "amazon/Computers": {"-small": ("3KiB", "300KiB"), "": ("26KiB", "1.5MiB")},
    "amazon/Photo": {"-small": ("3KiB", "160KiB"), "": ("26KiB", "800KiB")},
}
PAPER = "LPGNAS (arXiv 2009.09232)"
_TABLES = (
    Table(
        "public",
        "Small models on the public split",
        "public",
        tuple(_public()),
        (
            Published("planetoid/Cora", "GCN fp32 (Kipf & Welling)", "81.5"),
            Published("planetoid/Cora", "Degree-Quant GCN INT8 / INT4", "81.7 / 78.3"),
            Published("planetoid/Cora", "A2Q GCN, 1.70 bits", "80.9"),
            Published("planetoid/Cora", "MixQ GCN-128, 7.7 / 5.8 / 3.8 bits", "81.6 / 77.7 / 68.7"),
            Published("planetoid/Cora", "Bi-GCN-64", "81.2", "11.5 KB"),
            Published("planetoid/CiteSeer", "GCN fp32 (Kipf & Welling)", "70.9"),
            Published("planetoid/CiteSeer", "Degree-Quant GCN INT8 / INT4", "71.0 / 66.9"),
            Published("planetoid/CiteSeer", "A2Q GCN, 1.87 bits", "70.6"),
            Published("planetoid/CiteSeer", "MixQ GCN-128, 6.8 bits", "69.0"),
            Published("planetoid/CiteSeer", "Bi-GCN-64", "68.8"),
            Published("planetoid/PubMed", "GCN fp32 (Kipf & Welling)", "79.1"),
            Published("planetoid/PubMed", "A2Q GAT, 2.12 bits", "78.8"),
            Published("planetoid/PubMed", "MixQ GCN-128, 7.4 / 5.5 / 4.1 bits", "78.3 / 77.3 / 71.0"),
            Published("planetoid/PubMed", "Bi-GCN-64", "78.2"),
        ),
    ),
    Table(
        "citation",
        "Citation graphs, fully supervised",
        "full",
        tuple(_supervised(CITATION)),
        tuple(
            Published(f"planetoid/{dataset}", f"{model}, {PAPER}", accuracy)
            for model, accuracies in {
                "GraphSAGE": ("74.5", "75.3", "85.3"),
                "GAT": ("88.9", "75.9", "86.1"),
                "JKNet": ("88.7", "75.5", "87.6"),
                "PDNAS-2": ("89.3", "76.3", "89.1"),
                "PDNAS-3": ("89.3", "75.5", "89.1"),
                "PDNAS-4": ("89.8", "75.6", "89.2"),
                "LPGNAS": ("89.8", "76.2", "89.6"),
            }.items()
            for dataset, accuracy in zip(("Cora", "CiteSeer", "PubMed"), accuracies, strict=True)
        ),
    ),
    Table(
        "amazon",
        "Amazon graphs, fully supervised",
        "full",
        tuple(_supervised(AMAZON)),
        tuple(
            Published(f"amazon/{dataset}", f"{model}, {PAPER}", accuracy)
            for model, accuracies in {
                "GraphSAGE": ("87.7", "87.9"),
                "GAT": ("85.3", "85.2"),
                "JKNet": ("88.8", "88.6"),
                "LPGNAS-small": ("88.7", "88.6"),
                "LPGNAS": ("90.5", "89.7"),
            }.items()
            for dataset, accuracy in zip(("Computers", "Photo"), accuracies, strict=True)
        ),
    ),
)

TABLES: Registry[Table] = Registry("table")
for _one in _TABLES:
    TABLES.add(_one.name, _one)
