"""A database that goes away while runs train: nothing is lost, training goes on, and nobody takes a run for dead."""

import re
import threading
import time

import pytest
import sqlalchemy
from conftest import (
    RESULT,
    command,
    complete_once,
    experiment_of,
    names,
    prepared,
    queue_of,
    start,
    states_of,
    trials,
    until,
)
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from shunted_lab.config.schema import ConfigError
from shunted_lab.study import patience
from shunted_lab.study.queue import Job, Queue


@pytest.fixture
def words(server, monkeypatch):
    monkeypatch.setattr(patience, "PAUSES", (0.2,))
    return ["seeds=[0]", f"study.storage={server.url}", "study.heartbeat=1"]


@pytest.mark.slow
def test_training_goes_on_while_the_database_is_away_and_results_arrive_afterwards(tmp_path, trained, server, words):
    def through(config, folder, listener):
        """An epoch before the database goes, one meanwhile; the run ends before it comes back."""
        listener.epoch(0, {"val/top1": 0.1})
        (tmp_path / "training").touch()
        until(lambda: (tmp_path / "away").exists())
        listener.epoch(1, {"val/top1": 0.2})

    trained.script = {("non_overlapping", 0): through}

    def outage():
        until(lambda: (tmp_path / "training").exists())
        server.stop()
        (tmp_path / "away").touch()
        until(lambda: list(tmp_path.glob("runs/*/non_overlapping/*/result.json")))
        time.sleep(3)  # three heartbeats: a worker of another machine would look dead
        server.start()

    thread = threading.Thread(target=outage)
    thread.start()
    assert names(command(tmp_path, *words)) == ["done"] * 3
    thread.join()
    found = trials(tmp_path, *words)
    assert len(complete_once(found)) == 3 == len(trained.all()) and len(found) == 3
    assert found[0].intermediate_values == pytest.approx({0: 0.1, 1: 0.2})


@pytest.mark.slow
def test_an_observer_gives_everybody_the_whole_grace_after_the_database_was_away(tmp_path, server, words):
    home, _, _, manifest = prepared(experiment_of(tmp_path, *words))
    mine = _queue(home, manifest)
    mine.worker |= {"machine": "another", "heartbeat": 2.0}
    job = mine.take()
    observer = _queue(home, manifest)
    observer.recover()
    server.stop()
    time.sleep(5)  # more than GRACE beats that nobody could write
    observer.beat(job)  # it notices
    server.start()
    observer.recover()
    observer.recover()
    assert trials(tmp_path, *words)[job.number].state == TrialState.RUNNING
    mine.complete(job, dict(RESULT))
    assert trials(tmp_path, *words)[job.number].state == TrialState.COMPLETE
    assert [s.state for s in states_of(tmp_path, *words)] == ["done", "missing", "missing"]


def _queue(home, manifest):
    from shunted_lab.study.prepare import write_study

    runs = {run.fingerprint: run for run in manifest.runs}
    found = Queue(write_study(home, manifest), home.folder, runs, heartbeat=0.0)
    return found


@pytest.mark.slow
def test_a_worker_gives_up_in_one_line_when_its_database_stays_away(tmp_path, trained, server, words, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", 1.0)
    trained.script = {("overlapping", 0): lambda *args: server.stop()}
    found = prepared(experiment_of(tmp_path, *words))
    with pytest.raises(
        ConfigError, match=r"study\.storage: the database has not answered for 1 s; results are in their"
    ):
        start(found)
    server.start()
    trained.script = {}
    assert names(command(tmp_path, *words)) == ["done"] * 3
    assert trained.all().count(("overlapping", 0)) == 1, "its result was in its folder"


def test_an_outage_is_said_once_with_its_cause_and_so_is_its_end(tmp_path, caplog):
    queue, tries = queue_of(experiment_of(tmp_path)), []

    def beat(trial, key, value):
        tries.append(key)
        if len(tries) < 4:
            with pytest.raises(sqlalchemy.exc.OperationalError) as away:
                sqlalchemy.create_engine("postgresql+psycopg://lab:secret@127.0.0.1:1/x").connect()
            raise StorageInternalError("An exception is raised during the commit.") from away.value

    queue.storage.set_trial_user_attr, queue.heartbeat = beat, 0
    for _ in range(6):
        queue.beat(Job(None, 0, 0))
    away, back = caplog.messages
    assert re.match(r"the study's database does not answer; runs are trained meanwhile: connection .*refused", away)
    assert back == "the study's database answers again" and "secret" not in away
