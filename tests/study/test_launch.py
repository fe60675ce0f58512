"""What a failure, a death, Ctrl-C and a kill do to a study. Training is replaced; processes are real."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import (
    RESULT,
    Silent,
    command,
    complete_once,
    count,
    experiment_of,
    manifest_of,
    names,
    planned,
    prepared,
    states_of,
    trials,
    until,
)
from optuna.trial import TrialState

from shunted_lab.config.launch import LaunchConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import is_locked, locked, write_json
from shunted_lab.study import folder, slots
from shunted_lab.study.manifest import read_home
from shunted_lab.study.prepare import write_study as study_of_home
from shunted_lab.study.queue import Queue
from shunted_lab.study.worker import cause_of_death


def test_a_failed_run_keeps_its_traceback_and_the_others_go_on(tmp_path, trained):
    trained.script = {("overlapping", 0): "fail"}
    found = command(tmp_path, "seeds=[0]")
    assert names(found) == ["done", "failed", "done"]
    assert found[1].error == "in ('overlapping', 0)" and found[1].attempts == 1
    failed = next(trial for trial in trials(tmp_path) if trial.state == TrialState.FAIL)
    assert (found[1].run.folder / "traceback.txt").read_text() == failed.user_attrs["error"]
    assert "Traceback" in failed.user_attrs["error"] and "loss is nan" in failed.user_attrs["error"]


def test_a_run_that_diverged_has_failed(tmp_path, trained):
    nan = {"metrics": {"val/top1": 0.1, "val/loss": float("nan"), "test/top1": 0.1}, "epoch": 0}
    trained.script = {("overlapping", 0): lambda *args: nan}
    found = command(tmp_path, "seeds=[0]")
    assert names(found) == ["done", "failed", "done"]
    assert found[1].error == "FloatingPointError: val/loss is nan" and len(list(tmp_path.rglob("result.json"))) == 2


@pytest.mark.parametrize("death", [signal.SIGSEGV, signal.SIGKILL])
def test_the_death_of_a_worker_takes_no_other_run_and_is_tried_again_at_once(tmp_path, trained, death):
    mark = tmp_path / "died"

    def die_once(config, where, link):
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), death)

    trained.script = {("overlapping", 0): die_once}
    heard = Silent()
    assert names(command(tmp_path, "seeds=[0,1]", slots=2, progress=heard)) == ["done"] * 6
    assert trained.all().count(("overlapping", 0)) == 2 and len(trained.all()) == 7
    dead = [t for t in trials(tmp_path) if t.state == TrialState.FAIL]
    assert len(dead) == 1 and dead[0].user_attrs["died"].startswith(f"killed by {death.name}")
    assert [outcome for _, _, outcome in heard.heard].count("died") == 1 and heard.reasons[0].startswith("killed by")


def test_a_run_that_always_kills_its_worker_is_given_up(tmp_path, trained):
    trained.script = {("overlapping", 0): signal.SIGKILL}
    found = command(tmp_path, "seeds=[0]", "launch.max_attempts=2")
    assert names(found) == ["done", "failed", "done"]
    assert found[1].error == "killed by SIGKILL (out of memory?)" and found[1].attempts == 2
    assert trained.all().count(("overlapping", 0)) == 2


def test_a_slow_run_idles_no_other_worker(tmp_path, trained):
    def slow(config, where, link):
        while len(list(tmp_path.glob("runs/*/*/*/result.json"))) < 8:
            time.sleep(0.01)

    trained.script = {("non_overlapping", 0): slow}
    heard = Silent()
    assert names(command(tmp_path, "seeds=[0,1,2]", slots=2, progress=heard)) == ["done"] * 9
    slots = [slot for slot, variant, outcome in heard.heard if outcome == "done"]
    assert sorted(slots) == [0] + [1] * 8 or sorted(slots) == [0] * 8 + [1]


def test_each_epoch_is_an_intermediate_value(tmp_path, trained):
    def epochs(config, where, link):
        for epoch in range(3):
            assert not link.epoch(epoch, {"val/top1": 0.1 * epoch})

    trained.script = {("overlapping", 0): epochs}
    heard = Silent()
    command(tmp_path, "seeds=[0]", progress=heard)
    found = next(t for t in trials(tmp_path) if t.user_attrs["variant"] == "overlapping")
    assert found.intermediate_values == pytest.approx({0: 0.0, 1: 0.1, 2: 0.2})
    assert [outcome for _, variant, outcome in heard.heard if variant == "overlapping"] == [
        "started",
        "epoch 0",
        "epoch 1",
        "epoch 2",
        "done",
    ]


def _interrupt_when(ready, signals):
    def send():
        until(ready)
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_ctrl_c_stops_all_workers_and_the_same_command_goes_on(tmp_path, trained):
    trained.script = {("overlapping", 0): "wait", ("conv_stem", 0): "wait"}
    thread = _interrupt_when(lambda: len(trained.all()) == 3, 1)
    with pytest.raises(KeyboardInterrupt):
        command(tmp_path, "seeds=[0,1]", slots=2)
    thread.join()
    found = trials(tmp_path)
    assert count(found, TrialState.FAIL) == 2 and not count(found, TrialState.RUNNING)
    assert not any({"error", "died"} & t.user_attrs.keys() for t in found)
    trained.script = {}
    trained.clear()
    assert names(states_of(tmp_path, "seeds=[0,1]")) == [
        "done",
        "interrupted",
        "interrupted",
        "missing",
        "missing",
        "missing",
    ]
    assert names(command(tmp_path, "seeds=[0,1]")) == ["done"] * 6 and len(trained.all()) == 5


def test_a_second_ctrl_c_does_not_wait(tmp_path, trained):
    trained.script = {("overlapping", 0): lambda *args: time.sleep(600)}
    thread = _interrupt_when(lambda: len(trained.all()) == 2, 2)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        command(tmp_path, "seeds=[0]")
    thread.join()
    assert time.monotonic() - start < 500 and not count(trials(tmp_path), TrialState.RUNNING)


def _killed(tmp_path, when):
    """In a process of its own: a command that dies at once, as by `kill -9`, at some moment of its second run."""
    if when == "telling":
        tell = Queue.complete

        def complete(self, job, result):
            if job.run.variant == "overlapping":
                os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            tell(self, job, result)

        Queue.complete = complete
    command(tmp_path, "seeds=[0]")


@pytest.mark.parametrize(("when", "trains"), [("training", ["conv_stem", "overlapping"]), ("telling", ["conv_stem"])])
def test_a_killed_command_loses_nothing_that_was_finished(tmp_path, trained, when, trains):
    if when == "training":
        trained.script = {("overlapping", 0): "wait"}
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path, when))
    process.start()
    if when == "training":
        until(lambda: len(trained.all()) == 2)
        process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    trained.script = {}
    until(lambda: not any(is_locked(path) for path in tmp_path.glob("runs/*/*/*/lock")))
    until(lambda: not any(is_locked(path) for path in tmp_path.glob("runs/*/workers/*")))
    before = len(trained.all())
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3
    assert sorted(variant for variant, _ in trained.all()[before:]) == trains
    found = trials(tmp_path)
    assert len(complete_once(found)) == 3
    assert not count(found, TrialState.RUNNING) and not count(found, TrialState.WAITING)


def test_a_run_of_a_living_command_is_running_and_nobody_elses(tmp_path, trained):
    trained.script = {("overlapping", 0): "wait"}
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path, "training"))
    process.start()
    until(lambda: len(trained.all()) == 2)
    assert names(states_of(tmp_path, "seeds=[0]")) == ["done", "running", "missing"]
    assert names(command(tmp_path, "seeds=[0]")) == ["done", "running", "done"]
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert trained.all().count(("overlapping", 0)) == 1


def _of_another_machine(tmp_path, *words, heartbeat=60.0, age=0.0):
    """The first run of a plan, claimed by a worker of another machine whose last heartbeat is so many seconds old."""
    home, _, _, manifest = prepared(experiment_of(tmp_path, *words))
    queue = Queue(study_of_home(home, manifest), home.folder, {run.fingerprint: run for run in manifest.runs})
    queue.worker = {"machine": "another", "host": "another", "lock": "/nowhere", "heartbeat": heartbeat}
    job = queue.take()
    queue.storage.set_trial_user_attr(job.trial_id, "heartbeat", time.time() - age)
    return queue, job


def test_a_run_of_a_machine_that_beats_is_running(tmp_path, trained):
    queue, job = _of_another_machine(tmp_path, "seeds=[0]")
    assert names(command(tmp_path, "seeds=[0]")) == ["running", "done", "done"]
    queue.complete(job, RESULT)
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3 and len(trained.all()) == 2


def test_a_silent_machine_loses_its_run_when_it_was_watched_for_the_grace_period(tmp_path, trained):
    queue, job = _of_another_machine(tmp_path, "seeds=[0]", heartbeat=0.5, age=3600.0)
    assert names(states_of(tmp_path, "seeds=[0]")) == ["interrupted", "missing", "missing"]
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3
    assert sorted(trained.all()) == sorted((v, 0) for v in ("non_overlapping", "overlapping", "conv_stem"))
    dead = queue.study.trials[job.number]
    assert dead.state == TrialState.FAIL and dead.user_attrs["died"].startswith("its worker is gone")
    queue.complete(job, RESULT)  # it comes back: the run is done already
    assert len(complete_once(queue.study.get_trials())) == 3


def _beat(tmp_path, job, ending):
    """A worker of another machine, whose clock is an hour late, in a process of its own."""
    home, manifest = read_home(tmp_path / "runs" / "pretrain_earth"), manifest_of(experiment_of(tmp_path, "seeds=[0]"))
    queue = Queue(study_of_home(home, manifest), home.folder, {job.run.fingerprint: job.run})
    while not ending.wait(0.1):
        queue.storage.set_trial_user_attr(job.trial_id, "heartbeat", time.time() - 3600)
    queue.complete(job, RESULT)


def test_a_clock_that_is_wrong_takes_no_run(tmp_path, trained):
    """A beat an hour old by this machine's clock, from a worker that lives: its beats change."""
    _, job = _of_another_machine(tmp_path, "seeds=[0]", heartbeat=20.0, age=3600.0)
    context = multiprocessing.get_context("fork")
    ending = context.Event()
    process = context.Process(target=_beat, args=(tmp_path, job, ending))
    process.start()
    threading.Timer(3, ending.set).start()
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3
    process.join()
    assert process.exitcode == 0 and ("non_overlapping", 0) not in trained.all()


def test_a_worker_that_always_dies_with_its_run_gives_it_up(tmp_path, trained):
    """The claim is the attempt: also what takes the worker along is tried so often and no more."""
    trained.script = {("overlapping", 0): "kill worker"}
    heard = Silent()
    found = command(tmp_path, "seeds=[0]", "launch.max_attempts=2", progress=heard)
    assert names(found) == ["done", "failed", "done"]
    assert found[1].attempts == 2 and found[1].error.startswith("its worker is gone")
    assert trained.all().count(("overlapping", 0)) == 2
    assert names(command(tmp_path, "seeds=[0]", "launch.max_attempts=2")) == ["done", "failed", "done"]
    assert trained.all().count(("overlapping", 0)) == 2, "the next command does not try it either"


def test_a_run_whose_folder_another_process_has_waits_for_its_result(tmp_path, trained):
    run = planned(experiment_of(tmp_path, "seeds=[0]"))[0]
    run.folder.mkdir(parents=True)
    ready = multiprocessing.get_context("fork").Event()

    def other():
        with locked(run.folder / "lock"):
            ready.set()
            time.sleep(1)
            folder.write_note(run)
            write_json(run.folder / "result.json", RESULT | {"epoch": 7})

    process = multiprocessing.get_context("fork").Process(target=other)
    process.start()
    assert ready.wait(20)
    found = command(tmp_path, "seeds=[0]")
    process.join()
    assert names(found) == ["done"] * 3 and found[0].result["epoch"] == 7
    assert ("non_overlapping", 0) not in trained.all()


def test_a_disk_that_fills_up_stops_the_command_and_the_same_command_goes_on(tmp_path, trained):
    def full(config, where, link):
        raise OSError(28, "No space left on device")

    trained.script = {("overlapping", 0): full, ("conv_stem", 0): "wait"}
    with pytest.raises(ConfigError, match=r"the disk is full; free some space, then the same command resumes"):
        command(tmp_path, "seeds=[0]", slots=2)
    assert not count(trials(tmp_path), TrialState.RUNNING)
    trained.script = {}
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3


def test_the_lock_of_a_worker_goes_with_it(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    assert list(tmp_path.glob("runs/*/workers/*")) == []
    worker = trials(tmp_path)[0].user_attrs["worker"]
    assert worker["host"] == socket.gethostname() and Path(worker["lock"]).is_absolute()


def _slots(monkeypatch, gpus=0, cores=8, **options):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(slots, "count_cores", lambda: cores)
    return slots.plan_slots(LaunchConfig(**options))


def test_slots_share_gpus_and_threads(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [s.gpus for s in _slots(monkeypatch, gpus=3)] == [("0",), ("1",), ("2",)]
    assert [s.gpus for s in _slots(monkeypatch, gpus=5, devices_per_run=2)] == [("0", "1"), ("2", "3")]
    assert [s.gpus for s in _slots(monkeypatch, gpus=4, devices=2)] == [("0",), ("1",)]
    assert [s.threads for s in _slots(monkeypatch, devices=4)] == [2] * 4
    assert [s.threads for s in _slots(monkeypatch, devices=16)] == [1] * 16
    assert [s.threads for s in _slots(monkeypatch)] == [None]
    assert [s.threads for s in _slots(monkeypatch, threads=3)] == [3]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [s.gpus for s in _slots(monkeypatch, gpus=2)] == [("4",), ("6",)]
    assert len(_slots(monkeypatch, gpus=2, accelerator="cpu", devices=2)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 2, "devices": 3}, r"launch\.devices: 3 are more than the 2 of this machine"),
        ({"gpus": 2, "devices_per_run": 4}, r"launch\.devices_per_run: 4 are more than launch\.devices=2"),
        ({"gpus": 4, "devices": 3, "devices_per_run": 2}, r"launch\.devices_per_run: 2 does not divide launch\.dev"),
        ({"devices": 2, "devices_per_run": 4}, r"launch\.devices_per_run: 4 are more than launch\.devices=2"),
        ({"accelerator": "gpu"}, r"launch\.accelerator: this machine has no 'gpu'; choices: cpu"),
    ],
)
def test_more_devices_than_there_are_are_refused(monkeypatch, options, message):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ConfigError, match=message):
        _slots(monkeypatch, **options)


def test_a_death_in_words():
    assert cause_of_death(-11) == "killed by SIGSEGV"
    assert cause_of_death(3) == "its process ended with status 3"


def test_the_run_folder_says_what_the_run_is(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    run = planned(experiment_of(tmp_path, "seeds=[0]"))[2]
    loaded = folder.load_run(run.folder)
    assert loaded == run
    note = json.loads((run.folder / "run.json").read_text())
    assert note["format"] == folder.FORMAT and {"version", "sources", "costs"} <= note.keys()
    assert [origin.keys() for origin in note["origins"]] == [{"git", "versions"}]
