"""`history.csv` of a run's folder: the metrics of each epoch, as far as the run has come. This imports no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from shunted_lab.output.files import write_text

FILE = "history.csv"


def write_history(folder: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write a row per epoch."""
    out = io.StringIO()
    names = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)
    write_text(folder / FILE, out.getvalue())


def read_history(folder: Path) -> dict[str, list[float]]:
    """Metric -> its value after each epoch, as far as a run's folder has them; empty where there is none."""
    path = folder / FILE
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        head, *lines = list(csv.reader(file)) or [[]]
    return {
        name: [float(line[i]) if line[i] else float("nan") for line in lines]
        for i, name in enumerate(head)
        if name != "epoch"
    }
