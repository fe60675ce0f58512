"""Write the report of an experiment again, as far as it has come; nothing is trained.

python -m shunted_lab.report experiment=ablate_embed
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from shunted_lab.cli import answer
from shunted_lab.compose import Experiment, compose
from shunted_lab.config import ConfigError
from shunted_lab.usage import REPORT_HEAD

if TYPE_CHECKING:
    from shunted_lab.report.write import Written


def main(words: list[str] | None = None) -> int:
    """Run the command with the overrides of the experiment's run. Returns 1 for a mistake or an unfinished run."""
    return answer(words, lambda: REPORT_HEAD, lambda words: report(compose(words), words))


def report(experiment: Experiment, words: list[str]) -> int:
    """Write the report of an experiment or a search. Returns 1 if it is not complete."""
    from shunted_lab.study.plan import study_folder

    folder = study_folder(experiment.config)
    if not folder.exists():
        raise ConfigError(f"{folder}: the study does not exist; run the experiment first, or set runs_dir=...")
    make = _report_search if experiment.config.search is not None else _report_runs
    written, table, complete = make(words)
    print("\n".join(map(str, written.paths)) or table)
    for warning in written.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0 if complete else 1


def _report_search(words: list[str]) -> tuple[Written, str, bool]:
    """What was written, the table as text, and whether it is complete."""
    from shunted_lab.report.search import build_search_table, load_search, to_markdown, write_search

    search, study, config = load_search(words)
    table = build_search_table(search, study, config)
    return write_search(search, study, table, config), to_markdown(table), table.complete


def _report_runs(words: list[str]) -> tuple[Written, str, bool]:
    """As `_report_search`, of an experiment that is not a search. What has not changed is not written again."""
    from shunted_lab.report.shown import make_report
    from shunted_lab.report.states import load_states
    from shunted_lab.report.write import Written

    found = load_states(words)
    shown = make_report(found)
    return Written([Path(path) for path in shown.paths], list(shown.warnings)), shown.text(), not shown.open


if __name__ == "__main__":
    sys.exit(main())
