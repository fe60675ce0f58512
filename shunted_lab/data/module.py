"""Loaders whose order and augmentation depend on the seed, the epoch and the image, and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Key = tuple[int, int, int]  # epoch, index of the image, copy (of repeated augmentation)


@dataclass(frozen=True)
class Splits:
    """The three sides of a data set. `train` is indexed by `Key`, the others by a number.

    A side with `__getitems__` returns whole batches.
    """

    train: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any]
    class_names: list[str]


class EpochSampler(Sampler[Key]):
    """A permutation of `n` images per epoch, drawn from (seed, epoch): the same for every variant and after a restart.

    With `repeats` > 1 each image comes so many times in a row, and the epoch still has `n` images (repeated
    augmentation, as in the paper's recipe). In a distributed run the ranks take turns.

    `skip` leaves so many images of this rank's next epoch out, once: a run that was stopped within an epoch goes on
    with the images that it had not seen.
    """

    def __init__(self, n: int, seed: int, repeats: int = 1):
        self.n = n
        self.seed = seed
        self.repeats = repeats
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        rank, world = _ranks()
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n).tolist()
        keys = [(self.epoch, index, copy) for index in order for copy in range(self.repeats)]
        skip, self.skip = self.skip, 0
        return iter(keys[rank::world][skip : len(self)])

    def __len__(self) -> int:
        return self.n // _ranks()[1]


def _ranks() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class ImageData(L.LightningDataModule):
    """Three loaders over `splits`."""

    def __init__(self, splits: Splits, batch_size: int, seed: int, repeats: int = 1, num_workers: int = 0):
        super().__init__()
        self.splits = splits
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.sampler = EpochSampler(len(splits.train), seed, repeats)  # type: ignore[arg-type]

    @property
    def class_names(self) -> list[str]:
        return self.splits.class_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def sizes(self) -> dict[str, int]:
        """Side -> number of images."""
        return {side: len(getattr(self.splits, side)) for side in ("train", "val", "test")}

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.splits.train, sampler=self.sampler, drop_last=len(self.sampler) >= self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.splits.val)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.splits.test)

    def test_images(self, indices: Sequence[int]) -> Tensor:
        """(n, 3, S, S): some images of the test side."""
        side: Any = self.splits.test
        if hasattr(side, "__getitems__"):
            return side.__getitems__(list(indices))[0]
        return torch.stack([side[i][0] for i in indices])

    def _loader(self, dataset: Dataset[Any], **kwargs: Any) -> DataLoader[Any]:
        if hasattr(dataset, "__getitems__"):
            kwargs["collate_fn"] = _whole
        return DataLoader(
            dataset,
            self.batch_size,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else each epoch would draw from the global generator
            persistent_workers=self.num_workers > 0,
            **kwargs,
        )


def _whole(batch: Any) -> Any:
    """`__getitems__` has made the batch already."""
    return batch
