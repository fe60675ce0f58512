"""Ablations around the Shunted Transformer: which part of a multi-scale vision transformer earns its cost?

Importing this package imports nothing else; see `shunted_lab.run` for the command line and `shunted_lab.nn` for models.
"""

__version__ = "0.1.0"

# Part of every run's fingerprint. Raise it when a change of this package's code changes the numbers of a run:
# tests/tasks/test_loss_traces.py notices, and says how to store the new ones.
RESULTS_VERSION = 1
