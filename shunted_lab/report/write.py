"""Write a report into the folder of its study."""

from __future__ import annotations

import os
from pathlib import Path

from shunted_lab.report.render import to_csv, to_latex, to_markdown
from shunted_lab.report.table import Table

FORMATS = {"table.md": to_markdown, "table.csv": to_csv, "table.tex": to_latex}


def write_report(table: Table, folder: Path) -> list[Path]:
    """Write `table.md`, `table.csv` and `table.tex`, each whole or not at all."""
    paths = []
    for name, render in FORMATS.items():
        temporary = folder / f".{name}"
        temporary.write_text(render(table), encoding="utf-8")
        os.replace(temporary, folder / name)
        paths.append(folder / name)
    return paths
