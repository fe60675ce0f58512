"""Hands out the points of a search, each different one once. What happens to a claimed run is in `study.queue`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import locked
from shunted_lab.study.folder import RESULT, TRIALS, Run, load_run, read_result, write_note
from shunted_lab.study.patience import patient
from shunted_lab.study.queue import Job, Queue
from shunted_lab.study.search.sampler import random_trials
from shunted_lab.study.search.search import Search, with_cost
from shunted_lab.study.search.trials import DRAWN, LISTED, RANDOM, SAMPLED, is_over, tried
from shunted_lab.study.states import by_fingerprint, count_attempts, current, is_alive

DRAWS = 2000  # points drawn at random before the space is taken for exhausted
REJECTIONS = 30  # proposals of a sampler in a row that were tried already, before points are drawn at random


class SearchQueue(Queue):
    """The points of a search, as one worker sees them.

    Args:
        study, max_attempts, others: as of `Queue`.
        search: its space, its first points, and what a point costs.
    """

    def __init__(self, study: Study, search: Search, max_attempts: int = 3, **others: Any):
        super().__init__(study, search.folder, {}, max_attempts, **others)
        self.search = search
        self.exhausted = False
        self._rest: Iterator[dict[str, Any]] | None = None
        self._rng = np.random.default_rng([search.options.sampler_seed, len(study.get_trials(deepcopy=False))])

    @patient
    def adopt_points(self) -> None:
        """Take results into the study that stand in folders only: the database was lost, or another command was killed
        between the two.
        """
        known = by_fingerprint(current(self.study))
        for note in sorted((self.folder / TRIALS).glob(f"seed*-*/{RESULT}")):
            run = load_run(note.parent)
            done = any(t.state == TrialState.COMPLETE for t in known.get(run.fingerprint, ()))
            running = any(t.state == TrialState.RUNNING and is_alive(t) for t in known.get(run.fingerprint, ()))
            result = read_result(run)
            if done or running or result is None or not run.params:
                continue
            attrs = self.attributes(run) | {"result": result, "name": run.variant, "worker": self.worker}
            space = self.search.space.distributions
            values = self.values(run, result)
            self.study.add_trial(create_trial(values=values, params=run.params, distributions=space, user_attrs=attrs))

    @patient
    def retry_failed(self, also_given_up: bool) -> None:
        """Queue the points that have failed, for a new command.

        Args:
            also_given_up: those that have failed too often, too.
        """
        trials = current(self.study)
        waiting = [t.system_attrs.get("fixed_params") for t in trials if t.state == TrialState.WAITING]
        for mine in tried(trials).values():
            failed = all(t.state == TrialState.FAIL for t in mine) and "error" in mine[-1].user_attrs
            left = also_given_up or count_attempts(mine) < self.max_attempts
            if failed and left and mine[-1].params not in waiting:
                self.study.enqueue_trial(mine[-1].params)

    @patient
    def take(self) -> Job | None:
        """The next point, claimed; None if there is none now.

        The workers of a machine propose one after another: what a point is, is known to the others when it is claimed.
        """
        self.recover()
        with suppress(BlockingIOError), locked(self.folder / ".proposing.lock", lambda: not self.stopping()):
            return self._take()
        return None

    def _take(self) -> Job | None:
        rejected = 0
        while True:
            trials = current(self.study)
            known = tried(trials)
            if not any(t.state == TrialState.WAITING for t in trials):
                again = self._again(known)
                if again is None and (self._is_enough(known) or self.exhausted):
                    return None
                params = again or self._propose(known, rejected)
                if self.exhausted:
                    return None
                if params is not None:
                    self.study.enqueue_trial(params)
            job = self._claim_point(self.study.ask(self.search.space.distributions))
            if job is not None:
                return job
            rejected += 1

    def _is_enough(self, known: dict[str, list[FrozenTrial]]) -> bool:
        """Whether as many points are finished or in training as were asked for, or as many have failed."""
        good = sum(is_over(ts) or any(t.state == TrialState.RUNNING for t in ts) for ts in known.values())
        return good >= self.search.spec.trials or len(known) - good >= self.search.spec.trials

    def _again(self, known: dict[str, list[FrozenTrial]]) -> dict[str, Any] | None:
        """A point that died or was stopped, and may be tried again."""
        for trials in known.values():
            if self._can_be_retried(trials) and trials[-1].params:
                return trials[-1].params
        return None

    def _propose(self, known: dict[str, list[FrozenTrial]], rejected: int) -> dict[str, Any] | None:
        """A point that is not left to the sampler; None leaves it. Sets `exhausted` where there is none left."""
        for params in self.search.spec.first:
            if self._is_new(params, known):
                return params
        if self.search.options.sampler in ("grid", "brute_force"):
            self._rest = self._rest or self._enumerate()
            for params in self._rest:
                if self._is_new(params, known):
                    return params
            self._exhaust()
        elif rejected >= REJECTIONS:
            for _ in range(DRAWS):
                params = {key: self._draw(d) for key, d in self.search.space.distributions.items()}
                if self._is_new(params, known):
                    return params
            self._exhaust()
        return None

    def _exhaust(self) -> None:
        self.exhausted = True
        self.study.set_user_attr("exhausted", True)

    def _is_new(self, params: dict[str, Any], known: dict[str, list[FrozenTrial]]) -> bool:
        run = self.search.is_allowed(params)
        return run is not None and run.fingerprint not in known

    def _enumerate(self) -> Iterator[dict[str, Any]]:
        """All points; `brute_force` in an order drawn from the sampler's seed, `grid` in theirs."""
        if self.search.options.sampler == "grid":
            return self.search.space.points()
        points = list(self.search.space.points())
        order = np.random.default_rng(self.search.options.sampler_seed).permutation(len(points))
        return (points[i] for i in order)

    def _draw(self, distribution: Any) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[self._rng.integers(len(distribution.choices))]
        trial = optuna.create_study(sampler=RandomSampler(seed=int(self._rng.integers(2**31)))).ask({"x": distribution})
        return int(trial.params["x"]) if isinstance(distribution, IntDistribution) else trial.params["x"]

    def _claim_point(self, trial: Trial) -> Job | None:
        """Make a point this worker's; None if it is not allowed, or another trial has it.

        What breaks a constraint is told to the sampler, as a pruned trial with its constraint. A point that was tried
        already is not: FAIL says nothing about it.
        """
        try:
            trial.set_user_attr("name", self.search.space.label(trial.params))
            trial.set_user_attr(DRAWN, self._how_drawn(trial))
            run, cost = self._describe(trial)
            for key, value in self.attributes(run).items():
                trial.set_user_attr(key, value)
            broken = [name for name, excess in self.search.excess(cost).items() if excess > 0]
            if broken:
                self._finish(trial._trial_id, TrialState.PRUNED, given_back=f"more {', '.join(broken)} than allowed")
                return None
        except ConfigError as error:
            self._finish(trial._trial_id, TrialState.FAIL, given_back=f"it cannot be built: {error}")
            return None
        except UpdateFinishedTrialError:
            return None  # taken for dead before it was claimed
        if self._has_other(trial.number, run):
            self._finish(trial._trial_id, TrialState.FAIL, given_back="another trial has this assignment")
            return None
        if not self._mark(trial._trial_id):
            return None
        write_note(run)
        self.runs[run.fingerprint] = run
        return Job(run, trial._trial_id, trial.number)

    def _how_drawn(self, trial: Trial) -> str:
        """How a point was proposed: by the list of first points, at random, or by what the sampler has learnt."""
        trials = self.study.get_trials(deepcopy=False)
        is_enqueued = "fixed_params" in self.storage.get_trial(trial._trial_id).system_attrs
        if is_enqueued:
            before = [t.user_attrs[DRAWN] for t in trials if t.params == trial.params and DRAWN in t.user_attrs]
            if before:  # it is tried again
                return str(before[0])
            is_listed = trial.params in self.search.spec.first or self.search.options.sampler == "grid"
            return LISTED if is_listed else RANDOM
        over = sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
        return RANDOM if over < random_trials(self.search.options) else SAMPLED

    def _has_other(self, number: int, run: Run) -> bool:
        """Whether another trial of a point runs or is finished.

        Both say what they are before they look, so that never both go on. On two machines both may give way.
        """
        others = [t for t in by_fingerprint(current(self.study)).get(run.fingerprint, ()) if t.number != number]
        return any(t.state == TrialState.RUNNING or is_over([t]) for t in others if "given_back" not in t.user_attrs)

    def _describe(self, trial: Trial) -> tuple[Run, Any]:
        """The run of a point and its cost, with its constraints noted.

        Raises:
            ConfigError: for a point that cannot be built.
        """
        run = self.search.run(trial.params)
        cost = self.search.cost(run)
        if isinstance(cost, ConfigError):
            raise cost
        for name, excess in self.search.excess(cost).items():
            trial.set_constraint(name, excess)
            trial.set_user_attr(f"excess of {name}", excess)  # the dashboard does not show constraints
        return with_cost(run, cost), cost

    def _can_be_retried(self, trials: Sequence[FrozenTrial]) -> bool:
        return bool(trials) and super()._can_be_retried(trials)

    def prunes(self, job: Job) -> bool:
        """Whether the pruner ends a run now."""
        if self.search.options.pruner is None:
            return False
        try:
            return Trial(self.study, job.trial_id).should_prune()
        except UpdateFinishedTrialError:
            return False
