"""Where the tiles are, what they show, and in which split each one is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from shunted_lab.config.data import Stats
from shunted_lab.data.decode import decode

STATS: Stats = ((0.349, 0.348, 0.277), (0.278, 0.238, 0.244))  # of the training tiles
FOLDER = Path(__file__).parent
PICTURE, LABELS = FOLDER / "bmng.jpg", FOLDER / "landcover.png"
WIDTH, HEIGHT = 5400, 2700  # pixels; 15 to a degree, 180 W and 90 N at the top left
SOUTH = 150 * 15  # rows above this one lie north of 60 S

CLASS_NAMES = [
    "water",
    "evergreen broadleaf",
    "other forest",
    "shrub",
    "savanna",
    "grass",
    "crop",
    "snow",
    "barren",
]
IGNORED = 255
TILE, STRIDE, CENTRE = 64, 16, 32  # pixels; the centre gives the label
PURITY = 0.6  # share of the centre that the label covers, at least
KEEP_WATER = 25  # one in so many water tiles is kept

# Blocks of 15 degrees, from 90 N to 60 S and from 180 W to 180 E: training (.), validation (v), test (T). A quarter is
# test. The map was drawn once, so that every class is in each split in about its share; no model had a say in it.
BLOCK = 15 * 15  # pixels
SPLITS = (
    ".....TT.T...Tv.TvT.....T",
    ".v..vv..v.v....v........",
    "....vvTT........TT....v.",
    "..v....TT...T....T...v..",
    "Tvv....TvT.v.....T..Tv.T",
    "TT..TT..vT.v.T..vT..vT.T",
    "...T.v.....vTT......Tv.T",
    "T.TTv..TTT.T....v..TTT.T",
    "..vTTT...vTT....T....T..",
    ".Tv....TT.TTTT..........",
)
SPLIT_NAMES = {".": "train", "v": "val", "T": "test"}


@dataclass(frozen=True)
class Tiles:
    """Top left corners (pixels) and labels of one split's tiles."""

    y: np.ndarray
    x: np.ndarray
    labels: np.ndarray


def load_picture() -> np.ndarray:
    """(2700, 5400, 3) uint8."""
    return np.asarray(decode(PICTURE.read_bytes()))


def load_labels() -> np.ndarray:
    """(2700, 5400) uint8, classes 0 to 8 or 255."""
    with Image.open(LABELS) as image:
        return np.asarray(image)


@cache
def find_tiles() -> dict[str, Tiles]:
    """Split -> its tiles, row by row."""
    y, x = np.arange(0, SOUTH - TILE + 1, STRIDE), np.arange(0, WIDTH - TILE + 1, STRIDE)
    label, share = dominant(load_labels()[:SOUTH], len(y), len(x))
    split = tile_splits(y, x)
    found = {}
    for mark, name in SPLIT_NAMES.items():
        kept = (split == mark) & (share >= PURITY)
        water = np.flatnonzero(kept & (label == 0))
        kept.flat[np.delete(water, np.s_[::KEEP_WATER])] = False
        rows, columns = np.nonzero(kept)
        found[name] = Tiles(y[rows], x[columns], label[rows, columns].astype(np.int64))
    return found


def blocks_of(tiles: Tiles) -> np.ndarray:
    """(N,) the number of each tile's block."""
    return tiles.y // BLOCK * len(SPLITS[0]) + tiles.x // BLOCK


MAP_STRIDE = {"train": 32, "val": 64, "test": 64}  # tiles that are evaluated do not overlap
LAND = 0.1  # share of a tile's pixels that are land of a known class, at least


@cache
def find_map_tiles() -> dict[str, Tiles]:
    """Split -> the tiles whose pixels are classified, block by block; `labels` are the numbers of their blocks."""
    land = load_labels()[:SOUTH]
    land = (land != 0) & (land != IGNORED)
    sums = np.pad(land.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))  # of all pixels above and to the left
    found = {}
    for mark, name in SPLIT_NAMES.items():
        tiles = []
        for block, (row, column) in enumerate((r, c) for r in range(len(SPLITS)) for c in range(len(SPLITS[0]))):
            if SPLITS[row][column] != mark:
                continue
            steps = np.arange(0, BLOCK - TILE + 1, MAP_STRIDE[name])
            for top in row * BLOCK + steps:
                for left in column * BLOCK + steps:
                    bottom, right = top + TILE, left + TILE
                    count = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
                    if count >= LAND * TILE**2:
                        tiles.append((top, left, block))
        found[name] = Tiles(*np.array(tiles, np.int64).T)
    return found


def dominant(labels: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The commonest class of each tile's centre, and its share of the centre: two `(rows, columns)` arrays.

    The centre is 2 x 2 cells of `STRIDE` pixels, so cells are counted once for all tiles.
    """
    H, W = labels.shape[0] // STRIDE, labels.shape[1] // STRIDE
    cells = labels[: H * STRIDE, : W * STRIDE].reshape(H, STRIDE, W, STRIDE)
    counts = np.stack([(cells == k).sum((1, 3)) for k in range(len(CLASS_NAMES))])  # (9, H, W)
    quarters = [counts[:, 1 + i : 1 + i + rows, 1 + j : 1 + j + columns] for i in (0, 1) for j in (0, 1)]
    centre = np.sum(quarters, axis=0)
    return centre.argmax(0), centre.max(0) / CENTRE**2


def tile_splits(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The split's mark of the tile at each of `y` x `x`, or `-` where it lies in two splits."""
    splits = np.array([list(row) for row in SPLITS])
    corners = [splits[np.ix_((y + i) // BLOCK, (x + j) // BLOCK)] for i in (0, TILE - 1) for j in (0, TILE - 1)]
    same = np.logical_and.reduce([corner == corners[0] for corner in corners])
    return np.where(same, corners[0], "-")
