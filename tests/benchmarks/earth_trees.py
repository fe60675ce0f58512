"""What a model on data=earth must beat: boosted trees that see colours, but neither texture nor shape.

    python tests/benchmarks/earth_trees.py

scikit-learn's HistGradientBoostingClassifier with its default settings on colour statistics of each tile and of its
central 32 x 32 pixels, trained on the training split. The test accuracy stands in `shunted_lab/data/earth/README.md`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from shunted_lab.data.earth.datasets import cut
from shunted_lab.data.earth.tiles import Tiles, find_tiles

PERCENTILES = (5, 25, 50, 75, 95)


def features(tiles: Tiles) -> NDArray[np.float64]:
    """Mean, standard deviation and percentiles of each channel, in the tile and in its centre: `(n, 42)`."""
    rows = []
    for index in range(len(tiles.labels)):
        tile = cut(tiles, index)  # (64, 64, 3)
        rows.append(np.concatenate([_statistics(tile), _statistics(tile[16:48, 16:48])]))
    return np.array(rows)


def _statistics(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    pixels = image.reshape(-1, 3)
    return np.concatenate([pixels.mean(0), pixels.std(0), np.percentile(pixels, PERCENTILES, axis=0).ravel()])


def main() -> None:
    tiles = find_tiles()
    x = {split: features(tiles[split]) for split in tiles}
    y = {split: tiles[split].labels for split in tiles}
    print("most frequent training class:", *_accuracies(y, {split: np.bincount(y["train"]).argmax() for split in y}))
    trees = HistGradientBoostingClassifier(random_state=0).fit(x["train"], y["train"])
    print("boosted trees:", *_accuracies(y, {split: trees.predict(x[split]) for split in y}))


def _accuracies(y: dict, predicted: dict) -> list[str]:
    return [f"{split} {np.mean(y[split] == predicted[split]):.3f}" for split in ("val", "test")]


if __name__ == "__main__":
    main()
