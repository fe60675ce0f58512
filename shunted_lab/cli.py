"""What every command does with its words: `--help`, and a user's mistake in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from shunted_lab.schema import ConfigError


def answer(words: list[str] | None, usage: Callable[[], str], act: Callable[[list[str]], int]) -> int:
    """Print the help text, or do what the words ask for. Returns the exit status: that of `act`, 1 for a mistake.

    Args:
        words: the command line; None takes that of this process.
        usage: the help text.
        act: does it, and raises `ConfigError` for what a user can get wrong.
    """
    # Read when torch is imported, also by workers: threads that spin make small models slow on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        print(usage())
        return 0
    try:
        return act(words)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
