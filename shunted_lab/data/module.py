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

    `__getitems__` of a split returns a whole batch as a tuple, or a list of its images.

    Args:
        shuffle: orders the training split; None permutes it.
        test_groups: (N,) the group of each test image; images of a group are not independent, and are resampled as a
            whole. None: each image is a group of its own.
        evaluated_in: images in a batch that is evaluated; None: as many as are trained.
    """

    train: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any]
    class_names: list[str]
    shuffle: Shuffle | None = None
    test_groups: np.ndarray | None = None
    evaluated_in: int | None = None


class EpochSampler(Sampler[Key]):
    """A permutation of `n` images per epoch, drawn from (seed, epoch): the same for every variant and after a restart.

    With `repeats` > 1 each image comes that many times in a row, and the epoch still has `n` images (repeated
    augmentation, as in the paper's recipe). In a distributed run the ranks take turns.

    `skip` leaves out that many images of this rank's next epoch, once: a run that was stopped within an epoch resumes
    with the images that it had not seen.

    `shuffle` draws another order than a plain permutation (`shards.order.ShardOrder`).

    `together` is the number of consecutive images that are on one rank: an average in the loss is over them.

    `group` is the number of images of an optimizer step on each rank: an incomplete step at the end of an epoch is left
    out, unless it is the only one.

    With `length` an epoch is that many images of an endless stream of permutations, whatever `n` is; the first number
    of a key is then that of the permutation, so that an image is augmented anew each time.
    """

    def __init__(self, n: int, seed: int, repeats: int = 1, shuffle: Shuffle | None = None, length: int | None = None):
        self.n = n
        self.length = length
        self.seed = seed
        self.repeats = repeats
        self.shuffle = shuffle
        self.epoch = 0
        self.skip = 0
        self.group = 1
        self.together = 1

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        rank, world = _ranks()
        if self.length is None:
            keys = [(self.epoch, index, copy) for index in self._order(self.epoch) for copy in range(self.repeats)]
        else:
            keys = self._stream(self.epoch * self.length, (self.epoch + 1) * self.length)
        skip, self.skip = self.skip, 0
        return iter(self._own(keys, rank, world)[skip : len(self)])

    def _own(self, keys: list[Key], rank: int, world: int) -> list[Key]:
        """The keys of a rank: of each `world * together` keys the next `together`."""
        starts = range(rank * self.together, len(keys), world * self.together)
        return [key for start in starts for key in keys[start : start + self.together]]

    def _order(self, number: int) -> list[int]:
        rng = np.random.default_rng([self.seed, number])
        order: np.ndarray = rng.permutation(self.n) if self.shuffle is None else self.shuffle(rng)
        return order.tolist()

    def _stream(self, start: int, stop: int) -> list[Key]:
        """The images at places `start` to `stop` of all permutations, one after the other."""
        keys: list[Key] = []
        for number in range(start // self.n, -(-stop // self.n)):
            low, high = max(start - number * self.n, 0), min(stop - number * self.n, self.n)
            keys += [(number, index, 0) for index in self._order(number)[low:high]]
        return keys

    def __len__(self) -> int:
        images, world = self.n if self.length is None else self.length, _ranks()[1]
        count = images // (world * self.together) * self.together or images // world
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

    def first_batches(self, count: int) -> Iterator[Any]:
        """The first batches of the sampler's epoch again, as they were trained, without another process."""
        keys, train = list(self.sampler)[: count * self.batch_size], self.splits.train
        for start in range(0, len(keys), self.batch_size):
            yield _collate(train.__getitems__(keys[start : start + self.batch_size]))  # type: ignore[attr-defined]

    def val_dataloader(self) -> DataLoader[Any]:
        return self._evaluated(self.splits.val)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._evaluated(self.splits.test)

    def test_images(self, indices: Sequence[int]) -> Tensor:
        """(n, 3, S, S): some images of the test split."""
        test: Any = self.splits.test
        return _collate(test.__getitems__(list(indices)))[0]

    def _evaluated(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        size = self.splits.evaluated_in or self.batch_size
        batches = RankBatches(len(dataset), size * _ranks()[1])  # type: ignore[arg-type]
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
