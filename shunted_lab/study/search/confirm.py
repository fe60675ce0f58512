"""The best of a finished search become variants of an ordinary experiment: with fresh seeds, on the test split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from shunted_lab.config.compose import Experiment, compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.variants import VARIED
from shunted_lab.output.quantities import counted
from shunted_lab.study.manifest import read_home, read_manifest
from shunted_lab.study.plan import data_facts, study_folder
from shunted_lab.study.prepare import read_study
from shunted_lab.study.search.search import check_same_search, make_search
from shunted_lab.study.search.trials import best, finished_points


def with_best_trials(experiment: Experiment, given: Sequence[str] = ()) -> Experiment:
    """The experiment with the best trials of its `confirm.search` as variants `best1`, `best2`, ...

    `given` are the overrides of the command: what they say of model, data and recipe holds for the search as well.

    Raises:
        ConfigError: if the search is not finished, used one of these seeds, or has nothing beside the baseline.
    """
    config = experiment.config
    confirm = config.confirm
    assert confirm is not None
    overrides = [f"experiment={confirm.search}", f"runs_dir={config.runs_dir}", f"smoke={config.smoke}"]
    overrides += [f"study.storage={config.study.storage}"] if config.study.storage else []
    overrides += [word for word in given if word.partition("=")[0].split(".")[0] in VARIED]
    found = compose(overrides)
    if found.config.search is None:
        raise ConfigError(f"confirm.search: {confirm.search} is not a search")
    folder = study_folder(found.config)
    home = read_home(folder)
    manifest = read_manifest(folder) if home is not None and home.plan is not None else None
    if manifest is not None and manifest.search is not None:  # the seed that it was made with, perhaps by an override
        found = compose([*overrides, f"seeds=[{manifest.config.seeds[0]}]"])
    shared = set(config.seeds) & set(found.config.seeds)
    if shared:
        raise ConfigError(
            f"seeds: {sorted(shared)} were used by {confirm.search} to select the best; choose other seeds"
        )
    search = make_search(found, next(iter(data_facts(found).values())))
    study = read_study(home, manifest) if manifest is not None else None
    check_same_search(study, search.spec, folder)
    count = len(finished_points(study)) if study else 0
    planned = manifest.search.trials if manifest is not None and manifest.search is not None else search.spec.trials
    if study is None or (count < planned and "exhausted" not in study.user_attrs):
        raise ConfigError(
            f"confirm.search: {confirm.search} is not finished ({count} of {counted(planned, 'trial')}); "
            f"run experiment={confirm.search}{' smoke=true' if config.smoke else ''} first"
        )
    baseline = search.baseline()[0].fingerprint
    trials = best(study, confirm.best, lambda trial: trial.user_attrs["fingerprint"] == baseline)
    if not trials:
        raise ConfigError(f"confirm.search: {confirm.search} has no finished trial except its baseline")
    changes = {f"best{i}": search.space.changes(trial.params) for i, trial in enumerate(trials, 1)}
    variants = experiment.variants | {name: experiment.change(change) for name, change in changes.items()}
    known = [f"{name}: {search.space.label(trial.params)}" for name, trial in zip(changes, trials, strict=True)]
    description = "; ".join([config.description, *known])
    config = dataclasses.replace(config, description=description, variants=config.variants | changes)
    return dataclasses.replace(experiment, config=config, variants=variants)
