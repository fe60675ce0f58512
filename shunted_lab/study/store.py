"""The record of an experiment: one Optuna study in SQLite, every run a trial, and the folders that back it up.

A trial's user attributes name its run (`fingerprint`, `variant`, `seed`, `folder`, `config`) and, when it is done, hold
its result, key by key. A result is written into the run's folder first, so that a kill between the two loses nothing.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from shunted_lab.config import ConfigError
from shunted_lab.study.plan import Run, RunState

FORMAT = 1  # of run folders and user attributes; a folder of another format is refused

IDENTITY = ("fingerprint", "variant", "seed", "folder", "config")  # user attributes that are not the result's

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", ".*set_metric_names is experimental.*")  # shows the metric in the dashboard


def load_study(folder: Path) -> Study | None:
    """The study in `folder/study.db`, or None if there is none. Nothing is written."""
    if not (folder / "study.db").exists():
        return None
    try:
        return optuna.load_study(study_name=folder.name, storage=_storage(folder))
    except (KeyError, RuntimeError, sqlalchemy.exc.DatabaseError) as error:
        raise ConfigError(
            f"{folder / 'study.db'}: is no study of this version ({str(error).splitlines()[0]}); "
            "move it away: finished runs are taken from their folders"
        ) from None


def create_study(folder: Path, mode: str, metric: str) -> Study:
    """The study in `folder/study.db`; made if there is none. `mode` is `max` or `min` of `metric`."""
    study = load_study(folder)
    if study is None:
        study = optuna.create_study(
            study_name=folder.name,
            storage=_storage(folder),
            direction=StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE,
        )
        study.set_metric_names([metric])
    return study


def _storage(folder: Path) -> RDBStorage:
    storage = RDBStorage(f"sqlite:///{folder / 'study.db'}")
    # SQLite locks no rows: two workers that read, then write, take the same trial. With the write lock taken at BEGIN
    # each trial is taken once; write-ahead logging alone does not help.
    sqlalchemy.event.listen(storage.engine, "connect", _connect)
    sqlalchemy.event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    storage.engine.dispose()
    return storage


def _connect(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transaction of its own
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=60000")


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the study's folder for one launcher; the lock goes with the process, however it ends.

    Raises:
        ConfigError: if another process holds it.
    """
    with open(folder / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"{folder}: process {file.read().strip()} is working on this study; wait for it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_owned(folder: Path) -> bool:
    """Whether a process is working on the study."""
    if not (folder / "lock").exists():
        return False
    with open(folder / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_states(runs: list[Run], study: Study | None, owned_by_other: bool = False) -> list[RunState]:
    """The state of every planned run, from the study and, where that does not know, from the run's folder.

    A trial that is RUNNING while nobody owns the study is `interrupted`: its process is gone.
    """
    trials: dict[str, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False) if study else []:
        trials.setdefault(trial.user_attrs.get("fingerprint", ""), []).append(trial)
    running = "running" if owned_by_other else "interrupted"
    return [_state(run, trials.get(run.fingerprint, []), running) for run in runs]


def _state(run: Run, trials: list[FrozenTrial], running: str) -> RunState:
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            return RunState(run, "done", {k: v for k, v in trial.user_attrs.items() if k not in IDENTITY})
    result = read_result(run)
    if result is not None:
        return RunState(run, "done", result)
    failures = [t for t in trials if t.state == TrialState.FAIL and "error" in t.user_attrs]
    attempts = len(failures)
    if any(t.state == TrialState.RUNNING for t in trials):
        return RunState(run, running, attempts=attempts)
    ended = [t for t in trials if t.state == TrialState.FAIL]
    if ended and "error" in ended[-1].user_attrs:
        last = failures[-1].user_attrs["error"].strip().splitlines()[-1]
        return RunState(run, "failed", error=last, attempts=attempts)
    return RunState(run, "interrupted" if ended else "missing", attempts=attempts)


def other_runs(study: Study | None, runs: list[Run]) -> int:
    """How many finished runs the study holds that are not in the plan: other seeds, or another configuration."""
    planned = {run.fingerprint for run in runs}
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if study else []
    return sum(t.user_attrs.get("fingerprint") not in planned for t in trials)


def enqueue(study: Study, states: list[RunState], max_attempts: int) -> dict[str, Run]:
    """Queue what is to be trained and return it by fingerprint. To be called by the owner of the study.

    A trial that is still RUNNING belongs to a process that is gone: it is ended, and its run queued again.
    A result that is only in a folder is taken into the study.
    """
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
    known = {t.user_attrs.get("fingerprint") for t in trials if t.state == TrialState.COMPLETE}
    waiting = {t.user_attrs.get("fingerprint") for t in trials if t.state == TrialState.WAITING}
    todo: dict[str, Run] = {}
    for state in states:
        run = state.run
        if state.state == "done" and run.fingerprint not in known:
            adopt(study, run, state.result or {})
            known.add(run.fingerprint)
        elif state.state in ("missing", "interrupted") or (state.state == "failed" and state.attempts < max_attempts):
            if run.fingerprint not in waiting | todo.keys():
                study.enqueue_trial({}, user_attrs=attributes(run))
            todo.setdefault(run.fingerprint, run)
    return todo


def adopt(study: Study, run: Run, result: dict[str, Any]) -> None:
    """Take a result into the study that was written into the run's folder before a kill."""
    study.add_trial(create_trial(value=objective(study, result), user_attrs=result | attributes(run)))


def objective(study: Study, result: dict[str, Any]) -> float:
    """The value of a trial: the metric that the study is named after."""
    names = study.metric_names
    assert names is not None
    return result["metrics"][names[0]]


def attributes(run: Run) -> dict[str, Any]:
    """What a trial says of its run."""
    return {
        "fingerprint": run.fingerprint,
        "variant": run.variant,
        "seed": run.seed,
        "folder": str(run.folder),
        "config": dataclasses.asdict(run.config),
    }


def read_result(run: Run) -> dict[str, Any] | None:
    """The result in a run's folder, or None if the run is not done there.

    Raises:
        ConfigError: for a folder that another version has written, or that holds another configuration.
    """
    note = run.folder / "run.json"
    if not note.exists():
        return None
    try:
        origin = json.loads(note.read_text())
        written, fingerprint = origin["format"], origin["fingerprint"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{note}: is no run of this version; move the folder away, or set runs_dir=...") from None
    if written != FORMAT:
        raise ConfigError(
            f"{note}: format {written}, written by shunted_lab {origin.get('version')}; this version reads format "
            f"{FORMAT}; move the folder away, or set runs_dir=..."
        )
    if fingerprint != run.fingerprint:
        raise ConfigError(f"{note}: fingerprint {fingerprint} is not {run.fingerprint}; move the folder away")
    result = run.folder / "result.json"
    return json.loads(result.read_text()) if result.exists() else None


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all, also when the power fails."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
