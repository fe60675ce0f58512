"""The best of a finished search become variants of an ordinary experiment: with fresh seeds, on the test split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from shunted_lab.config.compose import Experiment, compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.variants import VARIED
from shunted_lab.output.quantities import counted
from shunted_lab.study import store
from shunted_lab.study.plan import data_facts
from shunted_lab.study.search import Search
from shunted_lab.study.trials import asked_for, best, tried


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
    study = store.open_study(found.config)
    if study is not None and "base" in study.user_attrs:  # the seed that it was made with, perhaps by an override
        found = compose([*overrides, f"seeds=[{study.user_attrs['base']['seed']}]"])
    shared = set(config.seeds) & set(found.config.seeds)
    if shared:
        raise ConfigError(
            f"seeds: {sorted(shared)} were used by {confirm.search} to select the best; choose other seeds"
        )
    search = Search(found, next(iter(data_facts(found).values())))
    search.check(study)
    count = len(tried(study.get_trials(deepcopy=False))) if study else 0
    planned = asked_for(study, search.config)
    if study is None or (count < planned and "exhausted" not in study.user_attrs):
        raise ConfigError(
            f"confirm.search: {confirm.search} is not finished ({count} of {counted(planned, 'trial')}); "
            f"run experiment={confirm.search}{' smoke=true' if config.smoke else ''} first"
        )
    baseline = search.run(search.baseline).fingerprint
    trials = best(study, confirm.best, lambda trial: trial.user_attrs["fingerprint"] == baseline)
    if not trials:
        raise ConfigError(f"confirm.search: {confirm.search} has no finished trial except its baseline")
    changes = {f"best{i}": search.space.changes(trial.params) for i, trial in enumerate(trials, 1)}
    variants = experiment.variants | {name: experiment.change(change) for name, change in changes.items()}
    known = [f"{name}: {search.space.label(trial.params)}" for name, trial in zip(changes, trials, strict=True)]
    description = "; ".join([config.description, *known])
    config = dataclasses.replace(config, description=description, variants=config.variants | changes)
    return dataclasses.replace(experiment, config=config, variants=variants)
