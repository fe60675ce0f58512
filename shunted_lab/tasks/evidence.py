"""The evidence of a run as a file that a report reads without the run's task (`config.task.Evidence`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from shunted_lab.config.schema import ConfigError
from shunted_lab.config.task import Evidence
from shunted_lab.output.files import atomic

FILE = "evidence.npz"


@dataclass(frozen=True)
class StoredEvidence:
    """What runs are compared by, image by image.

    Args:
        scores: (N,) how well each image of the test split was predicted, in its order.
        is_binary: whether scores are 0 or 1.
        images: tells test splits apart, with their targets.
        class_names: of `class_scores`; none for a task without classes.
        class_scores: (classes,) NaN for a class without images.
    """

    scores: np.ndarray
    is_binary: bool
    images: str
    class_names: tuple[str, ...]
    class_scores: np.ndarray


def write_evidence(evidence: Evidence, folder: Path) -> Path:
    """Write `evidence.npz` into a run's folder; binary scores of 50,000 images take 6 kB."""
    per_class = evidence.per_class()
    scores = np.packbits(evidence.scores.astype(bool)) if evidence.is_binary else evidence.scores.astype(np.float64)
    arrays = {
        "scores": scores,
        "count": np.int64(len(evidence.scores)),
        "is_binary": np.bool_(evidence.is_binary),
        "images": np.array(evidence.images, dtype=np.str_),
        "class_names": np.array(evidence.class_names, dtype=np.str_),
        "class_scores": np.empty(0) if per_class is None else per_class,
    }
    with atomic(folder / FILE) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return folder / FILE


def read_evidence(folder: Path) -> StoredEvidence | None:
    """The evidence in a run's folder; None if there is none.

    Raises:
        ConfigError: for a file that cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = dict(found)
        is_binary, scores = bool(arrays["is_binary"]), arrays["scores"]
        if is_binary:
            scores = np.unpackbits(scores, count=int(arrays["count"])).astype(np.float64)
        names = tuple(arrays["class_names"].tolist())
        return StoredEvidence(scores, is_binary, str(arrays["images"]), names, arrays["class_scores"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
