"""A command from its plan to its results: what `run` prints, and what `shunted_lab.Study` does in Python.

plan_experiment -> Planned: reads, and writes nothing
execute(Planned): writes the manifest, enqueues, and has the engine start workers
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from optuna.study import Study

from shunted_lab.config.compose import Experiment
from shunted_lab.config.experiment import Config
from shunted_lab.config.variants import chosen
from shunted_lab.nn.cost import Cost
from shunted_lab.output.quantities import counted
from shunted_lab.study.chain import Chain, find_chain
from shunted_lab.study.costs.forecast import Forecast, forecast
from shunted_lab.study.costs.measure import is_measured
from shunted_lab.study.engines import Engine, Work, engine_of, work_of
from shunted_lab.study.folder import Run
from shunted_lab.study.manifest import Manifest, keep_password, read_home, read_manifest
from shunted_lab.study.matching import match_costs
from shunted_lab.study.plan import (
    check_device,
    check_runs_dir,
    check_space,
    count_costs,
    count_paper_costs,
    data_facts,
    make_manifest,
    plan_runs,
    search_manifest,
)
from shunted_lab.study.prepare import prepare, prepare_search, read_study, storage_of
from shunted_lab.study.preview import to_train
from shunted_lab.study.rule import RACES
from shunted_lab.study.search.confirm import find_search, with_best_trials
from shunted_lab.study.search.search import Search, check_same_search, make_search
from shunted_lab.study.slots import plan_slots, warm_up
from shunted_lab.study.states import RunState, read_states
from shunted_lab.study.watch import Watch
from shunted_lab.tasks.loggers import check_loggers

if TYPE_CHECKING:
    from shunted_lab.study.race import Race


@dataclass(frozen=True)
class Planned:
    """What a command is about to do.

    Args:
        states: of all planned runs; none for a search, whose points are proposed later.
        todo: what it trains. For a search so many times the baseline: the others take about as long.
        costs: of the variants in `todo`.
        chain: what the runs begin with.
        before: another experiment that is to be trained first, by `overrides_before`: whose weights the runs begin
            with, or the search whose best are confirmed. This plan is to be made again afterwards.
        race: how the variants stand that get seeds until they are decided.
        composed: the experiment as it was composed, without what planning adds.
    """

    experiment: Experiment
    engine: Engine
    manifest: Manifest
    study: Study | None
    states: list[RunState]
    todo: list[Run]
    costs: dict[str, Cost]
    search: Search | None = None
    matched: list[str] = field(default_factory=list)
    chain: Chain = field(default_factory=Chain)
    before: Planned | None = None
    overrides_before: Sequence[str] = ()
    race: Race | None = None
    composed: Experiment | None = None

    @property
    def config(self) -> Config:
        """The experiment's configuration."""
        return self.experiment.config

    @property
    def first(self) -> str:
        """What is trained before the runs of this plan, for people."""
        assert self.before is not None
        other, count = self.before.config.name, len(self.before.todo)
        if self.before.search is not None:
            return f"confirms {other}: {counted(count, 'assignment')} of it first, then the best of them"
        return f"begins with {other}: {counted(count, 'run')} of {other}, then {len(self.todo)} of {self.config.name}"

    @property
    def names(self) -> list[str]:
        """The variant of each run that is to be trained."""
        return [run.variant for run in self.todo]

    def wanted(self) -> list[Run]:
        """The runs that workers may take: also those that train elsewhere, should their worker die."""
        todo, only = {run.fingerprint for run in self.todo}, chosen(self.config)
        running = {s.run.fingerprint for s in self.states if s.state == "running" and s.run.variant in only}
        return [state.run for state in self.states if state.run.fingerprint in todo | running]

    def check(self, expected: Forecast | None) -> None:
        """Refuse what cannot be started: a folder, a disk, a device, a cluster.

        Raises:
            ConfigError: for the first of them.
        """
        check_runs_dir(self.config)
        check_space(self.config, self.todo, self.costs, len(expected.slots) if expected else 1)
        self.engine.check(self.config.launch, storage_of(self.config))

    def check_images(self, say: Callable[[str], None]) -> None:
        """See to it that the images can be decoded on which the runs are evaluated that are trained here."""
        facts = next(iter(self.manifest.facts.values()))
        for run in {run.variant: run for run in self.todo if self.engine.here}.values():
            run.config.data.check_evaluated(self.manifest.facts.get(run.variant, facts).identity, say)


def plan_experiment(experiment: Experiment, overrides: Sequence[str] = ()) -> Planned:
    """What a command is about to do; nothing is written.

    Args:
        overrides: those that `experiment` was composed of, for one that confirms a search.

    Raises:
        ConfigError: for what cannot be planned.
    """
    keep_password(experiment.config.study.storage)
    engine = engine_of(experiment.config.launch)
    if engine.here:
        engine.check(experiment.config.launch, None)  # devices that this machine does not have
    check_device(experiment, engine.here)
    check_loggers(experiment.config.launch, engine.here)
    if experiment.config.search is not None:
        return _plan_search(experiment, engine)
    composed, confirmed = experiment, None
    if experiment.config.confirm is not None:
        confirmed = find_search(experiment, overrides)
        if confirmed.is_finished:
            experiment = with_best_trials(experiment, confirmed)
    facts = data_facts(experiment)
    experiment, lines = match_costs(experiment, facts)
    costs = count_costs(experiment, facts)
    chain = find_chain(experiment)
    before, overrides_before = None if chain.source is None else plan_experiment(chain.source), chain.overrides
    if confirmed is not None and not confirmed.is_finished:
        before, overrides_before = plan_experiment(confirmed.experiment), confirmed.overrides
    manifest = make_manifest(experiment, facts, costs, plan_runs(experiment, facts, costs, chain), chain.about)
    study = read_study(read_home(manifest.folder), manifest)
    states = read_states(manifest.runs, study)
    race = None
    if before is None and (experiment.config.race is not None or (study is not None and RACES in study.user_attrs)):
        from shunted_lab.study.race import check_registered, plan_race, required_runs  # scipy: 1 s

        check_registered(study, experiment.config, manifest.runs, states)
        race = plan_race(experiment.config, experiment.goal, states)
    if race is not None:
        manifest = replace(manifest, runs=required_runs(experiment.config, manifest.runs, race), rule=race.rule)
        required = {run.fingerprint for run in manifest.runs}
        states = [state for state in states if state.run.fingerprint in required]
    todo = [state.run for state in to_train(experiment.config, states, study)]
    return Planned(
        experiment,
        engine,
        manifest,
        study,
        states,
        todo,
        costs,
        matched=lines,
        chain=chain,
        before=before,
        overrides_before=overrides_before,
        race=race,
        composed=composed,
    )


def next_look(planned: Planned, overrides: Sequence[str] = ()) -> Planned | None:
    """The plan of a race's next look, after that of `planned` was trained; None if the race is over or cannot go on.

    Args:
        overrides: as for `plan_experiment`.
    """
    if planned.race is None or planned.composed is None:
        return None
    found = plan_experiment(planned.composed, overrides)
    assert found.race is not None
    return found if found.race.standing.needed > planned.race.standing.needed else None


def _plan_search(experiment: Experiment, engine: Engine) -> Planned:
    facts = data_facts(experiment)
    search = make_search(experiment, next(iter(facts.values())))
    manifest = search_manifest(experiment, facts, search.spec)
    study = read_study(read_home(manifest.folder), manifest)
    check_same_search(study, search.spec, manifest.folder)
    baseline, cost = search.baseline()
    todo = [baseline] * search.left(study)
    return Planned(experiment, engine, manifest, study, [], todo, {baseline.variant: cost}, search)


def expect(planned: Planned) -> Forecast | None:
    """The workers of this machine, and how long they will train; None where nothing is trained here."""
    if not planned.todo or not planned.engine.here:
        return None
    if not planned.config.plan_only:
        warm_up()
    runs = {run.variant: run.config for run in planned.todo}
    first = next(iter(planned.manifest.facts.values()))
    facts = {name: planned.manifest.facts.get(name, first) for name in runs}
    return forecast(planned.config.launch, runs, planned.costs, facts, planned.names, planned.states)


def execute(
    planned: Planned,
    expected: Forecast | None,
    watch: Callable[[list[str], int], Watch],
    say: Callable[[str], None],
) -> Manifest | None:
    """Train what the plan says. Returns the manifest as reports read it; None where nobody waits for the workers.

    Args:
        watch: given the variants that are trained and the number of workers, makes what shows them.
    """
    config, engine = planned.config, planned.engine
    assert planned.before is None, "what the runs begin with is trained first"
    if planned.search is not None:
        home, plan, todo = prepare_search(planned.manifest)
    else:
        manifest = replace(planned.manifest, paper_costs=count_paper_costs(planned.experiment))
        home, plan, todo = prepare(manifest, planned.wanted())
    if todo or (engine.here and _is_unmeasured(planned)):
        slots = expected.slots if expected else plan_slots(config.launch)[:1] if engine.here else []
        work = work_of(home, plan, config.launch, todo, slots, watch(planned.names[:todo], len(slots)))
        if not _run(engine, work, say):
            return None
    return read_manifest(home.folder, plan)


def _run(engine: Engine, work: Work, say: Callable[[str], None]) -> bool:
    with work.watch:
        return engine.run(work, say)


def _is_unmeasured(planned: Planned) -> bool:
    """Whether there are results, and their costs were not measured yet."""
    manifest, done = planned.manifest, any(state.state == "done" for state in planned.states)
    return done and manifest.measures and not is_measured(manifest.folder, manifest.measured_as)
