"""What a run predicted for each image of the test split, in a compact file of its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import atomic

FILE = "predictions.npz"


@dataclass(frozen=True)
class Predictions:
    """Of N images, in the order of the test split.

    For one label an image: `targets` and `predicted` are (N,) classes, `confidence` (N,) the probability of the
    predicted one. For several labels: `targets` and `predicted` are (N, K) booleans, and there is no confidence.
    """

    targets: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray | None = None
    class_names: tuple[str, ...] = ()

    @property
    def scores(self) -> np.ndarray:
        """(N,) share of the image's labels that were predicted: 0 or 1 where there is one label."""
        if self.targets.ndim == 1:
            return (self.targets == self.predicted).astype(np.float64)
        return (self.targets & self.predicted).sum(1) / self.targets.sum(1).clip(min=1)

    @property
    def counts(self) -> None:
        return None

    @property
    def marks(self) -> None:
        return None

    @property
    def is_binary(self) -> bool:
        return self.targets.ndim == 1

    @property
    def images(self) -> str:
        """A digest of the targets: the test split is read in one order."""
        return hashlib.sha256(repr(self.targets.shape).encode() + self.targets.astype("<i8").tobytes()).hexdigest()[:16]

    def captions(self, images: Sequence[int]) -> list[str]:
        """`predicted` where that is right, else `predicted / true`."""
        pairs = [(self._names(self.predicted[i]), self._names(self.targets[i])) for i in images]
        return [predicted if predicted == true else f"{predicted} / {true}" for predicted, true in pairs]

    def _names(self, classes: np.ndarray) -> str:
        indices = np.flatnonzero(classes) if self.targets.ndim == 2 else [int(classes)]
        return ", ".join(self.class_names[i] for i in indices)

    def per_class(self) -> np.ndarray:
        """(classes,) share of the images of each class that were predicted so; NaN for a class without images."""
        if self.targets.ndim == 1:
            count = len(self.class_names)
            total = np.bincount(self.targets, minlength=count)
            found = np.bincount(self.targets, weights=self.scores, minlength=count)
        else:
            total, found = self.targets.sum(0), (self.targets & self.predicted).sum(0)
        with np.errstate(invalid="ignore"):
            return found / total

    def write(self, folder: Path) -> Path:
        """`predictions.npz`, whole or not at all; 50,000 images of one label take less than 300 kB."""
        if self.targets.ndim == 1:
            highest = max(self.targets.max(initial=0), self.predicted.max(initial=0))
            kind = np.min_scalar_type(highest)  # uint8, uint16, uint32
            arrays = {"targets": self.targets.astype(kind), "predicted": self.predicted.astype(kind)}
            if self.confidence is not None:
                arrays["confidence"] = np.round(255 * self.confidence).astype(np.uint8)
        else:
            arrays = {key: np.packbits(getattr(self, key), axis=1) for key in ("targets", "predicted")}
        arrays["class_names"] = np.array(self.class_names, dtype=np.str_)
        with atomic(folder / FILE) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return folder / FILE


def read_predictions(folder: Path) -> Predictions | None:
    """The predictions in a run's folder; None if there are none.

    Raises:
        ConfigError: for a file that cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = dict(found)
        names, pair = tuple(arrays["class_names"].tolist()), (arrays["targets"], arrays["predicted"])
        if arrays["targets"].ndim == 2:
            targets, predicted = (np.unpackbits(bits, axis=1, count=len(names)).astype(bool) for bits in pair)
            return Predictions(targets, predicted, class_names=names)
        targets, predicted = (classes.astype(np.int64) for classes in pair)
        return Predictions(targets, predicted, arrays["confidence"] / 255 if "confidence" in arrays else None, names)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
