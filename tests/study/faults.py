"""Kill runs, workers and the supervisor of a small real study at random moments: nothing is lost or done twice.

A longer campaign than the test's: python tests/study/faults.py KILLS [SEED]
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from conftest import command, experiment_of, names, opened, planned
from optuna.trial import TrialState

from shunted_lab.study import slots
from shunted_lab.study.states import read_states

WORDS = (
    "seeds=[0,1]",
    "recipe.epochs=4",
    "recipe.limit_batches=3",
    "data.batch_size=16",
    "launch.accelerator=cpu",
    "launch.pictures=false",
    "launch.max_attempts=1000",
)
FORK = multiprocessing.get_context("fork")


def supervise(folder: Path) -> None:
    """A command with two workers, in a process of its own. Training is the real one."""
    torch.set_num_threads(1)
    slots.CONTEXT = "fork"
    command(folder, *WORDS, slots=2)


def children_of(pid: int) -> list[int]:
    """The children of a process."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def processes(victim: str, supervisor: int) -> list[int]:
    """The processes of a kind: `supervisor`, `worker` or `run`."""
    workers = children_of(supervisor)
    found = {"supervisor": [supervisor], "worker": workers, "run": [c for w in workers for c in children_of(w)]}
    return found[victim]


def campaign(folder: Path, victims: list[str], chance: random.Random) -> None:
    """Start the study again and again until it is finished. At random moments kill what stands last in `victims`, and
    remove it from the list; what remains in it when the study ends was not killed."""
    while True:
        process = FORK.Process(target=supervise, args=(folder,))
        process.start()
        while process.is_alive():
            time.sleep(chance.uniform(0.05, 0.9))
            if not victims:
                process.join(300)
                assert not process.is_alive(), "the study does not end"
            elif alive := processes(victims[-1], process.pid):
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(alive), signal.SIGKILL)
                    victims.pop()
        process.join()
        if process.exitcode == 0:
            return
        assert process.exitcode == -signal.SIGKILL, f"the supervisor ended with status {process.exitcode}"


def check(folder: Path, undisturbed: Path) -> int:
    """Every run is finished once, with the metrics of the undisturbed study. Returns the number of trials."""
    experiment = experiment_of(folder, *WORDS)
    runs, study = planned(experiment), opened(experiment)
    assert study is not None and names(read_states(runs, study)) == ["done"] * len(runs)
    complete = [t.user_attrs["fingerprint"] for t in study.trials if t.state == TrialState.COMPLETE]
    assert sorted(complete) == sorted(run.fingerprint for run in runs)
    assert not [t for t in study.trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    for run in runs:
        there = undisturbed / run.folder.relative_to(folder)
        mine, theirs = (json.loads((path / "result.json").read_text())["metrics"] for path in (run.folder, there))
        for name in ("val/top1", "val/loss", "test/top1", "test/loss"):
            assert mine[name] == theirs[name], (run.variant, name)
    return len(study.trials)


def run(folder: Path, kills: int, seed: int) -> tuple[int, int]:
    """Compare studies that are killed with one that is not. A fast machine can finish a study before `kills` have
    happened, so new studies are started until they have. Returns the number of studies and of their trials."""
    chance = random.Random(seed)
    victims = [("supervisor", "worker", "run")[number % 3] for number in range(kills)]
    chance.shuffle(victims)
    (undisturbed := folder / "undisturbed").mkdir()
    campaign(undisturbed, [], chance)
    studies = trials = 0
    while victims:
        (disturbed := folder / f"disturbed{studies}").mkdir()
        campaign(disturbed, victims, chance)
        trials += check(disturbed, undisturbed)
        studies += 1
    return studies, trials


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as where:
        studies, trials = run(Path(where), number, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
        print(f"{number} kills in {studies} studies with {trials} trials; nothing was lost")
