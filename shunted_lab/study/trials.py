"""The trials of a search: what was tried, what is finished, and what is best."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from shunted_lab.config.search import SearchConfig
from shunted_lab.study import store

TRIALS = "trials"  # in the study's attributes: how many points the search was last asked for


def tried(trials: Sequence[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """Fingerprint -> the trials of each point that was, or is being trained."""
    real = [t for t in trials if "given_back" not in t.user_attrs and "launcher" in t.user_attrs]
    return store.by_fingerprint(t for t in real if t.state != TrialState.WAITING)


def asked_for(study: Study | None, config: SearchConfig) -> int:
    """The trials that a search is made of: as many as its last command asked for, or `config.trials` before it ran."""
    return int(study.user_attrs.get(TRIALS, config.trials)) if study else config.trials


def finished(study: Study) -> list[FrozenTrial]:
    """The COMPLETE trials of a search, one for each point."""
    gone = store.set_aside(study)
    return [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.number not in gone]


def best(study: Study, count: int, excluded: Callable[[FrozenTrial], bool] = lambda trial: False) -> list[FrozenTrial]:
    """The best finished trials: by the only objective, or the Pareto front by its first."""
    trials = [t for t in finished(study) if not excluded(t)]
    if len(study.directions) > 1:
        front = {t.number for t in study.best_trials}
        trials = [t for t in trials if t.number in front]
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    return sorted(trials, key=lambda t: (sign * t.values[0], t.number))[:count]
