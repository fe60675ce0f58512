"""All studies at a glance: `index.html` in `runs_dir`, made of the summary that each report leaves beside its page.
The dashboard begins with the same page.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from shunted_lab.output.files import write_text
from shunted_lab.output.quantities import counted
from shunted_lab.report.templates import render

SUMMARY = "report/summary.json"  # in a study's folder
INDEX = "index.html"  # in runs_dir
ROWS = 5  # of a table that the index shows


@dataclass(frozen=True)
class Summary:
    """What the index says of a study.

    Args:
        title: its name.
        question: what it asks (`description`).
        state: e.g. `9 of 9 runs done`.
        finding: in one sentence; None where nothing is compared.
        head, rows: the table.
    """

    title: str
    question: str
    state: str
    complete: bool
    smoke: bool
    finding: str | None
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """As a file."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Entry:
    """A study in the index.

    Args:
        folder: where its report is.
        page: the address of its page.
        links: where else its reader can go: text -> address. The first one is used where there is no page.
    """

    folder: Path
    name: str
    page: str
    links: Mapping[str, str]


def write_index(runs_dir: Path) -> str | None:
    """Write the page of all studies in a folder; a warning where it cannot be written."""
    folders = [folder for folder in sorted(runs_dir.iterdir()) if (folder / "study.json").exists()]
    links = {folder: quote(folder.name) for folder in folders}
    entries = [Entry(f, f.name, f"{link}/report/index.html", {"folder": f"{link}/"}) for f, link in links.items()]
    try:
        write_text(runs_dir / INDEX, render_index(entries))
    except OSError as error:
        return f"{runs_dir / INDEX}: cannot be written ({error.strerror})"
    return None


def render_index(entries: Iterable[Entry], dashboard: str | None = None) -> str:
    """The page of all studies, the last report first. Studies without a report are listed by their name, and a summary
    that cannot be read counts as none.

    Args:
        dashboard: the address of the Optuna dashboard; None says how it is started.
    """
    found = [(entry, read_summary(entry.folder)) for entry in entries]
    done = [(entry, summary) for entry, summary in found if summary is not None]
    done.sort(key=lambda known: -_changed(known[0].folder))
    return render(
        "index.html",
        dashboard=dashboard,
        studies=[(entry, s, s.rows[:ROWS], _more(s)) for entry, s in done],
        unknown=[(entry.name, next(iter(entry.links.values()))) for entry, summary in found if summary is None],
    )


def update_index(runs_dir: Path) -> str | None:
    """`write_index` where there is one already: a report must not leave a file beside a folder that was copied."""
    return write_index(runs_dir) if (runs_dir / INDEX).exists() else None


def read_summary(folder: Path) -> Summary | None:
    """What the last report of a study says; None where there is none that can be read."""
    with suppress(OSError, ValueError, TypeError):
        return Summary(**json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
    return None


def _changed(folder: Path) -> float:
    with suppress(OSError):
        return os.stat(folder / SUMMARY).st_mtime
    return 0.0


def _more(summary: Summary) -> str:
    rest = len(summary.rows) - ROWS
    return f"and {counted(rest, 'more row')}" if rest > 0 else ""
