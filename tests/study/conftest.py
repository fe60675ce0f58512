"""Studies whose runs are trained by a function that returns at once, in workers that are real processes."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from shunted_lab.config.compose import compose
from shunted_lab.nn import Cost
from shunted_lab.study import launch, plan, store, worker
from shunted_lab.study.assignment import Slot
from shunted_lab.study.launch import Launcher
from shunted_lab.study.queue import Queue
from shunted_lab.tasks.callbacks import Stopped

VARIANTS = ["non_overlapping", "overlapping", "conv_stem"]
COST = Cost(1_000_000, 3, 2, 1)
RESULT = {
    "metrics": {"val/top1": 0.5, "test/top1": 0.4},
    "headline": "test/top1",
    "epoch": 0,
    "device": "none",
    "classes": 9,
}


class Silent:
    """A progress that keeps what it hears: (slot, variant, outcome)."""

    def __init__(self):
        self.heard = []

    def started(self, slot, job):
        self.heard.append((slot, job.run.variant, "started"))

    def step(self, slot, job, status):
        pass

    def epoch(self, slot, job, epoch, metrics):
        self.heard.append((slot, job.run.variant, f"epoch {epoch}"))

    def ended(self, slot, job, outcome, result):
        self.heard.append((slot, job.run.variant, outcome))

    def refresh(self):
        pass


class Trained:
    """What the workers' processes have trained. `script` says what becomes of (variant, seed): see `train`."""

    def __init__(self, path):
        self.path = path
        self.script = {}

    def train(self, config, folder, link=None, progress=False):
        pair = (folder.parent.name, config.seed)
        with open(self.path, "a") as file:
            file.write(f"{pair[0]} {pair[1]}\n")
        what = self.script.get(pair)
        if callable(what):
            return what(config, folder, link) or RESULT
        if what == "fail":
            raise RuntimeError(f"loss is nan\nin {pair}")
        if isinstance(what, signal.Signals):
            os.kill(os.getpid(), what)
        if what == "wait":
            while not link.stopping():
                time.sleep(0.01)
            raise Stopped
        return RESULT

    def all(self):
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def clear(self):
        self.path.unlink(missing_ok=True)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Training that takes no time; workers are forks of the test."""
    calls = Trained(tmp_path / "trained.txt")
    monkeypatch.setattr(worker, "train", calls.train)
    monkeypatch.setattr(launch, "CONTEXT", "fork")
    return calls


def until(condition, seconds=60):
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def planned(experiment):
    return plan.plan_runs(experiment, plan.data_facts(experiment))


def experiment_of(tmp_path, *words):
    return compose(["experiment=ablate_embed", f"runs_dir={tmp_path}/runs", *words])


def study_of(tmp_path, *words):
    study = store.open_study(experiment_of(tmp_path, *words).config)
    assert study is not None
    return study


def trials(tmp_path, *words):
    return study_of(tmp_path, *words).get_trials()


def command(tmp_path, *words, slots=1, progress=None, experiment=None):
    """What `run.py` does between the plan and the report: the states afterwards."""
    experiment = experiment or experiment_of(tmp_path, *words)
    config = experiment.config
    runs = planned(experiment)
    study = store.create_study(config, {"val/top1": "max"})
    if config.rerun == "all":
        store.set_all_aside(study, runs)
    states = store.read_states(runs, study)
    costs = dict.fromkeys(experiment.variants, COST)
    folder = plan.study_folder(config)
    queue = Queue(study, states, costs, folder, config.launch.max_attempts, config.rerun, config.study.heartbeat)
    queue.prepare(states)
    Launcher(queue, [Slot(i) for i in range(slots)], progress or Silent()).run()
    return store.read_states(runs, study)


def names(found):
    return [state.state for state in found]


def count(found, state):
    return [trial.state for trial in found].count(state)


def complete_once(found):
    """Fingerprints of all COMPLETE trials; no two are the same."""
    prints = [t.user_attrs["fingerprint"] for t in found if t.state == TrialState.COMPLETE]
    assert len(prints) == len(set(prints))
    return set(prints)


def _postgres(name):
    found = shutil.which(name)
    folders = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return found or (str(folders[-1]) if folders else None)


@pytest.fixture(scope="session")
def postgres():
    """The URL of a PostgreSQL server of this session, on loopback."""
    initdb, server = _postgres("initdb"), _postgres("pg_ctl")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg", reason="pip install 'shunted_lab[postgres]'")
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    user = {"user": "postgres"} if os.geteuid() == 0 else {}  # the server refuses to be run by root
    if user:
        shutil.chown(folder, "postgres")
    quiet = {"stdout": subprocess.DEVNULL, "check": True, "cwd": folder, **user}
    data, port = folder / "data", 20000 + os.getpid() % 10000
    subprocess.run([initdb, "-D", data, "-U", "lab", "--auth=trust", "--no-sync"], **quiet)
    options = f"-p {port} -h 127.0.0.1 -k {folder}"
    subprocess.run([server, "-D", data, "-o", options, "-l", folder / "log", "-w", "start"], **quiet)
    yield f"postgresql+psycopg://lab@127.0.0.1:{port}/postgres"
    subprocess.run([server, "-D", data, "-m", "immediate", "stop"], **quiet)
    shutil.rmtree(folder)
