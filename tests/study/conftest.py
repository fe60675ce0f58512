"""Studies whose runs are trained by a function that returns at once, by workers that are real processes."""

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
from shunted_lab.study import plan, slots, training
from shunted_lab.study.engines import work_of
from shunted_lab.study.engines.local import Local
from shunted_lab.study.manifest import make_home, read_home
from shunted_lab.study.prepare import prepare, read_study, write_study
from shunted_lab.study.preview import to_train
from shunted_lab.study.queue import Queue
from shunted_lab.study.slots import Slot
from shunted_lab.study.states import read_states
from shunted_lab.tasks.callbacks import Stopped

THREE = """
baseline: base
seeds: {seeds}
recipe.epochs: 1
variants:
  base: {{}}
  better: {{model.patch_embed: overlapping}}
  same: {{model.mlp: mlp}}
"""
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
    """A watch that keeps what it hears: (slot, variant, outcome), and the reasons."""

    def __init__(self):
        self.heard = []
        self.reasons = []
        self.training = {}

    def started(self, slot, title):
        self.training[slot] = title.variant
        self.heard.append((slot, title.variant, "started"))

    def step(self, slot, status):
        pass

    def epoch(self, slot, epoch, metrics):
        self.heard.append((slot, self.training[slot], f"epoch {epoch}"))

    def ended(self, slot, outcome, result, reason=""):
        self.heard.append((slot, self.training[slot], outcome))
        self.reasons += [reason] if reason else []

    def note(self, text):
        pass

    def refresh(self):
        pass


class Trained:
    """What the runs' processes have trained. `script` says what becomes of (variant, seed): see `train`."""

    def __init__(self, path):
        self.path = path
        self.script = {}

    def train(self, config, folder, listener=None, progress=False):
        pair = (folder.parent.name, config.seed)
        with open(self.path, "a") as file:
            file.write(f"{pair[0]} {pair[1]}\n")
        what = self.script.get(pair)
        if callable(what):
            return what(config, folder, listener) or RESULT
        if what == "fail":
            raise RuntimeError(f"loss is nan\nin {pair}")
        if isinstance(what, signal.Signals):
            os.kill(os.getpid(), what)
        if what == "kill worker":
            os.kill(os.getppid(), signal.SIGKILL)
        if what in ("wait", "kill worker"):
            while not listener.stopping():
                time.sleep(0.01)
            raise Stopped
        return dict(RESULT)

    def all(self):
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def clear(self):
        self.path.unlink(missing_ok=True)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Training that takes no time; workers are forks of the test."""
    calls = Trained(tmp_path / "trained.txt")
    monkeypatch.setattr(training, "train", calls.train)
    monkeypatch.setattr(slots, "CONTEXT", "fork")
    return calls


def until(condition, seconds=60):
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def planned(experiment):
    return manifest_of(experiment).runs


def manifest_of(experiment):
    """The plan of an experiment, with costs that nobody has counted."""
    facts, costs = plan.data_facts(experiment), dict.fromkeys(experiment.variants, COST)
    return plan.make_manifest(experiment, facts, costs, plan.plan_runs(experiment, facts, costs))


def experiment_of(tmp_path, *words):
    return compose(["experiment=pretrain_earth", f"runs_dir={tmp_path}/runs", "launch.measure=false", *words])


def opened(experiment):
    """The study of an experiment, only to read; None if there is none."""
    manifest = manifest_of(experiment)
    return read_study(read_home(manifest.folder), manifest)


def queue_of(experiment):
    """The queue of an experiment's plan, to write; made if there is none."""
    manifest = manifest_of(experiment)
    study = write_study(make_home(manifest.folder, experiment.config.study.storage), manifest)
    return Queue(study, manifest.folder, {run.fingerprint: run for run in manifest.runs})


def states_of(tmp_path, *words):
    """The states of a plan, read as a plan does."""
    manifest = manifest_of(experiment_of(tmp_path, *words))
    return read_states(manifest.runs, read_study(read_home(manifest.folder), manifest))


def study_of(tmp_path, *words):
    study = opened(experiment_of(tmp_path, *words))
    assert study is not None
    return study


def trials(tmp_path, *words):
    return study_of(tmp_path, *words).get_trials()


def prepared(experiment):
    """What a command writes before workers start: (home, plan, number of runs, manifest)."""
    manifest = manifest_of(experiment)
    study = read_study(read_home(manifest.folder), manifest)
    states = read_states(manifest.runs, study)
    todo = {state.run.fingerprint for state in to_train(experiment.config, states, study)}
    wanted = [s.run for s in states if s.run.fingerprint in todo or s.state == "running"]
    return (*prepare(manifest, wanted), manifest)


def start(found, slots=1, progress=None):
    """Start the workers of a plan that is prepared, and wait for them."""
    home, plan_id, left, manifest = found
    work = work_of(home, plan_id, manifest.config.launch, slots, [Slot(i) for i in range(slots)], progress or Silent())
    if left:
        Local().run(work, print)


def command(tmp_path, *words, slots=1, progress=None, experiment=None):
    """What `run.py` does between the plan and the report: the states afterwards."""
    found = prepared(experiment or experiment_of(tmp_path, *words))
    start(found, slots, progress)
    home, _, _, manifest = found
    return read_states(manifest.runs, read_study(home, manifest))


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


class Postgres:
    """A PostgreSQL server on loopback that can be stopped and started."""

    def __init__(self, folder, port):
        self.folder, self.data, self.port = folder, folder / "data", port
        self.initdb, self.control = _postgres("initdb"), _postgres("pg_ctl")
        self.url = f"postgresql+psycopg://lab@127.0.0.1:{port}/postgres"
        user = {"user": "postgres"} if os.geteuid() == 0 else {}  # the server refuses to be run by root
        if user:
            shutil.chown(folder, "postgres")
        self.quiet = {"stdout": subprocess.DEVNULL, "check": True, "cwd": folder, **user}
        subprocess.run([self.initdb, "-D", self.data, "-U", "lab", "--auth=trust", "--no-sync"], **self.quiet)
        self.start()

    def start(self):
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder}"
        command = [self.control, "-D", self.data, "-o", options, "-l", self.folder / "log", "-w", "start"]
        subprocess.run(command, **self.quiet)

    def stop(self):
        subprocess.run([self.control, "-D", self.data, "-m", "immediate", "stop"], **self.quiet)


def _server(number):
    if _postgres("initdb") is None or _postgres("pg_ctl") is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg", reason="pip install 'shunted_lab[postgres]'")
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    server = Postgres(folder, 20000 + (2 * os.getpid() + number) % 20000)
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres():
    """The URL of a PostgreSQL server of this session, on loopback."""
    for server in _server(0):
        yield server.url


@pytest.fixture
def server():
    """A PostgreSQL server of one test, which it may stop and start."""
    yield from _server(1)


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray cluster of two nodes on this machine. It ends its own processes; `ray stop` would end those of anybody."""
    pytest.importorskip("ray", reason="pip install 'shunted_lab[ray]'")
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray")  # short, for sockets; Ray's own names the last cluster of the user
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **size})
        try:
            cluster.add_node(**size)
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
