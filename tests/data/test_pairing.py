"""Images, their order and their augmentation follow from seed, epoch and index, and from nothing else."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from shunted_lab.config.recipe import LITE_RECIPE, RecipeConfig
from shunted_lab.data import make_datamodule, module
from shunted_lab.data.earth import EarthConfig
from shunted_lab.data.earth.tiles import find_tiles
from shunted_lab.data.module import EpochSampler
from shunted_lab.data.symmetry import apply_symmetry

RECIPES = {
    "lite": LITE_RECIPE,
    "hflip": replace(LITE_RECIPE, dihedral=False, hflip=0.5),
    "paper": RecipeConfig(),
    "jitter": replace(LITE_RECIPE, color_jitter=0.4, random_erasing=0.5),
}


def batches(recipe: RecipeConfig, seed: int = 0, epoch: int = 0, n: int = 2, num_workers: int = 0) -> list:
    loader = make_datamodule(EarthConfig(batch_size=16), recipe, seed, num_workers).train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(itertools.islice(loader, n))


def image_transform(recipe: RecipeConfig):
    return make_datamodule(EarthConfig(), recipe, 0).splits.train.transform


def same(first: list, second: list) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def image(recipe: RecipeConfig, key: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return make_datamodule(EarthConfig(), recipe, seed).splits.train.__getitems__([key])[0][0]


@pytest.fixture(params=RECIPES)
def recipe(request) -> RecipeConfig:
    return RECIPES[request.param]


def test_a_seed_repeats_itself_and_seeds_and_epochs_differ(recipe):
    first = batches(recipe)
    torch.manual_seed(99), np.random.seed(99), random.seed(99)
    assert same(first, batches(recipe))
    assert not same(first, batches(recipe, seed=1)) and not same(first, batches(recipe, epoch=1))


def test_workers_change_nothing(recipe):
    assert same(batches(recipe, n=3), batches(recipe, n=3, num_workers=2))


def test_a_restart_at_an_epoch_sees_what_a_whole_training_sees(recipe):
    loader = make_datamodule(EarthConfig(batch_size=16), recipe, 0).train_dataloader()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        seen = list(itertools.islice(loader, 2))
    assert same(seen, batches(recipe, epoch=2))


def test_the_global_generators_stay_as_they_are(recipe):
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    batches(recipe)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]


def test_an_image_looks_the_same_wherever_it_stands_in_a_batch(recipe):
    loader = make_datamodule(EarthConfig(batch_size=16), recipe, 0).train_dataloader()
    keys = list(itertools.islice(loader.sampler, 16))
    images, labels = next(iter(loader))
    for place in (15, 3):
        assert torch.equal(images[place], image(recipe, keys[place]))
        assert labels[place] == find_tiles()["train"].labels[keys[place][1]]


@pytest.mark.parametrize("name", ["lite", "paper", "jitter"])
def test_epoch_copy_and_seed_all_enter_the_draws(name):
    recipe = RECIPES[name]
    base, changes = (0, 5, 0), {"epoch": lambda i: (i, 5, 0), "copy": lambda i: (0, 5, i)}
    for what, key in changes.items():
        assert any(not torch.equal(image(recipe, base), image(recipe, key(i))) for i in range(1, 6)), what
    assert any(not torch.equal(image(recipe, base), image(recipe, base, seed)) for seed in range(1, 6))


def test_turns_are_the_8_symmetries_of_a_square():
    square = np.arange(9).reshape(3, 3, 1)
    turned = {apply_symmetry(square, which).tobytes() for which in range(8)}
    flips = itertools.product((square, square.swapaxes(0, 1)), (1, -1), (1, -1))
    assert turned == {np.ascontiguousarray(a[::i, ::j]).tobytes() for a, i, j in flips} and len(turned) == 8


def _symmetries(recipe: RecipeConfig, n: int) -> Counter:
    data = make_datamodule(EarthConfig(), recipe, 0)
    return Counter(data.splits.train._symmetry((0, index, 0)) for index in range(n))


def test_symmetries_are_equally_likely():
    counts = _symmetries(LITE_RECIPE, 4000)
    assert set(counts) == set(range(8))
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 24.3  # chi-squared, 7 degrees, 0.1 %


def test_hflip_has_its_probability_and_only_flips_left_and_right():
    counts = _symmetries(replace(LITE_RECIPE, dihedral=False, hflip=0.25), 4000)
    assert set(counts) == {0, 4} and 890 < counts[4] < 1110  # 4 standard deviations
    square = np.arange(9).reshape(3, 3, 1)
    assert np.array_equal(apply_symmetry(square, 4), square[:, ::-1])
    assert set(_symmetries(replace(LITE_RECIPE, dihedral=False), 100)) == {0}


def test_augmented_tiles_are_turned_tiles():
    plain = image(replace(LITE_RECIPE, dihedral=False), (0, 11, 0)).permute(1, 2, 0).numpy()
    turned = [apply_symmetry(plain, which) for which in range(8)]
    found = {
        next(which for which, other in enumerate(turned) if np.array_equal(view.permute(1, 2, 0).numpy(), other))
        for view in (image(LITE_RECIPE, (epoch, 11, 0)) for epoch in range(40))
    }
    assert found == set(range(8))


def test_the_papers_augmentation_survives_its_strongest_draw():
    augment = next(t for t in image_transform(RECIPES["paper"]).transforms if hasattr(t, "ops"))
    posterize = next(op for op in augment.ops if op.name == "PosterizeIncreasing")
    posterize.prob, posterize.magnitude, posterize.magnitude_std = 1.0, 10, 0.0
    assert posterize(Image.new("RGB", (32, 32), (200, 100, 50))).size == (32, 32)


# --- sampler ---------------------------------------------------------------------------------------------------------


def test_an_epoch_has_every_image_once():
    sampler = EpochSampler(50, seed=3)
    sampler.set_epoch(4)
    keys = list(sampler)
    assert len(keys) == len(sampler) == 50
    assert sorted(index for _, index, _ in keys) == list(range(50)) and keys != sorted(keys)
    assert {(epoch, copy) for epoch, _, copy in keys} == {(4, 0)}
    order = [index for _, index, _ in keys]
    assert order != [index for _, index, _ in EpochSampler(50, seed=3)]  # epoch 0
    sampler.seed = 5
    assert order != [index for _, index, _ in sampler]


def test_repeated_augmentation_repeats_in_a_row_and_keeps_the_length():
    keys = list(EpochSampler(20, seed=0, repeats=3))
    assert len(keys) == 20 and [copy for _, _, copy in keys[:6]] == [0, 1, 2, 0, 1, 2]
    rows = [index for index, _ in itertools.groupby(key[1] for key in keys)]
    assert len(rows) == len(set(rows)) == 7  # 6 images three times and one twice
    assert not torch.equal(*(image(RECIPES["paper"], (0, 3, copy)) for copy in (0, 1)))


def test_ranks_share_an_epoch(monkeypatch):
    whole = list(EpochSampler(50, seed=0, repeats=3))
    monkeypatch.setattr(module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(module.dist, "get_world_size", lambda: 4)
    parts = []
    for rank in range(4):
        monkeypatch.setattr(module.dist, "get_rank", lambda rank=rank: rank)
        parts.append(list(EpochSampler(50, seed=0, repeats=3)))
        assert len(parts[-1]) == len(EpochSampler(50, seed=0)) == 12
    assert sorted(key for part in parts for key in part) == sorted(whole[:48])


def test_the_incomplete_last_batch_is_dropped_unless_it_is_all():
    sizes = {size: make_datamodule(EarthConfig(batch_size=size), LITE_RECIPE, 0) for size in (1000, 6000)}
    assert len(sizes[1000].train_dataloader()) == 5 and len(sizes[1000].test_dataloader()) == 2
    assert len(sizes[6000].train_dataloader()) == 1
