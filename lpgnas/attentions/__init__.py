"""The attentions of a block, one file each; `lpgnas.operators.ATTENTIONS` lists them by name.

A file holds all that its attention is: the formula of an edge's score, from which every stage takes its form
(`score.py`), the weights and the table that the formula reads, and the kernel. No torch, ONNX or Numba is imported.
"""
