"""What a seed shares between variants, and statistics of BatchNorm that belong to the weights that are evaluated."""

import itertools

import pytest
import torch
from torch.nn import BatchNorm2d

from shunted_lab.config.compose import compose
from shunted_lab.config.recipe import SOURCES
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import make_datamodule
from shunted_lab.nn import build_seeded
from shunted_lab.tasks.train import make_module, train

SMALL = ["experiment=train", "data.image_size=32", "data.batch_size=16", "recipe.limit_batches=3", "recipe.epochs=1"]
SMALL += ["launch.accelerator=cpu", "launch.threads=1", "launch.pictures=false", "seeds=[3]"]


def config(*words: str) -> RunConfig:
    return compose([*SMALL, *words]).variants["model"]


def test_all_sources_are_paired_by_default():
    first, second = config(), config("model.mlp=mlp")
    assert [first.seed_of(source) for source in SOURCES] == [second.seed_of(source) for source in SOURCES] == [3, 3, 3]


@pytest.mark.parametrize("left_out", SOURCES)
def test_a_source_that_is_left_out_is_drawn_by_each_configuration(left_out):
    paired = [source for source in SOURCES if source != left_out]
    words = [f"recipe.pair=[{','.join(paired)}]"]
    first, second = config(*words), config(*words, "model.mlp=mlp")
    assert [first.seed_of(source) for source in paired] == [second.seed_of(source) for source in paired] == [3, 3]
    seeds = {first.seed_of(left_out), second.seed_of(left_out), config(*words, "seeds=[4]").seed_of(left_out), 3}
    assert len(seeds) == 4
    assert first.fingerprint("", {}) != config().fingerprint("", {})
    assert config(*words, "launch.threads=2", "runs_dir=elsewhere").seed_of(left_out) == first.seed_of(left_out)


def test_the_order_of_sources_does_not_matter_and_unknown_ones_are_refused():
    first, second = config("recipe.pair=[order,init]"), config("recipe.pair=[init,order]")
    assert first.fingerprint("", {}) == second.fingerprint("", {})
    with pytest.raises(ConfigError, match=r"recipe\.pair: 'orders' is not known; did you mean 'order'\?"):
        config("recipe.pair=[orders]")


def test_each_source_has_its_own_seed_in_training(tmp_path, monkeypatch):
    """Initial values, order and augmentation are those of a plain run with that source's seed."""
    run = config("recipe.pair=[]")
    init, order, augmentation = (run.seed_of(source) for source in SOURCES)
    plain = build_seeded(lambda: run.task.build(run.model, 9), init).state_dict()
    module = make_module(run, make_datamodule(run.data, run.recipe, 0).class_names)
    assert all(torch.equal(value, plain[name]) for name, value in module.net.state_dict().items())
    assert module.seed == augmentation
    seen = []
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", lambda self, module, data, **_: seen.append(data) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(run, tmp_path)
    (data,) = seen
    own, ordered = make_datamodule(run.data, run.recipe, augmentation), make_datamodule(run.data, run.recipe, order)
    keys = list(itertools.islice(data.sampler, 8))
    assert keys == list(itertools.islice(ordered.sampler, 8)) != list(itertools.islice(own.sampler, 8))
    images = [of.splits.train.__getitems__(keys)[0] for of in (data, own, ordered)]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


@pytest.mark.parametrize(("ema", "batches"), [("null", 2), ("0.9", 2), ("0.9", 100)])
def test_statistics_are_those_of_the_weights_that_are_tested(tmp_path, ema, batches):
    """Of so many batches, or of all that an epoch has (three)."""
    words = [f"recipe.ema={ema}", "model.patch_embed=conv_stem1", "recipe.epochs=2"]
    run = config(f"recipe.recalibrate_bn={batches}", *words)
    result = train(run, tmp_path)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    module = make_module(run, [str(i) for i in range(9)])
    module.load_state_dict(saved)
    layers = [layer for layer in module.net.modules() if isinstance(layer, BatchNorm2d)]
    found = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    data = make_datamodule(run.data, run.recipe, run.seed)
    data.sampler.set_epoch(1)
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for images, _ in itertools.islice(data.train_dataloader(), min(batches, 3)):
            module.net(images)
    assert layers, "the stem has BatchNorm"
    for layer, (mean, var) in zip(layers, found, strict=True):
        assert torch.allclose(layer.running_mean, mean, atol=1e-6) and torch.allclose(layer.running_var, var, atol=1e-5)
    plain = train(config(*words), tmp_path / "plain")
    assert plain["metrics"]["test/loss"] != result["metrics"]["test/loss"]
    if ema == "null":
        trained = torch.load(tmp_path / "plain" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        weights = [name for name in saved if "running" not in name and "num_batches" not in name]
        assert all(torch.equal(saved[name], trained[name]) for name in weights), "training is the same"


def test_recalibration_below_one_batch_is_refused():
    with pytest.raises(ConfigError, match=r"recipe\.recalibrate_bn: 0 is below 1"):
        config("recipe.recalibrate_bn=0")
