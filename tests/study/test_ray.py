"""Workers as tasks of Ray, on a cluster of two nodes that are this machine; a script stands in for the worker."""

import _thread
import os
import signal
import socket
import sys
import threading
import time

import pytest
from conftest import experiment_of, until

from shunted_lab.config.launch import RayConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.study.engines import Work, ray_task
from shunted_lab.study.engines import ray as engine
from shunted_lab.study.engines import ray_cluster as clusters
from shunted_lab.study.engines.ray_cluster import Cluster

# Takes each file of todo/ once; SIGTERM gives the file back, as a checkpoint would.
WORKER = """
import os, signal, sys, time
folder, seconds, name = sys.argv[1], float(sys.argv[2]), sys.argv[3]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
def say(text):
    with open(f"{folder}/log", "a") as file:
        file.write(f"{text}\\n")
gpus, url = os.environ.get("CUDA_VISIBLE_DEVICES", "all") or "none", os.environ.get("DATABASE")
say(f"{name} starts {gpus} {url} {os.getppid()}")
while not asked and (found := sorted(os.listdir(f"{folder}/todo"))):
    try:
        os.rename(f"{folder}/todo/{found[0]}", f"{folder}/doing/{found[0]}")
    except FileNotFoundError:
        continue
    end = time.monotonic() + seconds
    while not asked and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.5 if asked else 0)
    os.rename(f"{folder}/doing/{found[0]}", f"{folder}/{'todo' if asked else 'done'}/{found[0]}")
say(f"{name} {'stops' if asked else 'ends'}")
sys.exit(130 if asked else 0)
"""


class Study:
    """A folder with files that stand for runs."""

    def __init__(self, folder):
        self.folder, self.said = folder, []
        for name in ("todo", "doing", "done"):
            (folder / name).mkdir()
        (folder / "worker.py").write_text(WORKER)

    def run(self, cluster, monkeypatch, runs, seconds, **options):
        for i in range(runs):
            (self.folder / "todo" / str(i)).touch()
        command = [sys.executable, str(self.folder / "worker.py"), str(self.folder), str(seconds)]
        monkeypatch.setattr(engine, "worker_command", lambda work: command)
        launch = RayConfig(address=cluster.address, **{"gpus": 0, **options})
        return engine.Ray().run(Work(self.folder, "plan", launch, runs, {"DATABASE": "url"}), self.said.append)

    def log(self):
        file = self.folder / "log"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def started(self):
        return [line for line in self.log() if line[1] == "starts"]

    def count(self, name):
        return len(list((self.folder / name).iterdir()))


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def launched(tmp_path, *words):
    return experiment_of(tmp_path, "launch=ray", *words).config.launch


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["launch.address=head"], r"launch\.address: 'head' is neither 'auto', HOST:PORT nor ray://HOST:PORT"),
            (["launch.address=http://head:8265"], r"launch\.address: 'http://head:8265' is neither"),
            (["launch.accelerator=gpu", "launch.gpus=0"], r"launch\.gpus: 0 gives no GPU to launch\.accelerator=gpu"),
            (["launch.devices_per_run=2"], r"launch\.devices_per_run: 2 are more than launch\.gpus=1"),
            (["launch.nodes_per_run=2"], r"launch\.nodes_per_run: 2 needs launch=slurm"),
            (["launch.workers=0"], r"launch\.workers: 0 is neither 'auto' nor a positive number"),
        ],
    )
    def test_of_options(self, tmp_path, words, message):
        with pytest.raises(ConfigError, match=message):
            launched(tmp_path, *words)

    def test_without_the_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(ConfigError, match=r"launch: ray is not installed; pip install 'shunted_lab\[ray\]'"):
            engine.Ray().check(launched(tmp_path), None)

    def test_no_cluster_at_the_address(self, tmp_path):
        pytest.importorskip("ray")
        with pytest.raises(ConfigError, match=r"launch\.address: there is no Ray cluster at '127\.0\.0\.1:1' \("):
            engine.Ray().check(launched(tmp_path, "launch.address=127.0.0.1:1"), None)

    def test_something_that_does_not_answer(self, tmp_path, monkeypatch):
        pytest.importorskip("ray")
        monkeypatch.setattr(clusters, "ANSWER", 2)
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            begin = time.monotonic()
            with pytest.raises(ConfigError, match=r"no Ray cluster at '.*' \(no answer within 2 s\)"):
                engine.Ray().check(launched(tmp_path, f"launch.address={address}"), None)
            assert time.monotonic() - begin < 15, "Ray itself waits for minutes"

    def test_machines_without_a_database_that_they_share(self, tmp_path, monkeypatch):
        nodes = [{"host": host, "CPU": 1} for host in ("a", "b")]
        monkeypatch.setattr(engine, "ask", lambda address: Cluster(nodes, {"CPU": 2}))
        launch = launched(tmp_path, "launch.gpus=0")
        with pytest.raises(ConfigError, match=r"launch: the 2 machines .*; study\.storage=postgresql"):
            engine.Ray().check(launch, None)
        engine.Ray().check(launch, "postgresql+psycopg://lab@db/studies")


class TestRoom:
    NODES = Cluster([{"host": "a", "CPU": 8, "GPU": 4}, {"host": "b", "CPU": 2, "GPU": 4}], {"CPU": 10, "GPU": 3})

    def test_a_worker_is_on_one_node(self):
        assert self.NODES.room(gpus=1, cpus=1) == 6
        assert self.NODES.room(gpus=3, cpus=2) == 2
        assert self.NODES.room(gpus=0, cpus=4) == 2
        assert self.NODES.free_room(gpus=1, cpus=1) == 3

    @pytest.mark.parametrize(
        ("gpus", "cpus", "message"),
        [
            (8, 1, r"launch\.gpus: 8 are more than the 4 of a node of the Ray cluster$"),
            (1, 9, r"launch\.cpus: 9 are more than the 8 of a node"),
        ],
    )
    def test_what_no_node_has_is_refused(self, gpus, cpus, message):
        with pytest.raises(ConfigError, match=message):
            self.NODES.check_room(gpus, cpus)

    def test_no_node_has_both(self):
        nodes = [{"host": "a", "CPU": 8}, {"host": "b", "CPU": 1, "GPU": 1}]
        with pytest.raises(ConfigError, match=r"no node of the Ray cluster has 1 and launch\.cpus=4 together"):
            Cluster(nodes, {}).check_room(1, 4)
        with pytest.raises(ConfigError, match=r"launch\.gpus: 1 are more than the 0 .*; launch\.gpus=0 trains on CPUs"):
            Cluster(nodes[:1], {}).check_room(1, 1)

    def test_a_worker_of_several_gpus_trains_several_runs(self, tmp_path):
        launch = launched(tmp_path, "launch.gpus=4", "launch.devices_per_run=2")
        words = "would start up to 3 workers on the Ray cluster at auto, each with 4 GPUs and 1 CPU core"
        assert engine.Ray().describe(launch, 5) == words


class TestTask:
    def test_it_returns_the_status_of_the_worker(self, tmp_path):
        command = ["python of another node", "-c", "import os; os._exit(int(os.environ['STATUS']))"]
        assert ray_task.train(tmp_path, command, {"STATUS": "7"}) == 7

    def test_a_node_that_does_not_see_the_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"missing is not a folder on .*; every node must see it"):
            ray_task.train(tmp_path / "missing", [], {})

    def test_an_interrupt_without_a_signal_stops_the_worker(self, study):
        """As Ray cancels a task: nothing that waits for a process returns for it."""
        (study.folder / "todo" / "0").touch()

        def interrupt():
            until(lambda: study.count("doing"))
            _thread.interrupt_main()

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            ray_task.train(study.folder, ["python", str(study.folder / "worker.py"), str(study.folder), "20", "a"], {})
        assert study.log()[-1] == ["a", "stops"] and study.count("todo") == 1

    def test_a_worker_that_does_not_stop_is_killed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ray_task, "ENDING", 0.2)
        deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); open('deaf', 'w'); time.sleep(60)"
        monkeypatch.chdir(tmp_path)

        def interrupt():
            until((tmp_path / "deaf").exists)
            _thread.interrupt_main()

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            ray_task.train(tmp_path, ["python", "-c", deaf], {})


@pytest.mark.slow
class TestCluster:
    def test_each_run_is_taken_once_by_workers_on_both_nodes(self, ray_cluster, study, monkeypatch):
        assert study.run(ray_cluster, monkeypatch, runs=6, seconds=0.5)
        assert study.count("done") == 6 and study.said[0].startswith("2 workers on the Ray cluster at")
        assert [line[0] for line in sorted(study.started())] == ["index=0", "index=1000"]
        assert [line[2] for line in study.started()] == ["none", "none"], "gpus=0 hides every GPU"
        assert [line[3] for line in study.started()] == ["url", "url"]

    def test_there_are_no_more_workers_than_runs(self, ray_cluster, study, monkeypatch):
        study.run(ray_cluster, monkeypatch, runs=1, seconds=0)
        assert len(study.started()) == 1

    def test_each_worker_has_a_gpu_of_its_own(self, ray_cluster, study, monkeypatch):
        node = ray_cluster.add_node(num_cpus=2, num_gpus=2, object_store_memory=80 * 2**20)
        try:
            study.run(ray_cluster, monkeypatch, runs=4, seconds=1, gpus=1)
        finally:
            ray_cluster.remove_node(node)
        assert sorted(line[2] for line in study.started()) == ["0", "1"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_workers_with_checkpoints(self, ray_cluster, study, monkeypatch, number):
        def interrupt():
            until(lambda: study.count("doing") == 2)
            os.kill(os.getpid(), number)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            study.run(ray_cluster, monkeypatch, runs=3, seconds=60)
        assert sorted(line[0] for line in study.log() if line[1] == "stops") == ["index=0", "index=1000"]
        assert study.count("todo") == 3 and not any("warning" in line for line in study.said)

    def test_the_worker_of_a_task_that_dies_starts_again(self, ray_cluster, study, monkeypatch):
        def kill():
            until(lambda: study.count("doing") == 2)
            os.kill(int(study.started()[0][4]), signal.SIGKILL)

        threading.Thread(target=kill).start()
        assert study.run(ray_cluster, monkeypatch, runs=4, seconds=1)
        assert len(study.started()) == 3 and study.count("done") == 3, (
            "the run in its hands is the queue's to give again"
        )

    def test_the_worker_of_a_lost_node_starts_on_another(self, ray_cluster, study, monkeypatch):
        node = next(iter(ray_cluster.worker_nodes))

        def lose():
            until(lambda: study.count("doing") == 2)
            ray_cluster.remove_node(node, allow_graceful=False)

        threading.Thread(target=lose).start()
        try:
            assert study.run(ray_cluster, monkeypatch, runs=3, seconds=1)
        finally:
            ray_cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        assert len(study.started()) == 3 and study.count("done") == 2

    def test_a_folder_that_nodes_do_not_see_is_said(self, ray_cluster, tmp_path):
        said, launch = [], RayConfig(address=ray_cluster.address, gpus=0)
        engine.Ray().run(Work(tmp_path / "missing", "plan", launch, 1, {}), said.append)
        assert "warning: worker 0 ended with" in said[-1] and "every node must see it" in said[-1]
