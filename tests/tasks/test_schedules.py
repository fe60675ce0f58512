"""Schedules and parameter groups of the recipes of ADE20K, against torch's schedulers and the published values."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, PolynomialLR

from shunted_lab.config.compose import compose
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.nn import Pyramid
from shunted_lab.tasks.optimizer import parameter_groups
from shunted_lab.tasks.schedule import highest_rate, learning_rate, peak_rate


def rates(scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def sgd(lr):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_poly_is_torch_s(power):
    recipe = RecipeConfig(epochs=5, schedule="poly", power=power, min_lr=0.0, warmup_epochs=0.0)
    found = [learning_rate(step, 50, recipe, 0.1) for step in range(50)]
    assert found == pytest.approx(rates(PolynomialLR(sgd(0.1), 50, power), 50), rel=1e-9, abs=1e-15)
    assert learning_rate(50, 50, recipe, 0.1) == 0 and highest_rate(recipe, 0.1) == 0.1


def test_multistep_is_torch_s():
    recipe = RecipeConfig(epochs=12, schedule="multistep", milestones=[8, 11], warmup_epochs=0.0)
    found = [learning_rate(step, 120, recipe, 2e-4) for step in range(120)]
    assert found == pytest.approx(rates(MultiStepLR(sgd(2e-4), [80, 110], 0.1), 120), rel=1e-9)


def test_the_warm_up_multiplies_the_rate_as_in_openmmlab():
    """`LrUpdaterHook`: regular rate x (1 - (1 - step / steps) x (1 - ratio))."""
    recipe = PRESETS["recipe"]["ade20k_upernet"]
    total = recipe.epochs * recipe.steps_per_epoch
    peak = peak_rate(recipe, 16)
    assert (total, peak) == (160_000, 6e-5)
    for step in (0, 1, 700, 1499, 1500, 80_000, 159_999):
        regular = 6e-5 * (1 - step / 160_000)
        warm = 1 - (1 - step / 1500) * (1 - 1e-6) if step < 1500 else 1
        assert learning_rate(step, total, recipe, peak) == pytest.approx(regular * warm, rel=1e-9)


def test_semantic_fpn_has_80_000_steps_without_warm_up():
    recipe = PRESETS["recipe"]["ade20k_semantic_fpn"]
    assert recipe.epochs * recipe.steps_per_epoch == 80_000 and peak_rate(recipe, 16) == 1e-4
    assert peak_rate(recipe, 32) == 2e-4, "PVT's 40,000 steps with 32 images"
    for step in (0, 40_000, 79_999):
        assert learning_rate(step, 80_000, recipe, 1e-4) == pytest.approx(1e-4 * (1 - step / 80_000) ** 0.9)


def groups_of(recipe, *words):
    run = compose(["experiment=segment_earth", "begin_with=null", *words]).variants["conv_stem"]
    net = run.task.build(run.model, 9)
    names = {id(p): name for name, p in net.named_parameters()}
    groups = parameter_groups(net, PRESETS["recipe"][recipe], 1e-4)
    found = {}
    for group in groups:
        for p in group["params"]:
            assert names[id(p)] not in found, "each parameter is in one group"
            found[names[id(p)]] = group["lr"], group["weight_decay"]
    assert set(found) == set(names.values())
    return found


def test_all_parameters_decay_in_semantic_fpn():
    assert set(groups_of("ade20k_semantic_fpn").values()) == {(1e-4, 1e-4)}


@pytest.mark.parametrize(("recipe", "head"), [("ade20k_upernet", 1.0), ("ade20k_segformer", 10.0)])
def test_norms_do_not_decay_biases_do_and_the_head_learns_faster(recipe, head):
    for name, (lr, decay) in groups_of(recipe).items():
        assert decay == (0.0 if "norm" in name else 0.01), name
        assert lr == pytest.approx(1e-4 if name.startswith("backbone.") else head * 1e-4), name


def test_biases_and_norms_do_not_decay_in_other_recipes_also_outside_the_backbone():
    run = compose(["experiment=segment_earth", "begin_with=null"]).variants["conv_stem"]
    dims = {name: p.ndim for name, p in run.task.build(run.model, 9).named_parameters()}
    for name, (lr, decay) in groups_of("segment_lite").items():
        assert (lr, decay) == (1e-4, 0.05 if dims[name] > 1 else 0.0), name


def test_layer_decay_scales_the_backbone_and_leaves_the_head():
    found = groups_of("finetune")
    assert found["head.classifier.conv.weight"][0] == 1e-4
    blocks = [lr for name, (lr, _) in found.items() if name.startswith("backbone.stages.") and ".blocks." in name]
    assert min(blocks) < max(blocks) <= 1e-4


def test_a_classifier_s_groups_are_timm_s():
    from timm.optim import param_groups_weight_decay

    run = compose(["experiment=ablate_embed"]).variants["conv_stem"]
    net = run.task.build(run.model, 9)
    assert isinstance(net, Pyramid)
    theirs = param_groups_weight_decay(net, run.recipe.weight_decay, no_weight_decay_list=net.no_weight_decay())
    ours = parameter_groups(net, run.recipe, 1e-3)
    assert [g["weight_decay"] for g in ours] == [g["weight_decay"] for g in theirs]
    for mine, their in zip(ours, theirs, strict=True):
        assert list(map(id, mine["params"])) == list(map(id, their["params"]))
