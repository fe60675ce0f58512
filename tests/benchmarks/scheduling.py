"""What the study engine costs: runs of no length, of one second, and the plan of 1,000 runs. Training is replaced.

python tests/benchmarks/scheduling.py [postgresql+psycopg://... | journal]
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

import torch
from conftest import RESULT, Silent, experiment_of, manifest_of, opened

from shunted_lab.nn import device_name
from shunted_lab.study import plan, slots, training
from shunted_lab.study.engines import work_of
from shunted_lab.study.engines.local import Local
from shunted_lab.study.manifest import read_home
from shunted_lab.study.prepare import prepare, read_study
from shunted_lab.study.slots import Slot
from shunted_lab.study.states import read_states

WORKERS = 4


def wall(folder: Path, count: int, seconds: float, workers: int, *words: str) -> tuple[float, float]:
    """Seconds to enqueue `count` runs of `seconds` each, and to train them."""

    def train(*args: object, **kwargs: object) -> dict[str, Any]:
        time.sleep(seconds)
        return dict(RESULT)

    vars(training)["train"] = train
    slots.CONTEXT = "fork"
    experiment = experiment_of(folder, f"seeds={list(range(-(-count // 3)))}", *words)
    manifest = manifest_of(experiment)
    start = time.perf_counter()
    home, plan_id, left = prepare(manifest, manifest.runs[:count])
    enqueued = time.perf_counter()
    work = work_of(home, plan_id, experiment.config.launch, left, [Slot(i) for i in range(workers)], Silent())
    Local().run(work, print)
    ended = time.perf_counter()
    assert all(state.state == "done" for state in read_states(manifest.runs[:count], opened(experiment)))
    return enqueued - start, ended - enqueued


def planning(folder: Path, count: int, *words: str) -> float:
    """Seconds from the words of a command to the states and costs of its runs."""
    start = time.perf_counter()
    experiment = experiment_of(folder, f"seeds={list(range(-(-count // 3)))}", *words)
    facts = plan.data_facts(experiment)
    costs = plan.count_costs(experiment, facts)
    manifest = plan.make_manifest(experiment, facts, costs, plan.plan_runs(experiment, facts, costs))
    read_states(manifest.runs, read_study(read_home(manifest.folder), manifest))
    return time.perf_counter() - start


if __name__ == "__main__":
    words = [f"study.storage={sys.argv[1]}"] if len(sys.argv) > 1 else []
    print(f"{device_name(torch.device('cpu'))}, {WORKERS} workers, {words[0] if words else 'SQLite'}")
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        enqueued, zero = wall(folder / "zero", 999, 0.0, WORKERS, *words)
        print(f"999 runs of no length: {enqueued:.1f} s to enqueue them, {1000 * zero / 999:.1f} ms a run afterwards")
        print(f"plan of these runs, finished: {planning(folder / 'zero', 999, *words):.2f} s")
        print(f"plan of 999 runs, missing: {planning(folder / 'none', 999, *words):.2f} s")
        for workers in (2, 4):
            _, second = wall(folder / f"second{workers}", 30 * workers, 1.0, workers, *words)
            print(
                f"{30 * workers} runs of one second, {workers} workers: {100 * (second / 30 - 1):.1f} % over the ideal"
            )
