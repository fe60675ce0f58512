"""What every command shares: overrides become a checked configuration, which an action takes; help; one-line errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shunted_lab.config.schema import ConfigError
from shunted_lab.output.streams import forgive
from shunted_lab.output.terminal import WIDE

if TYPE_CHECKING:
    from rich.console import Console


def run_command(
    overrides: Sequence[str] | None,
    usage: Callable[[], str],
    act: Callable[[list[str]], int | None],
    positional: str | None = None,
) -> int:
    """Print the help text, or do what the overrides ask for. Returns the exit status: that of `act` (None is 0), 1 for
    a user's mistake.

    Args:
        overrides: `key=value` texts; None takes those of this process.
        usage: the help text.
        act: composes the configuration and acts. It raises `ConfigError` for what a user can get wrong, and writes
            files before it prints.
        positional: the key of a first argument that is not `key=value`, e.g. a folder.
    """
    forgive()
    # Read when torch is imported, also by workers: threads that spin make small models slow on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if overrides is None else overrides)
    if positional is not None and given and "=" not in given[0] and not given[0].startswith("-"):
        given[0] = f"{positional}={given[0]}"
    if {"-h", "--help"} & set(given):
        print(usage())
        return 0
    try:
        return act(given) or 0
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def study_argument(config: Any) -> Path:
    """The study's folder that a command was given: `study`, or `experiment` with `runs_dir` and `smoke`.

    Raises:
        ConfigError: if neither was given.
    """
    if config.study is not None:
        return Path(config.study)
    if config.experiment is None:
        raise ConfigError("study: is missing; give the study's folder, e.g. runs/ablate_embed, or experiment=NAME")
    return Path(config.runs_dir) / (config.experiment + ("-smoke" if config.smoke else ""))


def make_console() -> Console:
    """rich's console on standard output, as wide as the terminal; a file or a pipe takes lines of any length."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE)
