"""Write the report of an experiment again, as far as it has come; nothing is trained.

python -m shunted_lab.report experiment=ablate_embed
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shunted_lab.command import run_command
from shunted_lab.config.compose import Experiment, compose
from shunted_lab.config.schema import ConfigError

if TYPE_CHECKING:
    from shunted_lab.report.write import Written


HELP = """\
usage: python -m shunted_lab.report experiment=NAME [key=value ...]

Writes the tables, the figures and the page of an experiment or a search again, as far as it has come. Nothing is
trained. The overrides are those of the run, which choose the rows and the seeds of the table.

  python -m shunted_lab.report experiment=ablate_embed
  python -m shunted_lab.report experiment=ablate_embed seeds=[0,1] runs_dir=/shared/runs

python -m shunted_lab.run --help lists the keys.
"""


def main(overrides: Sequence[str] | None = None) -> int:
    """Run the command with the overrides of the experiment's run. Returns 1 for a mistake or an unfinished run."""
    return run_command(overrides, HELP.strip, lambda given: report(compose(given), given))


def report(experiment: Experiment, overrides: list[str]) -> int:
    """Write the report of an experiment or a search. Returns 1 if it is not complete."""
    from shunted_lab.study.plan import study_folder

    folder = study_folder(experiment.config)
    if not folder.exists():
        raise ConfigError(f"{folder}: the study does not exist; run the experiment first, or set runs_dir=...")
    make = _report_search if experiment.config.search is not None else _report_runs
    written, table, complete = make(overrides)
    print("\n".join(map(str, written.paths)) or table)
    for warning in written.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0 if complete else 1


def _report_search(overrides: list[str]) -> tuple[Written, str, bool]:
    """What was written, the table as text, and whether it is complete."""
    from shunted_lab.report.search import build_search_table, load_search, to_markdown
    from shunted_lab.report.write_search import write_search

    search, study, config = load_search(overrides)
    table = build_search_table(search, study, config)
    return write_search(search, study, table, config), to_markdown(table), table.complete


def _report_runs(overrides: list[str]) -> tuple[Written, str, bool]:
    """As `_report_search`, of an experiment that is not a search. What has not changed is not written again."""
    from shunted_lab.report.shown import make_report
    from shunted_lab.report.states import load_states
    from shunted_lab.report.write import Written

    found = load_states(overrides)
    shown = make_report(found)
    return Written([Path(path) for path in shown.paths], list(shown.warnings)), shown.text(), not shown.open


if __name__ == "__main__":
    sys.exit(main())
