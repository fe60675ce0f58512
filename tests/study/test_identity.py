"""What makes a run another one: everything that can change its numbers, and nothing else."""

from dataclasses import replace

import pytest
from conftest import planned, queue_of
from PIL import Image

from shunted_lab.config.compose import compose
from shunted_lab.study import identity
from shunted_lab.study.folder import write_note
from shunted_lab.study.identity import LAYOUT, RESULTS, sources_of
from shunted_lab.study.states import read_states
from shunted_lab.tasks.model import batch_layout

WORDS = ["experiment=pretrain_earth", "data.batch_size=16"]


def config(*words, variant="conv_stem"):
    return compose([*WORDS, *words]).variants[variant]


def fingerprint(*words, variant="conv_stem"):
    run = config(*words, variant=variant)
    return run.fingerprint("data", sources_of(run))


@pytest.mark.parametrize(
    ("variant", "words", "expected"),
    [
        ("conv_stem", (), ""),
        ("conv_stem", ("launch.accumulate=4",), "BatchNorm over 4 images"),
        ("conv_stem", ("launch.devices_per_run=2",), "BatchNorm over 16 images"),
        ("conv_stem", ("launch.devices_per_run=2", "recipe.sync_bn=false"), "BatchNorm over 8 images"),
        ("conv_stem", ("launch.devices_per_run=2", "launch.accumulate=2"), "BatchNorm over 8 images"),
        ("overlapping", ("launch.accumulate=4",), ""),
        ("overlapping", ("launch.accumulate=4", "recipe.mixup=0.8"), "pieces of 4 images on 1 devices"),
        ("overlapping", ("launch.devices_per_run=4", "recipe.cutmix=1"), "pieces of 4 images on 4 devices"),
        ("overlapping", ("launch.accumulate=4", "model.drop_path_rate=0.1"), "pieces of 4 images on 1 devices"),
        ("overlapping", ("launch.accumulate=4", "model.drop_rate=0.1"), "pieces of 4 images on 1 devices"),
        ("overlapping", ("launch.accumulate=4", "model.attn_drop_rate=0.1"), "pieces of 4 images on 1 devices"),
    ],
)
def test_the_layout_of_a_batch_counts_where_numbers_depend_on_it(variant, words, expected):
    run = config(*words, variant=variant)
    assert batch_layout(run) == expected
    assert sources_of(run).get(LAYOUT, "") == expected
    # Whether BatchNorm is synchronised is said by the layout, and by nothing else.
    plain = [word for word in words if not word.startswith(("launch.", "recipe.sync_bn"))]
    same = fingerprint(*words, variant=variant) == fingerprint(*plain, variant=variant)
    assert same == (expected == "")


def test_a_component_of_a_user_is_taken_to_depend_on_its_batch(tmp_path, monkeypatch):
    (tmp_path / "noisy_blocks.py").write_text(
        "from torch import nn\n\nclass Noisy(nn.Module):\n    def __init__(self, dim):\n        super().__init__()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = config("model.attn=noisy_blocks.Noisy", "launch.accumulate=4", variant="overlapping")
    assert batch_layout(run) == "pieces of 4 images on 1 devices"


@pytest.mark.parametrize(
    "word",
    [
        "recipe.precision=bf16-mixed",
        "recipe.lr=0.01",
        "model.drop_rate=0.1",
        "data.image_size=96",
        "seeds=[7]",
        "model.mlp=mlp",
    ],
)
def test_what_changes_numbers_makes_another_run(word):
    assert fingerprint(word) != fingerprint()


@pytest.mark.parametrize(
    "word",
    [
        "launch.devices=4",
        "launch.threads=1",
        "launch.num_workers=2",
        "launch.accelerator=cpu",
        "recipe.sync_bn=false",
        "recipe.name=mine",
        "model.name=mine",
        "runs_dir=elsewhere",
    ],
)
def test_what_changes_none_does_not(word):
    assert fingerprint(word) == fingerprint()


RESULT = {"metrics": {"val/top1": 0.5, "test/top1": 0.4}, "headline": "test/top1"}


def test_results_of_another_version_of_this_package_are_stale_and_say_so(tmp_path, monkeypatch):
    experiment = compose([*WORDS, f"runs_dir={tmp_path}", "seeds=[0]"])
    queue, runs = queue_of(experiment), planned(experiment)
    write_note(runs[0])
    queue.adopt([(runs[0], RESULT)])
    assert [state.state for state in read_states(runs, queue.study)] == ["done", "missing", "missing"]

    monkeypatch.setattr(identity, "RESULTS_VERSION", identity.RESULTS_VERSION + 1)
    states = read_states(planned(experiment), queue.study)
    assert [state.state for state in states] == ["stale", "missing", "missing"]
    assert states[0].error == "this version of shunted_lab gives different numbers (results version 1, now 2)"


def test_a_variant_that_is_renamed_keeps_its_runs(tmp_path):
    experiment = compose([*WORDS, f"runs_dir={tmp_path}", "seeds=[0]"])
    queue, runs = queue_of(experiment), planned(experiment)
    write_note(runs[0])
    queue.adopt([(runs[0], RESULT)])
    renamed = {"new" if name == "non_overlapping" else name: run for name, run in experiment.variants.items()}
    found = planned(replace(experiment, variants=renamed))
    assert [state.state for state in read_states(found, queue.study)] == ["done", "missing", "missing"]
    assert (found[0].variant, found[0].folder) == ("new", runs[0].folder)


def test_another_layout_is_another_run(tmp_path):
    experiment = compose([*WORDS, f"runs_dir={tmp_path}", "seeds=[0]"])
    queue = queue_of(experiment)
    queue.adopt([(planned(experiment)[2], RESULT)])
    parts = compose([*WORDS, f"runs_dir={tmp_path}", "seeds=[0]", "launch.accumulate=4"])
    (state,) = read_states(planned(parts)[2:], queue.study)
    assert state.state == "missing"


def test_images_of_another_folder_are_another_run_and_those_that_changed_make_it_stale(tmp_path):
    def images(root, shade):
        for path in (root / split / name / f"{i}.png" for split in ("train", "val") for name in "ab" for i in range(4)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)

    def state(root):
        words = ["experiment=train", "data=folder", f"data.root={tmp_path / root}", f"runs_dir={tmp_path}", "seeds=[0]"]
        experiment = compose(words)
        queue = queue_of(experiment)
        (found,) = read_states(planned(experiment), queue.study)
        return found, queue

    images(tmp_path / "first", 10)
    images(tmp_path / "second", 90)
    found, queue = state("first")
    queue.adopt([(found.run, RESULT)])
    assert [state(root)[0].state for root in ("first", "second")] == ["done", "missing"]
    (tmp_path / "first").rename(tmp_path / "moved")
    assert state("moved")[0].state == "done"  # the same images at another place
    images(tmp_path / "first", 30)
    changed = state("first")[0]
    assert (changed.state, changed.error) == ("stale", "the data have changed")


def test_the_version_of_results_is_part_of_every_run():
    assert sources_of(config())[RESULTS] == "1"
    run = config()
    assert replace(run, seed=5).fingerprint("", {RESULTS: "1"}) != replace(run, seed=5).fingerprint("", {RESULTS: "2"})
