"""Make the report of an experiment anew, as far as it has come; nothing is trained.

python -m shunted_lab.report experiment=ablate_embed
"""

from __future__ import annotations

import sys

from shunted_lab.cli import answer
from shunted_lab.compose import Experiment, compose
from shunted_lab.config import ConfigError


def main(words: list[str] | None = None) -> int:
    """Run the command with the overrides of the experiment's run. Returns 1 for a mistake or an unfinished run."""
    return answer(words, lambda: str(__doc__), lambda words: report(compose(words), words))


def report(experiment: Experiment, words: list[str]) -> int:
    """Write the report of an experiment or a search. Returns 1 if it is not complete."""
    from shunted_lab.report.collect import load_study
    from shunted_lab.report.search import build_search_table, load_search, write_search
    from shunted_lab.report.write import write_report
    from shunted_lab.study.plan import study_folder

    folder = study_folder(experiment.config)
    if not folder.exists():
        raise ConfigError(f"{folder}: there is no such study; run the experiment first, or set runs_dir=...")
    if experiment.config.search is not None:
        search, study, config = load_search(words)
        table = build_search_table(search, study, config)
        paths, complete = write_search(search, study, table, config), table.complete
    else:
        data = load_study(words)
        paths, complete = write_report(data), data.table.complete
        for problem in data.problems:
            print(f"warning: {problem}", file=sys.stderr)
    print(*paths, sep="\n")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
