"""Ablations around the Shunted Transformer: which part of a multi-scale vision transformer earns its cost?

Importing this package imports nothing else; see `shunted_lab.run` for the command line and `shunted_lab.nn` for models.
"""

__version__ = "0.1.0"
