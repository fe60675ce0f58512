"""The table of an experiment for trainings that this package has never seen, from a CSV file of their results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shunted_lab.command import make_console, run_command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.help import help_text
from shunted_lab.config.schema import ConfigError, one_of, option, path_option

HELP = """\
usage: python -m shunted_lab.compare RESULTS.csv [metric=COLUMN] [baseline=NAME] [key=value ...]

Compares variants seed by seed: the table with means, paired differences and their 95 % intervals, and a page with
figures. The file has a line for each run with its variant, its seed and the metric. Exports of W&B (runs table), MLflow
(mlflow experiments csv) and trackio (its metrics, a line a step: the last one of a run counts) are read as they are.
Runs that did not finish and pairs that are missing are shown.

  python -m shunted_lab.compare results.csv baseline=resnet50
  python -m shunted_lab.compare wandb.csv metric=val/top1 variant=model percent=true
  python -m shunted_lab.compare mlflow.csv metric=val_loss direction=min
"""


@dataclass
class CompareConfig:
    """The configuration of `python -m shunted_lab.compare`."""

    file: str | None = path_option(None, "CSV file of results")
    metric: str | None = option(None, "column that is compared; null: the only one with numbers")
    baseline: str | None = option(None, "variant that the others are compared with; null: the first one")
    variant: str | None = option(None, "column of variants; null: variant or Group, or a part of the run's name")
    seed: str | None = option(None, "column of seeds; null: seed, or a part of the run's name")
    direction: str = option("max", "which value is better: max or min")
    percent: bool = option(False, "values are fractions that are shown in percent")
    out: str | None = path_option(None, "folder of the tables and the page; null: named like the file, beside it")

    def __post_init__(self) -> None:
        one_of("direction", self.direction, ("max", "min"))


def main(overrides: Sequence[str] | None = None) -> int:
    """Run the command. Returns 1 for a mistake, and for results that are missing."""
    return run_command(overrides, lambda: help_text(HELP, CompareConfig), _act, positional="file")


def _act(overrides: list[str]) -> int:
    from shunted_lab.report.elsewhere import read_results, table_of, write_comparison
    from shunted_lab.report.finding import finding
    from shunted_lab.report.render import grids

    config = compose_as(CompareConfig, overrides)
    if config.file is None:
        raise ConfigError("file: is missing; give a CSV file, e.g. results.csv")
    path = Path(config.file)
    found = read_results(path, config.metric, config.variant, config.seed)
    table, experiment = table_of(found, config.baseline, config.direction, config.percent, path.name)
    written = write_comparison(Path(config.out) if config.out else path.with_suffix(""), table, experiment, found)
    console = make_console()
    console.print(*grids(table))
    conclusion = finding(table, experiment)
    print("\n".join([*([f"found: {conclusion}"] if conclusion else []), *map(str, written.paths)]))
    for warning in written.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0 if table.complete else 1


if __name__ == "__main__":
    sys.exit(main())
