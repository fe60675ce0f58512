"""What a call would do, for `plan_only=true`: the runs that it would train, and the jobs that it would submit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shunted_lab.config.experiment import Config
from shunted_lab.config.variants import chosen
from shunted_lab.output.quantities import counted, listed
from shunted_lab.study.prepare import begun_again, twins_of

if TYPE_CHECKING:
    from optuna.study import Study

    from shunted_lab.study.folder import Run
    from shunted_lab.study.states import RunState

NAMED = 6  # variants that a line names


def to_train(config: Config, states: Sequence[RunState], study: Study | None) -> list[RunState]:
    """The runs that a call would train, in their order."""
    limit, rerun = config.launch.max_attempts, config.rerun
    only = chosen(config)
    states = [state for state in states if state.run.variant in only]
    begun = begun_again(study, [state.run for state in states]) if rerun == "all" else set()
    return [
        state
        for state in states
        if (rerun == "all" and state.run.fingerprint not in begun)
        or (_is_wanted(state, rerun) and not _is_given_up(state, limit, rerun) and state.state != "running")
    ]


def preview(config: Config, states: Sequence[RunState], study: Study | None) -> Iterator[str]:
    """Lines that say what a call would do with runs in these states; without `plan_only` it does the same."""
    todo, only = to_train(config, states, study), chosen(config)
    if todo:
        yield f"would train {len(todo)} of {counted(len(states), 'run')}: {_by_variant([s.run for s in todo])}"
    else:
        yield "would train nothing"
    if others := [state for state in states if state.run.variant not in only and state.state != "done"]:
        yield f"would not train, because of only={','.join(only)}: {_by_variant([s.run for s in others])}"
    states = [state for state in states if state.run.variant in only]
    if running := [state for state in states if state.state == "running" and state not in todo]:
        yield f"{counted(len(running), 'run')} in training by another call: {_by_variant([s.run for s in running])}"
    given_up = [state for state in states if _is_given_up(state, config.launch.max_attempts, config.rerun)]
    if given_up:
        yield (
            f"would not try again, after launch.max_attempts={config.launch.max_attempts}: "
            f"{_by_variant([s.run for s in given_up])}; rerun=failed does"
        )


def twin_lines(config: Config, todo: Sequence[Run]) -> Iterator[str]:
    """Which runs another experiment has finished, so that they are not trained again."""
    if config.rerun is not None:
        return
    found = twins_of(todo, Path(config.runs_dir))
    studies: dict[Path, list[Run]] = {}
    for run in todo:
        if run.fingerprint in found:
            studies.setdefault(found[run.fingerprint].parents[1], []).append(run)
    for study, runs in studies.items():
        yield f"{counted(len(runs), 'run')} taken from {study}, which has trained the same: {_by_variant(runs)}"


def _is_wanted(state: RunState, rerun: str | None) -> bool:
    """Whether a call trains a run in this state, as far as attempts are left."""
    return state.state != "done" and (state.state != "stale" or rerun in ("stale", "all"))


def _is_given_up(state: RunState, limit: int, rerun: str | None) -> bool:
    return state.state == "failed" and state.attempts >= limit and rerun not in ("failed", "all")


def _by_variant(runs: Sequence[Run]) -> str:
    """`conv_stem (seeds 0, 1), overlapping (seed 2)`."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run.variant, []).append(str(run.seed))
    names = [f"{name} (seed{'s' * (len(of) > 1)} {', '.join(of)})" for name, of in seeds.items()]
    return listed(names, NAMED, "variant")
