"""A result without the metric by which runs are compared is a failed run, and never the end of a command."""

import json

import pytest
from conftest import RESULT, command, experiment_of, names, planned, trials

from shunted_lab.output.files import write_json
from shunted_lab.run import main
from shunted_lab.study import training
from shunted_lab.study.folder import problem_of, read_result, write_note
from shunted_lab.study.manifest import Manifest
from shunted_lab.study.states import read_states

EMPTY = {"test/top1": 0.4, "test/loss": 1.0}  # of a run whose validation split had no images


@pytest.fixture
def one(tmp_path):
    """A study of one seed whose first variant has a result without the validation metric."""
    runs = planned(experiment_of(tmp_path, "seeds=[0]"))
    write_note(runs[0])
    write_json(runs[0].folder / "result.json", RESULT | {"metrics": EMPTY, "seconds": 1.0})
    return runs


def test_such_a_result_counts_as_a_failed_run_with_the_reason(tmp_path, one):
    assert read_result(one[0]) is None and problem_of(one[0]) == "its result lacks val/top1"
    states = read_states(one, None)
    assert names(states) == ["failed", "missing", "missing"] and states[0].error == "its result lacks val/top1"


def test_no_command_of_the_study_ends_with_it(tmp_path, one, capsys):
    words = ["experiment=pretrain_earth", f"runs_dir={tmp_path}/runs", "seeds=[0]", "launch.accelerator=cpu"]
    assert main([*words, "plan_only=true"]) == 0
    assert "failed" in capsys.readouterr().out


def test_the_run_is_trained_again(tmp_path, one, trained):
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3
    assert len(trained.all()) == 3 and read_result(one[0])["metrics"] == RESULT["metrics"]


def test_a_run_that_measured_nothing_fails_with_the_metric(tmp_path, monkeypatch):
    run = planned(experiment_of(tmp_path, "seeds=[0]"))[0]
    write_note(run)
    for metrics, missing in ((EMPTY, "val/top1"), ({"val/top1": 0.5}, "test/top1"), ({}, "val/top1 and test/top1")):
        monkeypatch.setattr(training, "train", lambda *args, metrics=metrics: RESULT | {"metrics": metrics})
        with pytest.raises(RuntimeError, match=rf"^{missing}: not measured, since the split gave no batch$"):
            training.train_run(run)
    assert not (run.folder / "result.json").exists()


def test_a_study_named_after_a_metric_that_results_lack_keeps_its_runs_as_failed(tmp_path, trained, monkeypatch):
    """A search for top-5 of three classes."""
    monkeypatch.setattr(Manifest, "objectives", property(lambda self: {"val/top5": "max"}))
    command(tmp_path, "seeds=[0]")
    assert [trial.user_attrs["error"] for trial in trials(tmp_path, "seeds=[0]")] == ["its result lacks val/top5"] * 3


def test_the_traceback_of_such_a_run_is_one_line_in_the_table(tmp_path, trained):
    trained.script = {("overlapping", 0): lambda *args: RESULT | {"metrics": EMPTY}}
    states = command(tmp_path, "seeds=[0]")
    assert names(states).count("failed") == 1
    (failed,) = (state for state in states if state.state == "failed")
    assert failed.error == "RuntimeError: val/top1: not measured, since the split gave no batch"
    assert json.loads((failed.run.folder / "run.json").read_text())["variant"] == "overlapping"
