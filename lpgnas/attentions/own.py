"""self: a node reads its own message alone, so that the block is a linear layer.

JKNet (Xu et al. 2018) ends in one over the outputs of all blocks; so do the heads of GraphSAGE models and MLPs.
"""

from __future__ import annotations

from lpgnas.attentions.score import Attention

ATTENTION = Attention("self", frozenset({"sum"}), neighbours=False)
