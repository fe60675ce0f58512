"""All studies under a folder in the Optuna dashboard: python -m shunted_lab.dashboard [runs_dir=runs] [port=8080]

It shows copies that are made anew every few seconds: whatever is clicked there, no study is touched.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from shunted_lab.command import run_command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.help import help_text
from shunted_lab.config.schema import ConfigError, option, path_option, require

if TYPE_CHECKING:
    from shunted_lab.report.mirror import Mirror

HOST = "127.0.0.1"  # there is no login

HELP = """\
usage: python -m shunted_lab.dashboard [runs_dir=runs] [port=8080]

Shows all studies in runs_dir in a browser: each with its question, finding and table, and its trials in the Optuna
dashboard. It shows copies; studies are not changed.
"""


@dataclass
class DashboardConfig:
    """The configuration of `python -m shunted_lab.dashboard`."""

    runs_dir: str = path_option("runs", "folder of all results")
    storage: str | None = option(None, "SQLAlchemy URL of further studies, as in study.storage")
    port: int = option(8080, "port on this machine; other machines cannot connect, since there is no login")
    refresh: float = option(5.0, "seconds between copies")

    def __post_init__(self) -> None:
        require(0 < self.port < 65536, "port", self.port, "is not between 1 and 65535")
        require(self.refresh > 0, "refresh", self.refresh, "is not above 0")


def main(overrides: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 for a user's mistake."""
    return run_command(overrides, lambda: help_text(HELP, DashboardConfig), _act)


def _act(overrides: list[str]) -> None:
    with suppress(KeyboardInterrupt):
        serve(compose_as(DashboardConfig, overrides))


def serve(config: DashboardConfig) -> None:
    """Open the dashboard on this machine and keep its copies fresh until it is interrupted.

    Raises:
        ConfigError: if there is no study, no dashboard installed, or the port is taken.
    """
    if find_spec("optuna_dashboard") is None:
        raise ConfigError("optuna-dashboard is not installed; pip install 'shunted_lab[dashboard]'")
    import optuna

    from shunted_lab.report.mirror import Mirror
    from shunted_lab.study.storage import ERRORS

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        mirror = Mirror(Path(config.runs_dir), config.storage, Path(folder))
        problems = mirror.refresh()
        if isinstance(problems.get("storage"), ERRORS):
            raise ConfigError(f"storage: cannot be read ({_reason(problems['storage'])})")
        said = _say(problems, {})
        names = sorted(optuna.get_all_study_names(mirror.storage))
        if not names:
            raise ConfigError(f"runs_dir: no study was found in {config.runs_dir}")
        with _open_server(mirror, config.port) as server:
            threading.Thread(target=_keep_fresh, args=(mirror, config.refresh, said), daemon=True).start()
            print(f"http://{HOST}:{config.port}/ shows {', '.join(names)}; Ctrl-C ends it", flush=True)
            server.serve_forever()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # browsers open connections before they ask: one would block all others


class _Handler(WSGIRequestHandler):
    def log_request(self, *args: Any) -> None:
        """Nothing: a page asks every few seconds, and an error of a refresh would be lost between the lines."""


def _open_server(mirror: Mirror, port: int) -> WSGIServer:
    try:
        return make_server(HOST, port, mirror, _Server, _Handler)
    except OSError as error:
        raise ConfigError(f"port: {port} cannot be opened ({error.strerror})") from None


def _keep_fresh(mirror: Mirror, seconds: float, said: Mapping[str, str]) -> None:
    """Refresh the copies until the process ends: after any error, the next refresh tries again."""
    while True:
        time.sleep(seconds)
        try:
            problems = mirror.refresh()
        except Exception as error:
            problems = {"a study": error}
        said = _say(problems, said)


def _say(problems: Mapping[str, Exception], said: Mapping[str, str]) -> dict[str, str]:
    """Print what could not be read, unless that was said after the last refresh; with a traceback for an error of this
    program. Returns what is known now.
    """
    from shunted_lab.study.storage import ERRORS

    known = {where: _reason(error) for where, error in problems.items()}
    for where, error in problems.items():
        if said.get(where) != known[where]:
            if not isinstance(error, (*ERRORS, OSError, json.JSONDecodeError)):
                traceback.print_exception(error)
            print(f"{where} cannot be read now, and is tried again: {known[where]}", file=sys.stderr, flush=True)
    return known


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
