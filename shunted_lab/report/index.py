"""All studies at a glance: `index.html` in `runs_dir`, made of the summary that each report leaves beside its page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
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


def write_index(runs_dir: Path) -> str | None:
    """Write the page of all studies in a folder; a warning where it cannot be written.

    Studies without a report are listed by their name, and a summary that cannot be read counts as none.
    """
    found = [_of(folder) for folder in sorted(runs_dir.iterdir()) if (folder / "study.json").exists()]
    done = [(name, link, summary) for name, link, summary in found if summary is not None]
    done.sort(key=lambda known: -_changed(runs_dir / known[0]))
    text = render(
        "index.html",
        studies=[(name, link, s, s.rows[:ROWS], _more(s)) for name, link, s in done],
        unknown=[(name, link) for name, link, summary in found if summary is None],
    )
    try:
        write_text(runs_dir / INDEX, text)
    except OSError as error:
        return f"{runs_dir / INDEX}: cannot be written ({error.strerror})"
    return None


def update_index(runs_dir: Path) -> str | None:
    """`write_index` where there is one already: a report must not leave a file beside a folder that was copied."""
    return write_index(runs_dir) if (runs_dir / INDEX).exists() else None


def read_summary(folder: Path) -> Summary | None:
    """What the last report of a study says; None where there is none that can be read."""
    with suppress(OSError, ValueError, TypeError):
        return Summary(**json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
    return None


def _of(folder: Path) -> tuple[str, str, Summary | None]:
    return folder.name, quote(folder.name), read_summary(folder)


def _changed(folder: Path) -> float:
    with suppress(OSError):
        return os.stat(folder / SUMMARY).st_mtime
    return 0.0


def _more(summary: Summary) -> str:
    rest = len(summary.rows) - ROWS
    return f"and {counted(rest, 'more row')}" if rest > 0 else ""
