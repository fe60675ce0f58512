"""A run is trained once, whoever asks; and a study belongs to its folder, whatever its experiment is called."""

import json
import multiprocessing
import time

import pytest
from conftest import (
    command,
    complete_once,
    experiment_of,
    manifest_of,
    names,
    opened,
    planned,
    states_of,
    trials,
    until,
)

from shunted_lab import run as main_command
from shunted_lab.config.compose import compose
from shunted_lab.study.preview import twin_lines

OTHER = """
baseline: plain
seeds: [0]
variants:
  plain: {model.patch_embed: non_overlapping}
  mine: {model.drop_rate: 0.3}
"""


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another experiment, one of whose variants is a variant of pretrain_earth under another name."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "other.yaml").write_text(OTHER)
    monkeypatch.chdir(tmp_path)
    found = compose(["experiment=other", f"runs_dir={tmp_path}/runs", "launch.measure=false"])
    first, theirs = planned(found)[0], planned(experiment_of(tmp_path, "seeds=[0]"))
    assert first.fingerprint in {run.fingerprint for run in theirs}, "the test needs an identical run"
    return found


def test_an_identical_run_of_another_experiment_is_taken_and_the_plan_says_so(tmp_path, trained, other):
    command(tmp_path, "seeds=[0]")
    trained.clear()
    (line,) = twin_lines(other.config, planned(other))
    assert line == f"1 run taken from {tmp_path}/runs/pretrain_earth, which has trained the same: plain (seed 0)"
    states = command(tmp_path, experiment=other)
    assert names(states) == ["done"] * 2 and trained.all() == [("mine", 0)]
    folder = states[0].run.folder
    assert folder.parent.name == "plain" and (folder / "result.json").exists(), "the study's folder is complete"
    note = json.loads((folder / "run.json").read_text())
    assert (note["variant"], note["fingerprint"]) == ("plain", states[0].run.fingerprint) and len(note["origins"]) == 1
    assert len(complete_once(opened(other).get_trials())) == 2


def test_a_run_that_another_experiment_trains_just_now_is_waited_for(tmp_path, trained, other):
    trained.script[("plain", 0)] = lambda config, folder, listener: until((tmp_path / "go").exists)
    fork = multiprocessing.get_context("fork")
    theirs = fork.Process(target=command, args=(tmp_path,), kwargs={"experiment": other})
    theirs.start()
    until(lambda: ("plain", 0) in trained.all())
    mine = fork.Process(target=command, args=(tmp_path, "seeds=[0]"))
    mine.start()
    until(lambda: any((tmp_path / "runs" / "pretrain_earth").glob("workers/*")))
    time.sleep(0.5)
    assert trained.all() == [("plain", 0)], "it has claimed its run, and waits"
    (tmp_path / "go").touch()
    theirs.join(60)
    mine.join(60)
    assert names(states_of(tmp_path, "seeds=[0]")) == ["done"] * 3
    assert sorted(trained.all()) == [("conv_stem", 0), ("mine", 0), ("overlapping", 0), ("plain", 0)]
    assert not list((tmp_path / "runs" / ".training").iterdir())


def test_rerun_trains_what_another_experiment_has_trained(tmp_path, trained, other):
    command(tmp_path, "seeds=[0]")
    trained.clear()
    again = compose(["experiment=other", f"runs_dir={tmp_path}/runs", "launch.measure=false", "rerun=all"])
    assert names(command(tmp_path, experiment=again)) == ["done"] * 2
    assert sorted(trained.all()) == [("mine", 0), ("plain", 0)]


def test_another_recipe_is_missing_and_is_trained(tmp_path, trained):
    """The README's own sequence: the experiment, then the same with other epochs."""
    command(tmp_path, "seeds=[0]")
    assert names(states_of(tmp_path, "seeds=[0]", "recipe.epochs=8")) == ["missing"] * 3
    assert names(command(tmp_path, "seeds=[0]", "recipe.epochs=8")) == ["done"] * 3 and len(trained.all()) == 6
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3 and len(trained.all()) == 6


@pytest.mark.slow
def test_two_folders_of_one_name_in_one_database_never_meet(tmp_path, trained, postgres):
    words = ["seeds=[0]", f"study.storage={postgres}"]
    for user in ("first", "second"):
        folder = tmp_path / user
        assert names(states_of(folder, *words)) == ["missing"] * 3, "the other user's runs are not mine"
        assert names(command(folder, *words)) == ["done"] * 3
        assert len(trials(folder, *words)) == 3
    assert len(trained.all()) == 6


@pytest.mark.slow
def test_a_second_task_under_one_experiment_name_works(tmp_path, capsys):
    words = ["experiment=train", "smoke=true", "launch.accelerator=cpu", f"runs_dir={tmp_path}/runs"]
    earth, scales = words, [*words, "data=scales", f"data.cache={tmp_path}/cache"]
    for given, column in ((earth, "Top-1"), (scales, "Recall"), (earth, "Top-1"), (scales, "Recall")):
        assert main_command.main(given) == 0
        assert column in capsys.readouterr().out
    assert len(list(tmp_path.glob("runs/train-smoke/model/seed*/result.json"))) == 6


def test_a_manifest_reads_as_it_was_written(tmp_path):
    from dataclasses import asdict

    from shunted_lab.study.manifest import make_home, read_manifest

    made = manifest_of(experiment_of(tmp_path, "seeds=[3,4]"))
    plan = made.write(make_home(made.folder, None))
    read = read_manifest(made.folder, plan, recorded=False)
    assert asdict(read) == asdict(made)
    recorded = read_manifest(made.folder)
    assert [run.fingerprint for run in recorded.runs] == [run.fingerprint for run in made.runs]
    assert recorded.goal == made.goal and recorded.variants["overlapping"].data.options["name"] == "earth"
