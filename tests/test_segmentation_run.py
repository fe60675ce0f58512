"""One small segmentation study on synthetic scenes, through every command that looks at it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from shunted_lab import Study, attention, evaluate, load_run, predict
from shunted_lab import run as run_command
from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.nn.segmentation.layers import resized
from shunted_lab.report.collect import class_intervals, class_scores, image_evidence
from shunted_lab.tasks.checkpoint import load_initial
from shunted_lab.tasks.iou import class_iou, mean_iou

TINY = ["model.depths=[1,1,1,1]", "model.mlp_ratios=[2,2,2,2]", "data.image_size=64", "data.batch_size=8"]
FEW = ["data.train_images=32", "data.val_images=8", "data.test_images=20", "recipe.epochs=1", "recipe.warmup_epochs=0"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """`segment_scales` with two seeds and two of its variants."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["experiment=segment_scales", f"runs_dir={folder}", f"data.cache={folder}/cache", "seeds=[0,1]"]
    words += ["task.head=upernet_lite", "launch.accelerator=cpu", "launch.measure=false", *TINY, *FEW]
    assert run_command.main(words) == 0
    return Study(folder / "segment_scales")


def run_of(study, variant="ssa", seed=0):
    return study.run_folder(variant, seed)


def test_the_table_has_sizes_and_both_counts_of_macs(study):
    text = str(study.table)
    head = text.splitlines()[2]
    for column in ("GMACs | GMACs w/o attn", "mIoU (%)", "mAcc (%)", "aAcc (%)", "mIoU small", "mIoU large"):
        assert column in head
    assert "SYNTHETIC" in text and "miou" in study.runs.columns[-20:].str.cat() + study.runs.columns.str.cat()


def test_evidence_is_the_metric_of_the_table(study):
    for run in study.data.runs:
        counts = run.evidence.counts
        assert counts.shape == (20, 3, 7) and run.evidence.groups is None
        assert run.value == pytest.approx(float(mean_iou(counts.sum(0))), abs=1e-6)
        assert (counts[:, 2].sum(1) == 64 * 64).all(), "every pixel of a scene counts"
        assert float(run.evidence.resampled(np.ones((1, 20), int))[0]) == pytest.approx(run.value, abs=1e-6)


def test_classes_and_differences_have_intervals_over_the_images(study):
    data = study.data
    names, scores = class_scores(data)
    ends = class_intervals(data)
    assert names[0] == "background" and set(ends) == {"one_rate", "sra", "ssa"}
    for variant, (low, high) in ends.items():
        of = [class_iou(run.evidence.counts.sum(0)) for run in data.of(variant)]
        assert scores[variant] == pytest.approx(np.mean(of, 0).tolist(), nan_ok=True)
        known = ~np.isnan(scores[variant])
        assert (np.array(low)[known] <= np.array(scores[variant])[known] + 1e-9).all()
        assert (np.array(scores[variant])[known] <= np.array(high)[known] + 1e-9).all()
    for found in image_evidence(data):
        assert found.baseline == "one_rate" and not found.mcnemar
        assert found.bootstrap.low <= found.bootstrap.mean <= found.bootstrap.high


def test_examples_show_truth_and_prediction(study):
    picture = np.asarray(Image.open(run_of(study) / "examples.png"))
    assert picture.shape[1] == 4 * 128 and picture.shape[0] > 4 * 128
    page = (study.folder / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "ssa, seed 0" in page and "mIoU of each class" in page
    copy = Study(study.folder)
    (run_of(study) / "examples.png").rename(run_of(study) / "gone.png")
    copy.report()
    assert (study.folder / "report" / "index.html").read_text().count("data:image/png;base64,") == 3  # of seed 1
    (run_of(study) / "gone.png").rename(run_of(study) / "examples.png")


def test_evaluate_gives_the_run_s_numbers_with_an_interval(study, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert evaluate.main([f"checkpoint={run_of(study)}", f"out={out}", "device=cpu"]) == 0
    said, found = capsys.readouterr().out, json.loads(out.read_text())
    result = json.loads((run_of(study) / "result.json").read_text())
    for key, value in found["metrics"].items():
        assert value == pytest.approx(result["metrics"][key], abs=1e-6), key
    low, high = found["intervals"]["test/miou"]
    assert low <= found["metrics"]["test/miou"] <= high and "(95 %, over images)" in said
    assert evaluate.main([f"checkpoint={run_of(study)}", "data=earth", "device=cpu"]) == 1
    assert "has a head for other classes than the data have: only the file has 'background'" in capsys.readouterr().err


def test_a_trained_run_in_python(study):
    run = load_run(run_of(study))
    scene = run.config.data.scene("test", 3)
    with torch.no_grad():
        logits = run.model(run.transform(Image.fromarray(scene.image))[None])
    predicted = resized(logits, (64, 64)).argmax(1)[0].numpy()
    counts = study.evidence("ssa", 0).counts[3]
    assert np.bincount(predicted.ravel(), minlength=7).tolist() == counts[1].tolist()
    assert run.class_names[0] == "background"


def test_predict_writes_a_label_map_as_large_as_the_image(study, tmp_path, capsys):
    scene = load_run(run_of(study)).config.data.scene("test", 3)
    Image.fromarray(scene.image).save(tmp_path / "scene.png")
    Image.fromarray(scene.image).resize((100, 70)).save(tmp_path / "wide.png")
    out = tmp_path / "out"
    assert predict.main([f"checkpoint={run_of(study)}", f"image={tmp_path}/*.png", f"out={out}", "device=cpu"]) == 0
    found = json.loads((out / "predictions.json").read_text())
    labels = np.asarray(Image.open(out / found["images"][0]["label_map"]))
    assert np.bincount(labels.ravel(), minlength=7).tolist() == study.evidence("ssa", 0).counts[3][1].tolist()
    assert sum(each["share"] for each in found["images"][1]["classes"]) == pytest.approx(1, abs=0.001)
    assert np.asarray(Image.open(out / found["images"][1]["label_map"])).shape == (70, 100)
    assert f"{tmp_path}/scene.png: " in capsys.readouterr().out


def test_attention_of_a_segmentation_run_is_drawn(study, tmp_path):
    scene = load_run(run_of(study)).config.data.scene("test", 0)
    Image.fromarray(scene.image).save(tmp_path / "image.png")
    words = [f"checkpoint={run_of(study)}", f"image={tmp_path}/image.png", f"out={tmp_path}/out.png"]
    assert attention.main(words) == 0 and (tmp_path / "out.png").stat().st_size > 10_000


def network(study, head="upernet_lite", classes=7, task="segmentation"):
    run = load_run(run_of(study)).config
    made = compose(["experiment=segment_scales", f"task.head={head}", *TINY]).variants["ssa"].task
    if task == "classification":
        made = compose(["experiment=ablate_embed"]).variants["conv_stem"].task
    return made.build(run.model, classes)


def test_weights_of_a_segmentation_run_start_other_networks(study):
    file = run_of(study) / "checkpoints" / "last.ckpt"
    names = load_run(run_of(study)).class_names
    state = torch.load(file, weights_only=True)["state_dict"]
    same = network(study)
    assert not load_initial(same, file, names).new_head
    assert torch.equal(same.head.classifier.conv.weight, state["net.head.classifier.conv.weight"])
    for net, head in (
        (network(study, "segformer_lite"), "the file is of another task"),
        (network(study, task="classification"), "the file is of another task"),
        (network(study), "the file is of other classes: only the file has 'background'"),
    ):
        other = names if "task" in head else ["x", *names[1:]]
        found = load_initial(net, file, other)
        backbone = getattr(net, "backbone", net)
        assert found.new_head and found.head.startswith(head)
        weight = backbone.state_dict()["stages.0.norm.weight"]
        assert torch.equal(weight, state["net.backbone.stages.0.norm.weight"])
    with pytest.raises(ConfigError, match="does not fit the model"):
        wide = compose(["experiment=segment_scales", "model.embed_dims=[8,16,32,64]", *TINY]).variants["ssa"]
        load_initial(wide.task.build(wide.model, 7), file, names)
