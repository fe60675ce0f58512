"""Write a report into the folder of its study."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from shunted_lab.files import write_text
from shunted_lab.report.collect import StudyData
from shunted_lab.report.render import to_csv, to_latex, to_markdown
from shunted_lab.report.table import Table

TABLES = {"table.md": to_markdown, "table.csv": to_csv, "table.tex": to_latex}


def write_report(data: StudyData) -> list[Path]:
    """Write the tables, `runs.csv`, and `report/` with the page and its figures, each file whole or not at all."""
    from shunted_lab.report.page import pictures, render_page  # matplotlib: 1 s
    from shunted_lab.report.plots import save

    paths = write_tables(data.table, data.folder)
    paths.append(write_text(data.folder / "runs.csv", runs_csv(data)))
    figures = data.folder / "report" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    made = list(pictures(data))
    for picture in made:
        save(picture.figure, figures, picture.name)
    paths.append(write_text(data.folder / "report" / "index.html", render_page(data, made)))
    return paths


def write_tables(table: Table, folder: Path) -> list[Path]:
    """Write `table.md`, `table.csv` and `table.tex`."""
    return [write_text(folder / name, render(table)) for name, render in TABLES.items()]


def runs_csv(data: StudyData) -> str:
    """One line a run, with its state, its metrics and costs in full: fractions, counts, seconds, bytes."""
    metrics: dict[str, None] = {}
    costs: dict[str, None] = {}
    for run in data.runs:
        if run.state.result is not None:
            metrics |= dict.fromkeys(run.state.result["metrics"])
            costs |= dict.fromkeys(run.state.result.get("costs", {}))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["variant", "seed", "state", "fingerprint", "folder", "device", "seconds", *metrics, *costs])
    for run in data.runs:
        state, result = run.state, run.state.result or {}
        values = [result.get("metrics", {}).get(key, "") for key in metrics]
        values += [result.get("costs", {}).get(key, "") for key in costs]
        known = [state.run.variant, state.run.seed, state.state, state.run.fingerprint, state.run.folder]
        writer.writerow([*known, result.get("device", ""), result.get("seconds", ""), *values])
    return out.getvalue()
