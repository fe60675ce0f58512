"""What a call will take, said before it starts: workers, time and disk."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shunted_lab.config.experiment import Config
from shunted_lab.config.launch import LaunchConfig
from shunted_lab.config.run import RunConfig
from shunted_lab.data import DataFacts
from shunted_lab.nn import Cost
from shunted_lab.output.quantities import counted, duration, file_size
from shunted_lab.study.costs.pace import is_small, measure_paces
from shunted_lab.study.folder import Run
from shunted_lab.study.machine import count_cores, free_memory
from shunted_lab.study.plan import needed_space, study_folder
from shunted_lab.study.slots import Load, Slot, plan_slots, warm_up
from shunted_lab.study.states import RunState

MARGIN = 1.2  # of the memory that was measured: batches differ


@dataclass(frozen=True)
class Forecast:
    """The workers of a call, and the seconds of a run of each variant, as far as they are known."""

    slots: list[Slot]
    seconds: dict[str, float] = field(default_factory=dict)


def forecast(
    launch: LaunchConfig,
    variants: Mapping[str, RunConfig],
    costs: Mapping[str, Cost],
    facts: Mapping[str, DataFacts],
    todo: Sequence[str],
    finished: Sequence[RunState] = (),
) -> Forecast:
    """How many workers there will be and how long they will train.

    Args:
        variants, costs, facts: by variant.
        todo: the variant of each run that is to be trained.
        finished: runs whose times are known.
    """
    named = {name: variants[name] for name in dict.fromkeys(todo)}
    small = bool(named) and all(is_small(run, costs[name].macs) for name, run in named.items())
    slots = plan_slots(launch, Load(len(todo), small))
    if not todo:
        return Forecast(slots)
    known: dict[str, list[float]] = {}
    for state in finished:
        if state.result is not None:
            known.setdefault(state.run.variant, []).append(state.result["seconds"])
    seconds = {name: sum(those) / len(those) for name, those in known.items()}
    unknown = {name: run for name, run in named.items() if name not in seconds and can_be_measured(run)}
    if unknown:
        warm_up()
        paces = measure_paces(unknown, costs, facts, slots)
        seconds |= {name: pace.seconds(unknown[name].recipe.epochs) for name, pace in paces.items()}
        if paces:
            memory = MARGIN * max(pace.memory for pace in paces.values())
            slots = plan_slots(launch, Load(len(todo), small, int(memory)))
    return Forecast(slots, seconds)


def can_be_measured(run: RunConfig) -> bool:
    """Whether a few steps tell how long a run takes: not where it has few, or where they need a compiler, other nodes,
    or images that are downloaded first.
    """
    short = run.recipe.limit_batches is not None
    return not (short or run.data.is_remote or run.launch.compile or run.launch.nodes_per_run > 1)


def total_seconds(found: Forecast, todo: Sequence[str]) -> float | None:
    """How long the runs take that are to be trained, in their order; None where one of them is not known."""
    if any(name not in found.seconds for name in todo):
        return None
    count = len(found.slots) if found.slots and found.slots[0].gpus else min(len(found.slots), count_cores())
    workers = [0.0] * max(1, count)  # more workers than cores take turns
    for name in todo:
        heapq.heapreplace(workers, workers[0] + found.seconds[name])
    return max(workers)


def forecast_line(config: Config, found: Forecast, todo: Sequence[Run], costs: Mapping[str, Cost]) -> str:
    """`9 runs on 2 workers with 1 thread each (launch.devices): about 4 min, and 45 MB in runs/ablate_embed`."""
    names = [run.variant for run in todo]
    seconds = total_seconds(found, names)
    time = f"about {duration(seconds)}" if seconds is not None else "the time is known after the first steps"
    space = file_size(needed_space(todo, costs, len(found.slots)))
    runs, workers = counted(len(todo), "run"), workers_text(found.slots)
    return f"{runs} on {workers}: {time}, and up to {space} in {study_folder(config)}"


def workers_text(slots: Sequence[Slot]) -> str:
    """`2 workers with 1 thread each (2 cores, 12 GB of free memory; launch.devices=N for another number)`."""
    workers = counted(len(slots), "worker")
    if slots and slots[0].gpus:
        return f"{workers} with {counted(len(slots[0].gpus), 'GPU')}{' each' if len(slots) > 1 else ''}"
    threads = slots[0].threads if slots else None
    share = "all cores" if threads is None else counted(threads, "thread")
    each = " each" if len(slots) > 1 else ""
    machine = f"{counted(count_cores(), 'core')}, {file_size(free_memory())} of free memory"
    return f"{workers} with {share}{each} ({machine}; launch.devices=N for another number)"
