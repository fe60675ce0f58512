"""Segmentation: mmseg's metrics and loss, evidence from which any resample is exact, sizes, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stopping import StopAt
from torchmetrics.classification import MulticlassJaccardIndex

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import make_datamodule
from shunted_lab.data.label_maps import IGNORED, LabelMaps
from shunted_lab.nn.weights import published_names
from shunted_lab.report.collect import _over_images
from shunted_lab.report.image_statistics import bootstrap
from shunted_lab.study.plan import count_costs, data_facts, plan_runs
from shunted_lab.tasks.callbacks import Stopped
from shunted_lab.tasks.checkpoint import load_initial
from shunted_lab.tasks.evidence import StoredEvidence, read_evidence, write_evidence
from shunted_lab.tasks.iou import PixelEvidence, class_iou, mean_iou
from shunted_lab.tasks.model import batch_layout
from shunted_lab.tasks.overlap import count_pixels
from shunted_lab.tasks.segmentation import Segmentation
from shunted_lab.tasks.train import make_module, train

K = 7


def drawn(seed, images=5, absent=3):
    """Logits of a quarter of the size of the labels, in which 255 and absent classes occur."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, K, 6, 8, generator=generator)
    labels = torch.randint(0, K, (images, 24, 32), generator=generator, dtype=torch.uint8)
    labels[labels == absent] = 0
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORED
    return logits, LabelMaps(labels)


def mmseg(predicted, labels):
    """mIoU, mAcc and aAcc from one confusion matrix, as in mmseg's `intersect_and_union` and `legacy_mean_iou`."""
    keep = labels != IGNORED
    matrix = np.zeros((K, K))
    np.add.at(matrix, (labels[keep], predicted[keep]), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
        accuracy = np.diag(matrix) / matrix.sum(1)
    return np.nanmean(iou), np.nanmean(accuracy), np.diag(matrix).sum() / matrix.sum()


def evaluated(seeds):
    """Batches through the task as `TaskModule` does it."""
    task, data = Segmentation(), compose(["experiment=segment_earth", "begin_with=null"]).variants["conv_stem"].data
    metrics = task.make_metrics(data, K)
    parts = []
    for seed in seeds:
        logits, labels = drawn(seed)
        outputs = task.for_evaluation(logits, labels)
        metrics.update(outputs, labels)
        parts.append(task.evidence_of_batch(outputs, labels))
    evidence = task.evidence(
        [torch.cat(each).numpy() for each in zip(*parts, strict=True)], [f"c{i}" for i in range(K)], data
    )
    return {key: float(value) for key, value in metrics.compute().items()}, evidence


def whole(seeds):
    predicted, labels = [], []
    for seed in seeds:
        logits, targets = drawn(seed)
        predicted.append(F.interpolate(logits, (24, 32), mode="bilinear", align_corners=False).argmax(1).numpy())
        labels.append(targets.classes.numpy())
    return np.concatenate(predicted), np.concatenate(labels)


def test_metrics_are_mmseg_s_also_with_ignored_pixels_and_absent_classes():
    metrics, evidence = evaluated(range(3))
    expected = mmseg(*whole(range(3)))
    assert [metrics["miou"], metrics["macc"], metrics["aacc"]] == pytest.approx(expected, abs=1e-6)
    assert float(mean_iou(evidence.counts.sum(0))) == pytest.approx(expected[0], abs=1e-12)


def test_mean_iou_is_that_of_torchmetrics_where_every_class_occurs():
    logits, targets = drawn(0, absent=99)
    labels = targets.classes.long()
    predicted = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False).argmax(1)
    counts = count_pixels(predicted, targets, K)[:, 0]
    theirs = MulticlassJaccardIndex(K, average="macro", ignore_index=IGNORED)(predicted, labels)
    assert float(mean_iou(counts.sum(0).numpy())) == pytest.approx(float(theirs), abs=1e-6)


def test_a_class_that_is_nowhere_is_left_out_and_one_that_is_only_predicted_is_zero():
    counts = np.array([[2, 0, 0], [2, 3, 0], [4, 0, 0]])
    assert np.array_equal(class_iou(counts), [0.5, 0.0, np.nan], equal_nan=True)
    assert mean_iou(counts) == 0.25 and np.isnan(mean_iou(np.zeros((3, 4))))


def test_the_loss_is_the_mean_over_all_pixels_and_0_without_any_that_counts():
    task, (logits, labels) = Segmentation(), drawn(1)
    resized = F.interpolate(logits, (24, 32), mode="bilinear", align_corners=False)
    each = F.cross_entropy(resized, labels.classes.long(), ignore_index=IGNORED, reduction="none")
    assert float(task.loss([(logits, 1.0)], labels, 0.0)) == pytest.approx(float(each.mean()), rel=1e-6)
    both = task.loss([(logits, 1.0), (2 * logits, 0.4)], labels, 0.0)
    other = F.cross_entropy(2 * resized, labels.classes.long(), ignore_index=IGNORED, reduction="none").mean()
    assert float(both) == pytest.approx(float(each.mean() + 0.4 * other), rel=1e-6)
    evaluated = task.loss(task.for_evaluation(logits, labels), labels, 0.0)
    assert float(evaluated) == pytest.approx(float(each.mean()), rel=1e-6)
    logits.requires_grad_()
    nothing = task.loss([(logits, 1.0)], LabelMaps(torch.full((5, 24, 32), IGNORED, dtype=torch.uint8)), 0.0)
    nothing.backward()
    assert nothing.item() == 0 and not logits.grad.any()


def test_the_pixels_of_a_class_count_by_the_size_of_its_object_in_the_image():
    labels = torch.zeros(2, 4, 4, dtype=torch.uint8)
    labels[0, 0], labels[0, 3], labels[1, 2] = 1, 2, 1
    sizes = torch.tensor([[0.0, 0.1, 0.5], [0.0, 0.5, 0.0]])
    targets = LabelMaps(labels, sizes, ((0.0, 0.2), (0.2, 1.0)))
    predicted = labels.clone().long()
    predicted[0, 3, :2], predicted[0, 1, 0], predicted[1, 0, 0] = 1, 1, 2
    whole, small, large = count_pixels(predicted, targets, 3, targets.ranges).sum(0).numpy()
    assert whole.tolist() == [[18, 8, 2], [18, 11, 3], [20, 8, 4]]
    assert small.tolist() == [[0, 4, 0], [0, 7, 0], [0, 4, 0]], "class 1 in the first image"
    assert large.tolist() == [[0, 4, 2], [0, 4, 2], [0, 4, 4]], "class 2 there, class 1 in the second"


def test_evidence_on_disk_gives_the_metric_of_any_resample(tmp_path):
    metrics, evidence = evaluated(range(4))
    write_evidence(evidence, tmp_path)
    stored = read_evidence(tmp_path)
    assert stored.images == evidence.images and (tmp_path / "evidence.npz").stat().st_size < 10_000
    scores = bootstrap(stored.resampled, stored.units, resamples=20, seed=3)
    rng, n = np.random.default_rng(3), len(stored.scores)
    predicted, labels = whole(range(4))
    for drawn_counts, score in zip(rng.multinomial(n, np.full(n, 1 / n), size=20), scores, strict=True):
        images = np.repeat(np.arange(n), drawn_counts)  # really duplicated
        assert mmseg(predicted[images], labels[images])[0] == pytest.approx(score, abs=1e-12)
    assert float(stored.resampled(np.ones((1, n), int))[0]) == pytest.approx(metrics["miou"], abs=1e-6)


def test_groups_are_resampled_as_wholes(tmp_path):
    _, evidence = evaluated(range(4))
    groups = np.array([3] * 5 + [9] * 7 + [1] * 8)
    write_evidence(evidence, tmp_path, np.append(groups, [4, 4]))  # a smoke test sees fewer images than there are
    stored = read_evidence(tmp_path)
    assert stored.units == 3
    drawn = np.eye(3, dtype=int)  # groups in the order of their numbers
    assert stored.resampled(drawn)[1] == pytest.approx(mean_iou(evidence.counts[:5].sum(0)), abs=1e-12)
    assert np.array_equal(stored.of_images(drawn)[1], groups == 3)
    plain = StoredEvidence(np.arange(20.0), False, "", (), np.empty(0), None, groups)
    assert plain.resampled(drawn).tolist() == [sum(range(12, 20)) / 8, 10 / 5, sum(range(5, 12)) / 7]
    same = _over_images([stored, stored], [stored, stored])
    assert (same.mean, same.low, same.high, same.n) == (0, 0, 0, 3)


def test_a_variant_that_is_better_on_every_image_has_an_interval_above_zero():
    rng = np.random.default_rng(0)
    true = rng.integers(50, 100, (40, K))
    better = PixelEvidence(np.stack([true * 9 // 10, true, true], 1), tuple("abcdefg"))
    worse = PixelEvidence(np.stack([true * 7 // 10, true, true], 1), tuple("abcdefg"))
    stored = [
        StoredEvidence(e.scores, False, e.images, e.class_names, e.per_class(), e.counts) for e in (better, worse)
    ]
    found = _over_images(stored[:1], stored[1:])
    assert 0 < found.low < found.mean < found.high
    assert found.mean == pytest.approx(float(mean_iou(better.counts.sum(0)) - mean_iou(worse.counts.sum(0))))


def run_of(*words):
    return compose(["experiment=segment_earth", "begin_with=null", *words]).variants["conv_stem"]


def test_data_are_seen_as_the_task_needs_them():
    run = run_of("data.batch_size=4")
    data = make_datamodule(run.data, run.recipe, run.seed)
    images, targets = next(iter(data.test_dataloader()))
    assert images.shape == (4, 3, 64, 64) and targets.classes.shape == (4, 64, 64)
    assert targets.classes.dtype == torch.uint8 and targets.sizes is None
    scales = run_of(
        "data=scales", "data.image_size=64", "data.train_images=4", "data.val_images=2", "data.test_images=3"
    )
    data = make_datamodule(scales.data, scales.recipe, scales.seed)
    images, targets = next(iter(data.test_dataloader()))
    scene = scales.data.scene("test", 1)
    assert data.class_names[0] == "background" and len(data.class_names) == 7
    assert np.array_equal(targets.classes[1].numpy(), scene.semantic)
    sizes = np.zeros(7)
    sizes[1 + scene.classes] = scene.sizes / 64
    assert np.allclose(targets.sizes[1].numpy(), sizes, atol=1e-6)
    goal = scales.task.goal(scales.data)
    assert [metric.key for metric in goal.metrics[3:]] == [f"miou_{name}" for name, _ in scales.data.size_ranges()]


@pytest.mark.parametrize("words", [("data=earth",), ("data=scales", "data.image_size=64", "data.train_images=8")])
def test_images_and_labels_are_turned_together(words):
    run = run_of(*words)
    train = make_datamodule(run.data, run.recipe, 3).splits.train
    images, targets = train.__getitems__([(0, 2, 0), (1, 2, 0), (2, 2, 0), (3, 2, 0)])
    again, _ = train.__getitems__([(2, 2, 0)])
    assert torch.equal(again[0], images[2]), "an image follows from its key"
    assert len({tuple(image.flatten().tolist()) for image in images}) > 1
    for image, labels in zip(images, targets.classes, strict=True):  # the turn that gives the first gives its labels
        turns = [(k, flip) for k in range(4) for flip in (False, True)]

        def turned(x, k, flip):
            x = torch.rot90(x, k, (-2, -1))
            return x.flip(-1) if flip else x

        matching = [turn for turn in turns if torch.equal(turned(images[0], *turn), image)]
        assert any(torch.equal(turned(targets.classes[0], *turn), labels) for turn in matching)


def test_tiles_of_earth_that_are_evaluated_do_not_overlap_and_share_no_pixel_with_training():
    from shunted_lab.data.earth.tiles import EARTH, blocks_of, find_map_tiles

    tiles = find_map_tiles()
    seen = {split: np.zeros((2700, 5400), np.uint8) for split in tiles}
    for split, of in tiles.items():
        for y, x in zip(of.y, of.x, strict=True):
            seen[split][y : y + EARTH.tile, x : x + EARTH.tile] += 1
        assert np.array_equal(of.labels, blocks_of(of))
    assert seen["test"].max() == seen["val"].max() == 1
    assert not ((seen["train"] > 0) & ((seen["test"] > 0) | (seen["val"] > 0))).any()
    assert {split: len(of.y) for split, of in tiles.items()} == {"train": 2120, "val": 105, "test": 163}


def test_frozen_statistics_stay_and_their_scale_is_trained():
    run = run_of("recipe.freeze_bn=true")
    module = make_module(run, list("abcdefghi"))
    norms = [layer for layer in module.net.backbone.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    heads = [layer for layer in module.net.head.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert norms and heads
    for _ in range(2):
        module.train()
        assert not any(norm.training for norm in norms) and all(norm.training for norm in heads)
        module.eval()
    assert all(norm.weight.requires_grad for norm in norms)
    assert run_of().freezes_bn is False


@pytest.mark.slow
def test_a_run_that_was_stopped_within_an_epoch_ends_bit_for_bit_as_another(tmp_path):
    words = ["data=scales", "data.image_size=64", "data.train_images=10", "data.val_images=4", "data.test_images=6"]
    words += ["task.head=upernet_lite", "recipe.epochs=2", "recipe.steps_per_epoch=4", "data.batch_size=4"]
    words += ["model.depths=[1,1,1,1]", "model.drop_path_rate=0.3", f"data.cache={tmp_path}/cache"]
    run = run_of(*words, "recipe.warmup_epochs=0", "launch.accelerator=cpu", "launch.pictures=false")
    with pytest.raises(Stopped):
        train(run, tmp_path / "stopped", StopAt(6))
    resumed, whole = train(run, tmp_path / "stopped"), train(run, tmp_path / "whole")
    ends = [{k: v for k, v in each["metrics"].items() if not k.startswith("train/")} for each in (resumed, whole)]
    assert ends[0] == ends[1] and len(ends[0]) == 14 and whole["used"]["train"] == 16
    first, second = (read_evidence(tmp_path / name) for name in ("stopped", "whole"))
    assert np.array_equal(first.counts, second.counts)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.head=upernt"], "task.head: 'upernt' is not known; did you mean 'upernet'"),
        (["task.head={name: upernet, wide: 3}"], "task.head: 'wide' is not an option of 'upernet'"),
        (["task.head=[upernet]"], "task.head: .* is neither a name nor a mapping"),
        (["data=imagenet", "data.root=/x"], "needs images with label map, and data=imagenet has label"),
        (["recipe.mixup=0.8"], "recipe.mixup: 0.8 is not supported for label maps"),
        (["recipe.random_resized_crop=true"], "recipe.random_resized_crop: True is not supported for label maps"),
        (["recipe.repeated_aug=3"], "recipe.repeated_aug: 3 is not supported for label maps"),
        (["recipe.resize_ratio=[0.5,2.0]"], r"recipe.resize_ratio: \[0.5, 2.0\] has no effect on data=earth"),
        (["recipe.photometric_distortion=true"], "recipe.photometric_distortion: True has no effect on data=earth"),
        (["task.head=upernet_lite", "data.batch_size=1"], "leaves 1 image for each device and step"),
        (["recipe.milestones=[3,2]", "recipe.schedule=multistep"], r"recipe.milestones: \[3, 2\] are not ascending"),
        (["recipe.milestones=[3]"], "recipe.milestones: .* have no effect with recipe.schedule=step"),
        (["recipe.steps_per_epoch=5", "recipe.limit_batches=2"], "recipe.limit_batches: 2 is not used together"),
        (
            ["recipe.warmup_steps=5", "recipe.schedule=epoch"],
            "recipe.warmup_steps: 5 needs a rate that changes",
        ),
        (["data.image_size=16"], "data.image_size: 16 is too small"),
    ],
)
def test_bad_input_is_refused_in_one_line(words, message):
    with pytest.raises(ConfigError, match=message):
        run = run_of(*words)
        run.task.build(run.model, 9)


def test_a_classifier_has_no_head_outside_of_its_backbone():
    with pytest.raises(ConfigError, match=r"recipe.head_lr: 10.0 has no effect on task=classification"):
        compose(["experiment=ablate_embed", "recipe.head_lr=10"])


def test_a_classifier_still_refuses_label_maps_only_data():
    with pytest.raises(ConfigError, match="needs images with label, and data=ade20k has label map"):
        compose(["experiment=ablate_embed", "data=ade20k", "data.root=/x", "task=classification"])


def test_nothing_that_counts_gives_no_number():
    labels = LabelMaps(torch.full((1, 8, 8), IGNORED, dtype=torch.uint8))
    evidence = PixelEvidence(count_pixels(torch.zeros(1, 8, 8).long(), labels, K)[:, 0].numpy(), tuple("abcdefg"))
    assert evidence.scores.tolist() == [0] and math.isnan(mean_iou(evidence.counts.sum(0)))


HEAD = """
import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self, channels, num_classes, extra=0):
        super().__init__()
        self.classify = nn.Conv2d(channels[0], num_classes + extra, 1)

    def forward(self, maps):
        return self.classify(maps[0])
"""


def test_a_head_of_one_s_own_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "my_own_head.py").write_text(HEAD)
    monkeypatch.syspath_prepend(tmp_path)
    experiment = compose(["experiment=segment_earth", "begin_with=null", "task.head=my_own_head.Mine"])
    facts = data_facts(experiment)
    costs = count_costs(experiment, facts)
    lite = count_costs(compose(["experiment=segment_earth", "begin_with=null"]), facts)
    assert all(costs[name].params < lite[name].params for name in costs)
    runs = plan_runs(experiment, facts)
    assert len(runs[0].sources["task: my_own_head.Mine"]) == 16
    (tmp_path / "my_own_head.py").write_text(HEAD + "\n# edited\n")
    assert plan_runs(experiment, facts)[0].fingerprint != runs[0].fingerprint
    wrong = compose(["experiment=segment_earth", "begin_with=null", "task.head={name: my_own_head.Mine, extra: 1}"])
    with pytest.raises(
        ConfigError, match=r"head: 'my_own_head.Mine' returns \(1, 10, 16, 16\); expected \(1, 9, h, w\)"
    ):
        count_costs(wrong, facts)


def test_dropout_of_a_head_depends_on_how_a_batch_is_cut():
    assert "pieces of 16 images" in batch_layout(run_of("launch.accumulate=2"))


def test_published_weights_begin_a_segmentation(tmp_path):
    run = run_of()
    net = run.task.build(run.model, 9)
    names = published_names(net.backbone)
    state = {theirs: torch.full_like(net.backbone.state_dict()[ours], 0.5) for ours, theirs in names.items()}
    torch.save({"state_dict": state | {"head.weight": torch.zeros(1000, 8)}}, tmp_path / "official.pth")
    found = load_initial(net, tmp_path / "official.pth", list("abcdefghi"))
    assert found.new_head and found.head == "the file is of another task, and its backbone is taken"
    floats = [v for v in net.backbone.state_dict().values() if v.dtype.is_floating_point]
    assert all((value == 0.5).all() for value in floats) and not (net.head.classifier.conv.weight == 0.5).any()
