"""Training: the recipe's numbers, pairing of seeds, and a resumed run that ends where an uninterrupted one does."""

import math
from pathlib import Path

import pytest
import torch

from shunted_lab.config.compose import compose
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import make_datamodule
from shunted_lab.data.earth.tiles import CLASS_NAMES
from shunted_lab.tasks.callbacks import Pruned, Stopped
from shunted_lab.tasks.classification import Classification
from shunted_lab.tasks.listener import RunListener
from shunted_lab.tasks.predictions import read_predictions
from shunted_lab.tasks.train import images_used, make_module, make_trainer, train

SMALL = ["experiment=pretrain_earth", "launch.accelerator=cpu", "launch.pictures=false", "data.batch_size=16"]


def variants(*words: str) -> dict[str, RunConfig]:
    return compose([*SMALL, *words]).variants


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_variants_of_a_seed_share_initial_values_images_order_and_augmentation():
    runs = variants()
    tasks = {name: make_module(run, CLASS_NAMES) for name, run in runs.items()}
    shared = set.intersection(*(set(dict(task.net.named_parameters())) for task in tasks.values()))
    reference = dict(tasks["conv_stem"].net.named_parameters())
    assert {"head.weight"} < shared and len(shared) > 100
    for task in tasks.values():
        for name, value in task.net.named_parameters():
            if name in shared and value.shape == reference[name].shape:
                assert torch.equal(value, reference[name]), name
    batches = []
    for run, task in zip(runs.values(), tasks.values(), strict=True):
        task.net(torch.randn(2, 3, 64, 64))  # a model that draws must not move the images
        loader = make_datamodule(run.data, run.recipe, run.seed).train_dataloader()
        loader.sampler.set_epoch(1)
        batches.append(next(iter(loader)))
    for images, labels in batches[1:]:
        assert torch.equal(images, batches[0][0]) and torch.equal(labels, batches[0][1])


def test_seeds_differ():
    run = variants()["conv_stem"]
    first, second = (
        make_module(run, CLASS_NAMES),
        make_module(RunConfig(run.model, run.data, run.task, run.recipe, run.launch, 1), CLASS_NAMES),
    )
    assert not torch.equal(first.net.head.weight, second.net.head.weight)


def test_paper_recipe_scales_the_rate_by_the_batch_and_decays_only_matrices():
    run = variants("recipe=paper", "data.batch_size=1024")["conv_stem"]
    task = make_module(run, CLASS_NAMES)
    task.trainer = type("T", (), {"world_size": 1, "estimated_stepping_batches": 300})()  # type: ignore[assignment]
    made = task.configure_optimizers()
    decay = {group["weight_decay"]: group["params"] for group in made["optimizer"].param_groups}
    assert set(decay) == {0.0, 0.05}
    assert all(p.ndim <= 1 for p in decay[0.0]) and all(p.ndim > 1 for p in decay[0.05])
    schedule = made["lr_scheduler"]["scheduler"]
    assert made["optimizer"].param_groups[0]["lr"] == pytest.approx(1e-6)
    assert schedule.base_lrs[0] == pytest.approx(1e-3)  # 5e-4 x 1024 / 512


def mix(module, images, labels, index):
    """A batch of the fourth epoch as it is trained on."""
    return module.task.augment(images.clone(), labels, module.recipe, 9, [module.seed, 3, index, 0])


def test_mixup_draws_from_the_seed_and_leaves_numpy_alone():
    import numpy as np

    run = variants("recipe=paper")["conv_stem"]
    task, again = make_module(run, CLASS_NAMES), make_module(run, CLASS_NAMES)
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6)
    task.trainer = again.trainer = type("T", (), {"current_epoch": 3})()  # type: ignore[assignment]
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    mixed, targets = mix(task, images, labels, 5)
    assert np.random.get_state()[1].tolist() == before
    np.random.seed(1)
    same, _ = mix(again, images, labels, 5)
    other, _ = mix(again, images, labels, 6)
    assert torch.equal(mixed, same) and not torch.equal(mixed, other)
    assert mixed.shape == (6, 3, 32, 32) and torch.allclose(targets.sum(1), torch.ones(6))


def test_ranks_draw_their_own_masks_and_mixup_and_the_first_draws_as_one_device(monkeypatch):
    import random

    import numpy as np

    from shunted_lab.tasks import base

    task = make_module(variants("recipe=paper", "model.drop_path_rate=0.5")["conv_stem"], CLASS_NAMES)
    task.trainer = type("T", (), {"current_epoch": 2})()  # type: ignore[assignment]
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    drawn, mixed = [], []
    for rank in (None, 0, 1, 1):
        monkeypatch.setattr(base.dist, "is_initialized", lambda rank=rank: rank is not None)
        monkeypatch.setattr(base.dist, "get_rank", lambda rank=rank: rank)
        task.on_train_batch_start(None, 7)
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
        mixed.append(task.task.augment(images.clone(), labels, task.recipe, 9, [0, 2, 7, rank or 0])[0])
    assert drawn[0] == drawn[1] and drawn[2] == drawn[3]
    assert all(one != other for one, other in zip(drawn[1], drawn[2], strict=True))
    assert torch.equal(mixed[0], mixed[1]) and torch.equal(mixed[2], mixed[3]) and not torch.equal(mixed[1], mixed[2])


def test_mixup_of_an_odd_batch_uses_every_image():
    task = make_module(variants("recipe=paper")["conv_stem"], CLASS_NAMES)
    task.trainer = type("T", (), {"current_epoch": 0})()  # type: ignore[assignment]
    images, labels = torch.randn(7, 3, 32, 32), torch.arange(7)
    mixed, targets = task.task.augment(images.clone(), labels, task.recipe, 9, [0, 0, 0, 0])
    pairs, pair_targets = task.task.augment(images[:6].clone(), labels[:6], task.recipe, 9, [0, 0, 0, 0])
    assert torch.equal(mixed[:6], pairs) and torch.equal(targets[:6], pair_targets)
    assert torch.equal(mixed[6], images[6])
    smooth = torch.full((9,), 0.1 / 9).index_fill(0, labels[6:], 0.9 + 0.1 / 9)
    assert torch.allclose(targets[6], smooth)


@pytest.mark.parametrize("words", [("data.batch_size=1",), ("data.batch_size=4", "launch.accumulate=4")])
def test_a_piece_of_one_image_that_should_be_mixed_is_refused(words):
    with pytest.raises(
        ConfigError, match=r"^data\.batch_size: \d .*leaves 1 image for each device and step, but recipe\.mixup"
    ):
        variants("recipe=paper", *words)
    assert variants(*words)["conv_stem"].per_device_batch_size == 1  # nothing is mixed: nothing is wrong


def test_smoke_keeps_a_batch_that_its_parts_divide():
    assert variants("smoke=true", "data.batch_size=64", "launch.accumulate=8")["conv_stem"].data.batch_size == 16
    mixed = variants("smoke=true", "recipe=paper", "data.batch_size=96", "launch.accumulate=12")["conv_stem"]
    assert mixed.data.batch_size == 24 and mixed.per_device_batch_size == 2


def test_label_smoothing_is_applied_in_training_only():
    run = variants()["conv_stem"]
    task = make_module(run, CLASS_NAMES)
    task.log = task.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    task.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 9))
    images, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 3])
    log_p = task.net(images).log_softmax(1)
    plain = -log_p[range(4), labels].mean()
    smooth = 0.9 * plain - 0.1 * log_p.mean()
    assert torch.isclose(task._step((images, labels), "val", 0), plain)
    assert torch.isclose(task._step((images, labels), "train", 0), smooth)


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path, select):
    words = ("recipe.epochs=3", "recipe.limit_batches=3", "model.drop_path_rate=0.3", f"recipe.select={select}")
    run = variants(*words)["conv_stem"]
    whole = train(run, tmp_path / "whole")

    class Killed(Exception):
        pass

    data = make_datamodule(run.data, run.recipe, run.seed)
    task = make_module(run, CLASS_NAMES)
    trainer = make_trainer(run, tmp_path / "killed", [], progress=False)
    seed = task.on_train_batch_start
    task.on_train_batch_start = lambda batch, index: (
        _raise(Killed) if (task.current_epoch, index) == (2, 1) else seed(batch, index)
    )
    with pytest.raises(Killed):
        trainer.fit(task, data)
    torch.manual_seed(123)  # a new process has another global state
    resumed = train(run, tmp_path / "killed")

    first, second = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert resumed["metrics"] == whole["metrics"] and resumed["epoch"] == whole["epoch"]


class Says(RunListener):
    """A link that asks to stop at the n-th batch, or prunes at an epoch."""

    def __init__(self, stop=None, prune=None):
        self.stop, self.prune, self.batches, self.epochs = stop, prune, 0, {}

    def stopping(self):
        self.batches += 1
        return self.stop is not None and self.batches >= self.stop

    def epoch(self, epoch, metrics):
        self.epochs[epoch] = metrics["val/top1"]
        return epoch == self.prune


@pytest.mark.parametrize("stops", [(2,), (5, 2), (4,), (8,)], ids=["first epoch", "twice", "epoch's last", "second"])
def test_a_run_that_was_asked_to_stop_goes_on_with_the_next_batch_bit_for_bit(tmp_path, stops):
    words = ("recipe.epochs=3", "recipe.limit_batches=4", "model.drop_path_rate=0.3", "recipe.mixup=0.8")
    run = variants(*words)["conv_stem"]
    whole = train(run, tmp_path / "whole")
    for stop in stops:
        with pytest.raises(Stopped):
            train(run, tmp_path / "stopped", Says(stop))
        torch.manual_seed(123)
    resumed = train(run, tmp_path / "stopped", link := Says())
    assert link.batches < 15 - stops[0]
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    for name in ("val/top1", "val/loss", "test/top1", "test/loss"):
        assert resumed["metrics"][name] == whole["metrics"][name]


def test_a_link_hears_each_epoch_and_can_prune(tmp_path):
    run = variants("recipe.epochs=3", "recipe.limit_batches=2")["overlapping"]
    link = Says(prune=1)
    with pytest.raises(Pruned):
        train(run, tmp_path / "pruned", link)
    assert list(link.epochs) == [0, 1]
    last = Says(prune=2)  # nothing is saved by pruning the last epoch
    assert train(run, tmp_path / "whole", last)["epoch"] == 2 and list(last.epochs) == [0, 1, 2]


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_run_that_was_killed_before_its_test_is_tested_on_the_same_weights(tmp_path, select, monkeypatch):
    run = variants("recipe.epochs=2", "recipe.limit_batches=2", f"recipe.select={select}")["overlapping"]
    whole = train(run, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("lightning.pytorch.Trainer.validate", lambda *args, **kwargs: _raise(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path / "killed")
    resumed = train(run, tmp_path / "killed")
    evaluated = ("val/", "test/")
    for found in (whole, resumed):
        found["metrics"] = {key: value for key, value in found["metrics"].items() if key.startswith(evaluated)}
    assert resumed["metrics"] == whole["metrics"] and len(whole["metrics"]) == 6 and resumed["epoch"] == whole["epoch"]


def _raise(error: type[Exception]) -> None:
    raise error


def test_a_result_says_what_a_table_needs(tmp_path):
    run = variants("recipe.epochs=1", "recipe.limit_batches=2")["non_overlapping"]
    result = train(run, tmp_path)
    assert {"val/top1", "val/top5", "val/loss", "test/top1", "test/top5", "test/loss", "train/loss_epoch"} <= set(
        result["metrics"]
    )
    assert 0 <= result["metrics"]["test/top1"] <= result["metrics"]["test/top5"] <= 1
    assert math.isfinite(result["metrics"]["train/loss_epoch"])
    assert (result["precision"], result["batch_layout"]) == ("32-true", "batches of 16 images")
    assert result["epoch"] == 0 and result["images_per_second"] > 0 and "thread" in result["device"]
    assert result["sizes"].keys() == {"train", "val", "test"}
    assert result["used"] == {"train": 32, "val": 32, "test": 32}
    assert len(read_predictions(tmp_path).targets) == result["used"]["test"]
    assert images_used(variants()["non_overlapping"], result["sizes"]) == result["sizes"]
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_best_tests_the_epoch_that_validation_chose(tmp_path):
    words = ("recipe.epochs=3", "recipe.limit_batches=4", "recipe.select=best", "recipe.lr=0.01")
    result = train(variants(*words)["non_overlapping"], tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert result["epoch"] == checkpoint["epoch"]
    best = next(c for c in checkpoint["callbacks"].values() if "best_model_score" in c)
    assert result["metrics"]["val/top1"] == pytest.approx(float(best["best_model_score"]))


def test_monitor_never_looks_at_the_test_side():
    goal = Classification().goal(None)
    assert goal.monitor.startswith("val/") and goal.headline.startswith("test/")


def test_a_small_model_learns_the_embedded_tiles(tmp_path):
    """The numbers of classes guessed right rise well above chance (1 in 9) within a few dozen steps."""
    run = variants("recipe.epochs=1", "recipe.limit_batches=40", "data.batch_size=32", "model.depths=[1,1,1,1]")
    result = train(run["overlapping"], tmp_path)
    assert result["metrics"]["val/top1"] > 0.3


def test_presets_are_the_papers():
    sizes = {name: PRESETS["model"][name].depths for name in ("shunted_t", "shunted_s", "shunted_b")}
    assert sizes == {"shunted_t": [1, 2, 4, 1], "shunted_s": [2, 4, 12, 1], "shunted_b": [3, 4, 24, 2]}
