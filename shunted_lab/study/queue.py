"""The whole life of a run, from the plan to its result. Any number of workers on any number of machines share it.

A run is a trial of Optuna's study for each time that it was begun:

    planned --enqueue--> WAITING --claim--> RUNNING --complete--> COMPLETE   done; its result is in its folder
                            ^                  |
                            |                  +--fail-----> FAIL, error     the run raised: the next command retries it
                            +----- refill -----+--die------> FAIL, died      its process, worker or machine is gone
                            +----- refill -----+--stop-----> FAIL, stopped   asked to stop; it has a checkpoint
                                               +--prune----> PRUNED          the pruner ended it

* Only one worker can take a trial from WAITING to RUNNING: the database decides (`_begin`).
* Of several trials of one run the first one that has not failed counts; a worker that has claimed another one gives it
  back (`_has_earlier`). So two commands may enqueue the same run at once.
* The claim is the attempt: it is counted before training starts. Who dies, dies with an attempt, `stop` gives it back.
  After `launch.max_attempts` a run is failed, and only `rerun=failed` enqueues it.
* What a death does: a run's process is watched by its worker, which calls `die`. A worker that is gone is noticed by
  any other worker or command (`recover`): on the same machine at once, by its lock; from another machine when its
  heartbeat has not changed for `GRACE` beats of an observer to whom the database answered all that time. A result that
  is in the folder counts, else the run is enqueued again (`refill`) while attempts are left.
* A result is written into the folder first, then into the study: a kill between the two loses nothing (`adopt`).
* While the database is away, training goes on; what is to be written is tried again (`patient`).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from shunted_lab.output.files import locked
from shunted_lab.study.folder import NOTE, Run, missing_metrics, read_result, write_note
from shunted_lab.study.machine import this_machine
from shunted_lab.study.patience import patient
from shunted_lab.study.states import by_fingerprint, count_attempts, current, is_alive, is_leaving
from shunted_lab.study.storage import AWAY, cause_of

log = logging.getLogger(__name__)
WORKERS = "workers"  # in the study's folder: a lock for each worker, held while it lives
GRACE = 2  # heartbeats that a worker of another machine may miss
FURTHEST = 64  # runs that a worker of many passes over


@dataclass(frozen=True)
class Job:
    """A run that a worker has claimed, as trial `number`."""

    run: Run
    trial_id: int
    number: int


class Queue:
    """The runs of a plan in their study, as one worker or command sees them.

    Args:
        study: holds the runs as trials.
        folder: the study's.
        runs: fingerprint -> the runs that this worker may take, in their order.
        max_attempts: attempts for a run that fails or dies, over all commands.
        heartbeat: seconds between signs of life.
        stopping: asked while the database is away; True gives up.
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        runs: Mapping[str, Run],
        max_attempts: int = 3,
        heartbeat: float = 60,
        stopping: Callable[[], bool] = lambda: False,
    ):
        self.study = study
        self.storage = study._storage
        self.metrics = study.metric_names or []  # what the study is named after
        self.folder = folder
        self.runs = dict(runs)
        self.max_attempts = max_attempts
        self.heartbeat = heartbeat
        self.stopping = stopping
        host = socket.gethostname()
        self.lock = (folder / WORKERS / f"{host}-{os.getpid()}-{uuid.uuid4().hex[:6]}").absolute()
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        self.worker = {"machine": this_machine(), "host": host, "lock": str(self.lock), "heartbeat": heartbeat}
        if (supervisor := multiprocessing.parent_process()) is not None:
            self.worker["supervisor"] = supervisor.pid
        self._waiting: list[FrozenTrial] = []
        self._ahead = 0  # how far on to look after a claim that failed
        self._known: dict[str, list[FrozenTrial]] = {}
        self._beaten = time.monotonic()
        self._seen: dict[int, tuple[Any, float]] = {}  # trial -> its last heartbeat, and when that was first seen
        self._unsaid: list[tuple[int, int, float]] = []  # intermediate values that the database does not have yet
        self._away = False  # whether the database did not answer the last time

    # Planning: what a command does before workers start.

    @patient
    def enqueue(self, runs: Sequence[Run]) -> None:
        """Queue runs that nobody has queued or trains."""
        with locked(self.folder / f".{WORKERS}.lock", lambda: True):  # one command of this machine after another
            known = by_fingerprint(current(self.study))
            busy = {f for f, ts in known.items() if any(not t.state.is_finished() for t in ts)}
            for run in runs:
                is_free = run.fingerprint not in busy
                if is_free or not (run.folder / NOTE).exists():
                    write_note(run)
                if is_free:
                    self._enqueue(run)

    def _enqueue(self, run: Run) -> None:
        self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=self.attributes(run)))

    def attributes(self, run: Run) -> dict[str, Any]:
        """What a trial says of its run; the rest is in the run's folder."""
        return {
            "fingerprint": run.fingerprint,
            "configuration": run.configuration,
            "variant": run.variant,
            "seed": run.seed,
            "folder": str(run.folder.relative_to(self.folder)),
            "costs": run.costs,
        }

    @patient
    def adopt(self, runs: Iterable[tuple[Run, dict[str, Any]]]) -> None:
        """Take results into the study that stand in folders only, and were not written by a worker that lives."""
        known = by_fingerprint(current(self.study))
        for run, result in runs:
            mine = known.get(run.fingerprint, [])
            if any(t.state == TrialState.COMPLETE or (t.state == TrialState.RUNNING and is_alive(t)) for t in mine):
                continue
            for trial in mine:  # the run is done: nobody need train it
                if not trial.state.is_finished():
                    self._finish(trial._trial_id, TrialState.FAIL, given_back="its result was in its folder")
            self._add(run, result)

    def _add(self, run: Run, result: dict[str, Any]) -> None:
        attrs = self.attributes(run) | {"result": result}
        self.study.add_trial(create_trial(values=self.values(run, result), user_attrs=attrs))

    def values(self, run: Run, result: dict[str, Any]) -> list[float]:
        """The values of a trial: the metrics and costs that the study is named after."""
        return [float(_measured(run, result)[name]) for name in self.metrics]

    # Claiming: what a worker does before it trains.

    @patient
    def take(self) -> Job | None:
        """The next run, claimed; None if nothing is left for this worker.

        Of many workers most find the next run taken, and those after it, too: they look further and further on. What
        they have passed is read again.
        """
        while True:
            while self._waiting:
                job = self._claim(self._waiting.pop(0))
                if job is not None:
                    self._ahead //= 2
                    return job
                self._ahead = min(FURTHEST, 2 * self._ahead + 1)
                del self._waiting[: self._ahead // 2]
            if not self._refill() and not self._wait_for_the_dead():
                return None

    def _refill(self) -> bool:
        """Read the study again, and enqueue what died or was stopped; False if nothing waits."""
        self.recover()
        self._known = by_fingerprint(current(self.study))
        for fingerprint, run in self.runs.items():
            if self._can_be_retried(self._known.get(fingerprint, [])):
                self._enqueue(run)
                self._known = {}
        self._known = self._known or by_fingerprint(current(self.study))
        waiting = [t for f in self.runs for t in self._known.get(f, ()) if t.state == TrialState.WAITING]
        self._waiting = sorted(waiting, key=lambda trial: trial.number)
        return bool(waiting)

    def _can_be_retried(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether a run has ended without a result and without an error of its own, and attempts are left."""
        last = next((t for t in reversed(trials) if "given_back" not in t.user_attrs), None)
        if last is None:
            return False  # nobody has enqueued it
        over = all(t.state in (TrialState.FAIL, TrialState.PRUNED) for t in trials)
        own_end = last.state == TrialState.PRUNED or "error" in last.user_attrs
        return over and not own_end and count_attempts(trials) < self.max_attempts

    def _wait_for_the_dead(self) -> bool:
        """Wait until workers of other machines that look dead are known to live or not, and until those whose command
        was killed have written their checkpoints. True if a run can be taken.
        """
        while not self.stopping():
            running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            mine = [t for t in running if t.user_attrs.get("fingerprint") in self.runs]
            if all(is_alive(t) and not is_leaving(t) for t in mine):
                return False
            time.sleep(min(1.0, self.heartbeat / 4))
            if self._refill():
                return True
        return False

    def _claim(self, trial: FrozenTrial) -> Job | None:
        """Make a waiting trial this worker's; None if it is another's, or another trial has its run."""
        run = self.runs[trial.user_attrs["fingerprint"]]
        if not self._begin(trial._trial_id):
            return None
        if self._has_earlier(trial.number, run):
            self._finish(trial._trial_id, TrialState.PRUNED, given_back="another trial has its run")
            return None
        return Job(run, trial._trial_id, trial.number)

    def _begin(self, trial_id: int) -> bool:
        """Take a trial from WAITING to RUNNING, which one worker can."""
        try:
            return self.storage.set_trial_state_values(trial_id, TrialState.RUNNING) and self._mark(trial_id)
        except UpdateFinishedTrialError:
            return False

    def _mark(self, trial_id: int) -> bool:
        """Say whose a trial is: from now on it is an attempt. False if it was taken away meanwhile."""
        try:
            self.storage.set_trial_user_attr(trial_id, "heartbeat", time.time())
            self.storage.set_trial_user_attr(trial_id, "worker", self.worker)
        except UpdateFinishedTrialError:
            return False
        self._beaten = time.monotonic()
        return True

    def _has_earlier(self, number: int, run: Run) -> bool:
        """Whether an earlier trial of a run waits, runs or is done: whoever knows a trial knows those before it."""
        earlier = [t for t in self._known.get(run.fingerprint, ()) if t.number < number]
        fresh = [t if t.state.is_finished() else self.storage.get_trial(t._trial_id) for t in earlier]
        return any(t.state not in (TrialState.FAIL, TrialState.PRUNED) for t in fresh)

    # Training: what a worker says of its run.

    def beat(self, job: Job) -> None:
        """Say that a run is alive, and look for those that are not; nothing more often than `heartbeat`."""
        if time.monotonic() - self._beaten < self.heartbeat:
            return
        self._beaten = time.monotonic()
        try:
            self._say_values()
            with suppress(UpdateFinishedTrialError):
                self.storage.set_trial_user_attr(job.trial_id, "heartbeat", time.time())
            self.recover()
            self.database_answers()
        except AWAY as error:
            self.database_was_away(error)

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Keep the metric of an epoch as the trial's intermediate value. Returns whether to prune."""
        if len(self.metrics) == 1 and self.metrics[0] in metrics:
            self._unsaid.append((job.trial_id, epoch, metrics[self.metrics[0]]))
        try:
            self._say_values()
            return self.prunes(job)
        except AWAY as error:
            self.database_was_away(error)
            return False

    def prunes(self, job: Job) -> bool:
        """Whether the pruner ends a run now; a plan of runs prunes none."""
        return False

    def _say_values(self) -> None:
        while self._unsaid:
            with suppress(UpdateFinishedTrialError):
                self.storage.set_trial_intermediate_value(*self._unsaid[0])
            self._unsaid.pop(0)

    @patient
    def complete(self, job: Job, result: dict[str, Any]) -> None:
        """Keep a result. If the run was taken from this worker meanwhile, the result counts all the same."""
        self._say_values()
        if missing := self._missing(job.run, result):
            return self.fail(job, f"its result lacks {' and '.join(missing)}")
        values = self.values(job.run, result)
        if not self._finish(job.trial_id, TrialState.COMPLETE, values, result=result):
            mine = by_fingerprint(current(self.study)).get(job.run.fingerprint, [])
            if all(t.state in (TrialState.FAIL, TrialState.PRUNED) for t in mine):  # else who has it finds the result
                self._add(job.run, result)

    def _missing(self, run: Run, result: dict[str, Any]) -> list[str]:
        """What a result lacks of what the study and the table need, e.g. top-5 of five classes."""
        lacking = [name for name in self.metrics if name not in _measured(run, result)]
        return list(dict.fromkeys(lacking + missing_metrics(run, result)))

    @patient
    def fail(self, job: Job, error: str) -> None:
        """The run has raised: the same would happen again, so the next command retries it."""
        self._finish(job.trial_id, TrialState.FAIL, error=error)

    @patient
    def die(self, job: Job, how: str) -> None:
        """The run's process has died; it is retried while attempts are left."""
        self._bury(job.trial_id, job.run, how)

    @patient
    def stop(self, job: Job) -> None:
        """The run was asked to stop. Whoever trains it next resumes it; it is no attempt."""
        self._finish(job.trial_id, TrialState.FAIL, stopped=True)

    @patient
    def prune(self, job: Job) -> None:
        """The pruner has ended the run."""
        self._finish(job.trial_id, TrialState.PRUNED, pruned=True)

    def _finish(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None, **attrs: Any) -> bool:
        """End a trial; False if it was ended meanwhile, by one that took this worker for dead."""
        try:
            for key, value in attrs.items():
                self.storage.set_trial_user_attr(trial_id, key, value)
            self.storage.set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            return False
        return True

    # Deaths: what anybody does for those that cannot.

    def recover(self) -> None:
        """End the trials whose worker is gone."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("worker") != self.worker and self._is_dead(trial):
                run = self.runs.get(trial.user_attrs.get("fingerprint", ""))
                how = "its worker is gone: killed, out of memory, or with its machine"
                self._bury(trial._trial_id, run, how)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is None:  # killed between the claim and its mark
            return datetime.now() - (trial.datetime_start or datetime.now()) > timedelta(seconds=2 * self.heartbeat)
        if worker["machine"] == this_machine():
            return not is_alive(trial)
        beat, now = trial.user_attrs.get("heartbeat"), time.monotonic()
        seen, since = self._seen.get(trial._trial_id, (None, now))
        if seen != beat:
            self._seen[trial._trial_id] = beat, now
            return False
        return now - since > GRACE * worker["heartbeat"]

    def _bury(self, trial_id: int, run: Run | None, how: str) -> None:
        """End the trial of a run that died; a result that it has left counts."""
        if run is not None and (result := read_result(run)) is not None and not self._missing(run, result):
            self._finish(trial_id, TrialState.COMPLETE, self.values(run, result), result=result)
        else:
            self._finish(trial_id, TrialState.FAIL, died=how)

    def database_was_away(self, error: Exception) -> None:
        """Nobody could beat meanwhile: those who are watched get their whole grace again."""
        self._seen.clear()
        if not self._away:
            log.warning("the study's database does not answer; runs are trained meanwhile: %s", cause_of(error))
        self._away = True

    def database_answers(self) -> None:
        """Said once after an outage."""
        if self._away:
            log.warning("the study's database answers again")
        self._away = False


def _measured(run: Run, result: Mapping[str, Any]) -> dict[str, float]:
    return run.costs | result.get("costs", {}) | result["metrics"]
