"""What is planned of a study and what is done of it, read without training and without what a report is made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shunted_lab.config.compose import Experiment, compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.nn import Cost
from shunted_lab.study import store
from shunted_lab.study.folder import Run
from shunted_lab.study.plan import RunState, count_costs, count_paper_costs, data_facts, plan_runs


@dataclass(frozen=True)
class StudyStates:
    """What is planned of a study, what is done of it, and what could not be read."""

    experiment: Experiment
    states: list[RunState]
    costs: dict[str, Cost]
    paper_costs: dict[str, Cost]
    problems: list[str] = field(default_factory=list)


def load_states(overrides: Sequence[str]) -> StudyStates:
    """The study of a command's overrides, e.g. `["experiment=ablate_embed"]`, as it is now. Nothing is written.

    Raises:
        ConfigError: for overrides that do not compose, and for a search, which has a report of its own.
    """
    experiment = compose(list(overrides))
    if experiment.config.search is not None:
        raise ConfigError(f"experiment: {experiment.config.name} is a search, whose report is loaded by report.search")
    if experiment.config.confirm is not None:
        from shunted_lab.study.confirm import with_best_trials

        experiment = with_best_trials(experiment, overrides)
    facts = data_facts(experiment)
    runs = plan_runs(experiment, facts)
    problems: list[str] = []
    try:
        states = store.read_states(runs, store.open_study(experiment.config))
    except ConfigError as error:
        states, problems = _states_of_folders(runs, [str(error)])
    costs = count_costs(experiment, facts)
    return StudyStates(experiment, states, costs, count_paper_costs(experiment), problems)


def _states_of_folders(runs: Sequence[Run], problems: list[str]) -> tuple[list[RunState], list[str]]:
    """States by the folders alone, where the study cannot be read, and what could not be read of them."""
    states = []
    for run in runs:
        try:
            states += store.read_states([run], None)
        except ConfigError as error:
            problems.append(str(error))
            states.append(RunState(run, "failed", error="its folder cannot be read"))
    return states, problems
