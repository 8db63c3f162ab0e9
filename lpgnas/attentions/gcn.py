"""gcn: both ends are scaled by `degree^-1/2` (Kipf & Welling 2017)."""

from __future__ import annotations

from lpgnas.attentions.score import Attention

ATTENTION = Attention("gcn", frozenset({"sum"}), degree_factors=True)
