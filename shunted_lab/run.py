"""The command line: compose the configuration, plan, execute, report.

python -m shunted_lab.run experiment=ablate_embed
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from shunted_lab.compose import Experiment, compose
from shunted_lab.config import Config, ConfigError

if TYPE_CHECKING:
    from rich.console import Console, Group

    from shunted_lab.nn import Cost
    from shunted_lab.study.plan import Run, RunState


def main(words: list[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 for a user's mistake or a failed run, 130 after Ctrl-C."""
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        from shunted_lab.usage import usage

        print(usage())
        return 0
    try:
        return run(compose(words))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; nothing finished is lost, and the same command goes on", file=sys.stderr)
        return 130


def run(experiment: Experiment) -> int:
    """Plan, train what is missing, and report. Returns 1 if the table is not complete: a run has failed."""
    from rich.console import Console

    from shunted_lab.study import store
    from shunted_lab.study.plan import (
        check_runs_dir,
        check_space,
        count_costs,
        count_paper_costs,
        data_facts,
        plan_runs,
        study_folder,
    )

    config = experiment.config
    console = Console(width=None if sys.stdout.isatty() else 120)
    folder = study_folder(config)
    check_runs_dir(config)
    facts = data_facts(experiment)
    runs = plan_runs(experiment, facts)
    study = store.load_study(folder)
    states = store.read_states(runs, study, store.is_owned(folder))
    costs = count_costs(experiment, facts)
    console.print(_plan(config, states, costs, store.other_runs(study, runs)))
    if config.plan_only:
        return 0
    paper_costs = count_paper_costs(experiment)
    check_space(config, [state.run for state in states if state.state != "done"], costs)
    folder.mkdir(parents=True, exist_ok=True)
    with store.owned(folder):
        states = _execute(experiment, runs, costs, console)
    return _report(experiment, states, costs, paper_costs, console)


def _plan(config: Config, states: list[RunState], costs: dict[str, Cost], others: int) -> Group:
    """The plan as a table: per variant its costs and the state of each seed, and how long the rest may take."""
    from rich.console import Group
    from rich.table import Table

    table = Table("variant", "params (M)", "GMACs", *(f"seed {seed}" for seed in config.seeds), title=config.name)
    for name, cost in costs.items():
        cells = [state.state for state in states if state.run.variant == name]
        table.add_row(name, f"{cost.params / 1e6:.2f}", f"{cost.macs / 1e9:.3f}", *cells)
    left = sum(state.state != "done" for state in states)
    lines = [f"{len(states) - left} of {len(states)} runs done"]
    lines += _time_left([state.result["seconds"] for state in states if state.result], left)
    if others:
        lines.append(f"{others} finished runs of other seeds or configurations are kept, and stand in no table here")
    return Group(table, "; ".join(lines))


def _time_left(seconds: list[float], left: int) -> list[str]:
    """How long `left` runs may take, by the `seconds` of those that are done; nothing where that cannot be said."""
    if not left or not seconds:
        return []
    return [f"about {left * sum(seconds) / len(seconds) / 60:.1f} min left"]


def _execute(experiment: Experiment, runs: list[Run], costs: dict[str, Cost], console: Console) -> list[RunState]:
    """Train what is missing, one line for each finished run; the states of all runs afterwards."""
    from shunted_lab.study import store
    from shunted_lab.study.plan import study_folder

    folder = study_folder(experiment.config)
    study = store.load_study(folder)
    states = store.read_states(runs, study)
    if study is None or any(state.state != "done" for state in states):
        from shunted_lab.study.worker import work  # lightning: 5 s
        from shunted_lab.tasks.classification import Classification

        study = study or store.create_study(folder, Classification.mode, Classification.monitor)
        todo = store.enqueue(study, states, experiment.config.launch.max_attempts)
        metric = Classification.monitor
        told: list[float] = []  # seconds of each run
        count = 0

        def tell(run: Run, result: dict[str, Any] | None) -> None:
            nonlocal count
            count += 1
            said = ["failed"]
            if result:
                told.append(result["seconds"])
                said = [f"{metric} {result['metrics'][metric]:.4f}", f"{result['seconds']:.0f} s"]
            line = ", ".join(said + _time_left(told, len(todo) - count))
            console.print(
                f"[{count}/{len(todo)}] {run.variant}, seed {run.seed}: {line}", markup=False, highlight=False
            )

        work(study, todo, costs, tell, progress=console.is_terminal)
    return store.read_states(runs, study)


def _report(
    experiment: Experiment,
    states: list[RunState],
    costs: dict[str, Cost],
    paper_costs: dict[str, Cost],
    console: Console,
) -> int:
    from shunted_lab.report.render import to_terminal
    from shunted_lab.report.table import build_table
    from shunted_lab.report.write import write_report
    from shunted_lab.study.plan import study_folder

    table = build_table(experiment.config, experiment.variants, states, costs, paper_costs)
    console.print(to_terminal(table))
    for path in write_report(table, study_folder(experiment.config)):
        console.print(str(path), markup=False, highlight=False)
    for line in _failures(states, experiment.config.launch.max_attempts):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0 if table.complete else 1


def _failures(states: list[RunState], limit: int) -> list[str]:
    """A line for each failed run: where its traceback is, and how it is tried again."""
    from shunted_lab.study.plan import TRACEBACK

    lines = []
    for run, attempts in ((state.run, state.attempts) for state in states if state.state == "failed"):
        again = "the same command tries again" if attempts < limit else f"launch.max_attempts={limit + 1} tries again"
        tried = f"{attempts} of {limit} attempts"
        lines.append(f"failed: {run.variant}, seed {run.seed}, {tried}; {run.folder / TRACEBACK}; {again}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
