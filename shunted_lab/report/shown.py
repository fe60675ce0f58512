"""What a command has shown of a report, kept beside it: while nothing changes, the next command shows it at once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shunted_lab.config.compose import Experiment
from shunted_lab.output.files import write_json
from shunted_lab.output.terminal import WIDE, Grid
from shunted_lab.report.states import StudyStates
from shunted_lab.study.folder import TRACEBACK
from shunted_lab.study.measure import read_measured
from shunted_lab.study.memo import code_version, digest
from shunted_lab.study.plan import study_folder

FILE = "report/shown.json"
READ = ("run.json", "history.csv", "predictions.npz", TRACEBACK)  # what a report reads of a run's folder


@dataclass(frozen=True)
class Shown:
    """A report on the screen.

    Args:
        tables: as they are printed.
        paths: of the files that were written, the page last.
        warnings: to be printed below.
        finding: what the table shows in one sentence; None where it compares nothing.
        open: variants with runs that are not done.
    """

    tables: Sequence[Grid]
    paths: Sequence[str]
    warnings: Sequence[str]
    finding: str | None
    open: Sequence[str]

    def text(self) -> str:
        """The tables as lines, for who has no files."""
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=WIDE).print(*self.tables)
        return out.getvalue().rstrip()


def make_report(found: StudyStates, show: Callable[[Grid], None] = lambda table: None) -> Shown:
    """Write the tables, show them, and write the page; what has not changed since the last command is kept.

    Args:
        show: gets each table before the page is made, which takes seconds.
    """
    stamp = stamp_of(found)
    known = read_shown(found.experiment, stamp)
    if known is not None:
        for table in known.tables:
            show(table)
        return known
    from shunted_lab.report.collect import collect
    from shunted_lab.report.finding import finding
    from shunted_lab.report.render import grids
    from shunted_lab.report.write import write_report

    data = collect(found.experiment, found.states, found.costs, found.paper_costs, found.problems)
    printed: list[Grid] = []

    def print_tables() -> None:
        printed.extend(grids(data.table))
        for table in printed:
            show(table)

    written = write_report(data, print_tables)
    shown = Shown(
        printed,
        [str(path) for path in written.paths],
        list(dict.fromkeys([*data.problems, *written.warnings])),
        finding(data.table, found.experiment.config),
        [row.variant for row in data.table.rows if row.open],
    )
    keep_shown(found.experiment, stamp, shown)
    return shown


def stamp_of(found: StudyStates) -> str:
    """A digest of everything that a report is made of, of this package's code too."""
    experiment, states = found.experiment, found.states
    config = {key: value for key, value in asdict(experiment.config).items() if key not in ("launch", "plan_only")}
    measured = {name: asdict(of) for name, of in read_measured(experiment).items()}
    counted = [{name: asdict(cost) for name, cost in costs.items()} for costs in (found.costs, found.paper_costs)]
    known = [[asdict(run) for run in experiment.variants.values()], config, measured, counted, found.problems]
    runs = [[s.run.fingerprint, s.state, s.result, s.error, s.attempts, _files(s.run.folder)] for s in states]
    return digest([code_version(), known, runs])


def _files(folder: Path) -> list[Any]:
    """Size and time of each file that a report reads; of one that is absent its name."""
    found: list[Any] = []
    for name in READ:
        try:
            state = (folder / name).stat()
            found.append([state.st_size, state.st_mtime_ns])
        except OSError:
            found.append(name)
    return found


def read_shown(experiment: Experiment, stamp: str) -> Shown | None:
    """What was shown of a report with this stamp; None if it is another one, or if one of its files is gone."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((study_folder(experiment.config) / FILE).read_text(encoding="utf-8"))
        shown = Shown(**found["shown"] | {"tables": [Grid(**grid) for grid in found["shown"]["tables"]]})
        if found["stamp"] == stamp and all(Path(path).exists() for path in shown.paths):
            return shown
    return None


def keep_shown(experiment: Experiment, stamp: str, shown: Shown) -> None:
    """Keep it for the next command; a folder that cannot be written costs time only."""
    with suppress(OSError):
        write_json(study_folder(experiment.config) / FILE, {"stamp": stamp, "shown": asdict(shown)})
