"""The trials of a search: what was tried, what is finished, and what is best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from shunted_lab.study.states import by_fingerprint, current

DRAWN, RANDOM, SAMPLED, LISTED = "drawn", "random", "sampler", "listed"  # attribute: how a point was proposed


def tried(trials: Sequence[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """Fingerprint -> the trials of each point that was, or is being trained."""
    real = [t for t in trials if "given_back" not in t.user_attrs and "fingerprint" in t.user_attrs]
    return by_fingerprint(t for t in real if t.state != TrialState.WAITING)


def is_over(trials: Sequence[FrozenTrial]) -> bool:
    """Whether a point is finished: trained, or ended by the pruner. A failed one is not."""
    return any(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)


def finished_points(study: Study) -> dict[str, list[FrozenTrial]]:
    """Fingerprint -> the trials of each point that is finished."""
    return {fingerprint: ts for fingerprint, ts in tried(current(study)).items() if is_over(ts)}


def finished(study: Study) -> list[FrozenTrial]:
    """The COMPLETE trials of a search, one for each point."""
    return [t for t in current(study) if t.state == TrialState.COMPLETE]


def best(
    study: Study, count: int | None, excluded: Callable[[FrozenTrial], bool] = lambda trial: False
) -> list[FrozenTrial]:
    """The best finished trials: by the only objective, or the Pareto front by its first; None is all of them."""
    trials = [t for t in finished(study) if not excluded(t)]
    if len(study.directions) > 1:
        front = {t.number for t in study.best_trials}
        trials = [t for t in trials if t.number in front]
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    return sorted(trials, key=lambda t: (sign * t.values[0], t.number))[:count]


def costs_of(trial: FrozenTrial) -> Mapping[str, Any]:
    """What the model of a finished trial costs: counted, and measured where the search compares it."""
    return trial.user_attrs["costs"] | trial.user_attrs["result"].get("costs", {})
