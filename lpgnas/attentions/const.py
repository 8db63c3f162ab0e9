"""const: every edge counts the same."""

from __future__ import annotations

from lpgnas.attentions.score import ANY_AGGREGATION, Attention

ATTENTION = Attention("const", ANY_AGGREGATION)
