"""Ablations around the Shunted Transformer: which part of a multi-scale vision transformer earns its cost?

`Study` and `load_run` read and train studies in Python; `shunted_lab.run` is the command line, `shunted_lab.nn` has the
models. Importing this package imports nothing else before one of them is used.
"""

from typing import Any

__version__ = "0.1.0"

# Part of every run's fingerprint. Raise it when a change of this package's code changes the numbers of a run:
# tests/tasks/test_loss_traces.py notices, and says how to store the new ones.
RESULTS_VERSION = 1

__all__ = ["RESULTS_VERSION", "Study", "__version__", "load_run"]


def __getattr__(name: str) -> Any:
    if name not in ("Study", "load_run"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from shunted_lab.report import facade

    return getattr(facade, name)
