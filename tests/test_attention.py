"""The attention command, for a run's folder and for a file of weights; and TensorBoard's pictures of a run."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from shunted_lab import attention
from shunted_lab.config.compose import compose
from shunted_lab.data.earth.tiles import EARTH
from shunted_lab.nn import Pyramid, init_weights
from shunted_lab.nn.maps import attention_of
from shunted_lab.nn.weights import published_names
from shunted_lab.report.attention import Look, attention_figure
from shunted_lab.study.folder import write_note
from shunted_lab.study.plan import data_facts, plan_runs
from shunted_lab.tasks.pictures import attention_sheet, highlighted, predicted_sheet, to_pixels
from shunted_lab.tasks.predictions import Predictions
from shunted_lab.tasks.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that was trained for one batch."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["experiment=train", f"runs_dir={folder}", "launch.accelerator=cpu", "recipe.epochs=1"]
    words += ["recipe.limit_batches=1", "data.batch_size=16"]
    experiment = compose(words)
    made = plan_runs(experiment, data_facts(experiment))[0]
    write_note(made)
    train(made.config, made.folder)
    return made.folder


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    mask = np.zeros((70, 90), np.uint8)
    mask[20:40, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def words(run, image, *more):
    return [f"checkpoint={run}", f"image={image}/image.png", f"out={image}/out.png", *more]


def test_a_runs_attention_is_drawn_and_its_share_on_the_object_printed(run, image, capsys):
    assert attention.main(words(run, image, "query=[0.2,0.9]", f"mask={image}/mask.png")) == 0
    out = capsys.readouterr().out
    assert (
        out.count("attention on the object / its share of the area") == 7
    )  # two rates in three stages, one in the last
    drawn = np.asarray(Image.open(image / "out.png"))
    assert min(drawn.shape[:2]) > 200 and drawn[..., :3].std() > 10


def test_a_file_of_published_weights_is_drawn(image, capsys):
    model = Pyramid(**compose(["experiment=train"]).config.model.options(), num_classes=1000)
    init_weights(model, 0)
    names = published_names(model)
    torch.save({names[ours]: value for ours, value in model.state_dict().items()}, image / "weights.pth")
    given = words(image / "weights.pth", image, "model=shunted_lite", "size=64", f"out={image}/out.svg")
    assert attention.main([w for w in given if w != f"out={image}/out.png"]) == 0
    assert (image / "out.svg").read_text().count("<image") == 10  # image, rollout, seven maps, the scale


def test_a_runs_checkpoint_is_the_run(run, image, capsys):
    file = run / "checkpoints" / "last.ckpt"
    assert attention.main(words(run, image)) == 0
    first = (image / "out.png").read_bytes()
    assert attention.main(words(file, image)) == 0
    assert (image / "out.png").read_bytes() == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "none"}, "checkpoint: 'none' does not exist"),
        ({"image": "none.png"}, "image: 'none.png' does not exist"),
        ({"image": __file__}, r"image: .* cannot be decoded as an image \(cannot identify image file\)"),
        ({"query": "[1.5,0]"}, r"query: \[1.5, 0\] is not a point"),
        ({"query": "[[0.5,0.5],[0.5]]"}, r"query: \[\[0.5, 0.5\], \[0.5\]\] is not a point"),
        ({"compare": "none"}, "compare: 'none' does not exist"),
        ({"size": "small"}, "size: 'small' is not a size"),
        ({"size": "16"}, "too small for this model"),
        ({"out": "figure.gif"}, "is not a .pdf, .png or .svg file"),
        ({"mask": __file__}, "mask: .* cannot be decoded as an image"),
        ({"chekpoint": "x"}, "chekpoint: no such key; did you mean 'checkpoint'"),
    ],
)
def test_a_mistake_is_one_line(run, image, capsys, change, message):
    given = dict(word.partition("=")[::2] for word in words(run, image)) | change
    assert attention.main([f"{key}={value}" for key, value in given.items()]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1 and re.search(message, errors)


def test_help_lists_the_keys():
    done = subprocess.run([sys.executable, "-m", "shunted_lab.attention", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "  query: [y,x] | [[y,x],...] = [0.5, 0.5]" in done.stdout


def test_tensorboard_has_curves_options_pictures_and_attention(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run))
    found.Reload()
    tags = found.Tags()
    assert {"val/top1", "test/top1", "final/test/top1"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"test/predicted", "test/attention"}
    assert any(name.startswith("_hparams_") for name in found.summary_metadata)
    picture = found.Images("test/attention")[0]
    assert (picture.height, picture.width) == (4 * 156, 9 * 128)
    content = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"recipe.lr" in content and b"model.rates" in content


def test_pixels_are_those_of_the_image():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in EARTH.stats)
    normalised = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    assert np.array_equal(to_pixels(normalised, EARTH.stats), pixels)


def test_a_sheet_says_what_was_wrong(monkeypatch):
    said = []
    monkeypatch.setattr(
        "shunted_lab.tasks.pictures.sheet", lambda rows: said.extend(text for r in rows for _, text in r)
    )
    single = Predictions(np.array([0, 1]), np.array([0, 0]), None, ("water", "snow"))
    predicted_sheet(torch.zeros(2, 3, 8, 8), EARTH.stats, single.captions([0, 1]))
    several = Predictions(np.array([[True, True]]), np.array([[True, False]]), None, ("disc", "bar"))
    predicted_sheet(torch.zeros(1, 3, 8, 8), EARTH.stats, several.captions([0]))
    assert said == ["water", "water / snow", "disc / disc, bar"]


def test_light_follows_the_weights_and_not_the_image():
    weights = torch.tensor([[0.0, 1.0], [2.0, 32.0]])
    dark, light = (highlighted(np.full((2, 2, 3), value, np.uint8), weights) for value in (0, 255))
    assert dark[0].tolist() == [[10] * 3] * 2 and light[0].tolist() == [[102] * 3] * 2, "grey"
    assert np.array_equal(dark[1, 1], light[1, 1]) and dark[1, 1].min() > 150, "full light hides the image"
    assert dark[1, 0].sum() < dark[1, 1].sum()


def test_weights_over_uniform_ones_do_not_depend_on_how_many_pixels_a_token_covers():
    model = Pyramid(**compose(["experiment=train"]).config.model.options(), num_classes=9)
    init_weights(model, 0)
    for found in attention_of(model, torch.randn(1, 3, 70, 90), (0.5, 0.5)):
        count = found.weights[0].numel()
        uniform = found._replace(weights=torch.full_like(found.weights, 1 / count)).over_uniform((70, 90))
        assert torch.allclose(uniform, torch.ones(70, 90), atol=1e-5)
        shown, weights = found.over_uniform((70, 90)), found.weights.mean(0) * count
        assert shown.max() <= weights.max() + 1e-4 and shown.min() >= weights.min() - 1e-4


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()], [t.get_text() for t in figure.texts]


def test_a_figure_says_which_heads_of_which_block_a_panel_shows_and_has_one_scale():
    model = Pyramid(**compose(["experiment=train"]).config.model.options(), num_classes=9)
    init_weights(model, 0)
    image = torch.randn(1, 3, 64, 64)
    looks = [Look(f"point {q}", q, attention_of(model, image, q)) for q in ((0.5, 0.5), (0.0, 0.99))]
    figure = attention_figure(np.zeros((64, 64, 3), np.uint8), looks)
    columns, rows = titles(figure)
    assert columns == [look.title for look in looks]
    assert "stage 3, block 2,\nheads 0-3,\nrate 2" in rows and "stage 3, block 2,\nheads 4-7,\nrate 1" in rows
    assert rows[0] == "image, point" and len([row for row in rows if row.startswith("stage")]) == 7
    assert sum(len(axes.images) for axes in figure.axes) == 2 * (1 + 7)
    marks = [line for axes in figure.axes for line in axes.lines]
    assert len(marks) == 2 * 2 * 8 and not any(line.get_clip_on() for line in marks), "a ring is not cut at the border"


def test_two_runs_and_several_points_stand_side_by_side(run, image):
    given = words(run, image, f"compare={run}", "query=[[0.2,0.9],[0.5,0.5]]", "size=64")
    given = [word for word in given if not word.startswith("out=")] + [f"out={image}/two.svg"]
    assert attention.main(given) == 0
    text = (image / "two.svg").read_text()
    assert text.count("<image") == 4 * 9 + 1 and text.count("point 0.2, 0.9") == 2 and text.count("point 0.5, 0.5") == 2


def test_a_model_without_known_attention_has_no_sheet():
    class Other(torch.nn.Module):
        def forward(self, x, grid):
            return x

    model = Pyramid([8] * 4, [1] * 4, [1] * 4, [2] * 4, [[1]] * 4)
    model.stages[0].blocks[0].attn = Other()
    assert attention_sheet(model, torch.zeros(1, 3, 64, 64), EARTH.stats) is None
