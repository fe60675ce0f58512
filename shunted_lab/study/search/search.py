"""A search: Optuna proposes assignments, each different one is trained once, and what is not allowed costs nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import json_to_distribution
from optuna.study import Study

from shunted_lab.config.compose import Experiment, change_run
from shunted_lab.config.experiment import Config
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError, nearest, unknown
from shunted_lab.config.search import MEASURED, MEASURED_LATER, SearchConfig
from shunted_lab.data import DataFacts
from shunted_lab.nn.cost import Cost
from shunted_lab.study.costs.measure import can_measure_memory
from shunted_lab.study.folder import TRIALS, Folders, Run
from shunted_lab.study.identity import affects_result, check_frozen, flatten, sources_of, with_weights
from shunted_lab.study.manifest import Manifest, SearchSpec, cost_values
from shunted_lab.study.plan import check_weights, make_run, model_cost, study_folder
from shunted_lab.study.search.space import Space, make_space
from shunted_lab.study.search.trials import finished_points


class Search:
    """The points of a search: their runs and their costs.

    Args:
        folder: the study's.
        config: the experiment's.
        facts: of its data.
        spec: what was planned.
    """

    def __init__(self, folder: Path, config: Config, facts: DataFacts, spec: SearchSpec):
        self.folder = folder
        self.config = config
        self.facts = facts
        self.spec = spec
        self.space = Space(
            {key: json_to_distribution(text) for key, text in spec.space.items()}, change_run(config, {})
        )
        self.folders = Folders(folder)
        self._runs: dict[str, Run] = {}
        self._costs: dict[str, Cost | ConfigError] = {}

    @property
    def options(self) -> SearchConfig:
        """The keys `search.*`."""
        assert self.config.search is not None
        return self.config.search

    def run(self, params: dict[str, Any]) -> Run:
        """The run of a point.

        Raises:
            ConfigError: for a point that no configuration can have.
        """
        label = self.space.label(params)
        if label not in self._runs:
            config = with_weights(change_run(self.config, self.space.changes(params)))
            check_frozen(config)
            _check_objectives(self.spec.objectives, config, self.facts)
            run = make_run(self.folders, label, config, self.facts, sources_of(config), TRIALS)
            self._runs[label] = dataclasses.replace(run, params=params, measure=self.measures())
        return self._runs[label]

    def cost(self, run: Run) -> Cost | ConfigError:
        """What a run's model costs, counted on `meta`; the error if it cannot be built."""
        if run.fingerprint not in self._costs:
            try:
                self._costs[run.fingerprint] = _cost_of(run, self.facts)
            except ConfigError as error:
                self._costs[run.fingerprint] = error
        return self._costs[run.fingerprint]

    def excess(self, cost: Cost) -> dict[str, float]:
        """Constraint -> by how much it is broken; at most 0 is allowed."""
        return {name: getattr(cost, name) - bound for name, bound in self.spec.bounds.items()}

    def is_allowed(self, params: dict[str, Any]) -> Run | None:
        """The run of a point that can be built and breaks no constraint; else None."""
        try:
            run = self.run(params)
        except ConfigError:
            return None
        cost = self.cost(run)
        allowed = not isinstance(cost, ConfigError) and max(self.excess(cost).values(), default=0) <= 0
        return run if allowed else None

    def left(self, study: Study | None) -> int:
        """How many points are still to be finished."""
        if study is None:
            return self.spec.trials
        return 0 if study.user_attrs.get("exhausted") else max(0, self.spec.trials - len(finished_points(study)))

    def measures(self) -> bool:
        """Whether an objective must be measured on the device."""
        return any(name in MEASURED_LATER for name in self.spec.objectives)

    def baseline(self) -> tuple[Run, Cost]:
        """The baseline's run and its cost."""
        run = self.run(self.spec.baseline)
        cost = self.cost(run)
        if isinstance(cost, ConfigError):
            raise cost
        return run, cost


def search_of(manifest: Manifest) -> Search:
    """The search of a manifest, to propose points."""
    assert manifest.search is not None
    return Search(manifest.folder, manifest.config, next(iter(manifest.facts.values())), manifest.search)


def make_search(experiment: Experiment, facts: DataFacts) -> Search:
    """The search of an experiment.

    Raises:
        ConfigError: for a space, objectives or constraints that cannot be.
    """
    config = experiment.config
    assert config.search is not None
    options, base = config.search, change_run(config, {})
    space = make_space(options.space, base)
    _check_keys(space, base)
    objectives = options.objectives or {experiment.goal.monitor: experiment.goal.mode}
    for variant in experiment.variants.values():
        _check_objectives(objectives, variant, facts)
    points = {name: space.params(run) for name, run in experiment.variants.items()}
    baseline = points[config.baseline or ""]
    if options.sampler in ("grid", "brute_force") and not space.is_finite():
        raise ConfigError(f"search.sampler: '{options.sampler}' needs a step for each range of numbers")
    spec = SearchSpec(
        objectives=objectives,
        space=space.describe(),
        first=[*points.values(), *(space.neighbours(baseline) if options.neighbours else [])],
        baseline=baseline,
        names={space.label(point): name for name, point in points.items()},
        bounds={},
        base=_base(space, base),
        trials=options.trials,
    )
    _, cost = Search(study_folder(config), config, facts, spec).baseline()
    return Search(study_folder(config), config, facts, dataclasses.replace(spec, bounds=_bounds(options, cost)))


def _bounds(options: SearchConfig, cost: Cost) -> dict[str, float]:
    """Constraint -> the most that is allowed; the baseline must keep it."""
    bounds = {n: float(getattr(cost, n) if b == "baseline" else b) for n, b in options.constraints.items()}
    for name, bound in bounds.items():
        if getattr(cost, name) > bound:
            raise ConfigError(
                f"search.constraints.{name}: {bound:g} is less than the baseline's {getattr(cost, name):g}"
            )
    return bounds


def _cost_of(run: Run, facts: DataFacts) -> Cost:
    cost = model_cost(run.variant, run.config, run.config.task.input_size(run.config.data), facts.num_classes)
    check_weights(run.variant, run.config, facts)
    return cost


def with_cost(run: Run, cost: Cost) -> Run:
    """The run with its costs."""
    return dataclasses.replace(run, costs=cost_values(dataclasses.asdict(cost)))


def _check_keys(space: Space, base: RunConfig) -> None:
    """Refuse a key that no configuration has."""
    for key in space.distributions:
        group, _, name = key.partition(".")
        names = [f.name for f in dataclasses.fields(getattr(base, group))] if name else []
        if name and name not in names:
            raise ConfigError(f"search.space: {key}: no such key; {nearest(name, names)}")


def _check_objectives(objectives: dict[str, str], run: RunConfig, facts: DataFacts) -> None:
    """Refuse an objective that no result of this run has."""
    metrics = run.task.goal(run.data, facts.num_classes).names("val")
    for name in objectives:
        if name not in (*metrics, *MEASURED):
            raise unknown("search.objectives", name, (*metrics, *MEASURED))
        if name == "memory" and not can_measure_memory(run.launch.accelerator):
            raise ConfigError("search.objectives: 'memory' cannot be measured on this machine's device")


def _base(space: Space, base: RunConfig) -> dict[str, Any]:
    """What all trials share, flat: dotted key -> value."""
    flat = flatten(dataclasses.asdict(base))
    varied = ["model.rates" if key.startswith("rates[") else key for key in space.distributions]
    flat |= {f"sources.{name}": value for name, value in sources_of(with_weights(base)).items()}
    return {k: v for k, v in flat.items() if affects_result(k) and not any(k.startswith(key) for key in varied)}


def check_same_search(study: Study | None, spec: SearchSpec, folder: Path) -> None:
    """Refuse a study that was made for another space, other objectives or another base configuration.

    Raises:
        ConfigError: with all that differs.
    """
    if study is not None and "space" in study.user_attrs and (found := sorted(_differences(study, spec))):
        raise ConfigError(
            f"search: the study in {folder} was made for another search ({'; '.join(found)}); rename the experiment's "
            "file, or set runs_dir=..."
        )


def _differences(study: Study, spec: SearchSpec) -> Iterator[str]:
    old, new = study.user_attrs["space"], spec.space
    yield from (f"search.space.{key} is new" for key in new.keys() - old.keys())
    yield from (f"search.space.{key} was removed" for key in old.keys() - new.keys())
    yield from (f"search.space.{key} has other choices" for key in new.keys() & old.keys() if new[key] != old[key])
    ways = ["max" if way == optuna.study.StudyDirection.MAXIMIZE else "min" for way in study.directions]
    before = dict(zip(study.metric_names or [], ways, strict=True))
    if before != spec.objectives:
        yield f"search.objectives was {before}"
    yield from (f"{k} was {v}" for k, v in study.user_attrs["base"].items() if spec.base.get(k) != v)


def note_search(study: Study, spec: SearchSpec) -> None:
    """Note in a study what it was made for."""
    if "space" not in study.user_attrs:
        study.set_user_attr("base", spec.base)
        study.set_user_attr("space", spec.space)
