"""A study is read without writing: its plan and its report need no permission to write."""

import gc
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import manifest_of, opened, queue_of
from optuna.exceptions import StorageInternalError

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import is_locked, write_json
from shunted_lab.study import storage
from shunted_lab.study.folder import write_note
from shunted_lab.study.manifest import make_home
from shunted_lab.study.prepare import prepare

FILE = """
baseline: a
seeds: [0]
variants: {a: {}, b: {model.drop_rate: 0.1}}
"""
RESULT = {
    "metrics": {"val/top1": 0.5, "test/top1": 0.4321},
    "headline": "test/top1",
    "device": "a CPU",
    "epoch": 3,
    "seconds": 2.0,
    "costs": {"params": 1, "macs": 2, "macs_attention": 1},
}
READ = """
import sys
from pathlib import Path
from shunted_lab import run
from shunted_lab.report import __main__ as report
from shunted_lab.study.manifest import read_home, read_manifest
from shunted_lab.study.prepare import read_study
for where in ("closed/mine", "open/mine"):
    study = read_study(read_home(Path(where)), read_manifest(Path(where)))
    print("TRIALS", len(study.trials))
print("STATUS", run.main(["experiment=mine", "runs_dir=closed", "plan_only=true"]))
print("STATUS", report.main(["closed/mine"]))
"""


def made(runs_dir):
    """A study with one of two runs done."""
    experiment = compose(["experiment=mine", f"runs_dir={runs_dir}"])
    run = manifest_of(experiment).runs[0]
    write_note(run)
    write_json(run.folder / "result.json", RESULT)
    prepare(manifest_of(experiment), [])
    return experiment, queue_of(experiment).study


def close(study):
    study._storage._backend.engine.dispose()
    gc.collect()  # other connections of this process


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """experiments/mine.yaml in the working directory."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _unprivileged():
    """What a command begins with so that permissions apply to it, also where the tests are run by root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed, and permissions do not apply to root")
    drop = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"]


def _forbid_writing(folder):
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


def test_a_plan_and_a_report_need_no_permission_to_write(experiment):
    before = _unprivileged()
    _, closed = made("closed")
    close(closed)
    _, living = made("open")  # -wal and -shm are there, as with a worker that works or was killed
    assert (experiment / "open" / "mine" / "study.db-wal").stat().st_size > 0
    folders = [experiment / name for name in ("closed", "open")]
    for folder in folders:
        _forbid_writing(folder)
    try:
        command = [*before, sys.executable, "-c", READ]
        found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    finally:
        for folder in folders:
            subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    close(living)
    assert found.returncode == 0 and "Traceback" not in found.stderr, found.stderr
    lines = [line for line in found.stdout.splitlines() if line.startswith(("TRIALS", "STATUS"))]
    assert lines == ["TRIALS 1", "TRIALS 1", "STATUS 1", "STATUS 1"]
    assert "error: runs_dir: closed cannot be written" in found.stderr  # the call itself could not train
    assert "1 of 2 runs done" in found.stdout and "43.21 (1)" in found.stdout
    assert "warning: closed/mine: the report cannot be written (Permission denied)" in found.stderr
    names = {path.name for path in (experiment / "closed" / "mine").iterdir() if not path.name.startswith(".")}
    assert names == {"a", "plans", "study.db", "study.json", "workers"}


def test_reading_a_study_leaves_its_folder_as_it_was(experiment):
    made_of, study = made("runs")
    close(study)
    folder = experiment / "runs" / "mine"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    study = opened(made_of)
    assert len(study.trials) == 1
    with pytest.raises(StorageInternalError) as error:
        study.set_user_attr("key", "value")
    assert "readonly database" in str(error.value.__cause__)
    close(study)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_reader_sees_what_a_worker_writes_meanwhile(experiment):
    made_of, study = made("runs")
    reader = opened(made_of)
    study.enqueue_trial({})
    assert len(reader.trials) == 2
    close(reader)
    study.enqueue_trial({})  # the reader's end takes nothing from the writer
    assert len(study.trials) == 3


def test_a_file_without_optuna_s_tables_is_no_study_yet(experiment):
    found = compose(["experiment=mine"])
    folder = experiment / "runs" / "mine"
    make_home(folder, None)
    (folder / "study.db").touch()
    assert opened(found) is None and (folder / "study.db").stat().st_size == 0
    make_home(folder, f"sqlite:///{experiment}/shared.db")
    assert opened(found) is None and not (experiment / "shared.db").exists()


@pytest.mark.parametrize("name", ["a?b", "{SCHEMA_VERSION} 100%#"])
def test_a_folder_may_have_any_name(experiment, name):
    found = compose(["experiment=mine"])
    found = replace(found, config=replace(found.config, runs_dir=name))
    study = queue_of(found).study
    study.enqueue_trial({})
    close(study)
    assert (experiment / name / "mine" / "study.db").exists() and len(opened(found).trials) == 1


def test_a_log_that_cannot_be_read_is_said(experiment, monkeypatch):
    """A copy of a killed worker's files without the index of its log, in a folder that may only be read."""
    made_of, study = made("runs")
    copy = experiment / "copy" / "mine"
    copy.mkdir(parents=True)
    for name in ("study.db", "study.db-wal"):
        shutil.copy(experiment / "runs" / "mine" / name, copy / name)
    close(study)
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    assert storage._mode_to_read(copy / "study.db") == "mode=ro"
    assert storage._mode_to_read(experiment / "runs" / "mine" / "study.db") == "mode=ro&immutable=1"
    monkeypatch.setattr(storage, "_mode_to_read", lambda path: "mode=none")
    with pytest.raises(ConfigError, match=r"study\.db cannot be read \(no such access mode: none\)"):
        opened(made_of)


def test_a_lock_on_a_disk_that_may_only_be_read_may_be_held(tmp_path, monkeypatch):
    (tmp_path / "lock").touch()

    def read_only(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("shunted_lab.output.files.FileLock.acquire", read_only)
    assert is_locked(tmp_path / "lock") and not is_locked(tmp_path / "none")
