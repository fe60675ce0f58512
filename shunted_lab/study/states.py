"""How far each planned run is, read from the study and from the folders; nothing is written."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from shunted_lab.output.files import is_locked
from shunted_lab.study.folder import NOTE, Run, problem_of, read_result
from shunted_lab.study.identity import changes
from shunted_lab.study.machine import this_machine

SILENCE = 3  # heartbeats after which a worker of another machine looks dead


@dataclass(frozen=True)
class RunState:
    """What is known of a run: `done`, `missing`, `running`, `interrupted`, `failed` or `stale`.

    `result` is what `tasks.train` returned, for a run that is done. `error` is the last line of the traceback of a
    failed one, which failed `attempts` times, and for a stale one what has changed.
    """

    run: Run
    state: str
    result: dict[str, Any] | None = None
    error: str | None = None
    attempts: int = 0


def read_states(runs: Sequence[Run], study: Study | None) -> list[RunState]:
    """The state of every planned run, from the study and, where that does not know, from the run's folder.

    A trial that is RUNNING is `running` while its worker lives, and `interrupted` otherwise.
    """
    trials = current(study) if study is not None else []
    known = by_fingerprint(trials)
    finished: dict[str, FrozenTrial] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE and "configuration" in trial.user_attrs:
            finished[trial.user_attrs["configuration"]] = trial
    return [_state(run, known.get(run.fingerprint, []), finished) for run in runs]


def _state(run: Run, trials: list[FrozenTrial], finished: dict[str, FrozenTrial]) -> RunState:
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            return RunState(run, "done", trial.user_attrs["result"])
    result = read_result(run)
    if result is not None:
        return RunState(run, "done", result)
    attempts = count_attempts(trials)
    running = [t for t in trials if t.state == TrialState.RUNNING]
    if running:
        return RunState(run, "running" if any(is_alive(t) for t in running) else "interrupted", attempts=attempts)
    ended = [t for t in trials if t.state == TrialState.FAIL and "given_back" not in t.user_attrs]
    last = ended[-1].user_attrs if ended else {}
    if error := last.get("error", last.get("died")):
        return RunState(run, "failed", error=error.strip().splitlines()[-1], attempts=attempts)
    if problem := problem_of(run):
        return RunState(run, "failed", error=problem, attempts=attempts)
    if ended or any(t.state == TrialState.WAITING for t in trials):
        return RunState(run, "interrupted" if ended else "missing", attempts=attempts)
    if other := finished.get(run.configuration):
        return RunState(run, "stale", error=changes(_sources(run, other), run.sources))
    return RunState(run, "missing")


def checked(states: Sequence[RunState]) -> list[RunState]:
    """The states, where a run without a finite metric has failed: its NaN would stand for the whole row."""
    return [_checked(state) for state in states]


def _checked(state: RunState) -> RunState:
    if state.result is None:
        return state
    metric = state.result["headline"]
    value = state.result["metrics"].get(metric, math.nan)
    return state if math.isfinite(value) else replace(state, state="failed", result=None, error=f"{metric} is {value}")


def headlines(variants: Iterable[str], states: Sequence[RunState]) -> dict[str, dict[int, float]]:
    """Variant -> seed -> the metric of the table, of the runs that are done."""
    values: dict[str, dict[int, float]] = {name: {} for name in variants}
    for state in states:
        if state.result is not None:
            values[state.run.variant][state.run.seed] = state.result["metrics"][state.result["headline"]]
    return values


def _sources(run: Run, other: FrozenTrial) -> dict[str, str]:
    """The sources of a finished trial, from its folder; those of the run where the folder is gone."""
    folder = run.folder.parents[1] / other.user_attrs["folder"]
    try:
        return dict(json.loads((folder / NOTE).read_text())["sources"])
    except (OSError, ValueError, KeyError):
        return run.sources


def current(study: Study) -> list[FrozenTrial]:
    """The trials that count: not those that a rerun has replaced."""
    gone = set_aside(study)
    return [trial for trial in study.get_trials(deepcopy=False) if trial.number not in gone]


def set_aside(study: Study) -> dict[int, str]:
    """Numbers of the trials that a rerun has replaced -> the folder that their run was moved to."""
    return {int(number): folder for number, folder in study.user_attrs.get("set_aside", {}).items()}


def by_fingerprint(trials: Iterable[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """Fingerprint -> its trials, in the order of their numbers."""
    found: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        found.setdefault(trial.user_attrs.get("fingerprint", ""), []).append(trial)
    return found


def count_attempts(trials: Iterable[FrozenTrial]) -> int:
    """How often a run was begun and has ended by itself: with an error, or with the death of its process, its worker
    or its machine. A run that was asked to stop has not.
    """
    return sum(
        t.state == TrialState.FAIL and "worker" in t.user_attrs and not {"stopped", "given_back"} & t.user_attrs.keys()
        for t in trials
    )


def is_alive(trial: FrozenTrial) -> bool:
    """Whether the worker of a RUNNING trial lives, as far as can be seen at once: by its lock on this machine, by the
    time of its last heartbeat on others.
    """
    worker = trial.user_attrs.get("worker")
    if worker is None:
        return False
    if worker["machine"] == this_machine():
        return is_locked(Path(worker["lock"]))
    return time.time() - trial.user_attrs.get("heartbeat", 0) < SILENCE * worker["heartbeat"]


def is_leaving(trial: FrozenTrial) -> bool:
    """Whether the command that started the worker of a RUNNING trial on this machine is gone: the worker is ending."""
    worker = trial.user_attrs.get("worker") or {}
    supervisor = worker.get("supervisor")
    return worker.get("machine") == this_machine() and supervisor is not None and not psutil.pid_exists(supervisor)


def other_runs(study: Study | None, runs: Sequence[Run]) -> int:
    """How many finished runs the study holds that are not in the plan: other seeds, or another configuration."""
    planned = {run.fingerprint for run in runs}
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if study else []
    return sum(t.user_attrs.get("fingerprint") not in planned for t in trials)


def is_last(study: Study) -> bool:
    """Whether no run of a study trains on this machine any more, and there are results."""
    trials = study.get_trials(deepcopy=False)
    running = [t for t in trials if t.state == TrialState.RUNNING and "worker" in t.user_attrs]
    here = [t for t in running if t.user_attrs["worker"]["machine"] == this_machine() and is_alive(t)]
    return not here and any(t.state == TrialState.COMPLETE for t in trials)
