"""lpgnas: search, train and deploy low-precision graph neural networks, bit-true from PyTorch to ONNX.

The package imports lazily: a machine without torch can run, check and export an integer program.
"""

__version__ = "0.1.0"
