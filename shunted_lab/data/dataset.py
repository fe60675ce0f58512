"""Images through a transform. An image of an epoch is the same whoever loads it, in whatever order, for any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.data.corrupt import Corrupt, refused, too_many
from shunted_lab.data.decode import Undecodable
from shunted_lab.data.generators import preserve_generators, seed_generators
from shunted_lab.data.module import Key
from shunted_lab.data.symmetry import apply_symmetry, draw_symmetry


class Images(Protocol):
    """Images that are decoded one by one. It can be sent to the workers of a loader."""

    def decode(self, index: int) -> Image.Image:
        """An image, RGB; it may raise `Undecodable`."""

    def where(self, index: int) -> str:
        """Where an image lies, for messages."""


class TransformedImages(Dataset[tuple[Tensor, int]]):
    """Images through a transform. With a recipe it is a training split: indexed by key, each with its own draws.

    Args:
        transform: of a PIL image.
        corrupt: notes what cannot be decoded in a training split. The next image of the split that can be decoded
            replaces it, with its own label and the draws of the key, so that the image follows from the index alone.
    """

    def __init__(
        self,
        images: Images,
        labels: Sequence[int],
        transform: Callable[[Any], Tensor],
        recipe: RecipeConfig | None = None,
        seed: int = 0,
        corrupt: Corrupt | None = None,
    ):
        self.images = images
        self.labels = labels
        self.transform = transform
        self.recipe = recipe
        self.seed = seed
        self.corrupt = corrupt

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key | int) -> tuple[Tensor, int]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key | int]) -> list[tuple[Tensor, int]]:
        """The images of a batch. The generators are saved and restored once, which takes as long as cropping an image.

        Raises:
            CorruptImages: for more corrupt images than may be replaced, or for any in a split that is evaluated.
        """
        with preserve_generators():
            return [self._load(key) for key in keys]

    def _load(self, key: Key | int) -> tuple[Tensor, int]:
        if self.recipe is None:
            assert isinstance(key, int)
            return self.transform(self._decoded(key)[0]), int(self.labels[key])
        assert isinstance(key, tuple)
        image, index = self._decoded(key[1])
        if self.recipe.dihedral:
            which = draw_symmetry(np.random.default_rng([self.seed, *key]), self.recipe)
            image = Image.fromarray(np.ascontiguousarray(apply_symmetry(np.asarray(image), which)))
        seed_generators([self.seed, *key])
        return self.transform(image), int(self.labels[index])

    def _decoded(self, index: int) -> tuple[Image.Image, int]:
        """An image, and the index that it has in the split."""
        for other in chain(range(index, len(self)), range(index)):
            try:
                return self.images.decode(other), other
            except Undecodable as error:
                name = self.images.where(other)
                if self.corrupt is None:
                    raise refused(name, error) from None
                if self.corrupt.note(other, f"{name} cannot be decoded ({error})"):
                    break
        assert self.corrupt is not None
        raise too_many([self.images.where(i) for i in self.corrupt.found], self.corrupt)
