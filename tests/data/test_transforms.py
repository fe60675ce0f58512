"""The transforms are timm's: equal where Pillow resizes, near where torch does, with the same draws in both."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from shunted_lab.config.recipe import LITE_RECIPE, RecipeConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import make_datamodule
from shunted_lab.data.earth.tiles import load_picture
from shunted_lab.data.folder import FolderConfig
from shunted_lab.data.generators import preserve_generators, seed_generators
from shunted_lab.data.image_files import IMAGENET
from shunted_lab.data.transforms import eval_transform, train_transform

LIGHT = replace(LITE_RECIPE, random_resized_crop=True, dihedral=False, hflip=0.5)
RECIPES = {
    "paper": RecipeConfig(),
    "light": LIGHT,
    "whole": replace(LIGHT, random_resized_crop=False),
    "jitter": replace(LIGHT, color_jitter=0.4, random_erasing=0.5),
    "dihedral": replace(LIGHT, dihedral=True, hflip=0.0, random_erasing=1.0),
}
SIZES = [(500, 375), (375, 500), (90, 61), (40, 200), (32, 32)]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Pieces of a photograph; the last one is noise, the worst case of a resize."""
    earth, rng = load_picture(), np.random.default_rng(0)
    found = [Image.fromarray(earth[900 : 900 + height, 2700 : 2700 + width]) for width, height in SIZES]
    return [*found, Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8))]


def drawn(transform, image, seed: int) -> tuple[torch.Tensor, object]:
    """What a transform gives, and where the generators stand then."""
    with preserve_generators():
        seed_generators([seed])
        return transform(image), (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def timms(recipe: RecipeConfig, size: int, interpolation: str):
    options = {} if recipe.random_resized_crop else {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    options |= {"hflip": recipe.hflip, "color_jitter": recipe.color_jitter or None, "re_mode": "pixel"}
    options |= {"auto_augment": recipe.rand_augment, "re_prob": recipe.random_erasing}
    return create_transform(size, is_training=True, interpolation=interpolation, **options)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("name", RECIPES)
def test_exact_is_timms_bit_for_bit(pictures, name, interpolation):
    ours = train_transform(RECIPES[name], 64, interpolation, IMAGENET)
    reference = timms(RECIPES[name], 64, interpolation)
    for seed, image in enumerate(pictures * 4):
        one, other = drawn(ours, image, seed), drawn(reference, image, seed)
        assert torch.equal(one[0], other[0]) and one[1] == other[1]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("name", ["light", "whole"])
def test_fast_has_the_same_draws_and_almost_the_same_pixels(pictures, name, interpolation):
    exact, fast = (train_transform(RECIPES[name], 64, interpolation, IMAGENET, fast) for fast in (False, True))
    means = []
    for seed, image in enumerate(pictures * 10):
        one, other = drawn(exact, image, seed), drawn(fast, image, seed)
        assert one[1] == other[1] and one[0].shape == other[0].shape
        levels = ((one[0] - other[0]) * torch.tensor(IMAGENET[1]).view(3, 1, 1) * 255).abs()
        assert levels.max() < 2.01
        means.append(float(levels.mean()))
    assert np.mean(means) < 0.02


@pytest.mark.parametrize("name", ["paper", "jitter", "dihedral"])
def test_fast_draws_as_timm_does_where_pillow_goes_on(pictures, name):
    exact, fast = (train_transform(RECIPES[name], 64, "bicubic", IMAGENET, fast) for fast in (False, True))
    for seed, image in enumerate(pictures * 4):
        one, other = drawn(exact, image, seed), drawn(fast, image, seed)
        assert one[1] == other[1] and one[0].shape == other[0].shape


@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_evaluation_is_timms_bit_for_bit(pictures, crop_pct):
    ours = eval_transform(64, "bicubic", crop_pct, IMAGENET)
    reference = create_transform(64, interpolation="bicubic", crop_pct=crop_pct)
    assert all(torch.equal(ours(image), reference(image)) for image in pictures)


def test_resize_is_an_option_of_training_only(tmp_path, pictures):
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        for number in range(2):
            pictures[0].save(tmp_path / split / "a" / f"{number}.jpg", quality=90)
    fast, exact = (
        make_datamodule(FolderConfig(root=str(tmp_path), image_size=64, resize=resize), RECIPES["dihedral"], 0).splits
        for resize in ("fast", "exact")
    )
    assert torch.equal(fast.test[0][0], exact.test[0][0])
    one, other = fast.train[0, 0, 0][0], exact.train[0, 0, 0][0]
    assert 0 < (one - other).abs().max() < 0.04
    with pytest.raises(ConfigError, match=r"^data\.resize: 'fst' is not known; did you mean 'fast'\? choices: exact, "):
        FolderConfig(root="x", resize="fst")
