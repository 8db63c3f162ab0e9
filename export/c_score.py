"""`ScoreAlgebra` of C expressions: an attention's formula as one static function of an edge and a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lpgnas.attentions.score import EdgeScore, Side
from lpgnas.integer_program import INT32_LIMIT, LEAKY_SLOPE_BITS, Aggregate, Array, IntegerProgram
from lpgnas.proofs import program_score_facts

NODES = {"source": "j", "target": "i"}
"""Variables of the ends of an edge j -> i."""


@dataclass(frozen=True)
class CValue:
    """A C expression of an edge and head `h`; one `by_channel` is of channel `c` too."""

    text: str
    by_channel: bool


class CScores:
    """Collects the statements of a score's formula.

    Args:
        program: the program.
        operation: whose scores they are.
        score: the attention's.
        read: makes the expression of a constant's k-th code, from the array and k.
        tensor: makes the name of a variable that points at a tensor's rows.
    """

    def __init__(
        self,
        program: IntegerProgram,
        operation: Aggregate,
        score: EdgeScore,
        read: Callable[[Array, str], str],
        tensor: Callable[[str], str],
    ) -> None:
        self._program, self._operation, self._read, self._tensor = program, operation, read, tensor
        self._weights = dict(zip(score.edge_weights, operation.edge_weights, strict=True))
        self._columns = program.tensor(operation.input).columns
        self.width = self._columns // operation.heads
        self.kind = "int32_t" if program_score_facts(program, operation, score).largest < INT32_LIMIT else "int64_t"
        self.statements: list[str] = []
        self._inside: list[str] = []
        self._made = 0

    def _keep(self, text: str, *, by_channel: bool) -> CValue:
        name, self._made = f"t{self._made}", self._made + 1
        (self._inside if by_channel else self.statements).append(f"const {self.kind} {name} = {text};")
        return CValue(name, by_channel)

    def node(self, weight: str, at: Side) -> CValue:
        """The product stored at one end."""
        rows, heads = self._tensor(self._operation.node_scores()[weight]), self._operation.heads
        return CValue(f"({self.kind}){rows}[(ptrdiff_t){NODES[at]} * {heads} + h]", by_channel=False)

    def message(self, at: Side) -> CValue:
        """The message of one end."""
        rows = self._tensor(self._operation.input)
        place = f"(ptrdiff_t){NODES[at]} * {self._columns} + h * {self.width} + c"
        return CValue(f"({self.kind}){rows}[{place}]", by_channel=True)

    def weight(self, name: str) -> CValue:
        """An edge weight."""
        array = self._program.array(self._weights[name])
        return CValue(f"({self.kind}){self._read(array, f'h * {self.width} + c')}", by_channel=True)

    def add(self, left: CValue, right: CValue) -> CValue:
        """The sum."""
        return CValue(f"({left.text} + {right.text})", left.by_channel)

    def multiply(self, left: CValue, right: CValue) -> CValue:
        """The product."""
        return CValue(f"{left.text} * {right.text}", left.by_channel)

    def leaky(self, value: CValue) -> CValue:
        """Leaky ReLU of slope 1/4 in two more places."""
        kept = self._keep(value.text, by_channel=value.by_channel).text
        return CValue(f"({kept} >= 0 ? {1 << LEAKY_SLOPE_BITS} * {kept} : {kept})", value.by_channel)

    def look_up(self, value: CValue) -> CValue:
        """The table's entry at the rounded value."""
        operation = self._operation
        table = self._program.array(operation.argument_table or "")
        bounds = f"{operation.argument_shift}, {operation.score_low}, {operation.score_high}"
        place = f"requantize({value.text}, {bounds}) - ({operation.score_low})"
        return self._keep(self._read(table, place), by_channel=value.by_channel)

    def over_channels(self, value: CValue) -> CValue:
        """The sum over a head's channels: one loop with what was kept by channel."""
        name, self._made = f"t{self._made}", self._made + 1
        self.statements += [
            f"{self.kind} {name} = 0;",
            f"for (int32_t c = 0; c < {self.width}; ++c) {{",
            *(f"    {line}" for line in self._inside),
            f"    {name} += {value.text};",
            "}",
        ]
        self._inside = []
        return CValue(name, by_channel=False)
