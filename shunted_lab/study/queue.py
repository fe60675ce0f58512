"""Which run is next, and what became of it: a launcher's view of a study that any number of launchers share.

A trial is taken from Optuna's queue, then claimed: a launcher that finds another trial of the same run RUNNING or
COMPLETE gives its own back. Both trials are in the database before either launcher looks, so never both go on.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from shunted_lab.nn import Cost
from shunted_lab.output.files import locked
from shunted_lab.study import store
from shunted_lab.study.folder import Run, read_result
from shunted_lab.study.plan import RunState
from shunted_lab.study.store import patient


@dataclass(frozen=True)
class Job:
    """A run that a launcher has claimed."""

    run: Run
    trial: Trial
    costs: dict[str, float]
    measure: bool = False


def is_wanted(state: RunState, rerun: str | None) -> bool:
    """Whether a call trains a run in this state, as far as attempts are left."""
    return state.state != "done" and (state.state != "stale" or rerun in ("stale", "all"))


class Queue:
    """The runs of a plan, in their order. Every launcher of the study has one.

    Args:
        study: holds the runs as trials.
        states: of all runs of the plan.
        costs: by variant.
        folder: the study's; the launcher's lock is kept there.
        max_attempts: attempts for a run that fails or crashes, over all calls.
        rerun: `stale` trains stale runs too, `failed` those that have failed too often, `all` both.
        heartbeat: seconds between signs of life.
    """

    learns = False  # whether the next run depends on the results before it

    def __init__(
        self,
        study: Study,
        states: Sequence[RunState],
        costs: dict[str, Cost],
        folder: Path,
        max_attempts: int = 3,
        rerun: str | None = None,
        heartbeat: int = 60,
    ):
        self.study = study
        self.costs = costs
        self.max_attempts = max_attempts
        self.heartbeat = heartbeat
        self.lock = folder / "launchers" / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        self._launcher = {"host": socket.gethostname(), "lock": str(self.lock.absolute())}
        self._retry_failed = rerun in ("failed", "all")
        self._failed: set[str] = set()  # in this call: a failure is not tried again at once
        self.todo = {state.run.fingerprint: state.run for state in states if is_wanted(state, rerun)}
        self._gone = store.set_aside(study)
        self._stocked = False
        self._beat = time.monotonic()

    def planned(self) -> int:
        """How many runs this call may train at most."""
        return len(self.todo)

    @patient
    def prepare(self, states: Sequence[RunState]) -> None:
        """Take results into the study that are only in folders, and end what died with its launcher."""
        with locked(self.lock.with_name("adopt"), lambda: True):  # one launcher after another
            known = store.by_fingerprint(self._counted(self.study.get_trials(deepcopy=False)))
            for state in states:
                mine = known.get(state.run.fingerprint, [])
                kept = any(t.state == TrialState.COMPLETE for t in mine)
                # A living launcher writes the result of its run itself.
                coming = any(t.state == TrialState.RUNNING and store.is_alive(t) for t in mine)
                if state.state == "done" and not kept and not coming:
                    store.adopt(self.study, state.run, state.result or {})
        self.recover()

    @patient
    def recover(self) -> None:
        """End trials whose launcher is gone: on this machine at once, on others after Optuna's grace period."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            launcher = trial.user_attrs.get("launcher")
            if launcher and launcher["lock"] != str(self.lock.absolute()) and not store.is_alive(trial):
                with suppress(ValueError, UpdateFinishedTrialError):  # another launcher was faster
                    self.study.tell(trial.number, state=TrialState.FAIL)
        fail_stale_trials(self.study)

    @patient
    def take(self) -> Job | None:
        """The next run, claimed; None if there is none now."""
        self._stocked = False
        while True:
            if not self._enqueue():
                return None
            job = self._claim(self.study.ask())
            if job is not None:
                return job

    @patient
    def enqueue_ahead(self) -> None:
        """Queue a run ahead, for whoever takes it: while all workers are busy, it costs nobody time."""
        if not self._stocked:
            self._stocked = True
            self._enqueue()

    def _enqueue(self) -> bool:
        """See to it that a run waits in the study's queue; False if none is left."""
        trials = self.study.get_trials(deepcopy=False)
        if any(t.state == TrialState.WAITING for t in trials):
            return True
        run = self._next(trials)
        if run is None:
            return False
        self.study.enqueue_trial({}, user_attrs=store.attributes(run) | {"launcher": self._launcher})
        return True

    def _next(self, trials: Sequence[FrozenTrial]) -> Run | None:
        """The first run of the plan that nobody has, or has had too often."""
        known = store.by_fingerprint(self._counted(trials))
        busy = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.WAITING)
        for fingerprint, run in list(self.todo.items()):
            mine = known.get(fingerprint, [])
            if any(t.state == TrialState.COMPLETE for t in mine):
                del self.todo[fingerprint]
            elif (
                fingerprint not in self._failed
                and not any(t.state in busy for t in mine)
                and self._has_attempts_left(mine)
            ):
                return run
        return None

    def _counted(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return [trial for trial in trials if trial.number not in self._gone]

    def _has_attempts_left(self, trials: Sequence[FrozenTrial]) -> bool:
        return self._retry_failed or store.count_attempts(trials) < self.max_attempts

    def _claim(self, trial: Trial) -> Job | None:
        """Make a taken trial this launcher's; None if another has its run."""
        run = self.todo.get(trial.user_attrs.get("fingerprint", ""))
        if run is None:  # of a variant that is no longer planned
            self._give_back(trial, "not in the plan of the launcher that took it")
            return None
        if not self._is_first(trial, run):
            self._give_back(trial, "another trial has its run")
            return None
        self._mark(trial)
        return Job(run, trial, cost_values(self.costs[run.variant]))

    def _mark(self, trial: Trial) -> None:
        if trial.user_attrs.get("launcher") != self._launcher:
            trial.set_user_attr("launcher", self._launcher)
        store.beat(self.study, trial)

    def _is_first(self, trial: Trial, run: Run) -> bool:
        states = (TrialState.RUNNING, TrialState.COMPLETE)
        trials = self._counted(self.study.get_trials(deepcopy=False, states=states))
        return all(t.number == trial.number or t.user_attrs.get("fingerprint") != run.fingerprint for t in trials)

    def _give_back(self, trial: Trial, why: str) -> None:
        trial.set_user_attr("given_back", why)
        self.study.tell(trial, state=TrialState.PRUNED)

    @patient
    def epoch(self, job: Job, epoch: int, metrics: dict[str, float]) -> bool:
        """Keep the metric of an epoch as the trial's intermediate value. Returns whether to prune."""
        names = self.study.metric_names or []
        if len(names) == 1 and names[0] in metrics:
            with suppress(UpdateFinishedTrialError):
                job.trial.report(metrics[names[0]], epoch)
        return False

    @patient
    def beat(self, jobs: Sequence[Job]) -> None:
        """Say that these runs are alive, and look for those that are not; does nothing more often than `heartbeat`."""
        if time.monotonic() - self._beat < self.heartbeat:
            return
        self._beat = time.monotonic()
        for job in jobs:
            store.beat(self.study, job.trial)
        self.recover()

    @patient
    def done(self, job: Job, result: dict[str, Any]) -> None:
        """Keep a result. If the trial was taken from this launcher meanwhile, the result counts all the same.

        Without a metric that the study is named after the run has failed.
        """
        if missing := store.missing_values(self.study, result):
            return self.failed(job, f"its result lacks {' and '.join(missing)}")
        try:
            job.trial.set_user_attr("result", result)  # in one piece: each attribute is a transaction
            self.study.tell(job.trial, store.values(self.study, result))
        except (UpdateFinishedTrialError, ValueError):
            if self.study.trials[job.trial.number].state == TrialState.RUNNING:
                raise
            if self._is_first(job.trial, job.run):
                store.adopt(self.study, job.run, result)
        self.todo.pop(job.run.fingerprint, None)

    def failed(self, job: Job, traceback: str) -> None:
        """The run has raised; it is tried again by the next call."""
        self._failed.add(job.run.fingerprint)
        self._end(job, error=traceback)

    def died(self, job: Job, how: str) -> None:
        """The run's process has died; it is tried again at once, a bounded number of times."""
        result = read_result(job.run)
        if result is not None:
            return self.done(job, result)
        self._end(job, died=how)
        mine = [t for t in self.study.get_trials(deepcopy=False) if _is_of(t, job.run)]
        if store.count_attempts(mine) >= self.max_attempts:
            self._failed.add(job.run.fingerprint)

    def stopped(self, job: Job) -> None:
        """The run was asked to stop; the next call resumes it."""
        self._end(job)

    def pruned(self, job: Job) -> None:
        """The pruner has ended the run."""
        self._end(job, TrialState.PRUNED, pruned=True)
        self.todo.pop(job.run.fingerprint, None)

    @patient
    def _end(self, job: Job, state: TrialState = TrialState.FAIL, **attrs: Any) -> None:
        with suppress(UpdateFinishedTrialError, ValueError):  # taken from this launcher meanwhile
            for key, value in attrs.items():
                job.trial.set_user_attr(key, value)
            self.study.tell(job.trial, state=state)


def _is_of(trial: FrozenTrial, run: Run) -> bool:
    return trial.user_attrs.get("fingerprint") == run.fingerprint


def cost_values(cost: Cost) -> dict[str, float]:
    """What is stored of a cost."""
    return {"params": cost.params, "macs": cost.macs, "macs_attention": cost.macs_attention}
