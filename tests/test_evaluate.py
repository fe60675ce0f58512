"""The evaluate command: a run's numbers again, published weights, a hand count, and mistakes in one line."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader

from shunted_lab import evaluate
from shunted_lab.config.compose import compose, value_of
from shunted_lab.config.recipe import LITE_RECIPE
from shunted_lab.data import make_datamodule
from shunted_lab.data.cifar100 import CIFAR100Config
from shunted_lab.data.earth.tiles import CLASS_NAMES, EARTH
from shunted_lab.data.folder import FolderConfig
from shunted_lab.data.image_files import IMAGENET
from shunted_lab.evaluate import EvaluateConfig, compose_evaluate
from shunted_lab.nn import Pyramid, init_weights
from shunted_lab.nn.weights import published_names
from shunted_lab.report.image_statistics import wilson
from shunted_lab.study.folder import find_checkpoint, load_run, write_note
from shunted_lab.study.plan import data_facts, plan_runs
from shunted_lab.tasks.base import TaskModule
from shunted_lab.tasks.checkpoint import load_model
from shunted_lab.tasks.evaluate import evaluate as passes
from shunted_lab.tasks.evaluate import renormalized
from shunted_lab.tasks.model import build_model
from shunted_lab.tasks.train import train

TINY = [
    "model.embed_dims=[8,16,24,32]",
    "model.depths=[1,1,1,1]",
    "model.num_heads=[2,2,2,2]",
    "model.mlp_ratios=[2,2,2,2]",
]
BATCHES = 3


def trained(folder, *words):
    """A run that was trained and tested for some batches, and its result."""
    given = [
        "experiment=train",
        f"runs_dir={folder}",
        "launch.accelerator=cpu",
        "launch.pictures=false",
        "recipe.epochs=1",
        "data.batch_size=16",
    ]
    experiment = compose([*given, f"recipe.limit_batches={BATCHES}", *TINY, *words])
    run = plan_runs(experiment, data_facts(experiment))[0]
    write_note(run)
    return run.folder, train(run.config, run.folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def net():
    """A tiny model with a head for two classes."""
    model = build_model(compose(["experiment=train", "model=shunted_s", *TINY]).config.model, 2)
    init_weights(model, 0)
    return model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of two classes, with 3 and 5 images of noise on the test split."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, counts in (("train", (2, 2)), ("val", (3, 5))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (80, 100, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def of_file(path, pictures, *more):
    words = [f"checkpoint={path}", "model=shunted_s", *TINY, "data=folder", f"data.root={pictures}", "device=cpu"]
    return [*words, "data.image_size=64", "data.batch_size=3", *more]


def refused(words, message, capsys):
    """Exit status 1 and one line."""
    assert evaluate.main(words) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1 and re.search(message, errors), errors


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_runs_numbers_come_out_again(run, split):
    folder, result = run
    found = evaluate.show([f"checkpoint={folder}", f"limit_batches={BATCHES}", "device=cpu", f"split={split}"])
    assert set(found["metrics"]) == {f"{split}/loss", f"{split}/top1", f"{split}/top5"}
    for key, value in found["metrics"].items():
        assert value == result["metrics"][key], key
    assert found["images"] == BATCHES * 16 and found["of_images"] == result["sizes"][split]


def test_the_whole_split_is_taken_and_counts_as_torch_does(run):
    found = evaluate.show([f"checkpoint={run[0]}", "device=cpu", "data.batch_size=500"])
    assert found["images"] == found["of_images"] == 1550
    right = round(found["metrics"]["test/top1"] * 1550)
    assert found["metrics"]["test/top1"] == pytest.approx(right / 1550)
    assert found["intervals"] == {"test/top1": list(wilson(right, 1550))}


def test_a_run_with_bf16_is_evaluated_as_it_was_tested(tmp_path):
    folder, result = trained(tmp_path, "recipe.precision=bf16-mixed")
    words = [f"checkpoint={folder}", f"limit_batches={BATCHES}", "device=cpu"]
    found = evaluate.show(words)
    assert found["precision"] == "bf16-mixed" and found["metrics"]["test/loss"] == result["metrics"]["test/loss"]
    plain = evaluate.show([*words, "precision=32-true"])["metrics"]["test/loss"]
    assert plain != found["metrics"]["test/loss"] and plain == pytest.approx(found["metrics"]["test/loss"], rel=0.05)


def test_several_labels_an_image_have_their_own_metrics(tmp_path, capsys):
    small = ["data.train_images=48", "data.val_images=16", "data.test_images=40", f"data.cache={tmp_path}"]
    folder, result = trained(tmp_path, "data=scales", "data.image_size=64", *small)
    found = evaluate.show([f"checkpoint={folder}", "device=cpu"])
    assert found["metrics"] == {key: v for key, v in result["metrics"].items() if key.startswith("test/")}
    assert found["intervals"] == {} and "test/recall_small" in found["metrics"]
    shown = capsys.readouterr().out
    assert "SYNTHETIC" in shown and "Small (%)" in shown and "Top-1" not in shown


def test_the_averaged_weights_are_taken(run, tmp_path):
    """Lightning's WeightAveraging: averages in `state_dict`, the others in `current_model_state`."""
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    file = folder / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    content["current_model_state"] = {key: torch.zeros_like(value) for key, value in content["state_dict"].items()}
    torch.save(content, file)
    found = evaluate.show([f"checkpoint={file}", f"limit_batches={BATCHES}", "device=cpu"])
    assert found["metrics"]["test/loss"] == run[1]["metrics"]["test/loss"]


def test_the_best_epoch_is_that_of_a_run_that_selects_it(run, tmp_path):
    folder, _ = trained(tmp_path, "recipe.select=best")
    assert find_checkpoint(str(folder))[1].name == "best.ckpt" and find_checkpoint(str(run[0]))[1].name == "last.ckpt"


def test_a_checkpoint_away_from_its_run_needs_the_model(run, tmp_path):
    shutil.copy(run[0] / "checkpoints" / "last.ckpt", tmp_path / "moved.ckpt")
    words = [f"checkpoint={tmp_path}/moved.ckpt", "model=shunted_lite", *TINY, "data=earth", "data.batch_size=16"]
    found = evaluate.show([*words, f"limit_batches={BATCHES}", "device=cpu"])
    assert found["metrics"]["test/loss"] == run[1]["metrics"]["test/loss"]


def test_data_on_the_command_line_change_those_of_the_run(net, pictures, tmp_path):
    words = [f"data.root={pictures}", "data.image_size=64", "data.batch_size=4"]
    folder, result = trained(tmp_path, "data=folder", *words)
    bare = [f"checkpoint={folder}", "device=cpu"]
    assert evaluate.show(bare)["metrics"]["test/loss"] == result["metrics"]["test/loss"]
    larger = evaluate.show([*bare, "data.image_size=96"])
    assert larger["config"]["data"]["image_size"] == 96 and larger["config"]["data"]["root"] == str(pictures)
    assert larger["metrics"]["test/loss"] != result["metrics"]["test/loss"]


def test_other_data_are_seen_at_the_size_of_the_run_unless_another_is_given(run):
    trained = load_run(run[0]).config
    other = ["checkpoint=x", "data=folder", "data.root=/d"]
    assert compose_evaluate(other, trained).data.image_size == trained.data.image_size == 64
    assert compose_evaluate([*other, "data.image_size=96"], trained).data.image_size == 96
    assert compose_evaluate(other).data.image_size == 224  # a file of weights says nothing of its size
    assert compose_evaluate(["checkpoint=x"], trained).data == trained.data


def test_other_data_are_normalised_as_the_run_s_were(run, tmp_path, capsys):
    """A run on data=earth sees a picture in a folder as it would see it among its tiles, and knows classes by name."""
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for name in CLASS_NAMES:
            (tmp_path / split / name).mkdir(parents=True)
            pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / name / "0.png")
    words = ["data=folder", f"data.root={tmp_path}", "data.crop_pct=1.0", "device=cpu"]
    found = evaluate.show([f"checkpoint={run[0]}", *words])
    assert re.search(r"Image size *│ 64 x 64, centre crop 1 [^;]*bicubic *│", capsys.readouterr().out)
    pixels = np.stack([np.asarray(Image.open(tmp_path / "val" / name / "0.png")) for name in CLASS_NAMES])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in EARTH.stats)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    model = load_model(load_run(run[0]).config.model, run[0] / "checkpoints" / "last.ckpt").net.eval()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(images), torch.arange(9))
    assert found["metrics"]["test/loss"] == pytest.approx(float(loss), rel=1e-5)


def test_renormalized_images_are_those_of_the_other_numbers():
    pixels, cifar = torch.rand(2, 3, 4, 4), CIFAR100Config().stats
    one, other = (
        (pixels - torch.tensor(m).view(3, 1, 1)) / torch.tensor(s).view(3, 1, 1) for m, s in (IMAGENET, cifar)
    )
    torch.testing.assert_close(renormalized(one, IMAGENET, cifar), other)


# --- a file of weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["official", "ours", "state_dict", "model", "parallel", "safetensors"])
def test_every_form_of_the_same_weights_gives_the_same_numbers(net, pictures, tmp_path, form, capsys):
    state, names = net.state_dict(), published_names(net)
    path = tmp_path / f"weights.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(
            {
                "official": {names[key]: value for key, value in state.items()},
                "ours": state,
                "state_dict": {"state_dict": state, "epoch": 3},
                "model": {"model": state},
                "parallel": {f"module.{key}": value for key, value in state.items()},
            }[form],
            path,
        )
    module = TaskModule(net, compose(["experiment=train"]).variants["model"], ("cat", "dog"))
    found = evaluate.show(of_file(path, pictures))
    again = evaluate.show(of_file(path, pictures, "data.batch_size=8"))
    assert found["metrics"]["test/loss"] == pytest.approx(again["metrics"]["test/loss"], rel=1e-5)
    assert again["images_per_second"] is None and "one batch is not timed" in capsys.readouterr().out
    data = make_datamodule(FolderConfig(root=str(pictures), image_size=64, batch_size=3), LITE_RECIPE, 0)
    direct = passes(module, data.test_dataloader(), "test", "cpu")
    assert direct.metrics == found["metrics"] and direct.images == found["images"] == 8


def test_timm_s_names_are_read(pictures, tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("pvt_v2_b0", num_classes=2).eval()
    torch.save(theirs.state_dict(), tmp_path / "b0.pth")
    words = [w for w in of_file(tmp_path / "b0.pth", pictures) if not w.startswith("model")]
    found = evaluate.show([*words, "model=pvt_v2_b0"])
    data = make_datamodule(FolderConfig(root=str(pictures), image_size=64, batch_size=8), LITE_RECIPE, 0)
    images, labels = next(iter(data.test_dataloader()))
    with torch.no_grad():
        logits = theirs(images)
    assert found["metrics"]["test/top1"] == (logits.argmax(1) == labels).float().mean()
    loss = nn.functional.cross_entropy(logits, labels)
    assert found["metrics"]["test/loss"] == pytest.approx(float(loss), rel=1e-4)


def test_top1_is_the_hand_count(net, pictures, tmp_path, capsys):
    """A head that always says the second class is right on its 5 of 8 images."""
    state = {key: value.clone() for key, value in net.state_dict().items()}
    state["head.weight"].zero_()
    state["head.bias"].copy_(torch.tensor([0.0, 1.0]))
    torch.save(state, tmp_path / "second.pth")
    found = evaluate.show(of_file(tmp_path / "second.pth", pictures, f"out={tmp_path}/new/out.json"))
    assert found["metrics"]["test/top1"] == 5 / 8
    assert found["metrics"]["test/loss"] == pytest.approx(np.log1p(np.e) - 5 / 8)
    assert "test/top5" not in found["metrics"]  # two classes
    low, high = stats.binomtest(5, 8).proportion_ci(method="wilson")
    assert found["intervals"] == {"test/top1": [low, high]} and low == pytest.approx(0.3057, abs=1e-4)
    shown = capsys.readouterr().out
    assert re.search(r"Top-1 \(%\) *│ 62\.50  \[30\.57, 86\.32\]", shown)
    assert "64 x 64, centre crop 0.875 of the resized shorter side, bicubic" in shown
    written = json.loads((tmp_path / "new" / "out.json").read_text())
    assert written["metrics"] == found["metrics"] and written["config"]["data"]["crop_pct"] == 0.875
    assert {"torch", "timm", "python"} <= set(written["versions"]) and len(written["sha256"]) == 64
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.json"]


def test_the_test_split_is_enough_where_it_is_tested(net, pictures, tmp_path, capsys):
    torch.save(net.state_dict(), tmp_path / "net.pth")
    with_all = evaluate.show(of_file(tmp_path / "net.pth", pictures))
    shutil.copytree(pictures / "val", tmp_path / "data" / "val")
    alone = evaluate.show(of_file(tmp_path / "net.pth", tmp_path / "data"))
    assert alone["metrics"] == with_all["metrics"] and alone["of_images"] == 8
    refused(of_file(tmp_path / "net.pth", tmp_path / "data", "split=val"), r"data\.root: .*/train is absent", capsys)
    shutil.rmtree(tmp_path / "data" / "val" / "cat")
    refused(
        of_file(tmp_path / "net.pth", tmp_path / "data"), r"has 1 class, .dog.; a classifier needs at least 2", capsys
    )
    shutil.rmtree(tmp_path / "data" / "val")
    refused(of_file(tmp_path / "net.pth", tmp_path / "data"), r"data\.root: .*/val is absent", capsys)


def test_size_and_crop_change_what_is_seen(net, pictures, tmp_path):
    torch.save(net.state_dict(), tmp_path / "net.pth")
    settings = [(64, 0.875), (64, 1.0), (96, 0.875), (96, 1.0)]
    found = [
        evaluate.show(of_file(tmp_path / "net.pth", pictures, f"data.image_size={size}", f"data.crop_pct={crop}"))
        for size, crop in settings
    ]
    assert len({result["metrics"]["test/loss"] for result in found}) == 4
    nearest = evaluate.show(of_file(tmp_path / "net.pth", pictures, "data.interpolation=bilinear"))
    assert nearest["metrics"]["test/loss"] != found[0]["metrics"]["test/loss"]


def test_images_a_second_leave_the_first_batch_out(monkeypatch):
    """A clock that says 100 seconds for the first pass and 2 for each of the others."""
    ticks = iter([0.0, 100.0, 200.0, 202.0, 300.0, 302.0])
    monkeypatch.setattr("shunted_lab.tasks.evaluate.time.perf_counter", lambda: next(ticks))
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    module = TaskModule(net, compose(["experiment=train"]).variants["model"], "abc")
    batches = [(torch.zeros(count, 3, 2, 2), torch.zeros(count, dtype=torch.long)) for count in (4, 4, 2)]
    assert passes(module, DataLoader(batches, batch_size=None), "test", "cpu").images_per_second == 6 / 4


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["checkpoint=none.pth"], "checkpoint: 'none.pth' does not exist"),
        ([f"checkpoint={__file__}"], r"not a checkpoint"),
        (["chekpoint=x"], "chekpoint: no such key; did you mean 'checkpoint'"),
        (["data.crop=1.0"], r"data.crop: no such key; did you mean 'crop_pct'"),
        (["data.image_size=16"], "data.image_size: 16 is too small for four stages"),
        (["model=shunted_x"], "model: 'shunted_x' is not known; did you mean 'shunted_"),
        (["model=pvt_v2_b0"], r"does not fit pvt_v2_b0: missing: stages.*; not in the model: .* more; shapes: "),
        (["model.mlp_ratios=[4,4,4,4]"], r"shapes: stages\.0\.blocks\.0\.mlp\.fc1\.weight is 16x8 and not 32x8"),
        (["split=train"], "split: 'train' is not known; choices: test, val"),
        (["device=gpu"], "device: 'gpu' is not known"),
        (["precision=8"], "precision: '8' is not known"),
        (
            ["precision=16-mixed"],
            "precision: '16-mixed' is not available on this machine's cpu; choices: 32-true, bf16-mixed",
        ),
        (["limit_batches=0"], "limit_batches: 0 is too small"),
        (["num_workers=-1"], "num_workers: -1 is negative"),
        (["out=result.txt"], "out: 'result.txt' is not a .json file"),
        ([f"out={__file__}/out.json"], "out: .* cannot be written"),
        (["data.root=/none"], "data.root: '/none' does not exist"),
    ],
)
def test_a_mistake_is_one_line(net, pictures, tmp_path, capsys, changes, message):
    torch.save(net.state_dict(), tmp_path / "net.pth")
    words = of_file(tmp_path / "net.pth", pictures, *changes)
    if changes[0].startswith("model=pvt"):
        words = [word for word in words if word not in TINY and word != "model=shunted_s"]
    elif changes[0].startswith(("model=", "checkpoint=", "data.image_size")):
        words = [word for word in words[:-1] if not word.startswith(changes[0].partition("=")[0] + "=")] + changes
    elif changes[0].startswith(("data.root", "model.mlp")):
        words = [word for word in words[:-1] if not word.startswith(changes[0].partition("=")[0])] + changes
    refused(words, message, capsys)


def test_words_without_a_checkpoint_are_refused(capsys):
    refused(["data=earth"], "checkpoint: has no value; give it as checkpoint=", capsys)
    refused([], "checkpoint: has no value", capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there_is_refused(run, capsys):
    refused([f"checkpoint={run[0]}", "device=cuda"], "device: this machine has no 'cuda'; choices: cpu", capsys)


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_damaged_file_is_refused(net, pictures, tmp_path, capsys, suffix):
    path = tmp_path / f"net.{suffix}"
    save = save_file if suffix == "safetensors" else torch.save
    save({key: value.contiguous() for key, value in net.state_dict().items()}, path)
    path.write_bytes(path.read_bytes()[:2000])
    refused(of_file(path, pictures), r"^error: checkpoint: .*is truncated, or not a checkpoint", capsys)


def test_pickled_code_is_refused_with_what_to_do(pictures, tmp_path, capsys):
    torch.save({"model": {"head.weight": torch.ones(2, 2)}, "args": Bomb()}, tmp_path / "bomb.pth")
    message = r"more than tensors.*; nothing in it was executed; if you trust its source, load it elsewhere and"
    assert evaluate.main(of_file(tmp_path / "bomb.pth", pictures)) == 1
    shown = capsys.readouterr()
    assert re.search(message, shown.err) and shown.err.count("\n") == 1 and "executed\n" not in shown.out


def test_a_head_for_other_classes_is_refused_and_both_numbers_named(net, run, pictures, tmp_path, capsys):
    torch.save(net.state_dict(), tmp_path / "net.pth")
    words = [f"checkpoint={tmp_path}/net.pth", "model=shunted_s", *TINY, "data=earth"]
    refused(words, "has a head for 2 classes, and the data have 9 classes", capsys)
    words = [f"checkpoint={run[0]}", "data=folder", f"data.root={pictures}"]
    message = (
        r"has a head for other classes .*: only the file has 'water', .* and 6 more; only the data have 'cat', 'dog'"
    )
    refused(words, message, capsys)
    headless = {key: value for key, value in net.state_dict().items() if not key.startswith("head.")}
    torch.save(headless, tmp_path / "net.pth")
    refused(of_file(tmp_path / "net.pth", pictures), "has no head that classifies, and the data have 2", capsys)
    torch.save(headless | {"head.weight": torch.ones(2, 32)}, tmp_path / "net.pth")
    refused(of_file(tmp_path / "net.pth", pictures), r"missing: head\.bias", capsys)


def test_another_model_than_the_runs_is_refused(run, capsys):
    refused(
        [f"checkpoint={run[0]}", "model=shunted_s"], r"model\.embed_dims: .* differs from the run's, \[8, 16", capsys
    )
    refused(
        [f"checkpoint={run[0]}", "model.rates=[[1],[1],[1],[1]]"], r"model\.rates: .* differs from the run's", capsys
    )
    same = [f"checkpoint={run[0]}", "model=shunted_lite", *TINY, "limit_batches=1", "device=cpu"]
    assert evaluate.main(same) == 0


def test_tiles_that_were_trained_on_are_not_tested(run, capsys):
    refused(
        [f"checkpoint={run[0]}", "data=earth32"],
        r"data: earth32 splits the same pictures otherwise than the run's, earth, so its weights have seen ",
        capsys,
    )


def test_a_run_without_a_finished_epoch_is_refused(run, tmp_path, capsys):
    shutil.copy(run[0] / "run.json", tmp_path / "run.json")
    refused([f"checkpoint={tmp_path}"], "the run has not finished an epoch", capsys)
    (tmp_path / "empty").mkdir()
    refused([f"checkpoint={tmp_path}/empty"], "is not a run's folder: it has no run.json", capsys)


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_quoted_value_is_read_without_its_quotes():
    assert value_of("checkpoint", ["data=earth", "checkpoint='a b=c.pth'"], EvaluateConfig) == "a b=c.pth"
    assert value_of("checkpoint", ["data=earth"], EvaluateConfig) is None


def test_a_larger_image_goes_through_the_same_weights(run, capsys):
    assert isinstance(build_model(find_checkpoint(str(run[0]))[0].config.model, 9), Pyramid)
    for size in (64, 96):
        found = evaluate.show([f"checkpoint={run[0]}", f"data.image_size={size}", "limit_batches=1", "device=cpu"])
        assert found["images"] == 16
        assert ("trained at 64 x 64" in capsys.readouterr().out) == (size == 96)


def test_a_mistake_in_the_words_is_answered_without_torch(run):
    code = f"import sys; from shunted_lab.evaluate import main; main(['checkpoint={run[0]}', 'data.size=1']); "
    code += "print(sorted({'torch', 'timm', 'lightning'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n" and "data.size: no such key" in done.stderr


def test_help_lists_the_keys():
    done = subprocess.run([sys.executable, "-m", "shunted_lab.evaluate", "--help"], capture_output=True, text=True)
    assert (
        done.returncode == 0
        and "  split: str = test" in done.stdout
        and "  data.crop_pct: float = 0.875" in done.stdout
    )
