"""Where a run is resumed whose checkpoints were damaged: by a full disk, a copy, or a kill."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stopping import StopAt

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.earth.tiles import CLASS_NAMES
from shunted_lab.nn import Pyramid
from shunted_lab.study.folder import Run, find_checkpoint, write_note
from shunted_lab.study.training import _check_weights
from shunted_lab.tasks.callbacks import Stopped
from shunted_lab.tasks.checkpoint import load_model
from shunted_lab.tasks.resume import batches_trained, keep_weights, newest
from shunted_lab.tasks.train import train

WORDS = ["experiment=train", "launch.accelerator=cpu", "launch.pictures=false", "data.batch_size=16", "recipe.epochs=3"]
WORDS += ["recipe.limit_batches=3", "model.depths=[1,1,1,1]", "model.mlp_ratios=[1,1,1,1]", "recipe.select=best"]
WORDS += ["model.drop_path_rate=0.3"]
RUN = compose(WORDS).variants["model"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that was stopped in its second epoch, and the result of one that was not."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.raises(Stopped):
        train(RUN, folder / "stopped", StopAt(5))
    return folder / "stopped", train(RUN, folder / "whole")


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the stopped run's folder, its file times in the wrong order."""
    shutil.copytree(trained[0], tmp_path / "run")
    for time, name in enumerate(("stopped.ckpt", "last.ckpt", "best.ckpt"), 1_000_000):
        os.utime(tmp_path / "run" / "checkpoints" / name, (time, time))
    return tmp_path / "run"


def damage(path: Path, how: str = "half") -> None:
    content = path.read_bytes()
    damaged = {"half": content[: len(content) // 2], "empty": b"", "tail": content[:-10], "text": b"x" * 200}
    path.write_bytes(damaged[how])


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def ends_as(folder: Path, whole: dict) -> None:
    found = train(RUN, folder)["metrics"]
    assert {key: found[key] for key in ("val/loss", "test/loss", "test/top1")} == {
        key: whole["metrics"][key] for key in ("val/loss", "test/loss", "test/top1")
    }


def test_the_newest_checkpoint_is_that_with_the_most_steps_whatever_the_times_say(folder):
    found = newest(folder / "checkpoints")
    assert found is not None and found.name == "stopped.ckpt" and batches_trained(found) == 1
    assert batches_trained(folder / "checkpoints" / "last.ckpt") == batches_trained(None) == 0
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(state | {"global_step": 6, "epoch": 1}, folder / "checkpoints" / "last.ckpt")
    assert newest(folder / "checkpoints").name == "last.ckpt"


@pytest.mark.parametrize("how", ["half", "empty", "tail", "text"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning_and_kept(folder, how):
    damage(folder / "checkpoints" / "stopped.ckpt", how)
    with pytest.warns(UserWarning, match=r"stopped\.ckpt: cannot be read \(.+\); it is renamed to stopped\.ckpt\.dam"):
        assert newest(folder / "checkpoints").name == "last.ckpt"
    assert files(folder) == {"best.ckpt", "last.ckpt", "stopped.ckpt.damaged"}


def test_a_run_whose_folder_was_moved_remembers_its_best_epoch(folder, trained, recwarn):
    ends_as(folder, trained[1])
    assert not [w for w in recwarn if "dirpath has changed" in str(w.message)]
    assert files(folder) == {"best.ckpt", "last.ckpt", "stopped.ckpt"}


def test_a_run_with_a_damaged_checkpoint_ends_bit_for_bit_where_an_undisturbed_one_does(folder, trained):
    damage(folder / "checkpoints" / "stopped.ckpt")
    with pytest.warns(UserWarning, match="cannot be read"):
        ends_as(folder, trained[1])


def test_a_run_without_a_readable_checkpoint_starts_at_its_first_epoch_and_ends_as_well(folder, trained):
    for name in ("last.ckpt", "stopped.ckpt"):
        damage(folder / "checkpoints" / name)
    with pytest.warns(UserWarning, match="no checkpoint can be read; the run starts at its first epoch"):
        ends_as(folder, trained[1])
    assert {"last.ckpt.damaged", "stopped.ckpt.damaged", "last.ckpt", "best.ckpt"} <= files(folder)


@pytest.mark.parametrize("lose", [damage, Path.unlink])
def test_a_run_that_has_lost_its_best_epoch_starts_at_its_first_epoch(folder, lose):
    lose(folder / "checkpoints" / "best.ckpt")
    with pytest.warns(UserWarning, match=r"best\.ckpt: the best epoch's weights are lost; the run starts at its first"):
        assert newest(folder / "checkpoints", "best") is None
    assert {"last.ckpt.damaged", "stopped.ckpt.damaged"} <= files(folder)


def test_a_run_that_was_stopped_in_its_first_epoch_has_no_best_one_yet(folder):
    for name in ("last.ckpt", "best.ckpt"):
        (folder / "checkpoints" / name).unlink()
    stopped = folder / "checkpoints" / "stopped.ckpt"
    torch.save(torch.load(stopped, weights_only=True) | {"global_step": 1, "epoch": 0}, stopped)
    assert newest(folder / "checkpoints", "best") == stopped


def test_a_file_that_cannot_be_opened_is_not_taken_for_damaged(folder):
    (folder / "checkpoints" / "stopped.ckpt").unlink()
    (folder / "checkpoints" / "stopped.ckpt").mkdir()
    with pytest.raises(IsADirectoryError):
        newest(folder / "checkpoints")


def test_weights_to_begin_with_are_needed_where_no_checkpoint_can_be_read(folder, tmp_path):
    model = replace(RUN.model, checkpoint=str(tmp_path / "gone.pth"))
    run = Run("model", 0, replace(RUN, model=model), "", folder, {"model.checkpoint": ""})
    _check_weights(run)
    for name in ("last.ckpt", "stopped.ckpt"):
        damage(folder / "checkpoints" / name)
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match=r"gone\.pth is gone or has changed"):
        _check_weights(run)


def test_a_command_that_reads_a_damaged_checkpoint_says_so_in_one_line(folder):
    write_note(Run("model", 0, RUN, "0" * 16, folder))
    run, file = find_checkpoint(str(folder))
    assert run is not None and file.name == "best.ckpt"
    assert isinstance(load_model(run.config.model, file, CLASS_NAMES).net, Pyramid)
    damage(file)
    with pytest.raises(ConfigError, match=r"checkpoint: .*best\.ckpt: is truncated, or not a checkpoint") as error:
        load_model(run.config.model, file, CLASS_NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_finished_run_keeps_the_weights_that_were_tested_and_nothing_else(folder, select):
    checkpoints = folder / "checkpoints"
    tested = checkpoints / f"{select}.ckpt"
    before, size = load_model(RUN.model, tested, CLASS_NAMES).net.state_dict(), tested.stat().st_size
    keep_weights(checkpoints, select, "weights")
    assert files(folder) == {tested.name} and tested.stat().st_size < 0.45 * size
    after = load_model(RUN.model, tested, CLASS_NAMES).net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert newest(checkpoints, select) is None  # training cannot be resumed from weights alone


def test_all_checkpoints_or_none_are_kept_where_that_is_asked_for(folder):
    before = files(folder)
    keep_weights(folder / "checkpoints", "best", "all")
    assert files(folder) == before
    damage(folder / "checkpoints" / "last.ckpt")
    (folder / "checkpoints" / "last.ckpt").rename(folder / "checkpoints" / "last.ckpt.damaged")
    keep_weights(folder / "checkpoints", "best", "none")
    assert files(folder) == {"last.ckpt.damaged"}
    (folder / "checkpoints" / "last.ckpt.damaged").unlink()
    keep_weights(folder / "checkpoints", "best", "none")
    assert not (folder / "checkpoints").exists()


def test_a_run_whose_result_is_gone_is_trained_again_from_its_first_epoch(folder, trained):
    keep_weights(folder / "checkpoints", "best", "weights")
    ends_as(folder, trained[1])


def test_the_weights_of_a_run_that_kept_none_are_refused_with_the_reason(folder):
    write_note(Run("model", 0, RUN, "0" * 16, folder))
    keep_weights(folder / "checkpoints", "best", "none")
    with pytest.raises(ConfigError, match=r"best\.ckpt does not exist; the run has not finished an epoch"):
        find_checkpoint(str(folder))
    (folder / "result.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"best\.ckpt does not exist; the run has kept none \(launch\.keep=weights"):
        find_checkpoint(str(folder))
