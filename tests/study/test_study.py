"""The study: what is trained, what is kept, and what a kill, a failure or another version does to it.

Training is replaced by a function that returns at once, except where a test says otherwise.
"""

import json
import multiprocessing
import os
import re
import signal
from collections import namedtuple

import pytest
from optuna.trial import TrialState

from shunted_lab.compose import compose
from shunted_lab.config import ConfigError
from shunted_lab.nn import Cost
from shunted_lab.study import plan, store, worker

COSTS = dict.fromkeys(["non_overlapping", "overlapping", "conv_stem"], Cost(1_000_000, 3, 2, 1))


@pytest.fixture
def trained(monkeypatch):
    """The (variant, seed) pairs that were trained, in order; set `trained.fail` to make some of them fail."""

    class Trained(list):
        fail: tuple = ()

    calls = Trained()

    def train(config, folder, progress):
        pair = (folder.parent.name, config.seed)
        calls.append(pair)
        if pair in calls.fail:
            raise RuntimeError(f"loss is nan\nin {pair}")
        return {"metrics": {"val/top1": 0.5, "test/top1": 0.4}, "epoch": 0}

    monkeypatch.setattr(worker, "train", train)
    return calls


def planned(experiment):
    return plan.plan_runs(experiment, plan.data_facts(experiment))


def command(tmp_path, *words):
    """What `run.py` does between the plan and the report: the states afterwards."""
    experiment = compose(["experiment=ablate_embed", f"runs_dir={tmp_path}", *words])
    runs = planned(experiment)
    folder = plan.study_folder(experiment.config)
    folder.mkdir(exist_ok=True)
    with store.owned(folder):
        study = store.create_study(folder, "max", "val/top1")
        todo = store.enqueue(study, store.read_states(runs, study), experiment.config.launch.max_attempts)
        worker.work(study, todo, COSTS, lambda run, result: None)
    return store.read_states(runs, study)


def states(found):
    return [state.state for state in found]


def trials(tmp_path):
    study = store.load_study(tmp_path / "ablate_embed")
    assert study is not None
    return study.get_trials()


def test_runs_go_seed_by_seed_so_that_pairs_are_complete_early():
    runs = planned(compose(["experiment=ablate_embed", "seeds=[3,1]"]))
    assert [(run.seed, run.variant) for run in runs[:4]] == [
        (3, "non_overlapping"),
        (3, "overlapping"),
        (3, "conv_stem"),
        (1, "non_overlapping"),
    ]
    assert len({run.fingerprint for run in runs}) == len({run.folder for run in runs}) == 6


def test_finished_runs_are_skipped_and_a_new_seed_runs_only_itself(tmp_path, trained):
    assert states(command(tmp_path, "seeds=[0,1]")) == ["done"] * 6
    assert len(trained) == 6
    assert states(command(tmp_path, "seeds=[0,1]")) == ["done"] * 6
    assert len(trained) == 6
    assert states(command(tmp_path, "seeds=[1,2]")) == ["done"] * 6
    assert trained[6:] == [("non_overlapping", 2), ("overlapping", 2), ("conv_stem", 2)]


def test_another_configuration_never_reuses_a_result_and_never_deletes_one(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    assert states(command(tmp_path, "seeds=[0]", "recipe.lr=1e-4")) == ["done"] * 3
    assert len(trained) == 6 and len(list(tmp_path.glob("ablate_embed/*/seed0-*/result.json"))) == 6
    experiment = compose(["experiment=ablate_embed", f"runs_dir={tmp_path}", "seeds=[0]"])
    runs = planned(experiment)
    assert store.other_runs(store.load_study(tmp_path / "ablate_embed"), runs) == 3


def test_what_cannot_change_the_result_does_not_run_it_again(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    command(tmp_path, "seeds=[0]", "launch.num_workers=1", "launch.accelerator=cpu", "model.name=mine")
    assert len(trained) == 3


def test_smoke_runs_have_a_study_of_their_own(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    experiment = compose(["experiment=ablate_embed", f"runs_dir={tmp_path}", "seeds=[0]", "smoke=true"])
    assert plan.study_folder(experiment.config).name == "ablate_embed-smoke"
    assert states(store.read_states(planned(experiment), None)) == ["missing"] * 3


def test_a_trial_holds_configuration_metrics_costs_origin_and_folder(tmp_path, trained):
    command(tmp_path, "seeds=[4]")
    trial = trials(tmp_path)[0]
    attrs = trial.user_attrs
    assert trial.value == 0.5  # the validation side, never the test
    assert (attrs["variant"], attrs["seed"]) == ("non_overlapping", 4)
    assert attrs["config"]["model"]["patch_embed"] == "non_overlapping"
    assert attrs["metrics"]["test/top1"] == 0.4
    assert attrs["costs"] == {"params": 1_000_000, "macs": 3, "macs_attention": 1}
    assert {"torch", "lightning", "optuna", "python"} <= attrs["versions"].keys()
    assert attrs["git"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", attrs["git"])
    written = json.loads((tmp_path / attrs["folder"] / "result.json").read_text())
    assert written == {key: attrs[key] for key in attrs if key not in store.IDENTITY}


def test_a_failed_run_keeps_its_traceback_and_the_others_go_on(tmp_path, trained):
    trained.fail = (("overlapping", 0),)
    found = command(tmp_path, "seeds=[0]")
    assert states(found) == ["done", "failed", "done"]
    assert found[1].error == "in ('overlapping', 0)" and found[1].attempts == 1
    failed = next(trial for trial in trials(tmp_path) if trial.state == TrialState.FAIL)
    assert (found[1].run.folder / "traceback.txt").read_text() == failed.user_attrs["error"]
    assert "Traceback" in failed.user_attrs["error"] and "loss is nan" in failed.user_attrs["error"]


def test_a_run_that_diverged_has_failed(tmp_path, trained, monkeypatch):
    nan = {"metrics": {"val/top1": 0.1, "val/loss": float("nan"), "test/top1": 0.1}, "epoch": 0}
    monkeypatch.setattr(worker, "train", lambda *args: nan)
    found = command(tmp_path, "seeds=[0]")
    assert states(found) == ["failed"] * 3 and found[0].error == "FloatingPointError: val/loss is nan"
    assert not list(tmp_path.rglob("result.json"))


def test_a_failed_run_is_tried_again_a_bounded_number_of_times(tmp_path, trained):
    trained.fail = (("overlapping", 0),)
    for _ in range(4):
        found = command(tmp_path, "seeds=[0]", "launch.max_attempts=2")
    assert trained.count(("overlapping", 0)) == found[1].attempts == 2
    trained.fail = ()
    assert states(command(tmp_path, "seeds=[0]", "launch.max_attempts=3")) == ["done"] * 3


def test_an_interruption_ends_the_command_and_the_same_command_goes_on(tmp_path, trained, monkeypatch):
    train = worker.train
    for interruption in (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into SystemExit

        def interrupted(config, folder, progress, interruption=interruption):
            if folder.parent.name == "overlapping":
                raise interruption
            return train(config, folder, progress)

        monkeypatch.setattr(worker, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            command(tmp_path, "seeds=[0]")
        assert not [trial for trial in trials(tmp_path) if trial.state == TrialState.RUNNING]
    monkeypatch.setattr(worker, "train", train)
    assert states(command(tmp_path, "seeds=[0]")) == ["done"] * 3
    assert sorted(trained) == [("conv_stem", 0), ("non_overlapping", 0), ("overlapping", 0)]


def _killed(tmp_path, when):
    """In a process of its own: train two runs, then die at once, as by `kill -9`."""

    def train(config, folder, progress):
        if folder.parent.name == "overlapping" and when == "training":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"metrics": {"val/top1": 0.5, "test/top1": 0.4}, "epoch": 0}

    worker.train = train
    if when == "telling":
        write = store.write_json

        def written(path, value):
            write(path, value)
            if path.name == "result.json" and path.parent.parent.name == "overlapping":
                os.kill(os.getpid(), signal.SIGKILL)

        store.write_json = written
    command(tmp_path, "seeds=[0]")


@pytest.mark.parametrize(("when", "trains"), [("training", ["conv_stem", "overlapping"]), ("telling", ["conv_stem"])])
def test_a_kill_loses_nothing_that_was_finished(tmp_path, trained, when, trains):
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path, when))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert [t.state for t in trials(tmp_path)].count(TrialState.RUNNING) == 1
    assert states(command(tmp_path, "seeds=[0]")) == ["done"] * 3
    assert sorted(variant for variant, _ in trained) == trains
    assert [t.state for t in trials(tmp_path)].count(TrialState.COMPLETE) == 3
    assert not [t for t in trials(tmp_path) if t.state in (TrialState.RUNNING, TrialState.WAITING)]


def test_runs_queued_for_a_variant_that_is_gone_are_not_trained(tmp_path, trained):
    experiment = compose(["experiment=ablate_embed", f"runs_dir={tmp_path}", "seeds=[7]"])
    (tmp_path / "ablate_embed").mkdir()
    study = store.create_study(tmp_path / "ablate_embed", "max", "val/top1")
    store.enqueue(study, store.read_states(planned(experiment), study), 3)
    assert states(command(tmp_path, "seeds=[0]")) == ["done"] * 3
    assert {seed for _, seed in trained} == {0}


def test_a_lost_database_is_rebuilt_from_the_folders(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    for file in (tmp_path / "ablate_embed").glob("study.db*"):
        file.unlink()
    assert states(command(tmp_path, "seeds=[0]")) == ["done"] * 3
    assert len(trained) == 3 and len(trials(tmp_path)) == 3


def test_only_one_process_works_on_a_study(tmp_path):
    with store.owned(tmp_path):
        assert store.is_owned(tmp_path)
        with (
            pytest.raises(ConfigError, match=rf"process {os.getpid()} is working on this study"),
            store.owned(tmp_path),
        ):
            pass
    assert not store.is_owned(tmp_path)


def _edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_of_another_version_is_refused_before_training(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    for file in (tmp_path / "ablate_embed").glob("study.db*"):
        file.unlink()
    note = next(tmp_path.glob("ablate_embed/overlapping/*/run.json"))
    _edit(note, format=99, version="9.9")
    with pytest.raises(
        ConfigError, match=r"run\.json: format 99, written by shunted_lab 9\.9; this version reads format"
    ):
        command(tmp_path, "seeds=[0]")
    note.write_text("{}")
    with pytest.raises(ConfigError, match=r"run\.json: is no run of this version; move the folder away"):
        command(tmp_path, "seeds=[0]")
    assert len(trained) == 3


def test_a_database_that_is_none_is_refused(tmp_path):
    (tmp_path / "study.db").write_text("not a database, but long enough to be looked at as one")
    with pytest.raises(ConfigError, match=r"study\.db: is no study of this version"):
        store.load_study(tmp_path)


def test_a_full_disk_is_refused_before_training(tmp_path, monkeypatch):
    experiment = compose(["experiment=ablate_embed", f"runs_dir={tmp_path}/new"])
    runs = planned(experiment)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda folder: usage(0, 0, 200e6))
    with pytest.raises(ConfigError, match=r"new has 200 MB free; 9 runs need about 261 MB"):
        plan.check_space(experiment.config, runs, COSTS)
    plan.check_space(experiment.config, runs[:6], COSTS)


def test_a_runs_dir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    experiment = compose(["experiment=ablate_embed", f"runs_dir={tmp_path}/file"])
    with pytest.raises(ConfigError, match=r"runs_dir: .*file cannot be written: .*/file is no folder"):
        plan.check_runs_dir(experiment.config)
    assert plan.check_runs_dir(compose(["experiment=train", f"runs_dir={tmp_path}/a/b"]).config) == tmp_path


def test_a_disk_that_fills_up_stops_the_command_and_the_same_command_goes_on(tmp_path, trained, monkeypatch):
    train = worker.train

    def full(config, folder, progress):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker, "train", full)
    with pytest.raises(ConfigError, match=r"the disk is full; free some space, then the same command goes on"):
        command(tmp_path, "seeds=[0]")
    monkeypatch.setattr(worker, "train", train)
    assert states(command(tmp_path, "seeds=[0]")) == ["done"] * 3


def test_an_impossible_variant_fails_in_the_plan(monkeypatch):
    experiment = compose(["experiment=ablate_embed", "model.mlp=my_package.Mlp"])
    with pytest.raises(ConfigError, match=r"variants\.non_overlapping: model\.mlp: .* no module 'my_package'"):
        plan.count_costs(experiment, plan.data_facts(experiment))
