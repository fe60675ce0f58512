"""Exactly once, on SQLite and on PostgreSQL, and databases that cannot be used."""

import multiprocessing
import os
import sqlite3
import sys
from collections import namedtuple

import pytest
import sqlalchemy
from conftest import (
    COST,
    command,
    complete_once,
    experiment_of,
    names,
    opened,
    planned,
    queue_of,
    states_of,
    trials,
    until,
)
from optuna.trial import TrialState

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import is_locked, locked
from shunted_lab.study import plan, storage
from shunted_lab.study.manifest import STORAGE, keep_password, make_home
from shunted_lab.study.session import plan_experiment

COSTS = dict.fromkeys(["non_overlapping", "overlapping", "conv_stem"], COST)
COMMANDS = 4


def _launch(tmp_path, words, begin):
    """One command of several, on one study."""
    begin.wait(60)
    command(tmp_path, *words)


def _all_at_once(tmp_path, *words):
    context = multiprocessing.get_context("fork")
    start = context.Barrier(COMMANDS)
    found = [context.Process(target=_launch, args=(tmp_path, words, start)) for _ in range(COMMANDS)]
    for process in found:
        process.start()
    for process in found:
        process.join(200)
    assert [process.exitcode for process in found] == [0] * COMMANDS


@pytest.mark.slow
def test_four_commands_train_200_runs_exactly_once_on_sqlite(tmp_path, trained):
    words = [f"seeds={list(range(67))}"]
    _all_at_once(tmp_path, *words)
    assert len(trained.all()) == len(set(trained.all())) == 201
    assert len(complete_once(trials(tmp_path, *words))) == 201


@pytest.mark.slow
def test_four_commands_train_200_runs_exactly_once_in_a_journal(tmp_path, trained):
    words = [f"seeds={list(range(67))}", "study.storage=journal"]
    _all_at_once(tmp_path, *words)
    assert len(trained.all()) == len(set(trained.all())) == 201
    assert len(complete_once(trials(tmp_path, *words))) == 201
    assert (tmp_path / "runs" / "pretrain_earth" / "study.journal").exists()
    assert not (tmp_path / "runs" / "pretrain_earth" / "study.db").exists()


@pytest.mark.slow
def test_four_commands_train_200_runs_exactly_once_on_postgresql(tmp_path, trained, postgres):
    words = [f"seeds={list(range(67))}", f"study.storage={postgres}"]
    _all_at_once(tmp_path, *words)
    assert len(trained.all()) == len(set(trained.all())) == 201
    assert len(complete_once(trials(tmp_path, *words))) == 201
    assert not (tmp_path / "runs" / "pretrain_earth" / "study.db").exists()


@pytest.mark.slow
def test_a_study_in_postgresql_goes_on_and_its_plan_writes_nothing(tmp_path, trained, postgres):
    url = postgres.rpartition("/")[0] + "/another"
    with sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sqlalchemy.text("CREATE DATABASE another"))
    words = ["seeds=[0]", f"study.storage={url}"]
    assert opened(experiment_of(tmp_path, *words)) is None
    with sqlalchemy.create_engine(url).connect() as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == []
    trained.script = {("overlapping", 0): "fail"}
    assert names(command(tmp_path, *words)) == ["done", "failed", "done"]
    trained.script = {}
    assert names(command(tmp_path, *words)) == ["done"] * 3


def _refuse(tmp_path, *words):
    experiment = experiment_of(tmp_path, *words)
    keep_password(experiment.config.study.storage)
    make_home(plan.study_folder(experiment.config), experiment.config.study.storage)
    return opened(experiment)


def test_a_database_that_cannot_be_reached_is_refused_without_its_password(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigError, match=r"study\.storage: \S+lab@127\.0\.0\.1:1/x cannot be reached"):
        _refuse(tmp_path, "study.storage='postgresql+psycopg://lab:secret@127.0.0.1:1/x'")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("runs/study.db", r"study\.storage: runs/study\.db is neither journal nor a URL"),
        ("nodb://x/y", r"study\.storage: nodb://x/y cannot be reached"),
    ],
)
def test_a_url_that_is_none_is_refused(tmp_path, url, message):
    with pytest.raises(ConfigError, match=message):
        _refuse(tmp_path, f"study.storage='{url}'")


def test_a_driver_that_is_not_installed_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        ConfigError, match=r"lab@db/x needs the module 'psycopg', .*pip install 'shunted_lab\[postgres\]'"
    ):
        _refuse(tmp_path, "study.storage='postgresql+psycopg://lab:secret@db/x'")


def test_a_password_is_written_nowhere(tmp_path):
    with pytest.raises(ConfigError):
        _refuse(tmp_path, "study.storage='postgresql+psycopg://lab:secret@127.0.0.1:1/x'")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"secret" in path.read_bytes()]


def test_a_command_on_a_study_that_is_there_has_the_password(tmp_path, monkeypatch):
    monkeypatch.delenv(STORAGE, raising=False)
    url = "postgresql+psycopg://lab:secret@127.0.0.1:1/x"
    experiment = experiment_of(tmp_path, f"study.storage='{url}'")
    home = make_home(plan.study_folder(experiment.config), url)
    with pytest.raises(ConfigError, match=r"cannot be reached"):
        plan_experiment(experiment)
    assert home.storage == "postgresql+psycopg://lab@127.0.0.1:1/x" and home.url == url


def test_a_database_of_a_newer_schema_is_refused(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    with sqlite3.connect(tmp_path / "runs" / "pretrain_earth" / "study.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
    with pytest.raises(ConfigError, match=r"study\.db: .*no longer compatible with the table schema.*updating optuna"):
        _refuse(tmp_path)


def test_a_database_that_is_none_is_refused(tmp_path):
    (tmp_path / "runs" / "pretrain_earth").mkdir(parents=True)
    (tmp_path / "runs" / "pretrain_earth" / "study.db").write_text("not a database, but long enough to be looked at")
    with pytest.raises(ConfigError, match=r"study\.db: is not a study of this version"):
        _refuse(tmp_path)


def test_a_command_that_was_killed_before_it_had_made_the_study_leaves_nothing_in_the_way(tmp_path, trained):
    home = make_home(tmp_path / "runs" / "pretrain_earth", None)
    storage.write_storage(home.folder / "study.db").engine.dispose()  # tables, and no study
    assert opened(experiment_of(tmp_path)) is None
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3


def test_a_lock_is_held_by_one_process_and_goes_with_it(tmp_path):
    path = tmp_path / "lock"
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()

    def hold():
        with locked(path):
            held.set()
            release.wait(60)
            os._exit(1)

    process = context.Process(target=hold)
    process.start()
    assert held.wait(60) and is_locked(path)
    with pytest.raises(BlockingIOError, match="held by another process"), locked(path):
        pass
    release.set()
    until(lambda: not is_locked(path))
    process.join()


def _edit(path, **changes):
    import json

    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_of_another_version_is_refused_before_training(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    for file in (tmp_path / "runs" / "pretrain_earth").glob("study.db*"):
        file.unlink()
    note = next(tmp_path.glob("runs/pretrain_earth/overlapping/*/run.json"))
    _edit(note, format=99, version="9.9")
    with pytest.raises(
        ConfigError, match=r"run\.json: format 99, written by shunted_lab 9\.9; this version reads format"
    ):
        command(tmp_path, "seeds=[0]")
    note.write_text("{}")
    with pytest.raises(ConfigError, match=r"run\.json: is not a run of this version; move the folder away"):
        command(tmp_path, "seeds=[0]")
    assert len(trained.all()) == 3


def test_a_full_disk_is_refused_before_training(tmp_path, monkeypatch):
    experiment = compose(["experiment=pretrain_earth", f"runs_dir={tmp_path}/new"])
    runs = planned(experiment)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda folder: usage(0, 0, 70e6))
    with pytest.raises(ConfigError, match=r"new has 70 MB free; 9 runs need up to 78 MB"):
        plan.check_space(experiment.config, runs, COSTS)
    plan.check_space(experiment.config, runs[:6], COSTS)


def test_a_runs_dir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    experiment = compose(["experiment=pretrain_earth", f"runs_dir={tmp_path}/file"])
    with pytest.raises(ConfigError, match=r"runs_dir: .*file cannot be written: .*/file is not a folder"):
        plan.check_runs_dir(experiment.config)
    assert plan.check_runs_dir(compose(["experiment=train", f"runs_dir={tmp_path}/a/b"]).config) == tmp_path


def test_trials_that_were_set_aside_are_no_results(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    study = queue_of(experiment_of(tmp_path, "seeds=[0]")).study
    done = [t.number for t in study.trials if t.state == TrialState.COMPLETE]
    study.set_user_attr("set_aside", {str(number): "elsewhere" for number in done})
    for path in tmp_path.glob("runs/*/*/seed0-*"):
        path.rename(path.with_name(path.name + ".1"))
    assert names(states_of(tmp_path, "seeds=[0]")) == ["missing"] * 3
