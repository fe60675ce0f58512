"""What the study engine costs: runs of no length, of one second, and the plan of 1,000 runs. Training is replaced.

python tests/benchmarks/scheduling.py [postgresql+psycopg://...]
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

import torch
from conftest import COST, RESULT, Silent, experiment_of, planned

from shunted_lab.nn import device_name
from shunted_lab.study import launch, plan, store, worker
from shunted_lab.study.assignment import Slot
from shunted_lab.study.launch import Launcher
from shunted_lab.study.queue import Queue

WORKERS = 4


def wall(folder: Path, count: int, seconds: float, workers: int, *words: str) -> float:
    """Seconds for `count` runs of `seconds` each."""

    def train(*args: object, **kwargs: object) -> dict[str, Any]:
        time.sleep(seconds)
        return RESULT

    worker.train = train
    launch.CONTEXT = "fork"
    seeds = list(range(-(-count // 3)))
    experiment = experiment_of(folder, f"seeds={seeds}", *words)
    runs = planned(experiment)[:count]
    study = store.create_study(experiment.config, {"val/top1": "max"})
    states = store.read_states(runs, study)
    costs = dict.fromkeys(experiment.variants, COST)
    queue = Queue(study, states, costs, plan.study_folder(experiment.config))
    start = time.perf_counter()
    queue.prepare(states)
    Launcher(queue, [Slot(i) for i in range(workers)], Silent()).run()
    found = time.perf_counter() - start
    assert all(state.state == "done" for state in store.read_states(runs, study))
    return found


def planning(folder: Path, count: int = 1000) -> float:
    """Seconds from the words of a command to the states and costs of its runs."""
    start = time.perf_counter()
    experiment = experiment_of(folder, f"seeds={list(range(-(-count // 3)))}")
    facts = plan.data_facts(experiment)
    runs = plan.plan_runs(experiment, facts)
    store.read_states(runs, store.open_study(experiment.config))
    plan.count_costs(experiment, facts)
    return time.perf_counter() - start


if __name__ == "__main__":
    words = [f"study.storage={sys.argv[1]}"] if len(sys.argv) > 1 else []
    print(f"{device_name(torch.device('cpu'))}, {WORKERS} workers")
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        zero = wall(folder / "zero", 1000, 0.0, WORKERS, *words)
        print(f"1,000 runs of no length: {zero:.1f} s, {zero:.1f} ms a run, {WORKERS * zero:.0f} ms of a worker's time")
        print(f"plan of these 1,000 runs, finished: {planning(folder / 'zero'):.2f} s")
        print(f"plan of 1,000 runs, missing: {planning(folder / 'none'):.2f} s")
        for workers in (2, 4):
            second = wall(
                folder / f"second{workers}", 30 * workers, 1.0, workers, *(f"{word}{workers}" for word in words)
            )
            print(
                f"{30 * workers} runs of one second, {workers} workers: {100 * (second / 30 - 1):.1f} % over the ideal"
            )
