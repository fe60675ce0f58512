"""One run by hand from its folder, and a run over two processes, for real."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from conftest import Silent, command, experiment_of, manifest_of, opened, planned, prepared, study_of, until

from shunted_lab import worker
from shunted_lab.output.files import is_locked
from shunted_lab.study import folder, training
from shunted_lab.study.engines import work_of
from shunted_lab.study.engines.local import Local
from shunted_lab.study.prepare import prepare
from shunted_lab.study.ranks import train_on_ranks
from shunted_lab.study.slots import Slot, plan_slots
from shunted_lab.study.states import read_states
from shunted_lab.study.worker import Signals, work
from shunted_lab.tasks.callbacks import Stopped
from shunted_lab.tasks.listener import RunListener
from shunted_lab.tasks.predictions import read_predictions

SMALL = ("seeds=[0]", "recipe.epochs=2", "recipe.limit_batches=3", "data.batch_size=16", "launch.accelerator=cpu")
COMMAND = [sys.executable, "-m", "shunted_lab.worker"]


def small(tmp_path, *words):
    run = planned(experiment_of(tmp_path, *SMALL, *words))[0]
    folder.write_note(run)
    return run


def by_hand(*words):
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_a_run_is_trained_and_repeated_from_its_folder(tmp_path):
    run = small(tmp_path)
    first = by_hand(run.folder)
    assert first.returncode == 0, first.stderr
    result = json.loads((run.folder / "result.json").read_text())
    assert json.loads(first.stdout)["metrics"] == result["metrics"]
    again = by_hand(run.folder)
    assert again.returncode == 0 and json.loads(again.stdout)["folder"].endswith("repeat1")
    assert json.loads(again.stdout)["metrics"] == result["metrics"]  # the same to the last bit
    assert json.loads((run.folder / "result.json").read_text()) == result


def test_a_folder_that_is_none_is_one_line(tmp_path, capsys):
    assert worker.main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}: is not a study's folder: it has no study.json with a plan")
    assert worker.main([]) == 1 and "error: study: is missing; give the folder" in capsys.readouterr().err
    assert worker.main(["--help"]) == 0 and "RUN_FOLDER" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_over_two_processes_ends_as_one_over_one_device_does(tmp_path, monkeypatch):
    """DDP on gloo, started by a worker; the batch is shared, so the training is the same."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = {}
    for devices in (1, 2):
        words = (*SMALL, "launch.devices=2", f"launch.devices_per_run={devices}", f"runs_dir={tmp_path}/{devices}")
        experiment = experiment_of(tmp_path, *words)
        experiment = replace(experiment, variants={"overlapping": experiment.variants["overlapping"]})
        manifest, heard = manifest_of(experiment), Silent()
        home, plan, left = prepare(manifest, manifest.runs)
        slots = plan_slots(experiment.config.launch)
        Local().run(work_of(home, plan, experiment.config.launch, left, slots, heard), print)
        study = opened(experiment)
        found[devices] = read_states(manifest.runs, study)[0]
        assert [outcome for _, _, outcome in heard.heard] == ["started", "epoch 0", "epoch 1", "done"], heard.reasons
        assert len(study.trials[0].intermediate_values) == 2
    assert (found[1].result["devices"], found[2].result["devices"]) == (1, 2)
    assert found[1].run.fingerprint == found[2].run.fingerprint
    one, two = (
        torch.load(state.run.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for state in (found[1], found[2])
    )
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    for name in ("val/loss", "test/loss", "test/top1"):
        assert found[1].result["metrics"][name] == pytest.approx(found[2].result["metrics"][name], rel=1e-2)
    first, second = (read_predictions(state.run.folder) for state in (found[1], found[2]))
    assert (first.targets == second.targets).all() and (first.predicted == second.predicted).mean() > 0.9


@pytest.mark.slow
def test_a_run_over_two_processes_stops_with_a_checkpoint(tmp_path):
    run = small(tmp_path, "launch.devices_per_run=2", "recipe.epochs=50")

    class Stop(RunListener):
        def __init__(self):
            self.stop = False

        def stopping(self):
            return self.stop

        def epoch(self, epoch, metrics):
            self.stop = True
            return False

    with pytest.raises(Stopped):
        train_on_ranks(run, Stop())
    assert (run.folder / "checkpoints" / "last.ckpt").exists() and not (run.folder / "result.json").exists()
    until(lambda: not is_locked(run.folder / "lock"))


def test_a_search_can_ask_for_latency_and_memory(tmp_path, monkeypatch):
    run = replace(small(tmp_path), measure=True)
    result = {"metrics": {"val/top1": 0.5, "test/top1": 0.5}, "classes": 9}
    monkeypatch.setattr(training, "train", lambda *args: result)
    costs = training.train_run(run)["costs"]
    assert 0 < costs["latency"] < 10 and costs["memory"] > 0  # bytes; torch's profiler counts them on a CPU


def test_devices_that_do_not_divide_the_batch_are_refused_by_hand(tmp_path, capsys):
    run = small(tmp_path)
    note = json.loads((run.folder / "run.json").read_text())
    note["config"]["launch"] |= {"devices": 3, "devices_per_run": 3}
    (run.folder / "run.json").write_text(json.dumps(note))
    assert worker.main([str(run.folder)]) == 1
    assert "data.batch_size: 16 is not divisible by launch.devices_per_run=3" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_keeps_two_workers_busy_and_survives_the_death_of_one(tmp_path):
    words = ["experiment=pretrain_earth", *SMALL, "recipe.epochs=30", "launch.devices=2", f"runs_dir={tmp_path}/runs"]
    words += ["launch.measure=false", "launch.pictures=false"]
    process = subprocess.Popen(
        [sys.executable, "-m", "shunted_lab.run", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    until(lambda: len(list(tmp_path.glob("runs/*/*/*/checkpoints/last.ckpt"))) == 2, 120)
    owner = study_of(tmp_path, *SMALL).trials[0].user_attrs["worker"]
    assert is_locked(Path(owner["lock"]))
    workers = _workers(tmp_path)
    assert len(workers) == 2
    os.kill(workers.pop(), signal.SIGKILL)
    out, _ = process.communicate(timeout=250)
    assert process.returncode == 0, out
    assert (
        "killed by SIGKILL (out of memory?)" in out
        and len(re.findall(r"^\[\d/3\] \w+, seed 0: val/top1 ", out, re.M)) == 3
    )
    assert len(list(tmp_path.glob("runs/*/*/*/result.json"))) == 3


def _workers(where):
    """Processes that work in a run's folder: they hold its lock file open."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            link = os.readlink(entry)
            if link.endswith("/lock") and link.startswith(str(where)) and int(entry.parts[2]) != os.getpid():
                found.add(int(entry.parts[2]))
    return found


def test_a_worker_that_is_killed_leaves_no_process_behind(tmp_path, trained):
    """Beside the process of its run it has one that waits for the next run, and both hold ends of pipes."""
    home, plan, *_ = prepared(experiment_of(tmp_path, "seeds=[0]"))
    trained.script[("non_overlapping", 0)] = "wait"
    context = multiprocessing.get_context("fork")
    process = context.Process(target=work, args=(home.folder, plan, Slot(0), Silent(), Signals()))
    process.start()
    until(lambda: len(psutil.Process(process.pid).children()) == 2)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.join()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_process_that_is_killed_before_it_has_a_run_costs_no_attempt(tmp_path, trained):
    def kill_the_waiting_one(config, folder, listener):
        """From the process of a run: its sibling waits for the next one."""
        worker = psutil.Process(os.getppid())
        until(lambda: len(worker.children()) == 2)
        (sibling,) = (child for child in worker.children() if child.pid != os.getpid())
        sibling.kill()
        until(lambda: sibling.status() == psutil.STATUS_ZOMBIE)

    trained.script[("non_overlapping", 0)] = kill_the_waiting_one
    assert [state.state for state in command(tmp_path, "seeds=[0]")] == ["done"] * 3
    assert [trial.state.name for trial in study_of(tmp_path, "seeds=[0]").trials] == ["COMPLETE"] * 3


def test_each_run_has_its_own_threads(tmp_path, monkeypatch):
    run = small(tmp_path)
    seen = []
    monkeypatch.setattr(training, "take", lambda slot: seen.append(slot.threads))
    for macs in (1e6, 1e12, 1e6):
        training.use_threads(replace(run, costs={"macs": macs}), 6)
    training.use_threads(replace(run, costs={"macs": 1e12}))
    assert seen == [1, 6, 1, None]
