"""Training that begins with weights: what is taken over, what it is known by, rates by layer, and mistakes."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.optim import param_groups_layer_decay
from timm.optim._param_groups import group_parameters

from shunted_lab import attention, cost, evaluate
from shunted_lab.config.compose import compose
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.earth.tiles import CLASS_NAMES
from shunted_lab.nn import Pyramid, init_weights
from shunted_lab.nn.weights import published_names
from shunted_lab.run import main
from shunted_lab.tasks.callbacks import Stopped
from shunted_lab.tasks.listener import RunListener
from shunted_lab.tasks.model import build_model
from shunted_lab.tasks.schedule import learning_rate
from shunted_lab.tasks.train import make_module, train

TINY = [
    "model.embed_dims=[8,16,24,32]",
    "model.depths=[1,1,2,1]",
    "model.num_heads=[2,2,2,2]",
    "model.mlp_ratios=[2,2,2,2]",
    "launch.accelerator=cpu",
    "launch.pictures=false",
    "data.batch_size=8",
]
SHORT = ["recipe.epochs=1", "recipe.limit_batches=2", "recipe.warmup_epochs=0"]


def config(*words: object) -> RunConfig:
    return compose(["experiment=train", *TINY, *SHORT, *map(str, words)]).variants["model"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file with the weights of a tiny model for 9 classes, under official names."""
    net = build_model(config().model, 9)
    init_weights(net, 77)
    names = published_names(net)
    file = tmp_path_factory.mktemp("weights") / "ckpt.pth"
    torch.save({"model": {names[name]: value for name, value in net.state_dict().items()}}, file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of four classes in train/ and val/."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for name in "abcd":
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (48, 40, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def backbone(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in net.state_dict().items() if not name.startswith("head.")}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- what is taken over ----------------------------------------------------------------------------------------------


def test_the_backbone_is_the_files_and_a_head_for_other_classes_is_the_seeds(weights):
    run = config(f"model.checkpoint={weights}")
    theirs = build_model(run.model, 9)
    init_weights(theirs, 77)
    same, other = make_module(run, CLASS_NAMES).net, make_module(run, "abcd").net
    assert equal(same.state_dict(), theirs.state_dict())
    assert equal(backbone(other), backbone(theirs))
    assert torch.equal(other.head.weight, make_module(config(), "abcd").net.head.weight)  # as without a checkpoint
    again = make_module(replace(run, seed=5), "abcd").net
    assert not torch.equal(again.head.weight, other.head.weight) and equal(backbone(again), backbone(theirs))


def test_a_run_goes_on_from_its_own_checkpoint_and_needs_the_file_no_more(weights, tmp_path):
    class Stops(RunListener):
        def __init__(self) -> None:
            self.asked = 0

        def stopping(self) -> bool:
            self.asked += 1
            return self.asked == 2

        def epoch(self, epoch: int, metrics: dict[str, float]) -> bool:
            return False

    words = ["recipe.epochs=1", "recipe.limit_batches=4"]
    file = shutil.copy(weights, tmp_path / "copy.pth")
    run = config(*words, f"model.checkpoint={file}")
    train(run, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(run, tmp_path / "stopped", Stops())
    Path(file).unlink()
    train(run, tmp_path / "stopped")
    last = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "stopped")
    ]
    assert equal(last[0]["state_dict"], last[1]["state_dict"])


def test_trained_elsewhere_then_here_at_another_size_and_for_other_classes(folder, tmp_path, capsys):
    """The whole way: a run on one data set, its folder as the checkpoint of another on images of a folder."""
    words = [*TINY, *SHORT, "seeds=[0]"]
    assert main(["experiment=train", *words, f"runs_dir={tmp_path / 'before'}"]) == 0
    (before,) = (tmp_path / "before").glob("train/model/seed0-*")
    after = ["experiment=train", *words, "recipe=finetune", "data=folder", f"data.root={folder}", "data.image_size=64"]
    after += [f"runs_dir={tmp_path / 'after'}", f"model.checkpoint={before}", "data.batch_size=8"]
    assert main(after) == 0
    said = " ".join(capsys.readouterr().out.split())
    head = "its head is re-initialized: it has a head for other classes than the data have: only the file has 'water', "
    assert f"model.checkpoint: {before}, its entry 'state_dict'; {head}" in said
    assert f"with the weights of {before} (new head) Training: recipe finetune, 1 epoch" in said.replace("- ", "-")
    (run,) = (tmp_path / "after").glob("train/model/seed0-*")
    note = json.loads((run / "run.json").read_text())
    assert note["config"]["model"]["checkpoint"] == str(before / "checkpoints" / "last.ckpt")
    assert len(note["sources"]["model.checkpoint"]) == 16
    head = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["net.head.weight"]
    assert head.shape == (4, 32)
    # The result stands, and is tested like any other run's.
    shown = evaluate.show([f"checkpoint={run}", "device=cpu"])
    result = json.loads((run / "result.json").read_text())
    assert shown["images"] == 8 and result["sizes"]["test"] == 8
    # Other tiles of the same pictures are split otherwise: the weights have seen some that are tested there.
    capsys.readouterr()
    assert main(["experiment=train", *words, "data=earth32", f"model.checkpoint={before}"]) == 1
    assert re.fullmatch(
        rf"error: model\.checkpoint: {before}\S* was trained on data=earth, which splits the same pictures otherwise "
        r"than data=earth32, so its weights have seen test images\n",
        capsys.readouterr().err,
    )


# --- what it is known by ---------------------------------------------------------------------------------------------


def test_a_run_is_known_by_the_content_of_its_weights_and_not_by_their_place(weights, tmp_path, capsys):
    first, second = (Path(shutil.copy(weights, tmp_path / f"{name}.pth")) for name in "ab")
    words = ["experiment=train", *TINY, *SHORT, "seeds=[0]", f"runs_dir={tmp_path}"]
    assert main([*words, f"model.checkpoint={first}"]) == 0

    def plan(*more: str) -> str:
        capsys.readouterr()
        assert main([*words, *more, "plan_only=true"]) == 0
        return capsys.readouterr().out

    assert "1 of 1 run done" in plan(f"model.checkpoint={second}")
    scratch = plan()
    assert "0 of 1 run done" in scratch and "would train 1 of 1 run: model (seed 0)" in scratch
    found = torch.load(second, weights_only=True)
    found["model"]["head.bias"] += 1
    torch.save(found, second)
    assert "would train 1 of 1 run" in plan(f"model.checkpoint={second}")  # another file, of other content
    shutil.copy(second, first)
    assert "stale: the content of model.checkpoint has changed (it was " in plan(f"model.checkpoint={first}")


def test_weights_that_came_later_make_another_run(weights, tmp_path, capsys):
    words = ["experiment=train", *TINY, *SHORT, "seeds=[0]", f"runs_dir={tmp_path}"]
    assert main(words) == 0
    assert main([*words, f"model.checkpoint={weights}", "plan_only=true"]) == 0
    assert "would train 1 of 1 run: model (seed 0)" in capsys.readouterr().out


def test_weights_that_change_after_the_plan_are_refused(weights, tmp_path):
    from shunted_lab.study.folder import write_note
    from shunted_lab.study.plan import data_facts, plan_runs
    from shunted_lab.study.training import train_run

    file = shutil.copy(weights, tmp_path / "ckpt.pth")
    words = ["experiment=train", *TINY, *SHORT, f"runs_dir={tmp_path}", f"model.checkpoint={file}"]
    experiment = compose(words)
    run = plan_runs(experiment, data_facts(experiment))[0]
    write_note(run)
    Path(file).write_bytes(b"another")
    with pytest.raises(ConfigError, match=r"^model\.checkpoint: .*ckpt\.pth is gone or has changed since the plan"):
        train_run(run)


# --- rates by layer --------------------------------------------------------------------------------------------------


def layers(net: Pyramid) -> dict[str, int]:
    """Name -> how many layers are above it, by timm's own reading of the matcher."""
    found = group_parameters(net, net.group_matcher(coarse=False), reverse=True)
    return {name: max(found.values()) - layer for name, layer in found.items()}


def test_each_layer_has_its_rate_at_every_step():
    run = config("recipe=finetune", "recipe.lr=1", "recipe.lr_batch=null", "recipe.epochs=4", "recipe.layer_decay=0.5")
    task = make_module(run, CLASS_NAMES)
    task.trainer = type("T", (), {"estimated_stepping_batches": 8})()  # type: ignore[assignment]
    found = task.configure_optimizers()
    optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
    names = {id(p): name for name, p in task.net.named_parameters()}
    above = layers(task.net)
    for step in range(8):
        seen = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert seen.keys() == above.keys()
        for name, lr in seen.items():
            assert lr == pytest.approx(learning_rate(step, 8, run.recipe, 1.0) * 0.5 ** above[name], rel=1e-12), name
        optimizer.step()
        schedule.step()
    assert above["head.weight"] == 0 and above["stages.3.blocks.0.attn.q.weight"] == above["stages.3.norm.weight"] == 1
    # stem, the block of stage 1, the embedding of stage 2, its block, ...; two blocks in the third stage
    assert above["stages.0.embed.proj.weight"] == len(set(above.values())) - 1 == 9


def test_groups_are_timms_with_their_decay():
    run = config("recipe=finetune", "recipe.weight_decay=0.05")
    task = make_module(run, CLASS_NAMES)
    task.trainer = type("T", (), {"estimated_stepping_batches": 8})()  # type: ignore[assignment]
    names = {id(p): name for name, p in task.net.named_parameters()}

    def read(groups) -> dict[str, tuple[float, float]]:
        return {names[id(p)]: (g["weight_decay"], g["lr_scale"]) for g in groups for p in g["params"]}

    theirs = read(param_groups_layer_decay(task.net, 0.05, task.net.no_weight_decay(), layer_decay=0.7))
    assert read(task.configure_optimizers()["optimizer"].param_groups) == theirs and len(theirs) == len(names)


def test_a_step_moves_low_layers_less(weights, tmp_path):
    """Adam's first step is the rate, whatever the gradient: its size shows which rate a parameter has."""
    words = [f"model.checkpoint={weights}", "recipe=finetune", "recipe.limit_batches=1", "recipe.lr_batch=null"]
    run = config(
        *words, "recipe.lr=1e-3", "recipe.layer_decay=0.5", "recipe.weight_decay=0", "recipe.precision=32-true"
    )
    run = replace(run, recipe=replace(run.recipe, epochs=1, limit_batches=1))
    before = make_module(run, CLASS_NAMES).net.state_dict()
    train(run, tmp_path)
    after = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, above in layers(make_module(run, CLASS_NAMES).net).items():
        moved = (after[f"net.{name}"] - before[name]).abs().max().item()
        assert moved <= 1.01e-3 * 0.5**above, name
        if name in ("head.weight", "stages.3.blocks.0.mlp.fc1.weight"):
            assert moved == pytest.approx(1e-3 * 0.5**above, rel=0.01), name


def test_the_recipe_has_the_values_of_its_source():
    recipe = PRESETS["recipe"]["finetune"]
    assert (recipe.lr, recipe.lr_batch, recipe.layer_decay, recipe.weight_decay) == (5e-5, 512, 0.7, 1e-8)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.mixup, recipe.cutmix) == (30, 0, 0, 0)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.checkpoint=/no/such", r"model\.checkpoint: '/no/such' does not exist; give a run's folder or a file"),
        ("recipe.layer_decay=1", r"recipe\.layer_decay: 1\.0 is not between 0 and 1"),
        ("recipe.layer_decay=0", r"recipe\.layer_decay: 0\.0 is not between 0 and 1"),
    ],
)
def test_mistakes_are_answered_before_training(tmp_path, capsys, word, message):
    assert main(["experiment=train", *TINY, f"runs_dir={tmp_path}", word, "plan_only=true"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(f"^error: {message}", error), error


def test_files_that_are_none_of_this_model_are_refused_by_the_plan(weights, tmp_path, capsys):
    def said(*words: str) -> str:
        assert main(["experiment=train", *TINY, f"runs_dir={tmp_path}", "plan_only=true", *words]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    broken = tmp_path / "broken.pth"
    broken.write_bytes(weights.read_bytes()[:500])
    assert "variants.model: model.checkpoint: " in said(f"model.checkpoint={broken}")
    assert "does not fit the model: shapes: " in said(f"model.checkpoint={weights}", "model.embed_dims=[8,16,24,64]")
    assert "does not fit the model: missing: " in said(f"model.checkpoint={weights}", "model.depths=[1,1,3,1]")
    pickled = tmp_path / "pickled.pth"
    torch.save({"model": {"x": torch.zeros(1)}, "args": Path("x")}, pickled)
    assert "contains more than tensors" in said(f"model.checkpoint={pickled}")
    (tmp_path / "empty").mkdir()
    assert "model.checkpoint: " in said(f"model.checkpoint={tmp_path / 'empty'}")


@pytest.mark.parametrize("command", [cost, attention, evaluate])
def test_commands_that_train_nothing_refuse_the_key(command, weights, capsys):
    words = ["model.checkpoint=x.pth"] + ([] if command is cost else [f"checkpoint={weights}"])
    words += ["image=x.png"] if command is attention else []
    assert command.main(words) == 1
    assert capsys.readouterr().err.startswith(
        "error: model.checkpoint: initializes a training, and this command trains nothing"
    )
