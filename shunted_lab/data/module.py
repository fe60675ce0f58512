"""Loaders whose order and augmentation depend on the seed, the epoch and the image, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

Key = tuple[int, int, int]  # epoch, index of the image, copy (of repeated augmentation)

Shuffle = Callable[[np.random.Generator], np.ndarray]  # a random order of the indices of all images


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set. `train` is indexed by `Key`, the others by a number.

    `__getitems__` of a split returns a whole batch as a tuple, or a list of its images. `shuffle` orders the training
    split; None permutes it.
    """

    train: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any]
    class_names: list[str]
    shuffle: Shuffle | None = None


class EpochSampler(Sampler[Key]):
    """A permutation of `n` images per epoch, drawn from (seed, epoch): the same for every variant and after a restart.

    With `repeats` > 1 each image comes that many times in a row, and the epoch still has `n` images (repeated
    augmentation, as in the paper's recipe). In a distributed run the ranks take turns.

    `skip` leaves out that many images of this rank's next epoch, once: a run that was stopped within an epoch resumes
    with the images that it had not seen.

    `shuffle` draws another order than a plain permutation (`shards.order.ShardOrder`).

    `group` is the number of images of an optimizer step on each rank: an incomplete step at the end of an epoch is left
    out, unless it is the only one.
    """

    def __init__(self, n: int, seed: int, repeats: int = 1, shuffle: Shuffle | None = None):
        self.n = n
        self.seed = seed
        self.repeats = repeats
        self.shuffle = shuffle
        self.epoch = 0
        self.skip = 0
        self.group = 1

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        rank, world = _ranks()
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.n) if self.shuffle is None else self.shuffle(rng)
        keys = [(self.epoch, index, copy) for index in order.tolist() for copy in range(self.repeats)]
        skip, self.skip = self.skip, 0
        return iter(keys[rank::world][skip : len(self)])

    def __len__(self) -> int:
        count = self.n // _ranks()[1]
        return count // self.group * self.group or count


class RankBatches(Sampler[list[int]]):
    """This rank's batches of a split that is evaluated: its part of each `size` consecutive images.

    Every image is on one rank, and all ranks have the same number of batches, as DDP needs it. Where the last images
    are fewer than the ranks, the ranks without one repeat the first of them; `repeated` has the numbers of such
    batches, which must not be counted.
    """

    def __init__(self, n: int, size: int):
        rank, world = _ranks()
        self.batches: list[list[int]] = []
        self.repeated: set[int] = set()
        for start in range(0, n, size):
            images = np.arange(start, min(start + size, n))
            part = np.array_split(images, world)[rank]
            if not len(part):
                self.repeated.add(len(self.batches))
                part = images[:1]
            self.batches.append(part.tolist())

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def images(self, count: int) -> list[int]:
        """The images of this rank's first `count` batches, without repeated ones."""
        batches = [batch for i, batch in enumerate(self.batches[:count]) if i not in self.repeated]
        return [image for batch in batches for image in batch]


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
        self.sampler = EpochSampler(len(splits.train), seed, repeats, splits.shuffle)  # type: ignore[arg-type]

    @property
    def class_names(self) -> list[str]:
        return self.splits.class_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def sizes(self) -> dict[str, int]:
        """Split -> number of images."""
        return {name: len(getattr(self.splits, name)) for name in ("train", "val", "test")}

    @property
    def corrupt(self) -> list[int]:
        """Indices of training images that could not be decoded and were replaced, in any process of the loader."""
        marks = getattr(self.splits.train, "corrupt", None)
        return [] if marks is None else marks.found

    def state_dict(self) -> dict[str, Any]:
        """A resumed run knows which images were replaced before; without any, nothing is stored."""
        return {"corrupt": self.corrupt} if self.corrupt else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        train: Any = self.splits.train
        train.corrupt.marks[state["corrupt"]] = 1

    def train_dataloader(self) -> DataLoader[Any]:
        drop_last = len(self.sampler) >= self.batch_size
        return self._loader(self.splits.train, batch_size=self.batch_size, sampler=self.sampler, drop_last=drop_last)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._evaluated(self.splits.val)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._evaluated(self.splits.test)

    def test_images(self, indices: Sequence[int]) -> Tensor:
        """(n, 3, S, S): some images of the test split."""
        test: Any = self.splits.test
        return _collate(test.__getitems__(list(indices)))[0]

    def _evaluated(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        batches = RankBatches(len(dataset), self.batch_size * _ranks()[1])  # type: ignore[arg-type]
        return self._loader(dataset, batch_sampler=batches)

    def _loader(self, dataset: Dataset[Any], **kwargs: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            collate_fn=_collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # otherwise each epoch would draw from the global generator
            persistent_workers=self.num_workers > 0,
            **kwargs,
        )


def _collate(batch: Any) -> Any:
    """Images and labels as a batch, channels last in memory as the images are; a tuple is a batch already."""
    if isinstance(batch, tuple):
        return batch
    images, labels = default_collate([(image.permute(1, 2, 0), label) for image, label in batch])
    return images.permute(0, 3, 1, 2), labels
