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

Kind = Literal["run", "retrained", "manual", "uniform", "pdnas"]
"""`run`: a whole `lpgnas run` a seed. `retrained`: one search with seed 0, its model trained by each seed. `manual`: a
float32 model of `config.architecture`, tuned by twelve trainings, 2,400 steps. `uniform`: likewise with the formats of
the config, then a whole run of the best setting. `pdnas`: the float32 search."""
Family = Literal["manual", "quantised", "pdnas", "lpgnas", "random", "ours", "distilled"]
"""Lines that belong together in a figure and in a comparison of fronts; `distilled`: references that had a teacher."""
Shown = Literal["models", "front", "statistics"]
"""What a report has beside its lines: nothing; the fronts of the families compared; the formats that were chosen."""
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
        family: where it belongs, where a table tells families apart.
    """

    model: str
    kind: Kind
    config: RunConfig
    blocks: int = 2
    family: Family = "manual"

    @property
    def searches(self) -> bool:
        """Whether the architecture is chosen."""
        return self.kind == "pdnas" or (self.kind in ("run", "retrained") and self.config.strategy != "uniform")

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
        shown: what its report has beside the lines.
        optional: whether graphs without data are left out, unless they are asked for.
    """

    name: str
    title: str
    protocol: str
    entries: tuple[Entry, ...]
    published: tuple[Published, ...] = ()
    seeds: int = 10
    shown: Shown = "models"
    optional: bool = False


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
        uniform = replace(plain, strategy="uniform", architecture="gcn", weight_format="fixed4", activation_bits=8)
        yield Entry("GCN-16 W4A8, not tuned", "run", uniform)
        for blocks in (2, 3, 4):
            yield Entry(f"PDNAS-{blocks}", "pdnas", plain, blocks)
        for size, (weights, buffers) in limits.items():
            limited = replace(plain, weight_budget=weights, buffer_budget=buffers)
            yield Entry(f"LPGNAS{size}, our gradient", "run", replace(limited, strategy="lpgnas"))
            yield Entry(f"ours{size}, distilled", "run", replace(limited, distillation=True))
        yield Entry("GCN fp32, distilled", "manual", replace(plain, architecture="gcn", distillation=True))


def _amazon() -> Iterator[Entry]:
    """As the citation graphs, and a quantised JKNet."""
    yield from _supervised(AMAZON)
    for dataset in AMAZON:
        plain = replace(PLAIN, dataset=dataset, protocol="full", strategy="uniform", architecture="jknet")
        yield Entry("JKNet W4A8", "uniform", replace(plain, weight_format="fixed4", activation_bits=8))


MANUAL = {"GraphSAGE": "graphsage", "GAT": "gat", "JKNet": "jknet", "GCN": "gcn"}
FRONT_BUDGETS = ("512B", "1KiB", "2KiB", "4KiB", "16KiB")


def _front(dataset: str, buffers: str) -> Iterator[Entry]:
    """Rivals and ours over their size; the least budget is twice the smallest model of the space."""
    plain = replace(PLAIN, dataset=dataset, protocol="full")
    for name, architecture in MANUAL.items():
        manual = replace(plain, architecture=architecture)
        yield Entry(name, "manual", manual)
        for weights, label in (("fixed8", "W8A8"), ("fixed4", "W4A8")):
            uniform = replace(manual, strategy="uniform", weight_format=weights, activation_bits=8)
            yield Entry(f"{name} {label}", "uniform", uniform, family="quantised")
    for blocks in (2, 3, 4):
        yield Entry(f"PDNAS-{blocks}", "pdnas", plain, blocks, family="pdnas")
    for weights in FRONT_BUDGETS:
        limited = replace(plain, weight_budget=weights, buffer_budget=buffers)
        yield Entry(f"LPGNAS {weights}, our gradient", "run", replace(limited, strategy="lpgnas"), family="lpgnas")
        distilled = replace(limited, distillation=True)
        yield Entry(f"random {weights}, distilled", "run", replace(distilled, strategy="random"), family="random")
        yield Entry(f"ours {weights}, distilled", "run", distilled, family="ours")
    reference = replace(plain, architecture="gcn", distillation=True)
    yield Entry("GCN fp32, distilled", "manual", reference, family="distilled")


GCN16 = {"W8A8": ("fixed8", 8), "W4A8": ("fixed4", 8), "W4A4": ("fixed4", 4), "W2A8": ("fixed2", 8)} | {
    "W2A4": ("fixed2", 4), "W1A8": ("binary", 8), "W1A4": ("binary", 4)
}  # fmt: skip
ANY_BITS = replace(
    PLAIN,
    strategy="lpgnas",
    weight_formats=("binary", "ternary", "fixed2", "fixed3", "fixed4", "fixed6", "fixed8"),
    code_bits=(2, 3, 4, 5, 6, 7, 8),
)
"""The paper's search where formats may take any number of bits up to 8."""
UNLIMITED = "LPGNAS, any bits"


def unsearched(label: str) -> str:
    """The line of a uniform GCN-16 with the formats `label`."""
    return f"GCN-16 {label}, no search"


def searched(label: str) -> str:
    """The line of a searched model within its sizes."""
    return f"LPGNAS within {label} of GCN-16"


def _statistics(sizes: dict[str, dict[str, tuple[str, str]]]) -> Iterator[Entry]:
    """What formats a search chooses, and what W4A8 and less are worth with and without it."""
    for dataset, limits in sizes.items():
        plain = replace(ANY_BITS, dataset=dataset, protocol="full")
        weights, buffers = (CITATION | AMAZON)[dataset][""]
        yield Entry(UNLIMITED, "run", replace(plain, weight_budget=weights, buffer_budget=buffers), family="lpgnas")
        uniform = replace(PLAIN, dataset=dataset, protocol="full", strategy="uniform", architecture="gcn", hidden=16)
        for label, (weight, bits) in GCN16.items():
            config = replace(uniform, weight_format=weight, activation_bits=bits)
            yield Entry(unsearched(label), "run", config, family="quantised")
        for label, (weights, buffers) in limits.items():
            limited = replace(plain, weight_budget=weights, buffer_budget=buffers)
            yield Entry(searched(label), "run", limited, family="lpgnas")


# Cora is the embedded graph: the same one as planetoid/Cora in another order, which has no public split and needs none.
CITATION = {
    "cora": {"-small": ("3KiB", "60KiB"), "": ("48KiB", "240KiB")},
    "planetoid/CiteSeer": {"-small": ("7.5KiB", "65KiB"), "": ("120KiB", "300KiB")},
    "planetoid/PubMed": {"-small": ("2KiB", "350KiB"), "": ("16KiB", "2MiB")},
}
AMAZON = {
    "amazon/Computers": {"-small": ("3KiB", "300KiB"), "": ("26KiB", "1.5MiB")},
    "amazon/Photo": {"-small": ("3KiB", "160KiB"), "": ("26KiB", "800KiB")},
}
LARGE = {
    "CoraFull": {"-small": ("24KiB", "4MiB"), "": ("256KiB", "16MiB")},
    "Flickr": {"-small": ("2KiB", "4MiB"), "": ("26KiB", "32MiB")},
    "Yelp": {"-small": ("8KiB", "256MiB"), "": ("64KiB", "1GiB")},
}
GCN16_SIZES = {
    "cora": {"W4A8": ("11.4KiB", "104KiB"), "W2A8": ("5.7KiB", "104KiB"), "W1A8": ("2.9KiB", "104KiB")},
    "planetoid/CiteSeer": {"W4A8": ("29.1KiB", "124KiB"), "W2A8": ("14.6KiB", "124KiB"), "W1A8": ("7.4KiB", "124KiB")},
    "planetoid/PubMed": {"W4A8": ("4KiB", "674KiB"), "W2A8": ("2.1KiB", "674KiB"), "W1A8": ("1.1KiB", "674KiB")},
    "amazon/Computers": {"W4A8": ("6.2KiB", "565KiB"), "W2A8": ("3.1KiB", "565KiB"), "W1A8": ("1.6KiB", "565KiB")},
    "amazon/Photo": {"W4A8": ("6KiB", "299KiB"), "W2A8": ("3.1KiB", "299KiB"), "W1A8": ("1.6KiB", "299KiB")},
}
"""Weights and buffers of a uniform GCN-16, rounded up: what a searched model may have instead."""
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
            Published(dataset, f"{model}, {PAPER}", accuracy)
            for model, accuracies in {
                "GraphSAGE": ("74.5", "75.3", "85.3"),
                "GAT": ("88.9", "75.9", "86.1"),
                "JKNet": ("88.7", "75.5", "87.6"),
                "PDNAS-2": ("89.3", "76.3", "89.1"),
                "PDNAS-3": ("89.3", "75.5", "89.1"),
                "PDNAS-4": ("89.8", "75.6", "89.2"),
                "LPGNAS": ("89.8", "76.2", "89.6"),
            }.items()
            for dataset, accuracy in zip(CITATION, accuracies, strict=True)
        ),
    ),
    Table(
        "amazon",
        "Amazon graphs, fully supervised",
        "full",
        tuple(_amazon()),
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
    Table(
        "large",
        "Larger graphs, fully supervised",
        "full",
        tuple(_supervised(LARGE)),
        optional=True,
    ),
    Table(
        "pareto",
        "Accuracy against model size",
        "full",
        tuple(_front("planetoid/PubMed", "2MiB")),
        (Published("planetoid/PubMed", f"LPGNAS, {PAPER}: 2.3 times smaller than PDNAS-4", "89.6"),),
        shown="front",
    ),
    Table(
        "statistics",
        "Chosen bit-widths, and W4A8 with and without search",
        "full",
        tuple(_statistics(GCN16_SIZES)),
        seeds=5,
        shown="statistics",
    ),
)

TABLES: Registry[Table] = Registry("table")
for _one in _TABLES:
    TABLES.add(_one.name, _one)
