"""What every command does with its overrides: help, mistakes in one line, and output that cannot make it fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from shunted_lab.schema import ConfigError
from shunted_lab.streams import forgive
from shunted_lab.terminal import WIDE

if TYPE_CHECKING:
    from rich.console import Console


def answer(words: list[str] | None, usage: Callable[[], str], act: Callable[[list[str]], int]) -> int:
    """Print the help text, or do what the overrides ask for. Returns the exit status: that of `act`, 1 for a mistake.

    Args:
        words: the command line; None takes that of this process.
        usage: the help text.
        act: does it, and raises `ConfigError` for what a user can get wrong. It writes files before it prints.
    """
    forgive()
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


def make_console() -> Console:
    """rich's console on standard output, as wide as the terminal; a file or a pipe takes lines of any length."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE)
