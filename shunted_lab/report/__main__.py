"""Write the report of a study again, from its folder alone: no data set, no experiment file, no training.

python -m shunted_lab.report runs/ablate_embed
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shunted_lab.command import run_command, study_argument
from shunted_lab.config.compose import compose_as
from shunted_lab.config.help import help_text
from shunted_lab.config.schema import option, path_option

if TYPE_CHECKING:
    from shunted_lab.report.write import Written


HELP = """\
usage: python -m shunted_lab.report STUDY_FOLDER
       python -m shunted_lab.report experiment=NAME [runs_dir=runs] [smoke=true]

Writes the tables, the figures and the page of an experiment or a search again, as far as it has come, from the folder
of the study alone: it may be a copy from another machine. The rows and seeds are those of the last command that
planned the study. Nothing is trained.

  python -m shunted_lab.report runs/ablate_embed
  python -m shunted_lab.report experiment=ablate_embed runs_dir=/shared/runs
"""


@dataclass
class ReportConfig:
    """The configuration of `python -m shunted_lab.report`."""

    study: str | None = path_option(None, "the study's folder; null is runs_dir/EXPERIMENT")
    experiment: str | None = option(None, "the experiment's name, where no folder is given")
    runs_dir: str = path_option("runs", "folder of all results")
    smoke: bool = option(False, "the study of the experiment's smoke test")


def main(overrides: Sequence[str] | None = None) -> int:
    """Run the command. Returns 1 for a mistake or an unfinished study."""
    return run_command(overrides, lambda: help_text(HELP, ReportConfig), _act, positional="study")


def _act(overrides: list[str]) -> int:
    return report(study_argument(compose_as(ReportConfig, overrides)))


def report(folder: Path) -> int:
    """Write the report of the study in a folder. Returns 1 if it is not complete."""
    from shunted_lab.report.index import update_index
    from shunted_lab.study.manifest import read_manifest

    make = _report_search if read_manifest(folder).search is not None else _report_runs
    written, table, complete = make(folder)
    print("\n".join(map(str, written.paths)) or table)
    index = update_index(folder.absolute().parent)
    for warning in [*written.warnings, *([index] if index else [])]:
        print(f"warning: {warning}", file=sys.stderr)
    return 0 if complete else 1


def _report_search(folder: Path) -> tuple[Written, str, bool]:
    """What was written, the table as text, and whether it is complete."""
    from shunted_lab.report.search import build_search_table, load_search, to_markdown
    from shunted_lab.report.write_search import write_search

    manifest, study = load_search(folder)
    table = build_search_table(manifest, study)
    return write_search(manifest, study, table), to_markdown(table), table.complete


def _report_runs(folder: Path) -> tuple[Written, str, bool]:
    """As `_report_search`, of an experiment that is not a search. What has not changed is not written again."""
    from shunted_lab.report.shown import make_report
    from shunted_lab.report.states import load_states
    from shunted_lab.report.write import Written

    shown = make_report(load_states(folder))
    return Written([Path(path) for path in shown.paths], list(shown.warnings)), shown.text(), not shown.open


if __name__ == "__main__":
    sys.exit(main())
