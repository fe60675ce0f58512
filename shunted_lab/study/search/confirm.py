"""The best of a finished search become variants of an ordinary experiment: with fresh seeds, on the test split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.study import Study

from shunted_lab.config.compose import Experiment, compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.variants import VARIED
from shunted_lab.study.manifest import read_home, read_manifest
from shunted_lab.study.plan import data_facts, study_folder
from shunted_lab.study.prepare import read_study
from shunted_lab.study.search.search import Search, check_same_search, make_search
from shunted_lab.study.search.trials import best, finished_points


@dataclass(frozen=True)
class Confirmed:
    """The search that an experiment confirms.

    Args:
        experiment: the search, as `overrides` compose it.
        study: its trials; None before the first.
        is_finished: whether all of its trials are done.
    """

    experiment: Experiment
    overrides: list[str]
    search: Search
    study: Study | None
    is_finished: bool


def find_search(experiment: Experiment, given: Sequence[str] = ()) -> Confirmed:
    """The search at `confirm.search`.

    `given` are the overrides of the command: what they say of model, data, recipe and launch holds for the search too.

    Raises:
        ConfigError: if it is not a search, was made for another base configuration, or used one of these seeds.
    """
    config = experiment.config
    confirm = config.confirm
    assert confirm is not None
    overrides = [f"experiment={confirm.search}", f"runs_dir={config.runs_dir}", f"smoke={config.smoke}"]
    overrides += [f"study.storage={config.study.storage}"] if config.study.storage else []
    overrides += [word for word in given if word.partition("=")[0].split(".")[0] in (*VARIED, "launch", "plan_only")]
    found = compose(overrides)
    if found.config.search is None:
        raise ConfigError(f"confirm.search: {confirm.search} is not a search")
    folder = study_folder(found.config)
    home = read_home(folder)
    manifest = read_manifest(folder) if home is not None and home.plan is not None else None
    if manifest is not None and manifest.search is not None:  # the seed that it was made with, perhaps by an override
        overrides.append(f"seeds=[{manifest.config.all_seeds[0]}]")
        found = compose(overrides)
    shared = set(config.all_seeds) & set(found.config.all_seeds)
    if shared:
        raise ConfigError(
            f"seeds: {sorted(shared)} were used by {confirm.search} to select the best; choose other seeds"
        )
    search = make_search(found, next(iter(data_facts(found).values())))
    study = read_study(home, manifest) if manifest is not None else None
    check_same_search(study, search.spec, folder)
    count = len(finished_points(study)) if study else 0
    planned = manifest.search.trials if manifest is not None and manifest.search is not None else search.spec.trials
    finished = study is not None and (count >= planned or "exhausted" in study.user_attrs)
    return Confirmed(found, overrides, search, study, finished)


def with_best_trials(experiment: Experiment, confirmed: Confirmed) -> Experiment:
    """The experiment with the best trials of its search as variants `best1`, `best2`, ...

    Raises:
        ConfigError: if the search has nothing beside the baseline.
    """
    config, search, study = experiment.config, confirmed.search, confirmed.study
    assert config.confirm is not None and study is not None
    baseline = search.baseline()[0].fingerprint
    trials = best(study, config.confirm.best, lambda trial: trial.user_attrs["fingerprint"] == baseline)
    if not trials:
        raise ConfigError(f"confirm.search: {config.confirm.search} has no finished trial except its baseline")
    changes = {f"best{i}": search.space.changes(trial.params) for i, trial in enumerate(trials, 1)}
    variants = experiment.variants | {name: experiment.change(change) for name, change in changes.items()}
    known = [f"{name}: {search.space.label(trial.params)}" for name, trial in zip(changes, trials, strict=True)]
    description = "; ".join([config.description, *known])
    config = dataclasses.replace(config, description=description, variants=config.variants | changes)
    return dataclasses.replace(experiment, config=config, variants=variants)
