"""Detection as a task: what is refused, resuming, devices, and that it learns."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("pycocotools")

import torch
from stopping import StopAt

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import make_datamodule
from shunted_lab.data.module import EpochSampler
from shunted_lab.data.scales.datasets import ObjectBatches, cached, cached_objects
from shunted_lab.nn import check_detector
from shunted_lab.study.plan import count_costs, data_facts, plan_runs
from shunted_lab.tasks.average_precision import FIELDS
from shunted_lab.tasks.callbacks import Stopped
from shunted_lab.tasks.evidence import read_evidence
from shunted_lab.tasks.train import make_module, train


def run_of(*words):
    return compose(["experiment=detect_scales", *words]).variants["ssa"]


def coco_run(*words):
    return compose(["experiment=coco_attention", "begin_with=null", "data.root=/x", *words]).variants["ssa"]


@pytest.mark.parametrize("task", ["mask_rcnn_lite", "retinanet_lite"])
def test_scenes_have_the_objects_that_were_drawn(task):
    run = run_of(f"task={task}", "data.image_size=64", "data.train_images=8", "data.val_images=2", "data.test_images=4")
    data = make_datamodule(run.data, run.recipe, 0)
    images, objects = next(iter(data.test_dataloader()))
    assert images.shape == (4, 3, 64, 64) and len(data.class_names) == 6
    for i in range(4):
        scene = run.data.scene("test", i)
        assert np.array_equal(objects.boxes[i].numpy(), scene.boxes)
        assert np.array_equal(objects.labels[i].numpy(), scene.classes)
        truth = objects.truths[i]
        sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
        assert np.allclose(truth.areas, sides.prod(1)) and not truth.crowd.any() and truth.size == (64, 64)
        if task == "mask_rcnn_lite":
            assert np.array_equal(objects.masks[i][1].numpy(), scene.instances == 2)
    assert objects.masks == [] or task == "mask_rcnn_lite"
    train_images, turned = next(iter(data.train_dataloader()))
    assert turned.truths == [] and len(set(turned.seeds)) == len(train_images) == 8
    ranges = [(low**0.5 / 64, high**0.5 / 64) for _, (low, high) in objects.ranges]
    assert np.allclose(ranges, [each for _, each in run.data.size_ranges()])


def test_an_image_is_turned_with_its_boxes_and_masks():
    run = run_of("data.image_size=64", "data.train_images=4", "data.val_images=2", "data.test_images=2")
    split = make_datamodule(run.data, run.recipe, 3).splits.train
    images, objects = split.__getitems__([(epoch, 1, 0) for epoch in range(6)])
    assert len({tuple(boxes.flatten().tolist()) for boxes in objects.boxes}) > 2
    for image, boxes, masks in zip(images, objects.boxes, objects.masks, strict=True):
        for box, mask in zip(boxes, masks, strict=True):
            y, x = mask.nonzero().T
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        inside, outside = (image.mean(0)[which].mean() for which in (masks.any(0), ~masks.any(0)))
        assert inside > outside + 0.3, "objects are brighter than what is around them"


def test_ranks_take_turns_by_pairs(monkeypatch):
    from shunted_lab.data import module

    keys = []
    for rank in range(2):
        monkeypatch.setattr(module, "_ranks", lambda rank=rank: (rank, 2))
        sampler = EpochSampler(10, 0)
        sampler.together, sampler.group = 2, 4
        keys.append([key[1] for key in sampler])
        assert len(sampler) == len(keys[-1]) == 4
    monkeypatch.setattr(module, "_ranks", lambda: (0, 1))
    whole = [key[1] for key in EpochSampler(10, 0)]
    assert keys[0] == whole[0:2] + whole[4:6] and keys[1] == whole[2:4] + whole[6:8]


TWO = """
import sys
import torch
import torch.distributed as dist
from test_detection_pairs import batch, network, gradient
from torch.nn.parallel import DistributedDataParallel

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.save(gradient(DistributedDataParallel(network()), batch(rank)), f"{folder}/{rank}.pt")
"""
PAIRS = """
import torch
from shunted_lab.config.compose import compose
from shunted_lab.data.objects import Objects
from shunted_lab.nn import build_seeded

class Trained(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images, objects):
        found = self.net(images)
        return sum(found.head.losses(found.features, objects, 2).values())

def network():
    run = compose(["experiment=detect_scales", "model.drop_path_rate=0"]).variants["ssa"]
    net = build_seeded(lambda: run.task.build(run.model, 6), 0).train()
    net.backbone.eval()
    return Trained(net)

def batch(rank):
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    box, none = torch.tensor([[8.0, 8, 40, 40], [30, 20, 60, 50]]), torch.zeros(0, 4)
    boxes = [box, box[:1], none, none]  # the second device has no object
    labels = [torch.arange(len(each)) for each in boxes]
    masks = [torch.ones(len(each), 64, 64, dtype=torch.uint8) for each in boxes]
    some = [torch.ones(len(each), dtype=torch.bool) for each in boxes]
    own = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    parts = (boxes, labels, masks, some, [1, 2, 3, 4], [(64, 64)] * 4)
    return images[own], Objects(*(part[own] for part in parts), [])

def gradient(net, batch):
    net(*batch).backward()
    return {name.removeprefix("module."): p.grad for name, p in net.named_parameters()}
"""


@pytest.mark.slow
def test_two_devices_of_which_one_has_no_object_have_the_gradient_of_one(tmp_path, monkeypatch):
    (tmp_path / "two.py").write_text(TWO)
    (tmp_path / "test_detection_pairs.py").write_text(PAIRS)
    started = [
        subprocess.Popen([sys.executable, tmp_path / "two.py", str(rank), tmp_path], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in started:
        assert process.wait(240) == 0, process.stderr.read()
    monkeypatch.syspath_prepend(tmp_path)
    import test_detection_pairs as pairs

    one = pairs.gradient(pairs.network(), pairs.batch(None))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in one.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], value, rtol=1e-3, atol=1e-6), name


@pytest.mark.slow
def test_a_run_that_was_stopped_within_an_epoch_finds_the_same_objects(tmp_path):
    words = ["data.image_size=64", "data.train_images=24", "data.val_images=4", "data.test_images=6"]
    words += ["recipe.epochs=2", "data.batch_size=4", "model.drop_path_rate=0.3", f"data.cache={tmp_path}/cache"]
    run = run_of(*words, "recipe.warmup_epochs=0", "launch.accelerator=cpu", "launch.pictures=false")
    with pytest.raises(Stopped):
        train(run, tmp_path / "stopped", StopAt(8))
    resumed, whole = train(run, tmp_path / "stopped"), train(run, tmp_path / "whole")
    for key, value in whole["metrics"].items():
        if not key.startswith("train/"):
            assert value == resumed["metrics"][key], key
    first, second = (read_evidence(tmp_path / name).marks for name in ("stopped", "whole"))
    assert all(np.array_equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


def test_retinanet_is_trained_and_tested_as_mask_rcnn_is(tmp_path):
    words = ["data.image_size=64", "data.train_images=8", "data.val_images=2", "data.test_images=4"]
    words += ["task=retinanet_lite", "data.batch_size=4", f"data.cache={tmp_path}/cache", "recipe.warmup_epochs=0"]
    found = train(run_of(*words, "launch.accelerator=cpu", "launch.pictures=false"), tmp_path / "run")
    assert found["headline"] == "test/box_ap" and "test/mask_ap" not in found["metrics"]
    marks = read_evidence(tmp_path / "run").marks
    assert marks.forms == ("box",) and marks.objects[..., 0].sum() == 8


STEPS = 120


@pytest.mark.slow
def test_eight_scenes_are_learnt_by_heart(tmp_path):
    run = run_of("data.train_images=8")
    scenes = run.data.scenes("train")
    drawn = *cached(scenes, tmp_path), *cached_objects(scenes, tmp_path)
    split = ObjectBatches(*drawn, run.data.area_ranges(), has_masks=True)  # without augmentation, and with the truth
    images, objects = split.__getitems__(list(range(8)))
    module = make_module(run, [f"class {k}" for k in range(6)])
    optimizer = torch.optim.AdamW(module.net.parameters(), 2e-3, weight_decay=0.05)
    module.train()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 10, 2 * (STEPS - step) / STEPS)
        drawn_anew = objects._replace(seeds=[8 * step + i for i in range(8)])
        loss = module.task.loss(module(images, objects.sizes), drawn_anew, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    metrics = module.task.make_metrics(run.data, 6)
    with torch.no_grad():
        metrics.update(module.task.for_evaluation(module(images, objects.sizes), objects), objects)
    found = {key: float(value) for key, value in metrics.compute().items()}
    assert found["box_ap"] > 0.9 and found["mask_ap"] > 0.8, found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=mask_rcn"], "task: 'mask_rcn' is not known; did you mean 'mask_rcnn'"),
        (["task.head=retinanet"], "task.head: 'retinanet' is not known"),
        (["task=retinanet", "task.head=retinanet_light"], "did you mean 'retinanet_lite'"),
        (["task.head={name: mask_rcnn, wide: 3}"], "task.head: 'wide' is not an option of 'mask_rcnn'"),
        (["task.head=[mask_rcnn]"], "task.head: .* is neither a name nor a mapping"),
        (["data=imagenet"], "task: mask_rcnn needs images with masks, and data=imagenet has label"),
        (["data=shards"], "needs images with masks"),
        (["recipe.mixup=0.8"], "recipe.mixup: 0.8 is not supported for boxes"),
        (["recipe.cutmix=1"], "recipe.cutmix: 1.0 is not supported for boxes"),
        (["recipe.random_resized_crop=true"], "recipe.random_resized_crop: True is not supported for boxes"),
        (["recipe.random_erasing=0.25"], "recipe.random_erasing: 0.25 is not supported for boxes"),
        (["recipe.label_smoothing=0.1"], "recipe.label_smoothing: 0.1 is not supported for boxes"),
        (["recipe.repeated_aug=3"], "recipe.repeated_aug: 3 is not supported for boxes"),
        (["recipe.short_sides=[16]"], r"recipe.short_sides: \[16\] has a side below 32"),
        (["task.loss_images=0"], "task.loss_images: 0 is too small"),
    ],
)
def test_bad_input_is_refused_in_one_line(words, message):
    with pytest.raises(ConfigError, match=message):
        run = coco_run(*words)
        run.task.build(run.model, 6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe.random_crop=true"], "recipe.random_crop: True has no effect on data=scales"),
        (["recipe.short_sides=[480]"], r"recipe.short_sides: \[480\] has no effect on data=scales"),
        (["data.batch_size=7"], r"leaves 7 images .* averages its loss over 2 \(task.loss_images\)"),
        (["data.batch_size=8", "launch.accumulate=8"], "leaves 1 image for each device and step, and task=mask_rcnn"),
    ],
)
def test_bad_input_for_scenes_is_refused_in_one_line(words, message):
    with pytest.raises(ConfigError, match=message):
        run_of(*words)


def test_without_pycocotools_the_extra_is_named(monkeypatch):
    from shunted_lab.tasks import detection

    monkeypatch.setattr(detection, "find_spec", lambda name: None)
    run = run_of()
    with pytest.raises(ConfigError, match=r"needs pycocotools: pip install 'shunted_lab\[detection\]'"):
        run.task.build(run.model, 6)


def test_goals_have_the_metrics_of_the_task():
    boxes, masks = run_of("task=retinanet_lite"), run_of()
    assert [m.key for m in boxes.task.goal(boxes.data).metrics][:3] == ["box_ap", "box_ap50", "box_ap75"]
    assert not any(m.key.startswith("mask") for m in boxes.task.goal(boxes.data).metrics)
    goal = masks.task.goal(masks.data)
    assert goal.monitor == "val/box_ap" and goal.mode == "max" and goal.both_macs
    shown = [m.label for m in goal.columns]
    assert shown == ["AP50", "AP75", "AP small", "AP medium", "AP large", "Mask AP"]


def test_the_recipes_of_coco_are_those_of_the_papers():
    one = coco_run()
    assert (one.recipe.lr, one.recipe.weight_decay, one.recipe.decay) == (2e-4, 1e-4, "all")
    assert one.recipe.warmup_steps == 500 and one.recipe.epochs == 12 and one.recipe.clip_grad == 0
    assert (one.data.image_size, one.data.long_side, one.data.batch_size, one.recipe.hflip) == (800, 1333, 16, 0.5)
    assert one.recipe.milestones == [8, 11] and one.recipe.gamma == 0.1 and one.task.input_size(one.data) == (800, 1280)
    three = coco_run("recipe=coco_mask_rcnn_3x").recipe
    assert three.epochs == 36 and three.milestones == [27, 33] and three.random_crop
    assert (three.short_sides[0], three.short_sides[-1], len(three.short_sides)) == (480, 800, 11)
    assert (three.lr, three.weight_decay, three.decay) == (1e-4, 0.05, "but_norms")
    retinanet = coco_run("task=retinanet", "recipe=coco_retinanet_1x")
    assert retinanet.recipe.lr == 1e-4 and retinanet.task.head == "retinanet" and not retinanet.data.has_masks


DETECTOR = """
from shunted_lab.nn.detection.retinanet import RetinaNet


class Mine(RetinaNet):
    def __init__(self, channels, num_classes, tower=1):
        super().__init__(channels, num_classes, width=32, tower=tower, anchor_scale=1.5)
"""


def test_a_detector_of_one_s_own_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "my_own_detector.py").write_text(DETECTOR)
    monkeypatch.syspath_prepend(tmp_path)
    experiment = compose(["experiment=detect_scales", "task=detection", "task.head=my_own_detector.Mine"])
    facts = data_facts(experiment)
    small = count_costs(experiment, facts)
    lite = count_costs(compose(["experiment=detect_scales", "task=retinanet_lite"]), facts)
    assert all(small[name].params < lite[name].params for name in small)
    assert len(plan_runs(experiment, facts)[0].sources["task: my_own_detector.Mine"]) == 16
    deep = "task.head={name: my_own_detector.Mine, tower: 3}"
    changed = compose(["experiment=detect_scales", "task=detection", deep])
    assert count_costs(changed, facts)["ssa"].params > small["ssa"].params
    assert len(check_detector("my_own_detector.Mine")) == 9
    masks = run_of("task=instance_segmentation", "task.head=my_own_detector.Mine")
    with pytest.raises(
        ConfigError, match=r"task.head: 'my_own_detector.Mine' predicts no masks .* take task=detection"
    ):
        masks.task.build(masks.model, 6)
