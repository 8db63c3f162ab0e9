"""Fixed-point checks: what each component of an integer program reaches on a graph, and what that says of its format.

Counts come from `lpgnas.kernels.fixed_point`; here they become a table, JSON and sentences
(docs/fixed_point_checks.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.fixed_point import Reached, SiteCounts, count_fixed_point
from lpgnas.results import to_json

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
SATURATED_SHARE = 0.01
"""Share of saturated values from which a format is said to lack bits."""
LOST_SHARE = 0.5
"""Share of non-zero values rounded to zero from which a format is said to lack binary places."""


@dataclass(frozen=True)
class FixedPointReport:
    """The counts of a program on one graph.

    Attributes:
        graph: name of the graph.
        num_nodes: N.
        num_edges: E.
        max_degree: most incoming edges that the proofs hold for.
        sites: one entry a component, constants first, then in the order of the operations.
    """

    graph: str
    num_nodes: int
    num_edges: int
    max_degree: int
    sites: tuple[SiteCounts, ...]

    def site(self, name: str) -> SiteCounts:
        """The counts of the tensor, array or edge codes called `name`.

        Raises:
            KeyError: there is none.
        """
        return {one.name: one for one in self.sites}[name]

    def sentences(self) -> list[str]:
        """Where a format wastes or lacks bits, in words; empty where none does."""
        return [f"{site.name}: {text}" for site in self.sites for text in _sentences(site)]

    def frame(self) -> pd.DataFrame:
        """One row a component: ranges, bits, saturations, underflows."""
        import pandas as pd

        return pd.DataFrame([_row(site) for site in self.sites])

    def to_text(self) -> str:
        """The table and the sentences, for people."""
        head = (
            f"{self.graph}: {self.num_nodes:,} nodes, {self.num_edges:,} edges, proved for {self.max_degree:,} a node\n"
        )
        told = self.sentences() or ["no format wastes or lacks bits"]
        return f"{head}\n{self.frame().to_string(index=False)}\n\n" + "".join(f"- {line}\n" for line in told)

    def to_json(self) -> str:
        """All counts and the sentences as JSON (docs/fixed_point_checks.md)."""
        return to_json(
            {
                "schema_version": SCHEMA_VERSION,
                "graph": self.graph,
                "num_nodes": self.num_nodes,
                "num_edges": self.num_edges,
                "max_degree": self.max_degree,
                "components": [_entry(site) for site in self.sites],
                "sentences": self.sentences(),
            }
        )


def fixed_point_checks(program: IntegerProgram, graph: Graph) -> FixedPointReport:
    """Count what every component of a program reaches on a graph.

    Args:
        program: the program.
        graph: within its `max_degree`, with its number of features; labels are not read.

    Raises:
        ProgramError: a program whose proofs do not hold.
        GraphError: a graph with another number of features.
        DegreeError: a node with more incoming edges than the program is proved for.
        CheckFailed: the kernels' codes are not the counted ones.
    """
    sites = count_fixed_point(program, graph.x, graph.edge_index)
    return FixedPointReport(graph.name, graph.num_nodes, graph.num_edges, program.max_degree, sites)


def _format(site: SiteCounts) -> str:
    if site.kind != "fixed":
        return site.kind
    return f"{'fixed' if site.low < 0 else 'unsigned'}{site.bits}"


def _span(reached: Reached | None) -> str:
    return "" if reached is None else f"{reached.low}..{reached.high}"


def _bits(reached: Reached | None) -> str:
    """Bits needed, and of those that are proved."""
    if reached is None:
        return ""
    return (
        f"{reached.bits_needed}" if reached.bits_proved is None else f"{reached.bits_needed} of {reached.bits_proved}"
    )


def _row(site: SiteCounts) -> dict[str, object]:
    used = "" if site.codes_used is None else f"{site.codes_used} of {site.codes_in_format}"
    return {
        "component": site.name,
        "format": _format(site),
        "values": site.values,
        "codes": _span(site.codes),
        "codes used": used,
        "bits needed": site.bits_needed,
        "saturated": site.saturations,
        "cut": site.cut,
        "underflows": site.underflows,
        "accumulator": _span(site.accumulator),
        "accumulator bits": _bits(site.accumulator),
        "total": _span(site.total),
        "total bits": _bits(site.total),
    }


def _entry(site: SiteCounts) -> dict[str, Any]:
    derived: dict[str, Any] = {
        "bits_needed": site.bits_needed,
        "bits_to_hold": site.bits_to_hold,
        "saturations": site.saturations,
    }
    for name in ("accumulator", "total"):
        reached: Reached | None = getattr(site, name)
        derived[f"{name}_bits_needed"] = None if reached is None else reached.bits_needed
        derived[f"{name}_bits_proved"] = None if reached is None else reached.bits_proved
    return {**asdict(site), **derived}


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _sentences(site: SiteCounts) -> Iterator[str]:
    if site.codes_used is not None and site.operation != "bias" and site.name.rsplit("/", 1)[-1] != "probability":
        yield from _of_format(site)
    if site.accumulator is not None and site.accumulator_bits == 64 and site.accumulator.bits_needed <= 32:
        needed, proved = site.accumulator.bits_needed, site.accumulator.bits_proved
        yield f"its 64-bit accumulator needs {needed} bits on this graph; {proved} are proved for any graph"


def _of_format(site: SiteCounts) -> Iterator[str]:
    lacking = site.saturations >= max(1.0, SATURATED_SHARE * site.values)
    if lacking:
        yield _lacking(site)
    if site.codes_used == 1:
        yield f"constant: only code {site.codes.low} comes up, so its {site.bits} bits carry nothing"
        return
    if site.nonzero and site.underflows >= LOST_SHARE * site.nonzero:
        share = _percent(site.underflows, site.nonzero)
        yield f"lacks binary places: {share} of the non-zero values are rounded to 0"
    spare = site.bits - site.bits_needed
    if site.kind == "fixed" and spare > 0 and not site.saturations:
        also = " or hold as many binary places more" if site.underflows else ""
        yield f"wastes {_counted(spare)} of {site.bits}: codes {_span(site.codes)} fit {site.bits_needed}{also}"
    elif site.kind == "fixed" and site.low < 0 <= site.codes.low and site.bits > 1 and not site.saturated_low:
        yield f"wastes its sign: codes {_span(site.codes)} are never negative"
    if site.kind == "ternary" and site.codes_used == 2:
        yield f"wastes a code: {_span(site.codes)} leaves one of the three out, so binary weights could hold it"
    if site.common_places and site.kind == "fixed":
        step = 1 << site.common_places
        yield f"wastes {_counted(site.common_places)} at the lower end: every code is a multiple of {step}"


def _lacking(site: SiteCounts) -> str:
    share = _percent(site.saturations, site.values)
    if site.low == 0 and site.saturated_low:
        return f"lacks a sign: {_percent(site.saturated_low, site.values)} of the values are negative and become 0"
    more = site.bits_to_hold - site.bits
    return (
        f"lacks bits: {share} of the values saturate; {_counted(more)} more, or as many binary places fewer, hold all"
    )


def _counted(bits: int) -> str:
    return "1 bit" if bits == 1 else f"{bits} bits"
