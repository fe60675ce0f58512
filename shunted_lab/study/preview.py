"""What a call would do, for `plan_only=true`: the runs that it would train, and the jobs that it would submit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from shunted_lab.config.experiment import Config
from shunted_lab.config.launch import SlurmConfig
from shunted_lab.config.variants import chosen
from shunted_lab.output.quantities import counted, listed
from shunted_lab.study.queue import is_wanted
from shunted_lab.study.store import begun_again

if TYPE_CHECKING:
    from optuna.study import Study

    from shunted_lab.study.plan import RunState

NAMED = 6  # variants that a line names


def to_train(config: Config, states: Sequence[RunState], study: Study | None) -> list[RunState]:
    """The runs that a call would train, in their order."""
    limit, rerun = config.launch.max_attempts, config.rerun
    only = chosen(config)
    states = [state for state in states if state.run.variant in only]
    begun = begun_again(study, [state.run for state in states]) if study is not None and rerun == "all" else set()
    return [
        state
        for state in states
        if (rerun == "all" and state.run.fingerprint not in begun)
        or (is_wanted(state, rerun) and not _is_given_up(state, limit, rerun) and state.state != "running")
    ]


def preview(config: Config, states: Sequence[RunState], study: Study | None) -> Iterator[str]:
    """Lines that say what a call would do with runs in these states; without `plan_only` it does the same."""
    todo, only = to_train(config, states, study), chosen(config)
    if todo:
        yield f"would train {len(todo)} of {counted(len(states), 'run')}: {_by_variant(todo)}"
    else:
        yield "would train nothing"
    if others := [state for state in states if state.run.variant not in only and state.state != "done"]:
        yield f"would not train, because of only={','.join(only)}: {_by_variant(others)}"
    states = [state for state in states if state.run.variant in only]
    if running := [state for state in states if state.state == "running" and state not in todo]:
        yield f"{counted(len(running), 'run')} in training by another call: {_by_variant(running)}"
    given_up = [state for state in states if _is_given_up(state, config.launch.max_attempts, config.rerun)]
    if given_up:
        yield (
            f"would not try again, after launch.max_attempts={config.launch.max_attempts}: {_by_variant(given_up)}; "
            "rerun=failed does"
        )
    yield from preview_jobs(config)


def preview_jobs(config: Config) -> Iterator[str]:
    """The jobs that a call would submit, with their resources; nothing for a call that trains on this machine."""
    launch = config.launch
    if not isinstance(launch, SlurmConfig):
        return
    jobs = launch.nodes // launch.nodes_per_run
    memory = [f"{launch.memory} GB of memory"] if launch.memory else []
    each = [
        counted(launch.nodes_per_run, "node"),
        counted(launch.gpus, "GPU"),
        counted(launch.cpus, "CPU core"),
        *memory,
    ]
    each += [
        counted(launch.minutes, "minute"),
        f"partition {launch.partition}" if launch.partition else "the default partition",
    ]
    again = f"; each queued again up to {counted(launch.requeue, 'time')}" if launch.requeue else ""
    yield f"would submit {counted(jobs, 'job')} to {launch.executor}, each of {', '.join(each)}{again}"


def _is_given_up(state: RunState, limit: int, rerun: str | None) -> bool:
    return state.state == "failed" and state.attempts >= limit and rerun not in ("failed", "all")


def _by_variant(states: Sequence[RunState]) -> str:
    """`conv_stem (seeds 0, 1), overlapping (seed 2)`."""
    seeds: dict[str, list[str]] = {}
    for state in states:
        seeds.setdefault(state.run.variant, []).append(str(state.run.seed))
    names = [f"{name} (seed{'s' * (len(of) > 1)} {', '.join(of)})" for name, of in seeds.items()]
    return listed(names, NAMED, "variant")
