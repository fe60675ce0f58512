"""The order of the training images, in which only a few shards are read at a time."""

from __future__ import annotations

import numpy as np


class ShardOrder:
    """A random order of images: the shards are permuted, then the images of each `mix` consecutive shards are shuffled
    together, so that at most `mix` shards are read at a time.

    Args:
        shards: (n,) the shard of each image.
        mix: shards that are shuffled together; with all of them, it is a permutation of all images.
    """

    def __init__(self, shards: np.ndarray, mix: int):
        by_shard = np.argsort(shards, kind="stable")
        self.members = np.split(by_shard, np.flatnonzero(np.diff(shards[by_shard])) + 1)
        self.mix = mix

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        order = rng.permutation(len(self.members))
        groups = [order[start : start + self.mix] for start in range(0, len(order), self.mix)]
        return np.concatenate([rng.permutation(np.concatenate([self.members[i] for i in group])) for group in groups])
