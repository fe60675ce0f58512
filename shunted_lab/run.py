"""The command line: compose the configuration, plan, execute, report.

python -m shunted_lab.run experiment=ablate_embed
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shunted_lab.command import make_console, run_command
from shunted_lab.config.compose import Experiment, compose
from shunted_lab.config.experiment import Config
from shunted_lab.config.experiment_file import experiment_files
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.help import help_text
from shunted_lab.config.variants import chosen
from shunted_lab.output.quantities import counted
from shunted_lab.output.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

    from shunted_lab.study.costs.forecast import Forecast
    from shunted_lab.study.manifest import Manifest
    from shunted_lab.study.session import Planned

HELP = """\
usage: python -m shunted_lab.run experiment=NAME [key=value ...]

Trains every variant of an experiment with every seed and prints the ablation table. Finished runs are not repeated:
the same command resumes after an interruption, and trains only new runs after a seed or a variant was added. Results
are in runs_dir/NAME. A value with spaces or brackets is quoted for the shell: 'description=two stems, five seeds'.

  python -m shunted_lab.run experiment=ablate_embed
  python -m shunted_lab.run experiment=ablate_embed smoke=true
  python -m shunted_lab.run experiment=ablate_embed plan_only=true seeds=[0,1,2,3,4,5,6,7,8,9]
  python -m shunted_lab.run experiment=ablate_embed only=conv_stem
  python -m shunted_lab.run experiment=search_rates launch.devices=2
  python -m shunted_lab.run experiment=ablate_embed model=shunted_s recipe=paper data=imagenet data.root=/data/imagenet
"""


def main(overrides: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 for a user's mistake or a failed run, 130 after Ctrl-C."""
    try:
        return run_command(overrides, usage, lambda given: run(compose(given), given))
    except KeyboardInterrupt:
        print("\ninterrupted; finished runs are kept, and the same command resumes", file=sys.stderr)
        return 130


def usage() -> str:
    """The help text."""
    return help_text(HELP, Config, list(PRESETS), {"experiment": list(experiment_files())})


def run(experiment: Experiment, overrides: list[str]) -> int:
    """Plan, train what is missing, and report. Returns 1 if the table is not complete, as far as `only` chooses rows.

    `overrides` are the overrides that `experiment` was composed of.
    """
    from shunted_lab.study.plan import check_runs_dir
    from shunted_lab.study.session import next_look, plan_experiment

    config, console = experiment.config, make_console()
    if not config.plan_only:  # a plan only reads
        check_runs_dir(config)
    planned = plan_experiment(experiment, overrides)
    if planned.before is not None:
        say(console, planned.first)
        status = run(planned.before.experiment, list(planned.overrides_before))
        if not config.plan_only:
            if status != 0:
                return status
            planned = plan_experiment(experiment, overrides)
            if planned.before is not None:  # nobody waits for the workers
                say(console, "the same command goes on when these runs are done")
                return 0
    _print_plan(planned, console)
    if config.plan_only:
        expected = _expect(planned, console)
        _print_preview(planned, console)
        planned.check(expected)
        return 0
    planned.check_images(lambda line: say(console, line))
    manifest = _execute(planned, console)
    while manifest is not None and (following := next_look(planned, overrides)) is not None:
        planned = following
        _print_race(planned, console)
        manifest = _execute(planned, console)
    if manifest is None:
        return 0
    return _report(manifest, overrides, console) if manifest.search is None else _report_search(manifest, console)


def _expect(planned: Planned, console: Console) -> Forecast | None:
    """Print what the runs will take; None where nothing is trained on this machine."""
    from shunted_lab.study.costs.forecast import forecast_line
    from shunted_lab.study.session import expect

    expected = expect(planned)
    if expected is not None:
        say(console, forecast_line(planned.config, expected, planned.todo, planned.costs))
    return expected


def _execute(planned: Planned, console: Console) -> Manifest | None:
    """Train what the plan says; None where nobody waits for the workers."""
    from shunted_lab.report.progress import Progress
    from shunted_lab.study.session import execute

    expected = _expect(planned, console)
    planned.check(expected)

    def watch(names: list[str], workers: int) -> Progress:
        return Progress(console, names, workers, planned.experiment.goal, expected.seconds if expected else {})

    return execute(planned, expected, watch, lambda line: say(console, line))


def _print_race(planned: Planned, console: Console) -> None:
    if planned.race is not None:
        from shunted_lab.study.race import race_line  # scipy: 1 s

        say(console, race_line(planned.config, planned.race))


def _print_plan(planned: Planned, console: Console) -> None:
    """The runs with their costs and states, and what is to be said of data, weights, schedules and stale runs."""
    from shunted_lab.report.lines import by_variant, data_notes, plan_grid, progress_line, stale_lines
    from shunted_lab.study.plan import initial_weights, low_rates
    from shunted_lab.study.preview import twin_lines
    from shunted_lab.study.states import other_runs

    config, facts = planned.config, planned.manifest.facts
    initial = by_variant(initial_weights(planned.experiment, facts))
    begins = [f"begins with {planned.chain.about}"] if planned.chain.about else []
    lines = [*planned.matched, *data_notes(facts), *initial, *begins, *low_rates(planned.experiment)]
    if planned.search is None:
        console.print(plan_grid(config, planned.states, planned.costs))
        lines.append(progress_line(planned.states, other_runs(planned.study, planned.manifest.runs)))
        lines += [*stale_lines(planned.states, config.rerun), *twin_lines(config, planned.todo)]
    for line in lines:
        say(console, line)
    _print_race(planned, console)


def _print_preview(planned: Planned, console: Console) -> None:
    """What the call without `plan_only` would do."""
    from shunted_lab.report.search import build_search_table, to_terminal
    from shunted_lab.study.preview import preview

    count = len(planned.todo)
    if planned.search is None:
        from shunted_lab.study.power import power_lines  # scipy: 1 s

        lines = [*preview(planned.config, planned.states, planned.study), *power_lines(planned.manifest)]
    else:
        console.print(*to_terminal(build_search_table(planned.manifest, planned.study)), sep="\n")
        lines = [f"would train up to {counted(count, 'more assignment')}" if count else "would train nothing"]
    for line in [*lines, planned.engine.describe(planned.config.launch, count)]:
        if line:
            say(console, line)


def _report_search(manifest: Manifest, console: Console) -> int:
    """Print the table of a search and write its report. Returns 1 if the search is not finished."""
    from shunted_lab.report.lines import places
    from shunted_lab.report.search import build_search_table, to_terminal
    from shunted_lab.report.write_search import write_search
    from shunted_lab.study.manifest import read_home
    from shunted_lab.study.prepare import read_study

    study = read_study(read_home(manifest.folder), manifest)
    table = build_search_table(manifest, study)
    written = write_search(manifest, study, table)
    console.print(*to_terminal(table), sep="\n")
    paths, warnings = [str(path) for path in written.paths], [f"warning: {text}" for text in written.warnings]
    for line in [*paths, *warnings, *places(manifest.config, paths), *_index(manifest.config)]:
        say(console, line)
    return 0 if table.complete else 1


def _index(config: Config) -> list[str]:
    """Write the page of all studies. Returns where it is, or why it is not."""
    from shunted_lab.report.index import INDEX, write_index

    folder = Path(config.runs_dir)
    warning = write_index(folder)
    return [f"warning: {warning}" if warning else f"all studies: {(folder / INDEX).absolute().as_uri()}"]


def _report(manifest: Manifest, overrides: list[str], console: Console) -> int:
    """Print the table, write the report, and say what can be done next. Returns 1 if the table is not complete."""
    from shunted_lab.report.lines import failure_lines, next_steps
    from shunted_lab.report.shown import make_report
    from shunted_lab.report.states import states_of

    config, found = manifest.config, states_of(manifest)
    shown = make_report(found, console.print)
    warnings = [f"warning: {problem}" for problem in shown.warnings]
    failures = failure_lines(found.states, config.launch.max_attempts)
    for line in [*shown.paths, *warnings, *failures, *next_steps(config, overrides, shown), *_index(config)]:
        say(console, line)
    return 1 if set(shown.open) & set(chosen(config)) else 0


if __name__ == "__main__":
    sys.exit(main())
