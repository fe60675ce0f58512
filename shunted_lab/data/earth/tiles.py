"""Where the tiles are, what they show, and in which split each one is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from shunted_lab.config.data import Stats
from shunted_lab.data.decode import decode

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
KEEP_WATER = 25  # one in so many water tiles is kept, of those at a stride of 16 pixels

# Which split each block of 15 degrees is in, from 90 N to 60 S and from 180 W to 180 E: training (.), validation (v),
# test (T). A quarter is test. The map was drawn once, so that every class is in each split in about its share; no model
# had a say in it.
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

# The same for blocks of 7.5 degrees; half is test. It was drawn in the same way, independently of the map above.
FINE_SPLITS = (
    ".TTvvTTT.T.TTv.TTTT.Tv.v.TTT...T.TT.TTvT.T.T.T.v",
    ".T..TTTTTTT.T.v.vTT...T...TT..T..T..Tv...v.v..vT",
    "TTTT.vT.TvvT...T...TT..T..TT..T...Tv..TTTTT..v.T",
    ".Tv.TTTT.T...TT.TTvTTT.v.TTTTvTTTvT.Tv..v.TT.v.v",
    "vTTTT.TTT.TTv.T.T.TTT.T.TTv..T.TT.TvT..vTT.TTTTv",
    "TT...T..T.vT..Tv.TT..v.T.T.TvTTvTv.TvTTT..TT...T",
    ".TTTT.Tv...T.T...TT.T.TTTT.TTTTT.TTTT...v.vTTT..",
    "vvvTT...TT..TT.TvT...T.T..T.Tv.Tv.TTT..T..v.TTT.",
    ".TTT..TTTTvT..T..TTTT.Tv...T.Tvv....T...TvTTTT.T",
    ".T.....TTTT.T.T....v.vT.TTT.T.TTTTTvTTTT.TvTTTv.",
    "..TTTTTT.T.TT..Tv.T.v...TT....v...T.TTTTTv.TTT..",
    ".TT......TT..vTvT.TTTTT.vv.TTv..T.T.T.T.TTT.T.v.",
    "vT.TTTvT....TTT..TT.T.Tv.TT.TTTv...vTTTT.TTTT.T.",
    ".T.TT.TT..TT....TTT.....TT.TT.T.TT..TvvT.TTv.TTv",
    "TTTTTvvTTTTvTvTT..TT.T.vTTvTTv.TvTT.TT.T.TT.TTTT",
    "vT.TvTT.TTTTvTTTv.vTT..T.vT.T.vTTvTTTTvv...Tvv..",
    "..vT..TTTTT.TT.TTvT......T.TvT..vTv.T..TTTTTTTvT",
    "v.TTv..vTT.T.T.v..TT.TTT.TT.TT.TT.TTT.vTTTvTT.TT",
    "..vT...vTTTvT.TT.T..T...Tv.T.TvT.TTTT.TTTTT.T.TT",
    ".vTT.T..TT.T..TT.TT.TT.TT.T.T.TTTTTTT.vTTv.vT..T",
)
SPLIT_NAMES = {".": "train", "v": "val", "T": "test"}


@dataclass(frozen=True)
class Tiling:
    """How the picture is cut into tiles with one label each.

    Args:
        tile: pixels on each side; the central half of it gives the label.
        stride: pixels between neighbouring tiles.
        purity: share of a tile's centre that its label covers, at least.
        splits: rows of blocks from 90 N to 60 S, each from 180 W to 180 E; a key of `SPLIT_NAMES` for each block.
        stats: of the colours of the training tiles.
    """

    tile: int
    stride: int
    purity: float
    splits: tuple[str, ...]
    stats: Stats

    def blocks(self, pixels: np.ndarray) -> np.ndarray:
        """The row or column of the block that each row or column of pixels lies in."""
        return pixels * len(self.splits[0]) // WIDTH


EARTH = Tiling(64, 16, 0.6, SPLITS, ((0.349, 0.348, 0.277), (0.278, 0.238, 0.244)))
EARTH32 = Tiling(32, 8, 0.9, FINE_SPLITS, ((0.463, 0.429, 0.338), (0.298, 0.270, 0.286)))


@dataclass(frozen=True)
class Tiles:
    """Top left corners (pixels) and labels of one split's tiles."""

    y: np.ndarray
    x: np.ndarray
    labels: np.ndarray
    tiling: Tiling = EARTH


def load_picture() -> np.ndarray:
    """(2700, 5400, 3) uint8."""
    return np.asarray(decode(PICTURE.read_bytes()))


def load_labels() -> np.ndarray:
    """(2700, 5400) uint8, classes 0 to 8 or 255."""
    with Image.open(LABELS) as image:
        return np.asarray(image)


@cache
def find_tiles(tiling: Tiling = EARTH) -> dict[str, Tiles]:
    """Split -> its tiles, row by row."""
    y, x = (np.arange(0, length - tiling.tile + 1, tiling.stride) for length in (SOUTH, WIDTH))
    label, share = dominant(load_labels()[:SOUTH], tiling.stride)
    split, keep_water = tile_splits(tiling, y, x), KEEP_WATER * (16 // tiling.stride) ** 2
    found = {}
    for mark, name in SPLIT_NAMES.items():
        kept = (split == mark) & (share >= tiling.purity)
        water = np.flatnonzero(kept & (label == 0))
        kept.flat[np.delete(water, np.s_[::keep_water])] = False
        rows, columns = np.nonzero(kept)
        found[name] = Tiles(y[rows], x[columns], label[rows, columns].astype(np.int64), tiling)
    return found


def blocks_of(tiles: Tiles) -> np.ndarray:
    """(N,) the number of each tile's block, row by row."""
    tiling = tiles.tiling
    return tiling.blocks(tiles.y) * len(tiling.splits[0]) + tiling.blocks(tiles.x)


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
            steps = np.arange(0, BLOCK - EARTH.tile + 1, MAP_STRIDE[name])
            for top in row * BLOCK + steps:
                for left in column * BLOCK + steps:
                    bottom, right = top + EARTH.tile, left + EARTH.tile
                    count = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
                    if count >= LAND * EARTH.tile**2:
                        tiles.append((top, left, block))
        found[name] = Tiles(*np.array(tiles, np.int64).T)
    return found


def dominant(labels: np.ndarray, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """The commonest class of each tile's centre, and its share of the centre: two arrays, `(rows, columns)` of tiles.

    Tiles have 4 x 4 cells of `cell` pixels, which is also their stride; their centre is 2 x 2 cells. So cells are
    counted once for all tiles.
    """
    H, W = labels.shape[0] // cell, labels.shape[1] // cell
    cells = labels[: H * cell, : W * cell].reshape(H, cell, W, cell)
    counts = np.stack([(cells == k).sum((1, 3)) for k in range(len(CLASS_NAMES))])  # (9, H, W)
    quarters = [counts[:, 1 + i : H - 2 + i, 1 + j : W - 2 + j] for i in (0, 1) for j in (0, 1)]
    centre = np.sum(quarters, axis=0)
    return centre.argmax(0), centre.max(0) / (2 * cell) ** 2


def tile_splits(tiling: Tiling, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The split's mark of the tile at each of `y` x `x`, or `-` where it lies in two splits."""
    splits, last = np.array([list(row) for row in tiling.splits]), tiling.tile - 1
    corners = [splits[np.ix_(tiling.blocks(y + i), tiling.blocks(x + j))] for i in (0, last) for j in (0, last)]
    same = np.logical_and.reduce([corner == corners[0] for corner in corners])
    return np.where(same, corners[0], "-")
