"""One small detection study on synthetic scenes, through every command that looks at it."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("pycocotools")

import torch
from PIL import Image
from pycocotools import mask as coco_mask

from shunted_lab import Study, attention, evaluate, load_run, predict
from shunted_lab import run as run_command
from shunted_lab.config.compose import compose
from shunted_lab.report.collect import class_intervals, class_scores, image_evidence
from shunted_lab.report.detections import precision_curves, size_scores
from shunted_lab.tasks.average_precision import class_ap, mean_ap, score
from shunted_lab.tasks.checkpoint import load_initial

TINY = ["model.depths=[1,1,1,1]", "model.mlp_ratios=[2,2,2,2]", "data.image_size=64", "data.batch_size=4"]
FEW = ["data.train_images=64", "data.val_images=8", "data.test_images=20", "recipe.epochs=2", "recipe.warmup_epochs=0"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """`detect_scales` with one seed and two of its variants."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["experiment=detect_scales", f"runs_dir={folder}", f"data.cache={folder}/cache", "seeds=[0]"]
    words += ["only=[one_rate,ssa]", "launch.accelerator=cpu", "launch.measure=false", *TINY, *FEW]
    assert run_command.main(words) == 0
    return Study(folder / "detect_scales")


def folder_of(study, variant="ssa", seed=0):
    return study.run_folder(variant, seed)


def test_the_table_has_both_kinds_of_precision_sizes_and_both_counts_of_macs(study):
    head = str(study.table).splitlines()[2]
    for column in ("GMACs w/o attn", "Box AP (%)", "AP50 (%)", "AP75 (%)", "AP small", "AP large", "Mask AP (%)"):
        assert column in head
    assert "SYNTHETIC" in str(study.table)


def test_evidence_is_the_metrics_of_the_table(study):
    for run in study.data.runs:
        if run.state.result is None:
            continue
        marks, metrics = run.evidence.marks, run.state.result["metrics"]
        assert marks.forms == ("box", "mask") and marks.areas == ("small", "medium", "large")
        assert run.value == pytest.approx(score(marks), abs=1e-6)
        assert metrics["test/mask_ap50"] == pytest.approx(score(marks, 0, 1), abs=1e-6)
        assert metrics["test/box_ap_large"] == pytest.approx(score(marks, None, 0, 3), abs=1e-6)
        assert marks.objects[..., 0].sum() == 2 * 20, "every scene has two objects"
        assert (marks.objects[..., 0] == marks.objects[..., 1:].sum(2)).all(), "each is of one size"
        assert metrics["test/loss"] > 0 and metrics["val/loss"] > 0


def test_classes_sizes_and_differences_have_intervals_over_the_images(study):
    data = study.data
    names, scores = class_scores(data)
    assert set(names) == {"disc", "ring", "square", "triangle", "cross", "bar"} and set(scores) == {"one_rate", "ssa"}
    assert set(class_intervals(data)) == {"one_rate", "ssa"}
    rows, values, ends = size_scores(data)
    assert rows[0] == "boxes, all" and rows[-1] == "masks, large" and len(rows) == 8
    for variant, (low, high) in ends.items():
        marks = data.of(variant)[0].evidence.marks
        assert values[variant][0] == pytest.approx(float(mean_ap(class_ap(marks))[0]))
        known = ~np.isnan(values[variant])
        assert (np.array(low)[known] <= np.array(high)[known]).all()
    curves = precision_curves(data)
    assert list(curves) == ["IoU 0.50", "IoU 0.75"] and len(curves["IoU 0.50"]["ssa"]) == 101
    (found,) = list(image_evidence(data))
    assert found.variant == "ssa" and found.bootstrap.low <= found.bootstrap.mean <= found.bootstrap.high


def test_examples_show_truth_and_prediction_and_the_page_the_curves(study):
    picture = np.asarray(Image.open(folder_of(study) / "examples.png"))
    assert picture.shape[1] == 2 * 256 and picture.shape[0] > 4 * 256
    page = (study.folder / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    for title in ("Precision and recall", "AP by the size of the object", "Box AP of each class"):
        assert title in page


def test_evaluate_gives_the_run_s_numbers_with_an_interval(study, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert evaluate.main([f"checkpoint={folder_of(study)}", f"out={out}", "device=cpu"]) == 0
    said, found = capsys.readouterr().out, json.loads(out.read_text())
    result = json.loads((folder_of(study) / "result.json").read_text())
    for key, value in found["metrics"].items():
        assert value == pytest.approx(result["metrics"][key], abs=1e-6, nan_ok=True), key
    low, high = found["intervals"]["test/box_ap"]
    assert low <= found["metrics"]["test/box_ap"] <= high and "(95 %, over images)" in said
    (tmp_path / "weights.ckpt").write_bytes((folder_of(study) / "checkpoints" / "last.ckpt").read_bytes())
    config = load_run(folder_of(study)).config
    loose = [f"checkpoint={tmp_path}/weights.ckpt", f"out={out}", "device=cpu", "task=mask_rcnn_lite", "data=scales"]
    loose += ["model=shunted_lite", f"model.embed_dims={config.model.embed_dims}", *TINY, *FEW[:3]]
    loose += [f"data.cache={config.data.cache}"]
    assert evaluate.main(loose) == 0, "a file away from its run"
    assert json.loads(out.read_text())["metrics"] == pytest.approx(found["metrics"])
    assert evaluate.main([f"checkpoint={folder_of(study)}", "task=retinanet_lite", "device=cpu"]) == 1
    assert "does not fit" in capsys.readouterr().err


def test_predict_writes_objects_that_are_those_of_the_test(study, tmp_path, capsys):
    run = load_run(folder_of(study))
    scene = run.config.data.scene("test", 3)
    (tmp_path / "photos").mkdir()
    Image.fromarray(scene.image).save(tmp_path / "photos" / "scene.png")
    Image.fromarray(scene.image).resize((300, 200)).save(tmp_path / "photos" / "wide.jpg")
    words = [f"checkpoint={folder_of(study)}", f"image={tmp_path}/photos", "score=0.0", "device=cpu"]
    assert predict.main([*words, f"out={tmp_path}/out"]) == 0
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    first, wide = found["images"]
    marks = study.evidence("ssa", 0).marks
    known = marks.classes[3] >= 0
    assert [run.class_names.index(each["class"]) for each in first["objects"]] == marks.classes[3][known].tolist()
    assert [each["score"] for each in first["objects"]] == pytest.approx(marks.scores[3][known].tolist(), abs=1e-4)
    assert (wide["width"], wide["height"]) == (300, 200)
    for each in wide["objects"]:
        x0, y0, x1, y1 = each["box"]
        assert 0 <= x0 <= x1 <= 300 and 0 <= y0 <= y1 <= 200 and each["mask"]["size"] == [200, 300]
        assert coco_mask.decode(each["mask"]).shape == (200, 300)
    assert np.asarray(Image.open(tmp_path / "out" / "wide.jpg.png")).shape == (200, 300, 3)
    assert predict.main([*words, f"out={tmp_path}/out"]) == 1
    assert "has a predictions.json; give another folder, or overwrite=true" in capsys.readouterr().err
    assert predict.main([*words, f"out={tmp_path}/out", "overwrite=true"]) == 0


def test_a_trained_detector_in_python_and_its_attention(study, tmp_path):
    run = load_run(folder_of(study))
    scene = run.config.data.scene("test", 0)
    with torch.no_grad():
        (found,) = run.model(run.transform(Image.fromarray(scene.image))[None]).detections
    assert len(found.scores) == int((study.evidence("ssa", 0).marks.classes[0] >= 0).sum())
    Image.fromarray(scene.image).save(tmp_path / "image.png")
    words = [f"checkpoint={folder_of(study)}", f"image={tmp_path}/image.png", f"out={tmp_path}/out.png"]
    assert attention.main(words) == 0 and (tmp_path / "out.png").stat().st_size > 10_000


def test_weights_of_a_detector_start_other_networks_and_the_reverse(study):
    file = folder_of(study) / "checkpoints" / "last.ckpt"
    run = load_run(folder_of(study))
    state = torch.load(file, weights_only=True)["state_dict"]
    names = run.class_names

    def built(task, experiment="detect_scales", variant="ssa"):
        words = [f"experiment={experiment}", *([f"task={task}"] if task else [])]
        made = compose(words).variants[variant].task
        return made.build(run.config.model, len(names))

    same = built("mask_rcnn_lite")
    assert not load_initial(same, file, names).new_head
    assert torch.equal(same.head.box_predictor.cls_score.weight, state["net.head.box_predictor.cls_score.weight"])
    for net in (built("retinanet_lite"), built(None, "segment_scales"), built(None, "ablate_embed", "conv_stem")):
        found = load_initial(net, file, names)
        assert found.new_head and found.head.startswith("the file is of another task")
        weight = getattr(net, "backbone", net).state_dict()["stages.0.norm.weight"]
        assert torch.equal(weight, state["net.backbone.stages.0.norm.weight"])
