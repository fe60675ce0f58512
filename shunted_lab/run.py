"""The command line: compose the configuration, plan, execute, report.

python -m shunted_lab.run experiment=ablate_embed
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shunted_lab.cli import answer, make_console
from shunted_lab.compose import Experiment, compose
from shunted_lab.config import Config, SlurmConfig
from shunted_lab.quantities import counted
from shunted_lab.terminal import Grid, say
from shunted_lab.usage import usage
from shunted_lab.variants import chosen

if TYPE_CHECKING:
    from rich.console import Console

    from shunted_lab.data import DataFacts
    from shunted_lab.nn import Cost
    from shunted_lab.study.folder import Run
    from shunted_lab.study.order import Slot
    from shunted_lab.study.plan import RunState


def main(words: list[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 for a user's mistake or a failed run, 130 after Ctrl-C."""
    try:
        return answer(words, usage, lambda words: run(compose(words), words))
    except KeyboardInterrupt:
        print("\ninterrupted; finished runs are kept, and the same command resumes", file=sys.stderr)
        return 130


def run(experiment: Experiment, words: list[str]) -> int:
    """Plan, train what is missing, and report. Returns 1 if the table is not complete, as far as `only` chooses rows.

    `words` are the overrides that `experiment` was composed of; the jobs of a cluster are given them.
    """
    from shunted_lab.study import store
    from shunted_lab.study.confirm import take_the_best
    from shunted_lab.study.launch import plan_slots, warm_up
    from shunted_lab.study.measure import measure_variants
    from shunted_lab.study.plan import (
        check_precision,
        check_runs_dir,
        check_space,
        count_costs,
        count_paper_costs,
        data_facts,
        initial_weights,
        low_rates,
        plan_runs,
        study_folder,
    )
    from shunted_lab.study.preview import preview, to_train

    config = experiment.config
    console = make_console()
    if not config.plan_only:  # a plan only reads
        check_runs_dir(config)
    on_cluster = isinstance(config.launch, SlurmConfig)
    slots = [] if on_cluster else plan_slots(config.launch)
    if not on_cluster:
        check_precision(experiment)
    if config.search is not None:
        return _search(experiment, words, slots, console)
    if config.confirm is not None:
        experiment = take_the_best(experiment, words)
        config = experiment.config
    facts = data_facts(experiment)
    runs = plan_runs(experiment, facts)
    study = store.open_study(config)
    states = store.read_states(runs, study)
    if slots and not config.plan_only and any(state.state != "done" for state in states):
        warm_up()
    costs = count_costs(experiment, facts)
    initial = initial_weights(experiment, facts)
    console.print(_plan(config, states, costs))
    progress = _progress(states, store.other_runs(study, runs))
    stale = _stale(states, config.rerun)
    for line in [*_notes(facts), *_by_variant(initial), *low_rates(experiment), progress, *stale]:
        say(console, line)
    if config.plan_only:
        for line in preview(config, states, study):
            say(console, line)
        _check_call(config)
        check_space(config, [state.run for state in to_train(config, states, study)], costs)
        return 0
    only = chosen(config)
    todo = [state for state in states if state.run.variant in only]
    if not on_cluster:
        _check_images(experiment, facts, todo, console)
    paper_costs = count_paper_costs(experiment)
    check_space(config, [state.run for state in todo if state.state != "done"], costs)
    study_folder(config).mkdir(parents=True, exist_ok=True)
    if not on_cluster:
        states = _execute(experiment, runs, costs, slots, console)
    elif _submit(words, config, console):
        states = store.read_states(runs, store.open_study(config))
    else:
        return 0
    if any(state.state == "done" for state in states):
        measure_variants(experiment, facts)
    return _report(experiment, states, costs, paper_costs, console)


def _check_call(config: Config) -> None:
    """Refuse what the call without `plan_only` refuses: a folder or a cluster that it cannot use."""
    from shunted_lab.study.plan import check_runs_dir
    from shunted_lab.study.slurm import check_submission

    check_runs_dir(config)
    if isinstance(config.launch, SlurmConfig):
        check_submission(config)


def _submit(words: list[str], config: Config, console: Console) -> bool:
    """Submit the jobs of a cluster, and wait for them if they are to be waited for. Returns whether they were."""
    from shunted_lab.study.slurm import submit, wait_for

    assert isinstance(config.launch, SlurmConfig)
    jobs = submit(words, config)
    say(console, f"jobs {', '.join(job.job_id for job in jobs)}; {jobs[0].paths.folder}")
    if config.launch.wait:
        wait_for(jobs)
    return config.launch.wait


def _search(experiment: Experiment, words: list[str], slots: list[Slot], console: Console) -> int:
    """Try the points of a search until it has enough, and report. Returns 1 if it has not."""
    from shunted_lab.data.evaluated import check_evaluated
    from shunted_lab.report.progress import Progress
    from shunted_lab.report.search import build_search_table, to_terminal, write_search
    from shunted_lab.study.launch import Launcher, warm_up
    from shunted_lab.study.plan import check_space, data_facts, initial_weights, low_rates, study_folder
    from shunted_lab.study.preview import preview_jobs
    from shunted_lab.study.search import Search, SearchQueue
    from shunted_lab.study.store import open_study
    from shunted_lab.tasks import goal_of

    config = experiment.config
    goal = goal_of(next(iter(experiment.variants.values())).data)
    folder = study_folder(config)
    facts = data_facts(experiment)
    search = Search(experiment, next(iter(facts.values())))
    study = open_study(config)
    search.check(study)
    for line in [*_notes(facts), *_by_variant(initial_weights(experiment, facts)), *low_rates(experiment)]:
        say(console, line)
    if config.plan_only:
        console.print(to_terminal(build_search_table(search, study, config)))
        left = search.left(study)
        say(console, f"would train up to {counted(left, 'more assignment')}" if left else "would train nothing")
        for line in preview_jobs(config):
            say(console, line)
        _check_call(config)
        check_space(config, [search.run(search.baseline)] * left, search.baseline_cost())
        return 0
    if slots:
        warm_up()
        study = search.open(config)
        limit, beat = config.launch.max_attempts, config.study.heartbeat
        queue = SearchQueue(study, search, folder, limit, config.rerun, beat)
        check_space(config, [search.run(search.baseline)] * queue.planned(), search.baseline_cost())
        queue.prepare([])
        if queue.planned():
            check_evaluated(search.base.data, search.facts.identity, lambda line: say(console, line))
        with Progress(console, queue.planned(), len(slots), goal.monitor) as progress:
            Launcher(queue, slots, progress).run()
        if queue.exhausted:
            study.set_user_attr("exhausted", True)
    elif _submit(words, config, console):
        study = open_study(config)
    else:
        return 0
    table = build_search_table(search, study, config)
    written = write_search(search, study, table, config)
    console.print(to_terminal(table))
    for line in [*map(str, written.paths), *(f"warning: {warning}" for warning in written.warnings)]:
        say(console, line)
    return 0 if table.complete else 1


def _plan(config: Config, states: list[RunState], costs: dict[str, Cost]) -> Grid:
    """The plan as a table: per variant its costs and the state of each seed, or how many seeds are in each state."""
    runs: dict[str, list[str]] = {name: [] for name in costs}
    for state in states:
        runs[state.run.variant].append(state.state)
    known = {name: (name, f"{cost.params / 1e6:.2f}", f"{cost.macs / 1e9:.3f}") for name, cost in costs.items()}
    head = ("variant", "params (M)", "GMACs")
    counts = [(*known[name], _counted(found)) for name, found in runs.items()]
    short = Grid(config.name, (*head, counted(len(config.seeds), "seed")), counts)
    seeds = [f"seed {seed}" for seed in config.seeds]
    return Grid(config.name, (*head, *seeds), [(*known[name], *found) for name, found in runs.items()], short=short)


def _counted(states: Sequence[str]) -> str:
    """`12 done, 18 missing`."""
    found = Counter(states)
    return ", ".join(f"{found[state]} {state}" for state in sorted(found, key=lambda state: (state != "done", state)))


def _progress(states: list[RunState], others: int) -> str:
    """How many runs are done, and how long the others may take."""
    from shunted_lab.report.progress import time_left

    left = sum(state.state != "done" for state in states)
    parts = [f"{len(states) - left} of {counted(len(states), 'run')} done"]
    parts += time_left([state.result["seconds"] for state in states if state.result], left)
    if others:
        kept = counted(others, "finished run")
        parts.append(f"{kept} of other seeds or configurations: old results are kept, and are not in this table")
    return "; ".join(parts)


def _check_images(
    experiment: Experiment, facts: dict[str, DataFacts], states: list[RunState], console: Console
) -> None:
    """See to it that all images can be decoded on which the runs that are to be trained are evaluated."""
    from shunted_lab.data.evaluated import check_evaluated

    rerun = experiment.config.rerun
    kept = {None: ("done", "stale"), "failed": ("done", "stale"), "stale": ("done",), "all": ()}[rerun]
    for name in dict.fromkeys(state.run.variant for state in states if state.state not in kept):
        data = experiment.variants[name].data
        check_evaluated(data, facts[name].identity, lambda line: say(console, line))


def _notes(facts: dict[str, DataFacts]) -> list[str]:
    """What is to be said of the data sets, each line once."""
    return list(dict.fromkeys(note for found in facts.values() for note in found.notes))


def _by_variant(lines: dict[str, str]) -> list[str]:
    """Each line once, with the names of its variants where variants differ."""
    names: dict[str, list[str]] = {}
    for name, line in lines.items():
        names.setdefault(line, []).append(name)
    return list(names) if len(names) == 1 else [f"{line} ({', '.join(of)})" for line, of in names.items()]


def _stale(states: list[RunState], rerun: str | None) -> list[str]:
    """What has changed since the stale runs were trained, and what becomes of them."""
    changes: dict[str, list[str]] = {}
    for state in states:
        if state.state == "stale":
            changes.setdefault(state.error or "", []).append(f"{state.run.variant} seed {state.run.seed}")
    lines = [f"stale: {what} ({', '.join(runs)})" for what, runs in changes.items()]
    if not lines:
        return []
    if rerun in ("stale", "all"):
        return [*lines, f"rerun={rerun}: stale runs are trained again; old results are kept"]
    return [*lines, "stale runs are not trained again; rerun=stale trains them, and old results are kept"]


def _execute(
    experiment: Experiment, runs: list[Run], costs: dict[str, Cost], slots: list[Slot], console: Console
) -> list[RunState]:
    """Train what is missing on this machine's workers, one line for each finished run; the states afterwards."""
    from shunted_lab.report.progress import Progress
    from shunted_lab.study import store
    from shunted_lab.study.launch import Launcher
    from shunted_lab.study.plan import study_folder
    from shunted_lab.study.queue import Queue
    from shunted_lab.tasks import goal_of

    config = experiment.config
    goal = goal_of(next(iter(experiment.variants.values())).data)
    study = store.create_study(config, {goal.monitor: goal.mode})
    only = chosen(config)
    todo = [run for run in runs if run.variant in only]
    if config.rerun == "all":
        store.set_all_aside(study, todo)
    states = store.read_states(todo, study)
    limit, beat = config.launch.max_attempts, config.study.heartbeat
    queue = Queue(study, states, costs, study_folder(config), limit, config.rerun, beat)
    queue.prepare(states)
    if queue.todo:
        with Progress(console, queue.planned(), len(slots), goal.monitor) as progress:
            Launcher(queue, slots, progress).run()
    return store.read_states(runs, study)


def _report(
    experiment: Experiment,
    states: list[RunState],
    costs: dict[str, Cost],
    paper_costs: dict[str, Cost],
    console: Console,
) -> int:
    from shunted_lab.report.collect import collect
    from shunted_lab.report.render import to_terminal
    from shunted_lab.report.write import write_report

    data = collect(experiment, states, costs, paper_costs)
    written = write_report(data)
    console.print(to_terminal(data.table))
    warnings = [f"warning: {problem}" for problem in [*data.problems, *written.warnings]]
    for line in [*map(str, written.paths), *warnings, *_failures(states, experiment.config.launch.max_attempts)]:
        say(console, line)
    only = chosen(experiment.config)
    return 0 if not any(row.open for row in data.table.rows if row.variant in only) else 1


def _failures(states: list[RunState], limit: int) -> list[str]:
    """A line for each failed run: where its traceback is, and how it is tried again."""
    from shunted_lab.study.folder import TRACEBACK

    lines = []
    for run, attempts in ((state.run, state.attempts) for state in states if state.state == "failed"):
        again = f"{'the same command' if attempts < limit else 'rerun=failed'} retries it"
        tried = f"{attempts} of {counted(limit, 'attempt')}"
        lines.append(f"failed: {run.variant}, seed {run.seed}, {tried}; {run.folder / TRACEBACK}; {again}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
