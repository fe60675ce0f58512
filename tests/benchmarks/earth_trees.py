"""What a model on data=earth must beat: boosted trees that see colours, but neither texture nor shape.

    python tests/benchmarks/earth_trees.py           # a label for each tile: accuracy
    python tests/benchmarks/earth_trees.py pixels    # a label for each pixel: mean IoU

scikit-learn's HistGradientBoostingClassifier with its default settings, trained on the training split: on colour
statistics of each tile and of its central 32 x 32 pixels; or on the colour of each pixel, alone and with means and
deviations of the colours around it. The results stand in `shunted_lab/data/earth/README.md`.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from sklearn.ensemble import HistGradientBoostingClassifier

from shunted_lab.data.earth.datasets import cut, label_picture
from shunted_lab.data.earth.tiles import CLASS_NAMES, EARTH, EARTH32, IGNORED, Tiles, find_map_tiles, find_tiles
from shunted_lab.tasks.iou import mean_iou

PERCENTILES = (5, 25, 50, 75, 95)
WINDOWS = (3, 9, 25)  # pixels; a tile's own pixels only, mirrored at its border
PIXELS = 400_000  # of the training split, drawn


def features(tiles: Tiles) -> NDArray[np.float64]:
    """Mean, standard deviation and percentiles of each channel, in the tile and in its centre: `(n, 42)`."""
    rows = []
    for index in range(len(tiles.labels)):
        tile, quarter = cut(tiles, index), tiles.tiling.tile // 4  # (tile, tile, 3)
        centre = tile[quarter:-quarter, quarter:-quarter]
        rows.append(np.concatenate([_statistics(tile), _statistics(centre)]))
    return np.array(rows)


def _statistics(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    pixels = image.reshape(-1, 3)
    return np.concatenate([pixels.mean(0), pixels.std(0), np.percentile(pixels, PERCENTILES, axis=0).ravel()])


def pixel_features(tiles: Tiles, context: bool) -> NDArray[np.float32]:
    """The colour of each pixel; with `context` also means and deviations around it: `(n * 4096, 3 or 21)`."""
    rows = []
    for index in range(len(tiles.labels)):
        tile = cut(tiles, index).astype(np.float32)
        parts = [tile]
        for window in WINDOWS if context else ():
            mean, square = (uniform_filter(x, (window, window, 0), mode="mirror") for x in (tile, tile**2))
            parts += [mean, np.sqrt(np.maximum(square - mean**2, 0))]
        rows.append(np.concatenate(parts, 2).reshape(64 * 64, -1))
    return np.concatenate(rows)


def pixel_labels(tiles: Tiles) -> NDArray[np.uint8]:
    """The class of each pixel, `(n * 4096,)`."""
    return np.concatenate([cut(tiles, index, label_picture()).ravel() for index in range(len(tiles.labels))])


def pixels() -> None:
    """Print the mean IoU of trees on pixels."""
    tiles = find_map_tiles()
    y = {split: pixel_labels(tiles[split]) for split in tiles}
    drawn = np.random.default_rng(0).choice(np.flatnonzero(y["train"] != IGNORED), PIXELS, replace=False)
    for name, context in (("colour of the pixel", False), ("with what is around it", True)):
        x = pixel_features(tiles["train"], context)[drawn]
        trees = HistGradientBoostingClassifier(random_state=0).fit(x, y["train"][drawn])
        found = {}
        for split in ("val", "test"):
            counted = y[split] != IGNORED
            predicted, true = trees.predict(pixel_features(tiles[split], context)[counted]), y[split][counted]
            one_hot = [np.bincount(c, minlength=len(CLASS_NAMES)) for c in (true[true == predicted], predicted, true)]
            found[split] = float(mean_iou(np.stack(one_hot)))
        print(f"boosted trees, {name}: mIoU", *(f"{split} {value:.3f}" for split, value in found.items()), flush=True)


def main() -> None:
    if sys.argv[1:] == ["pixels"]:
        return pixels()
    for name, tiling in (("earth", EARTH), ("earth32", EARTH32)):
        print(name)
        labels(find_tiles(tiling))


def labels(tiles: dict[str, Tiles]) -> None:
    """Print the accuracy of trees on the labels of tiles."""
    x = {split: features(tiles[split]) for split in tiles}
    y = {split: tiles[split].labels for split in tiles}
    print("most frequent training class:", *_accuracies(y, {split: np.bincount(y["train"]).argmax() for split in y}))
    trees = HistGradientBoostingClassifier(random_state=0).fit(x["train"], y["train"])
    print("boosted trees:", *_accuracies(y, {split: trees.predict(x[split]) for split in y}))


def _accuracies(y: dict, predicted: dict) -> list[str]:
    return [f"{split} {np.mean(y[split] == predicted[split]):.3f}" for split in ("val", "test")]


if __name__ == "__main__":
    main()
