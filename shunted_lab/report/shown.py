"""What a command has shown of a report, kept beside it: while nothing changes, the next command shows it at once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shunted_lab.output.files import digest_of_values, write_json
from shunted_lab.output.terminal import WIDE, Grid
from shunted_lab.report.states import StudyStates
from shunted_lab.study.costs.measure import read_measured
from shunted_lab.study.costs.memo import code_version
from shunted_lab.study.folder import TRACEBACK
from shunted_lab.tasks.evidence import EXAMPLES
from shunted_lab.tasks.evidence import FILE as EVIDENCE

FILE = "report/shown.json"
READ = ("run.json", "history.csv", EVIDENCE, EXAMPLES, TRACEBACK)  # what a report reads of a run's folder


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
    known = read_shown(found.manifest.folder, stamp)
    if known is not None:
        for table in known.tables:
            show(table)
        return known
    from shunted_lab.report.collect import collect
    from shunted_lab.report.finding import finding
    from shunted_lab.report.render import grids
    from shunted_lab.report.write import write_report

    data = collect(found)
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
        finding(data.table, found.manifest.config),
        [row.variant for row in data.table.rows if row.open],
    )
    keep_shown(found.manifest.folder, stamp, shown)
    return shown


def stamp_of(found: StudyStates) -> str:
    """A digest of everything that a report is made of, of this package's code too."""
    manifest, states = found.manifest, found.states
    config = {key: value for key, value in asdict(manifest.config).items() if key not in ("launch", "plan_only")}
    measured = read_measured(manifest.folder, manifest.measured_as)
    devices = {name: {device: asdict(m) for device, m in of.items()} for name, of in measured.items()}
    counted = [{n: asdict(cost) for n, cost in costs.items()} for costs in (manifest.costs, manifest.paper_costs)]
    known = [[asdict(run) for run in manifest.variants.values()], config, devices, counted, found.problems]
    runs = [[s.run.fingerprint, s.state, s.result, s.error, s.attempts, _files(s.run.folder)] for s in states]
    return digest_of_values([code_version(), known, runs])


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


def read_shown(folder: Path, stamp: str) -> Shown | None:
    """What was shown of a report with this stamp; None if it is another one, or if one of its files is gone."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        shown = Shown(**found["shown"] | {"tables": [Grid(**grid) for grid in found["shown"]["tables"]]})
        if found["stamp"] == stamp and all(Path(path).exists() for path in shown.paths):
            return shown
    return None


def keep_shown(folder: Path, stamp: str, shown: Shown) -> None:
    """Keep it for the next command; a folder that cannot be written costs time only."""
    with suppress(OSError):
        write_json(folder / FILE, {"stamp": stamp, "shown": asdict(shown)})
