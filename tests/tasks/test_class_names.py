"""Heads are matched to the classes of the data by name: in evaluation, and where training begins with weights."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shunted_lab import evaluate
from shunted_lab.config.compose import compose
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import check_data
from shunted_lab.nn import init_weights
from shunted_lab.study.folder import write_note
from shunted_lab.study.plan import data_facts, initial_weights, plan_runs
from shunted_lab.tasks.callbacks import Stopped
from shunted_lab.tasks.checkpoint import load_initial
from shunted_lab.tasks.listener import RunListener
from shunted_lab.tasks.model import build_model
from shunted_lab.tasks.train import make_module, train

CLASSES = ["Bird", "cat", "dog"]
TINY = [
    "model.embed_dims=[8,16,24,32]",
    "model.depths=[1,1,1,1]",
    "model.num_heads=[2,2,2,2]",
    "model.mlp_ratios=[2,2,2,2]",
]
LAUNCH = ["launch.accelerator=cpu", "launch.pictures=false"]
SHORT = ["recipe.epochs=1", "recipe.warmup_epochs=0", "data.image_size=32", "data.batch_size=4"]


def photos(root: Path, names: list[str]) -> Path:
    """The same images in folders of these names, six of each class for training and three for the test."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (36, 40, 3), np.uint8)).save(root / split / name / f"{number}.png")
    return root


def config(root: Path, *words: object) -> RunConfig:
    given = ["experiment=train", *TINY, *LAUNCH, *SHORT, "data=folder", f"data.root={root}", *map(str, words)]
    return compose(given).variants["model"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return photos(tmp_path_factory.mktemp("data"), CLASSES)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """The folder of a run that was trained on `CLASSES`."""
    words = ["experiment=train", *TINY, *LAUNCH, *SHORT, "data=folder", f"data.root={data}"]
    experiment = compose([*words, f"runs_dir={tmp_path_factory.mktemp('runs')}"])
    planned = plan_runs(experiment, data_facts(experiment))[0]
    write_note(planned)
    result = train(planned.config, planned.folder)
    (planned.folder / "result.json").write_text(json.dumps(result))
    return planned.folder


def content(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def other_order(run: Path, path: Path, names: list[str]) -> Path:
    """The checkpoint of a run as one that was trained on data that number the classes as in `names`."""
    found = content(run)
    rows = [CLASSES.index(name) for name in names]
    for key in ("net.head.weight", "net.head.bias"):
        found["state_dict"][key] = found["state_dict"][key][rows]
    torch.save(found | {"class_names": names}, path)
    return path


def shown(capsys, *words: object) -> tuple[dict, str]:
    found = evaluate.show([*map(str, words), "device=cpu"])
    return found, " ".join(re.sub("[│┃]", " ", capsys.readouterr().out).split())


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_says_the_classes_of_its_head(run):
    assert content(run)["class_names"] == CLASSES


def test_a_run_is_tested_on_its_own_classes_by_name(run, capsys):
    found, said = shown(capsys, f"checkpoint={run}")
    assert found["metrics"]["test/loss"] == json.loads((run / "result.json").read_text())["metrics"]["test/loss"]
    assert found["classes"] == "matched by name" and "Classes matched by name" in said
    assert found["weights"] == "its entry 'state_dict'" and "last.ckpt; its entry 'state_dict'" in said


@pytest.mark.parametrize("names", [["dog", "Bird", "cat"], ["cat", "dog", "Bird"]])
def test_classes_in_another_order_give_the_same_numbers(run, data, tmp_path, capsys, names):
    file = other_order(run, tmp_path / "other.ckpt", names)
    words = [f"checkpoint={file}", "model=shunted_lite", *TINY, "data=folder", f"data.root={data}", *SHORT[2:]]
    found, said = shown(capsys, *words)
    expected = json.loads((run / "result.json").read_text())["metrics"]
    assert found["metrics"] == {key: value for key, value in expected.items() if key.startswith("test/")}
    assert "Classes matched by name, in the order of the data" in said


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["bird", "Cat", "dog"],
            r"only the file has 'Bird' \(nearest: 'bird'\), 'cat' \(nearest: 'Cat'\); "
            r"only the data have 'Cat' \(nearest: 'cat'\), 'bird' \(nearest: 'Bird'\)$",
        ),
        (["x", "y", "z"], r"only the file has 'Bird', 'cat', 'dog'; only the data have 'x', 'y', 'z'$"),
        (["Bird", "cat"], r"only the file has 'dog'$"),
        ([*CLASSES, *"pqrst"], r"only the data have 'p', 'q', 'r' and 2 more$"),
    ],
)
def test_other_classes_are_refused_with_the_names_that_differ(run, tmp_path, capsys, names, message):
    assert evaluate.main([f"checkpoint={run}", f"data.root={photos(tmp_path, names)}", "device=cpu"]) == 1
    error = capsys.readouterr().err
    assert re.search(rf"last\.ckpt has a head for other classes than the data have: {message}", error.strip()), error
    assert error.count("\n") == 1


def test_weights_without_names_are_matched_by_position_and_the_table_says_so(run, tmp_path, capsys):
    found = content(run)
    del found["class_names"]
    torch.save(found, tmp_path / "published.ckpt")
    words = ["model=shunted_lite", *TINY, "data=folder", *SHORT[2:]]
    words += [f"checkpoint={tmp_path / 'published.ckpt'}", f"data.root={photos(tmp_path, ['x', 'y', 'z'])}"]
    found, said = shown(capsys, *words)
    assert found["classes"] == "matched by position (the file has no class names)" and found["classes"] in said


# --- training that begins with weights -------------------------------------------------------------------------------


def head_of(run: Path) -> torch.Tensor:
    return content(run)["state_dict"]["net.head.weight"]


def begun(run: Path, file: Path | str, names: list[str]) -> tuple[torch.Tensor, object]:
    """The head that a training on classes of these names begins with, and what is said of it."""
    net = build_model(config(run).model, len(names))
    init_weights(net, 5)
    initial = load_initial(net, file, names)
    return net.head.weight.detach(), initial


def fresh(run: Path, count: int) -> torch.Tensor:
    net = build_model(config(run).model, count)
    init_weights(net, 5)
    return net.head.weight.detach()


def test_the_head_is_kept_and_its_rows_are_put_into_the_order_of_the_data(run):
    file = run / "checkpoints" / "last.ckpt"
    head, initial = begun(run, file, CLASSES)
    assert torch.equal(head, head_of(run)) and str(initial) == "its entry 'state_dict'; its classes are matched by name"
    head, initial = begun(run, file, ["dog", "Bird", "cat"])
    assert torch.equal(head, head_of(run)[[2, 0, 1]]) and not initial.new_head
    assert str(initial).endswith("its classes are matched by name, in the order of the data")


@pytest.mark.parametrize("names", [["Cat", "bird", "dog"], ["x", "y", "z"], ["cat", "dog"], [*CLASSES, "fox"]])
def test_the_head_is_re_initialized_for_other_classes_also_if_they_are_as_many(run, names):
    head, initial = begun(run, run / "checkpoints" / "last.ckpt", names)
    assert torch.equal(head, fresh(run, len(names))) and initial.new_head
    assert "its head is re-initialized: it has a head for other classes than the data have: only the " in str(initial)


def test_without_names_the_number_of_classes_decides(run, tmp_path):
    found = content(run)
    del found["class_names"]
    torch.save(found, tmp_path / "published.ckpt")
    head, initial = begun(run, tmp_path / "published.ckpt", ["x", "y", "z"])
    assert torch.equal(head, head_of(run)) and "matched by position (the file has no class names)" in str(initial)
    head, initial = begun(run, tmp_path / "published.ckpt", ["x", "y"])
    assert torch.equal(head, fresh(run, 2)) and "has a head for 3 classes, and the data have 2 classes" in str(initial)


def test_a_backbone_without_a_head_gets_a_new_one(run, tmp_path):
    state = {name: value for name, value in content(run)["state_dict"].items() if "head." not in name}
    torch.save(state, tmp_path / "backbone.pth")
    head, initial = begun(run, tmp_path / "backbone.pth", CLASSES)
    assert torch.equal(head, fresh(run, 3))
    assert str(initial).startswith("the whole file; its head is re-initialized: it has no head that classifies")


def test_the_plan_says_what_becomes_of_the_head(run, data, tmp_path):
    other = photos(tmp_path / "other", ["bird", "Cat", "dog"])
    found = {}
    for root in (data, other):
        words = [
            "experiment=train",
            *TINY,
            *LAUNCH,
            *SHORT,
            "data=folder",
            f"data.root={root}",
            f"model.checkpoint={run}",
        ]
        experiment = compose(words)
        (found[root],) = initial_weights(experiment, data_facts(experiment)).values()
    assert found[data] == f"model.checkpoint: {run}, its entry 'state_dict'; its classes are matched by name"
    assert found[other].startswith(
        f"model.checkpoint: {run}, its entry 'state_dict'; its head is re-initialized: it has"
    )
    same = config(data, f"model.checkpoint={run / 'checkpoints' / 'last.ckpt'}")
    assert torch.equal(make_module(same, CLASSES).net.head.weight, head_of(run))


def test_a_resumed_run_remembers_what_it_began_with(run, data, tmp_path):
    class StopsOnce(RunListener):
        def __init__(self) -> None:
            self.asked = 0

        def stopping(self) -> bool:
            self.asked += 1
            return self.asked == 2

        def epoch(self, epoch: int, metrics: dict[str, float]) -> bool:
            return False

    begins = config(data, f"model.checkpoint={run / 'checkpoints' / 'last.ckpt'}")
    with pytest.raises(Stopped):
        train(begins, tmp_path / "run", StopsOnce())
    result = train(begins, tmp_path / "run")
    assert result["initial_weights"] == {"entry": "state_dict", "new_head": False, "head": "matched by name"}
    assert json.loads((run / "result.json").read_text())["initial_weights"] is None


# --- data sets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["data=earth"], ["data=scales", "data.train_images=4", "data.val_images=2"]])
def test_the_check_and_the_loader_name_the_same_classes(tmp_path, words):
    from shunted_lab.data import make_datamodule

    words += [f"data.cache={tmp_path}", "data.test_images=2"] if "data=scales" in words else []
    run = compose(["experiment=train", *words]).variants["model"]
    assert list(check_data(run.data).class_names) == make_datamodule(run.data, run.recipe, 0).class_names


def test_the_message_of_the_wrong_model_still_names_the_file(run):
    net = build_model(compose(["experiment=train"]).config.model, 3)
    with pytest.raises(ConfigError, match=r"^model\.checkpoint: .*last\.ckpt does not fit the model: "):
        load_initial(net, run / "checkpoints" / "last.ckpt", CLASSES)
