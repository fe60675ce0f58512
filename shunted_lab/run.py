"""The command line: compose the configuration, plan, execute, report.

python -m shunted_lab.run experiment=ablate_embed
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shunted_lab.command import make_console, run_command
from shunted_lab.config.compose import Experiment, compose
from shunted_lab.config.experiment import Config
from shunted_lab.config.experiment_file import experiment_files
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.help import help_text
from shunted_lab.config.launch import SlurmConfig
from shunted_lab.config.variants import chosen
from shunted_lab.output.quantities import counted
from shunted_lab.output.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

    from shunted_lab.data import DataFacts
    from shunted_lab.nn import Cost
    from shunted_lab.report.states import StudyStates
    from shunted_lab.study.folder import Run
    from shunted_lab.study.forecast import Forecast
    from shunted_lab.study.plan import RunState

HELP = """\
usage: python -m shunted_lab.run experiment=NAME [key=value ...]

Trains every variant of an experiment with every seed and prints the ablation table. Finished runs are not repeated:
the same command resumes after an interruption, and trains only new runs after a seed or a variant was added. Results
are in runs_dir/NAME. A value with spaces or brackets is quoted for the shell: 'description=two stems, five seeds'.

  python -m shunted_lab.run experiment=ablate_embed
  python -m shunted_lab.run experiment=ablate_embed smoke=true
  python -m shunted_lab.run experiment=ablate_embed plan_only=true seeds=[0,1,2,3,4]
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


@dataclass(frozen=True)
class Plan:
    """What a command is about to do: the runs with their states, those that it trains, and what that takes."""

    experiment: Experiment
    facts: dict[str, DataFacts]
    runs: list[Run]
    states: list[RunState]
    todo: list[RunState]
    costs: dict[str, Cost]
    expected: Forecast | None  # None where nothing is trained on this machine

    def check_space(self) -> None:
        """Raise ConfigError for runs that the disk cannot hold."""
        from shunted_lab.study.plan import check_space

        workers = 1 if self.expected is None else len(self.expected.slots)
        check_space(self.experiment.config, [state.run for state in self.todo], self.costs, workers)


def run(experiment: Experiment, overrides: list[str]) -> int:
    """Plan, train what is missing, and report. Returns 1 if the table is not complete, as far as `only` chooses rows.

    `overrides` are the overrides that `experiment` was composed of; the jobs of a cluster are given them.
    """
    from shunted_lab.study.launch import plan_slots
    from shunted_lab.study.plan import check_precision, check_runs_dir
    from shunted_lab.tasks.loggers import check_loggers

    config = experiment.config
    console = make_console()
    if not config.plan_only:  # a plan only reads
        check_runs_dir(config)
    if not isinstance(config.launch, SlurmConfig):
        plan_slots(config.launch)  # refuses devices that this machine does not have
        check_precision(experiment)
    check_loggers(config.launch)
    if config.search is not None:
        return _search(experiment, overrides, console)
    if config.confirm is not None:
        from shunted_lab.study.confirm import with_best_trials

        experiment = with_best_trials(experiment, overrides)
    plan = _make_plan(experiment, console)
    return 0 if config.plan_only else _carry_out(plan, overrides, console)


def _make_plan(experiment: Experiment, console: Console) -> Plan:
    """Plan and print it; with `plan_only` also what the call would do."""
    from shunted_lab.report.lines import by_variant, data_notes, plan_grid, progress_line, stale_lines
    from shunted_lab.study import store
    from shunted_lab.study.launch import warm_up
    from shunted_lab.study.plan import count_costs, data_facts, initial_weights, low_rates, plan_runs
    from shunted_lab.study.preview import preview, to_train

    config = experiment.config
    facts = data_facts(experiment)
    runs = plan_runs(experiment, facts)
    study = store.open_study(config)
    states = store.read_states(runs, study)
    todo = to_train(config, states, study)
    trains_here = bool(todo) and not isinstance(config.launch, SlurmConfig)
    if trains_here and not config.plan_only:
        warm_up()
    costs = count_costs(experiment, facts)
    initial = initial_weights(experiment, facts)
    console.print(plan_grid(config, states, costs))
    progress = progress_line(states, store.other_runs(study, runs))
    stale = stale_lines(states, config.rerun)
    for line in [*data_notes(facts), *by_variant(initial), *low_rates(experiment), progress, *stale]:
        say(console, line)
    expected = None
    if trains_here:
        from shunted_lab.study.forecast import forecast, forecast_line

        names = [state.run.variant for state in todo]
        expected = forecast(config.launch, experiment.variants, costs, facts, names, states)
        say(console, forecast_line(config, expected, [state.run for state in todo], costs))
    plan = Plan(experiment, facts, runs, states, todo, costs, expected)
    if config.plan_only:
        for line in preview(config, states, study):
            say(console, line)
        _check_call(config)
        plan.check_space()
    return plan


def _carry_out(plan: Plan, overrides: list[str], console: Console) -> int:
    """Train what the plan says, measure the variants, and report; the status of `run`."""
    from shunted_lab.report.states import StudyStates
    from shunted_lab.study import store
    from shunted_lab.study.measure import measure_variants
    from shunted_lab.study.plan import count_paper_costs, study_folder

    experiment, config = plan.experiment, plan.experiment.config
    on_cluster = isinstance(config.launch, SlurmConfig)
    if not on_cluster:
        _check_images(experiment, plan.facts, plan.todo, console)
    plan.check_space()
    paper_costs = count_paper_costs(experiment)
    study_folder(config).mkdir(parents=True, exist_ok=True)
    if not on_cluster:
        states = _execute(plan, console)
    elif _submit(overrides, config, console):
        states = store.read_states(plan.runs, store.open_study(config))
    else:
        return 0
    if config.launch.measure and any(state.state == "done" for state in states):
        measure_variants(experiment, plan.facts, bool(plan.todo), lambda line: say(console, line))
    return _report(StudyStates(experiment, states, plan.costs, paper_costs), overrides, console)


def _check_call(config: Config) -> None:
    """Refuse what the call without `plan_only` refuses: a folder or a cluster that it cannot use."""
    from shunted_lab.study.plan import check_runs_dir
    from shunted_lab.study.slurm import check_submission

    check_runs_dir(config)
    if isinstance(config.launch, SlurmConfig):
        check_submission(config)


def _submit(overrides: list[str], config: Config, console: Console) -> bool:
    """Submit the jobs of a cluster, and wait for them if they are to be waited for. Returns whether they were."""
    from shunted_lab.study.slurm import submit, wait_for

    assert isinstance(config.launch, SlurmConfig)
    jobs = submit(overrides, config)
    say(console, f"jobs {', '.join(job.job_id for job in jobs)}; {jobs[0].paths.folder}")
    if config.launch.wait:
        wait_for(jobs)
    return config.launch.wait


def _search(experiment: Experiment, overrides: list[str], console: Console) -> int:
    """Try the points of a search until it has enough, and report. Returns 1 if it has not."""
    from shunted_lab.report.lines import by_variant, data_notes, places
    from shunted_lab.report.progress import Progress
    from shunted_lab.report.search import build_search_table, to_terminal
    from shunted_lab.report.write_search import write_search
    from shunted_lab.study.forecast import Forecast, forecast, forecast_line
    from shunted_lab.study.launch import Launcher, plan_slots, warm_up
    from shunted_lab.study.plan import check_space, data_facts, initial_weights, low_rates, study_folder
    from shunted_lab.study.preview import preview_jobs
    from shunted_lab.study.search import Search, SearchQueue
    from shunted_lab.study.store import open_study

    config = experiment.config
    goal = experiment.goal
    folder = study_folder(config)
    facts = data_facts(experiment)
    search = Search(experiment, next(iter(facts.values())))
    study = open_study(config)
    search.check(study)
    for line in [*data_notes(facts), *by_variant(initial_weights(experiment, facts)), *low_rates(experiment)]:
        say(console, line)
    left, costs, baseline = search.left(study), search.baseline_cost(), search.run(search.baseline)
    todo = [baseline] * left  # the others take about as long
    expected = None
    if todo and not isinstance(config.launch, SlurmConfig):
        name = baseline.variant
        expected = forecast(config.launch, {name: baseline.config}, costs, {name: search.facts}, [name] * left)
        say(console, forecast_line(config, expected, todo, costs))
    if config.plan_only:
        console.print(to_terminal(build_search_table(search, study, config)))
        say(console, f"would train up to {counted(left, 'more assignment')}" if left else "would train nothing")
        for line in preview_jobs(config):
            say(console, line)
        _check_call(config)
        check_space(config, todo, costs)
        return 0
    if not isinstance(config.launch, SlurmConfig):
        warm_up()
        study = search.open(config)
        limit, beat = config.launch.max_attempts, config.study.heartbeat
        queue = SearchQueue(study, search, folder, limit, config.rerun, beat)
        check_space(config, [baseline] * queue.planned(), costs)
        queue.prepare([])
        if queue.planned():
            search.base.data.check_evaluated(search.facts.identity, lambda line: say(console, line))
        expected = expected or Forecast(plan_slots(config.launch))
        names = [baseline.variant] * queue.planned()
        with Progress(console, names, len(expected.slots), goal, expected.seconds) as progress:
            Launcher(queue, expected.slots, progress).run()
        if queue.exhausted:
            study.set_user_attr("exhausted", True)
    elif _submit(overrides, config, console):
        study = open_study(config)
    else:
        return 0
    table = build_search_table(search, study, config)
    written = write_search(search, study, table, config)
    console.print(to_terminal(table))
    paths, warnings = [str(path) for path in written.paths], [f"warning: {text}" for text in written.warnings]
    for line in [*paths, *warnings, *places(config, paths)]:
        say(console, line)
    return 0 if table.complete else 1


def _check_images(experiment: Experiment, facts: dict[str, DataFacts], todo: list[RunState], console: Console) -> None:
    """See to it that all images can be decoded on which the runs that are to be trained are evaluated."""
    for name in dict.fromkeys(state.run.variant for state in todo):
        experiment.variants[name].data.check_evaluated(facts[name].identity, lambda line: say(console, line))


def _execute(plan: Plan, console: Console) -> list[RunState]:
    """Train what is missing on this machine's workers; the states afterwards."""
    from shunted_lab.study import store
    from shunted_lab.study.plan import study_folder
    from shunted_lab.study.queue import Queue

    config = plan.experiment.config
    goal = plan.experiment.goal
    study = store.create_study(config, {goal.monitor: goal.mode})
    only = chosen(config)
    todo = [run for run in plan.runs if run.variant in only]
    if config.rerun == "all":
        store.set_all_aside(study, todo)
    states = store.read_states(todo, study)
    limit, beat = config.launch.max_attempts, config.study.heartbeat
    queue = Queue(study, states, plan.costs, study_folder(config), limit, config.rerun, beat)
    queue.prepare(states)
    if queue.todo and plan.expected is not None:
        from shunted_lab.report.progress import Progress
        from shunted_lab.study.launch import Launcher

        names = [run.variant for run in queue.todo.values()]
        with Progress(console, names, len(plan.expected.slots), goal, plan.expected.seconds) as progress:
            Launcher(queue, plan.expected.slots, progress).run()
    return store.read_states(plan.runs, study)


def _report(found: StudyStates, overrides: list[str], console: Console) -> int:
    """Print the table, write the report, and say what can be done next. Returns 1 if the table is not complete."""
    from shunted_lab.report.lines import failure_lines, next_steps
    from shunted_lab.report.shown import make_report

    config = found.experiment.config
    shown = make_report(found, console.print)
    warnings = [f"warning: {problem}" for problem in shown.warnings]
    failures = failure_lines(found.states, config.launch.max_attempts)
    for line in [*shown.paths, *warnings, *failures, *next_steps(config, overrides, shown)]:
        say(console, line)
    return 1 if set(shown.open) & set(chosen(config)) else 0


if __name__ == "__main__":
    sys.exit(main())
