"""Evaluation over several devices: each image once, and the numbers of one device."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from shunted_lab.data import module
from shunted_lab.data.module import RankBatches
from shunted_lab.tasks.evidence import read_evidence
from shunted_lab.tasks.predictions import read_predictions

SCRIPT = """
import json, sys
from pathlib import Path

from shunted_lab.config.compose import compose
from shunted_lab.data import make_datamodule
from shunted_lab.tasks.evidence import write_evidence
from shunted_lab.tasks.train import make_module, make_trainer

folder, *words = sys.argv[1:]
run = compose(words).variants["model"]
data = make_datamodule(run.data, run.recipe, run.seed, batch_size=run.per_device_batch_size)
module = make_module(run, data.class_names)
trainer = make_trainer(run, Path(folder), [], progress=False)
found = trainer.validate(module, data, verbose=False)[0] | trainer.test(module, data, verbose=False)[0]
if trainer.is_global_zero:
    module.evidence().write(Path(folder))
    write_evidence(module.evidence(), Path(folder))
    (Path(folder) / "found.json").write_text(json.dumps(found))
"""


@pytest.mark.parametrize(("n", "size", "world"), [(10, 4, 1), (10, 4, 2), (9, 4, 2), (9, 4, 4), (3, 8, 4), (16, 8, 3)])
def test_each_image_is_on_one_rank_and_all_have_as_many_batches(monkeypatch, n, size, world):
    ranks = []
    for rank in range(world):
        monkeypatch.setattr(module, "_ranks", lambda rank=rank: (rank, world))
        ranks.append(RankBatches(n, size))
    assert {len(shares) for shares in ranks} == {-(-n // size)}
    counted = sorted(image for shares in ranks for image in shares.images(len(shares)))
    assert counted == list(range(n))
    assert all(batch and max(batch) < n for shares in ranks for batch in shares)
    # A limit takes the same images, however many ranks there are.
    assert sorted(image for shares in ranks for image in shares.images(1)) == list(range(min(n, size)))
    assert max(len(batch) for shares in ranks for batch in shares) <= -(-size // world)


SCENES = ["data=scales", "data.image_size=64", "data.batch_size=4", "data.val_images=11", "data.test_images=9"]
PIXELS = ["task=segmentation", "task.head=upernet_lite", "recipe=segment_lite"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["data=earth", "data.batch_size=6", "recipe.limit_batches=3"],
        # 9 images in batches of 4: the last one is on one rank only.
        SCENES,
        [*SCENES, *PIXELS],
        [*SCENES, "task=mask_rcnn_lite", "recipe=detect_lite"],
    ],
    ids=["classes", "sizes", "pixels", "objects"],
)
def test_two_processes_measure_what_one_does(tmp_path, words):
    script = tmp_path / "evaluate.py"
    script.write_text(SCRIPT)
    words = ["experiment=train", "model=shunted_lite", "recipe=lite", "launch.accelerator=cpu", *words]
    found, predictions, evidence = [], [], []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        command = [sys.executable, script, folder, *words, f"launch.devices_per_run={devices}"]
        if "data=scales" in words:
            command.append(f"data.cache={tmp_path}/cache")
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(json.loads((folder / "found.json").read_text()))
        predictions.append(read_predictions(folder))
        evidence.append(read_evidence(folder))
    one, two = found
    assert one.keys() == two.keys() and {"val/loss", "test/loss"} < one.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-5 if name.endswith("loss") else 1e-6), name
    assert np.array_equal(evidence[0].scores, evidence[1].scores) and evidence[0].images == evidence[1].images
    if "task=mask_rcnn_lite" in words:
        first, second = (each.marks for each in evidence)
        assert np.array_equal(first.objects, second.objects) and np.array_equal(first.truth, second.truth)
        assert np.allclose(first.scores, second.scores, atol=1e-5) and first.classes.shape == (9, 100)
        return
    if "task=segmentation" in words:
        assert np.array_equal(evidence[0].counts, evidence[1].counts) and evidence[0].counts.shape == (9, 3, 7)
        return
    first, second = predictions
    assert np.array_equal(first.targets, second.targets) and np.array_equal(first.predicted, second.predicted)
    assert len(first.targets) == (18 if "data=earth" in words else 9)
    if first.confidence is not None:
        assert torch.allclose(torch.tensor(first.confidence), torch.tensor(second.confidence), atol=1e-2)
