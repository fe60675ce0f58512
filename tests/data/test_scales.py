"""data=scales: the knob is what it says, nothing else tells the classes apart, and every object can be seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shunted_lab.config.compose import compose
from shunted_lab.config.recipe import LITE_RECIPE, RecipeConfig
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import check_data, make_datamodule
from shunted_lab.data.earth.tiles import BLOCK
from shunted_lab.data.earth.tiles import SPLITS as MAP
from shunted_lab.data.scales import ScalesConfig
from shunted_lab.data.scales import scene as drawing
from shunted_lab.data.scales.scene import BINS, CLASS_NAMES, CONTRAST, LARGEST, LUMA, SMALLEST, VISIBLE, draw_scene

RATIOS = (1, 4, 16)


@pytest.fixture(scope="module")
def scenes():
    return {ratio: [draw_scene(0, "train", i, 128, ratio) for i in range(150)] for ratio in RATIOS}


@pytest.fixture
def small(tmp_path):
    return ScalesConfig(
        image_size=64, batch_size=16, train_images=40, val_images=8, test_images=8, cache=str(tmp_path / "cache")
    )


def test_the_size_ratio_is_exact_and_sizes_are_log_uniform(scenes):
    for ratio, found in scenes.items():
        sizes = np.array([scene.sizes for scene in found])
        assert sizes[:, 0] / sizes[:, 1] == pytest.approx(np.full(len(found), ratio), rel=1e-5)
        assert sizes.min() >= 128 * SMALLEST * 0.999 and sizes.max() <= 128 * LARGEST * 1.001
    from scipy import stats

    for ratio in (1, 4):
        sizes = np.concatenate([draw_scene(1, "train", i, 64, ratio).sizes[-1:] for i in range(400)]) / 64
        place = np.log(sizes / SMALLEST) / np.log(LARGEST / ratio / SMALLEST)
        assert stats.kstest(place, "uniform").pvalue > 0.001


def test_masks_boxes_and_labels_belong_together(scenes):
    for found in scenes.values():
        for scene in found:
            assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8
            assert len(set(scene.classes)) == 2 and scene.classes.max() < len(CLASS_NAMES)
            for number in (1, 2):
                mask = scene.instances == number
                y, x = np.nonzero(mask)
                box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
                assert scene.boxes[number - 1].tolist() == list(box)
                assert (scene.semantic[mask] == 1 + scene.classes[number - 1]).all()
                assert max(box[2] - box[0], box[3] - box[1]) <= scene.sizes[number - 1] + 2
            assert ((scene.semantic == 0) == (scene.instances == 0)).all()


def test_every_object_can_be_seen(scenes):
    """Half of the larger one at least; brightness apart from what is around; no flat area, nothing clipped."""
    for found in scenes.values():
        for scene in found:
            luma = scene.image.astype(np.float32) @ LUMA
            for number in (1, 2):
                mask = scene.instances == number
                assert mask.sum() >= 4
                if mask.sum() >= 64:
                    assert len(np.unique(luma[mask].round())) >= 5
                    assert ((scene.image[mask] == 0) | (scene.image[mask] == 255)).mean() < 0.02
            mask = scene.instances == 2  # the smaller one lies on top of everything
            y, x = np.nonzero(mask)
            near = np.zeros_like(mask)
            near[max(y.min() - 2, 0) : y.max() + 3, max(x.min() - 2, 0) : x.max() + 3] = True
            assert abs(luma[mask].mean() - luma[near & ~mask].mean()) > 0.3 * CONTRAST[0]


def test_half_of_the_larger_object_is_in_sight():
    rng = np.random.default_rng(0)
    for _ in range(40):
        first, second = drawing._place(rng, 128, np.array([96.0, 96.0]), rng.permutation(6)[:2])
        below, above = first >= 0.5, second >= 0.5
        assert (below & ~above).sum() >= VISIBLE * below.sum()


def test_colour_and_brightness_do_not_tell_the_class():
    """A classifier on the mean colour of an object, with what it knows of its size, does no better than chance."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    rows, labels = [], []
    for i in range(600):
        scene = draw_scene(3, "train", i, 64, 1)
        mask = scene.instances == 2
        rows.append([*scene.image[mask].mean(0), *scene.image[~mask].mean(0)])
        labels.append(scene.classes[1])
    score = cross_val_score(LogisticRegression(max_iter=2000), np.array(rows) / 255, labels, cv=5).mean()
    assert score < 1 / 6 + 0.06


def test_a_scene_is_the_same_again_and_others_differ():
    first, same = (draw_scene(0, "val", 7, 96, 4) for _ in range(2))
    for name in ("image", "classes", "sizes", "boxes", "instances", "semantic"):
        assert np.array_equal(getattr(first, name), getattr(same, name))
    for other in (draw_scene(1, "val", 7, 96, 4), draw_scene(0, "test", 7, 96, 4), draw_scene(0, "val", 8, 96, 4)):
        assert not np.array_equal(first.image, other.image)


def test_each_split_draws_its_textures_from_its_own_places(monkeypatch):
    """A picture whose pixels say which split they are of shows no other split."""
    marks = np.array([[".vT".index(mark) for mark in row] for row in MAP])
    picture = np.repeat(np.repeat(marks, BLOCK, 0), BLOCK, 1)[..., None].repeat(3, 2).astype(np.uint8) * 100
    monkeypatch.setattr(drawing, "_picture", lambda: picture)
    for mark, split in enumerate(drawing.SPLITS):
        for i in range(30):
            assert np.unique(drawing._texture(np.random.default_rng(i), split, 128)).tolist() == [100 * mark]


def test_the_picture_of_textures_is_decoded_once_for_all_scenes(monkeypatch):
    """`tests/benchmarks/scaling.py` measures scenes per second."""
    decoded, real = [], drawing.load_picture
    monkeypatch.setattr(drawing, "load_picture", lambda: decoded.append(1) or real())
    drawing._picture.cache_clear()
    for i in range(20):
        draw_scene(0, "train", i, 128, RATIOS[i % 3])
    assert decoded == [1]


def test_scenes_are_drawn_once_and_read_afterwards(small, monkeypatch):
    first = next(iter(make_datamodule(small, LITE_RECIPE, 0).val_dataloader()))
    monkeypatch.setattr("shunted_lab.data.scales.scene.draw_scene", None)
    images, sizes = next(iter(make_datamodule(small, LITE_RECIPE, 5).val_dataloader()))
    assert torch.equal(images, first[0]) and torch.equal(sizes, first[1])
    assert images.shape == (8, 3, 64, 64) and sizes.shape == (8, 6)
    assert ((sizes > 0).sum(1) == 2).all()


def test_the_cached_image_is_the_scene_with_its_masks(small):
    data = make_datamodule(small, LITE_RECIPE, 0)
    split = data.splits.test
    scene = small.scene("test", 3)
    assert np.array_equal(split.images[3], scene.image)
    assert split.sizes[3, scene.classes] == pytest.approx(scene.sizes / 64)


def test_another_configuration_has_another_cache(small, tmp_path):
    for data in (small, replace(small, size_ratio=16.0), replace(small, scene_seed=1), replace(small, val_images=9)):
        make_datamodule(data, LITE_RECIPE, 0)
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert len(names) == 3 * 3 + 1 and not any(name.startswith(".") for name in names)


def test_training_turns_depend_on_seed_and_epoch_only(small):
    def batch(seed, epoch):
        loader = make_datamodule(small, LITE_RECIPE, seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return next(iter(loader))[0]

    assert torch.equal(batch(0, 1), batch(0, 1))
    assert not torch.equal(batch(0, 1), batch(0, 2)) and not torch.equal(batch(0, 1), batch(1, 1))


def test_bins_are_those_that_objects_can_have():
    assert [name for name, _ in ScalesConfig(size_ratio=16).size_ranges()] == ["small", "large"]
    assert ScalesConfig(size_ratio=4).size_ranges() == ScalesConfig(size_ratio=1).size_ranges() == list(BINS.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_ratio": 17}, r"data\.size_ratio: 17 is not between 1 and 16"),
        ({"image_size": 32}, r"data\.image_size: 32 is too small for its objects"),
        ({"num_classes": 9}, r"data\.num_classes: 9 is wrong"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        ScalesConfig(**change)


def test_a_recipe_that_would_hide_objects_is_refused():
    run = compose(["experiment=scale_study"]).variants["ssa-ratio4"]
    assert isinstance(run, RunConfig) and check_data(run.data).num_classes == 6
    with pytest.raises(ConfigError, match=r"recipe\.mixup: 0\.8 would cut or hide objects of data=scales"):
        replace(run, recipe=RecipeConfig())


def test_a_cache_that_cannot_be_written_is_a_clear_message(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data\.cache: .*file.* cannot be written or read"):
        make_datamodule(replace(small, cache=str(tmp_path / "file")), LITE_RECIPE, 0)
