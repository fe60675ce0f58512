"""A search: Optuna proposes assignments, each different one is trained once, and what is not allowed costs nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from shunted_lab.config.compose import Experiment
from shunted_lab.config.experiment import Config
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError, nearest, unknown
from shunted_lab.config.search import MEASURED, MEASURED_LATER, SearchConfig
from shunted_lab.data import DataFacts
from shunted_lab.nn import Cost
from shunted_lab.output.files import write_json
from shunted_lab.study import store
from shunted_lab.study.folder import Run
from shunted_lab.study.measure import can_measure_memory
from shunted_lab.study.plan import check_weights, model_cost, sources_of, study_folder, with_weights
from shunted_lab.study.queue import Job, Queue, cost_values
from shunted_lab.study.sampler import make_pruner, make_sampler
from shunted_lab.study.space import Space, make_space
from shunted_lab.study.store import patient
from shunted_lab.study.trials import TRIALS, tried

SEARCH = "search.json"  # in the study's folder: what the study was made for
DRAWS = 2000  # points drawn at random before the space is taken for exhausted
REJECTIONS = 30  # proposals of a sampler in a row that were tried already, before points are drawn at random


class Search:
    """An experiment's search: its space, its first points, and what a point costs.

    `config` is the experiment's, with the objectives that `null` stands for.
    """

    def __init__(self, experiment: Experiment, facts: DataFacts):
        config = experiment.config
        assert config.search is not None
        self.config = _with_objectives(config.search, experiment)
        self.facts = facts
        self.goal = experiment.goal
        self.folder = study_folder(config)
        self.change = experiment.change
        self.base = experiment.change({})
        self.space: Space = make_space(self.config.space, self.base)
        self._runs: dict[str, Run] = {}
        self._costs: dict[str, Cost | ConfigError] = {}
        self._check_keys()
        for variant in experiment.variants.values():
            self._check_objectives(variant)
        self.first = [self.space.params(run) for run in experiment.variants.values()]
        self.baseline = self.space.params(experiment.variants[config.baseline or ""])
        self.names = {self.space.label(p): name for name, p in zip(experiment.variants, self.first, strict=True)}
        (cost,) = self.baseline_cost().values()
        self.bounds = {
            name: float(getattr(cost, name) if bound == "baseline" else bound)
            for name, bound in self.config.constraints.items()
        }
        for name, bound in self.bounds.items():
            if getattr(cost, name) > bound:
                raise ConfigError(
                    f"search.constraints.{name}: {bound:g} is less than the baseline's {getattr(cost, name):g}"
                )
        if self.config.neighbours:
            self.first += self.space.neighbours(self.baseline)
        if self.config.sampler in ("grid", "brute_force") and not self.space.is_finite():
            raise ConfigError(f"search.sampler: '{self.config.sampler}' needs a step for each range of numbers")

    def _check_keys(self) -> None:
        """Refuse a key that no configuration has."""
        for key in self.space.distributions:
            group, _, name = key.partition(".")
            names = [f.name for f in dataclasses.fields(getattr(self.base, group))] if name else []
            if name and name not in names:
                raise ConfigError(f"search.space: {key}: no such key; {nearest(name, names)}")

    def _check_objectives(self, run: RunConfig) -> None:
        """Refuse an objective that no result of this run has."""
        metrics = run.task.goal(run.data, len(self.facts.class_names)).names("val")
        for name in self.config.objectives:
            if name not in (*metrics, *MEASURED):
                raise unknown("search.objectives", name, (*metrics, *MEASURED))
            if name == "memory" and not can_measure_memory(run.launch.accelerator):
                raise ConfigError("search.objectives: 'memory' cannot be measured on this machine's device")

    def changed(self, params: dict[str, Any]) -> RunConfig:
        return self.change(self.space.changes(params))

    def run(self, params: dict[str, Any]) -> Run:
        """The run of a point. Its folder is named after its fingerprint."""
        label = self.space.label(params)
        if label not in self._runs:
            config = with_weights(self.changed(params))
            self._check_objectives(config)
            sources = sources_of(config)
            fingerprint = config.fingerprint(self.facts.identity, sources)
            where = self.folder / "trials" / fingerprint
            self._runs[label] = Run(label, config.seed, config, fingerprint, where, sources)
        return self._runs[label]

    def cost(self, run: Run) -> Cost | ConfigError:
        """What a run's model costs, counted on `meta`; the error if it cannot be built."""
        if run.fingerprint not in self._costs:
            try:
                size = run.config.task.input_size(run.config.data)
                self._costs[run.fingerprint] = model_cost(run.variant, run.config, size, len(self.facts.class_names))
                check_weights(run.variant, run.config, self.facts)
            except ConfigError as error:
                self._costs[run.fingerprint] = error
        return self._costs[run.fingerprint]

    def baseline_cost(self) -> dict[str, Cost]:
        """Name of the baseline's point -> its cost."""
        run = self.run(self.baseline)
        cost = self.cost(run)
        if isinstance(cost, ConfigError):
            raise cost
        return {run.variant: cost}

    def excess(self, cost: Cost) -> dict[str, float]:
        """Constraint -> by how much it is broken; at most 0 is allowed."""
        return {name: getattr(cost, name) - bound for name, bound in self.bounds.items()}

    def left(self, study: Study | None) -> int:
        """How many points are still to be tried."""
        if study is None:
            return self.config.trials
        gone = store.set_aside(study)
        trials = tried([t for t in study.get_trials(deepcopy=False) if t.number not in gone])
        return 0 if study.user_attrs.get("exhausted") else max(0, self.config.trials - len(trials))

    def measures(self) -> bool:
        """Whether an objective must be measured on the device."""
        return any(name in MEASURED_LATER for name in self.config.objectives)

    def open(self, config: Config) -> Study:
        """The study of the search; made if there is none.

        Raises:
            ConfigError: if it was made for another space, other objectives or another base configuration.
        """
        old = store.open_study(config)
        self.check(old)
        count = len(old.get_trials(deepcopy=False)) if old else 0
        study = store.create_study(
            config, self.config.objectives, make_sampler(self.config, count), make_pruner(self.config, self.base)
        )
        if "space" not in study.user_attrs:
            study.set_user_attr("base", self._base())
            study.set_user_attr("space", self.space.describe())
        study.set_user_attr(TRIALS, self.config.trials)  # the last command decides: a search may grow or be cut short
        note = {"objectives": self.config.objectives, "space": self.space.describe(), "base": self._base()}
        write_json(self.folder / SEARCH, note | {TRIALS: self.config.trials})  # for `study.rebuild`
        return study

    def check(self, study: Study | None) -> None:
        """Refuse a study that was made for another search."""
        if study is None or "space" not in study.user_attrs:
            return
        found: list[str] = []
        old, new = study.user_attrs["space"], self.space.describe()
        found += [f"search.space.{key} is new" for key in new.keys() - old.keys()]
        found += [f"search.space.{key} was removed" for key in old.keys() - new.keys()]
        found += [f"search.space.{key} has other choices" for key in new.keys() & old.keys() if new[key] != old[key]]
        directions = [("max" if d == optuna.study.StudyDirection.MAXIMIZE else "min") for d in study.directions]
        before = dict(zip(study.metric_names or [], directions, strict=True))
        if before != self.config.objectives:
            found.append(f"search.objectives was {before}")
        base = self._base()
        found += [f"{k} was {v}" for k, v in study.user_attrs["base"].items() if base.get(k) != v]
        if found:
            raise ConfigError(
                f"search: the study in {self.folder} was made for another search ({'; '.join(sorted(found))}); "
                "rename the experiment's file, or set runs_dir=..."
            )

    def _base(self) -> dict[str, Any]:
        """What all trials share, flat: dotted key -> value."""
        flat = store.flatten(dataclasses.asdict(self.base))
        varied = ["model.rates" if key.startswith("rates[") else key for key in self.space.distributions]
        flat |= {f"sources.{name}": value for name, value in sources_of(with_weights(self.base)).items()}
        return {
            k: v for k, v in flat.items() if store.affects_result(k) and not any(k.startswith(key) for key in varied)
        }


def _with_objectives(config: SearchConfig, experiment: Experiment) -> SearchConfig:
    """The same search; where it names no objectives, with the metric that chooses the task's best epoch."""
    goal = experiment.goal
    return config if config.objectives else dataclasses.replace(config, objectives={goal.monitor: goal.mode})


class SearchQueue(Queue):
    """Hands out the points of a search, each different one once."""

    learns = True

    def __init__(
        self,
        study: Study,
        search: Search,
        folder: Path,
        max_attempts: int = 3,
        rerun: str | None = None,
        heartbeat: int = 60,
    ):
        super().__init__(study, [], {}, folder, max_attempts, rerun, heartbeat)
        self.search = search
        self.exhausted = False
        self._first = iter(search.first)
        self._rest: Iterator[dict[str, Any]] | None = None
        self._rng = np.random.default_rng([search.config.sampler_seed, len(study.get_trials(deepcopy=False))])

    def planned(self) -> int:
        """How many points are still to be tried."""
        return max(0, self.search.config.trials - len(tried(self._trials())))

    def enqueue_ahead(self) -> None:
        """The next point may depend on a result that is still to come: none is queued ahead."""

    @patient
    def take(self) -> Job | None:
        """The next point, claimed; None if there is none now."""
        rejected = 0
        while True:
            trials = self._trials()
            known = tried(trials)
            waiting = any(t.state == TrialState.WAITING for t in trials)
            again = None if waiting else self._again(known)
            if not waiting and again is None:
                if len(known) >= self.search.config.trials or self.exhausted:
                    return None
                again = self._propose(known, rejected)
                if self.exhausted:
                    return None
            if again is not None:
                self.study.enqueue_trial(again)
            job = self._claim(self.study.ask(self.search.space.distributions))
            if job is not None:
                return job
            rejected += 1

    def _trials(self) -> list[FrozenTrial]:
        return self._counted(self.study.get_trials(deepcopy=False))

    def _again(self, known: dict[str, list[FrozenTrial]]) -> dict[str, Any] | None:
        """A point that was interrupted, or that failed and may be tried again."""
        for fingerprint, trials in known.items():
            over = all(t.state == TrialState.FAIL for t in trials)
            if over and fingerprint not in self._failed and self._has_attempts_left(trials):
                return trials[-1].params
        return None

    def _propose(self, known: dict[str, list[FrozenTrial]], rejected: int) -> dict[str, Any] | None:
        """A point that is not left to the sampler; None leaves it. Sets `exhausted` where there is none left."""
        for params in self._first:
            if self._is_new(params, known):
                return params
        if self.search.config.sampler in ("grid", "brute_force"):
            self._rest = self._rest or self._enumerate()
            for params in self._rest:
                if self._is_new(params, known):
                    return params
            self.exhausted = True
        elif rejected >= REJECTIONS:
            for _ in range(DRAWS):
                params = {key: self._draw(d) for key, d in self.search.space.distributions.items()}
                if self._is_new(params, known):
                    return params
            self.exhausted = True
        return None

    def _is_new(self, params: dict[str, Any], known: dict[str, list[FrozenTrial]]) -> bool:
        try:
            run = self.search.run(params)
        except ConfigError:
            return False
        cost = self.search.cost(run)
        if run.fingerprint in known or isinstance(cost, ConfigError):
            return False
        return max(self.search.excess(cost).values(), default=0) <= 0

    def _enumerate(self) -> Iterator[dict[str, Any]]:
        """All points; `brute_force` in an order drawn from the sampler's seed, `grid` in theirs."""
        if self.search.config.sampler == "grid":
            return self.search.space.points()
        points = list(self.search.space.points())
        order = np.random.default_rng(self.search.config.sampler_seed).permutation(len(points))
        return (points[i] for i in order)

    def _draw(self, distribution: Any) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[self._rng.integers(len(distribution.choices))]
        trial = optuna.create_study(sampler=RandomSampler(seed=int(self._rng.integers(2**31)))).ask({"x": distribution})
        return int(trial.params["x"]) if isinstance(distribution, IntDistribution) else trial.params["x"]

    def _claim(self, trial: Trial) -> Job | None:
        """Make a point this launcher's; None if it is not allowed, or another trial has it."""
        trial.set_user_attr("name", self.search.space.label(trial.params))
        try:
            run = self.search.run(trial.params)
            cost = self.search.cost(run)
        except ConfigError as error:
            cost = error
        if isinstance(cost, ConfigError):
            self._give_back(trial, f"it cannot be built: {cost}")
            return None
        for name, excess in self.search.excess(cost).items():
            trial.set_constraint(name, excess)
            trial.set_user_attr(f"excess of {name}", excess)  # the dashboard does not show constraints
        for key, value in store.attributes(run).items():
            trial.set_user_attr(key, value)
        broken = [name for name, excess in self.search.excess(cost).items() if excess > 0]
        if broken:
            self._give_back(trial, f"more {', '.join(broken)} than allowed")
            return None
        if not self._is_first(trial, run):
            self._give_back(trial, "another trial has this assignment")
            return None
        self._mark(trial)
        return Job(run, trial, cost_values(cost), self.search.measures())

    @patient
    def epoch(self, job: Job, epoch: int, metrics: dict[str, float]) -> bool:
        super().epoch(job, epoch, metrics)
        if self.search.config.pruner is None:
            return False
        try:
            return job.trial.should_prune()
        except UpdateFinishedTrialError:
            return False
