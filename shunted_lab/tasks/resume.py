"""How a run is resumed: at the newest of its checkpoints that can be read, wherever its folder lies now."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from shunted_lab.output.files import atomic

LAST = "last.ckpt"  # written after each epoch
STOPPED = "stopped.ckpt"  # written within an epoch, when a run is asked to stop
BEST = "best.ckpt"  # of the epoch that validation chose so far
BATCHES = "batches_of_epoch"  # a checkpoint's entry: how many batches of its epoch were trained; 0 for a whole epoch
# Entries of a checkpoint that only training needs; `current_model_state` are weights before they were averaged.
TRAINING = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "MixedPrecision", "current_model_state")
DAMAGED = ".damaged"  # added to the name of a checkpoint that cannot be used


def newest(checkpoints: Path, select: str = "last") -> Path | None:
    """The checkpoint that a run is resumed from; None to start at the first epoch.

    Progress is what the files say, not their times: copies have other times. A file that cannot be read is renamed to
    `NAME.damaged`, with a warning.

    Args:
        checkpoints: the folder of a run's checkpoints.
        select: `recipe.select`. With "best", a run that has lost the weights of its best epoch starts again.

    Raises:
        OSError: for a file that cannot be opened, which says nothing about its content.
    """
    there = {name: found for name in (LAST, STOPPED) if (found := _progress(checkpoints / name)) is not None}
    if not there:
        if any(checkpoints.glob(f"*{DAMAGED}")):
            _warn(f"{checkpoints}: no checkpoint can be read; the run starts at its first epoch")
        return None
    name = max(there, key=lambda name: there[name])
    _, epoch, batches = there[name]
    has_best = epoch > 0 or batches == 0
    if select == "best" and has_best and _progress(checkpoints / BEST) is None:
        _warn(f"{checkpoints / BEST}: the best epoch's weights are lost; the run starts at its first epoch")
        for name in there:  # else a kill would leave them beside a best.ckpt that is not theirs
            _set_aside(checkpoints / name)
        return None
    return checkpoints / name


def keep_weights(checkpoints: Path, select: str, kept: str) -> None:
    """Leave of a finished run's checkpoints what is asked for.

    Args:
        checkpoints: the folder of a run's checkpoints.
        select: `recipe.select`, which says whose weights were tested.
        kept: `weights` (those that were tested, without what only training needs), `all` or `none`.
    """
    if kept == "all" or not checkpoints.exists():
        return
    tested = checkpoints / (BEST if select == "best" else LAST)
    if kept == "weights":
        found = {key: value for key, value in _read(tested).items() if key not in TRAINING}
        with atomic(tested) as file:
            torch.save(found, file)
    for path in checkpoints.glob("*.ckpt"):
        if path != tested or kept == "none":
            path.unlink()
    with suppress(OSError):  # damaged ones stay
        checkpoints.rmdir()


def batches_trained(checkpoint: Path | None) -> int:
    """How many batches of the epoch that is resumed are in a checkpoint."""
    return 0 if checkpoint is None else int(_read(checkpoint)[BATCHES])


def _progress(path: Path) -> tuple[int, int, int] | None:
    """Optimizer steps, epoch and batches of a checkpoint; None if there is none that can be read."""
    try:
        found = _read(path)
        if "optimizer_states" not in found:
            return None  # weights of a finished run
        return int(found["global_step"]), int(found["epoch"]), int(found[BATCHES])
    except FileNotFoundError:
        return None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the bytes of a damaged file lead torch to errors of any kind
        reason = next(iter(str(error).splitlines()), type(error).__name__).partition(". ")[0]
        _warn(f"{path}: cannot be read ({reason}); it is renamed to {path.name}{DAMAGED}")
        _set_aside(path)
        return None


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint whose tensors stay on the disk, where its file system can map files."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:
        return torch.load(path, map_location="cpu", weights_only=True)


def _set_aside(path: Path) -> None:
    with suppress(FileNotFoundError):  # another rank of the run was faster
        path.rename(path.with_name(path.name + DAMAGED))


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


class MovableCheckpoint(ModelCheckpoint):
    """Lightning's own forgets the best score when a run's folder was moved or copied, or is mounted elsewhere."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        paths = {name: self._here(state_dict[name]) for name in names}
        models = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"best_k_models": models, "dirpath": self.dirpath})

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else ""
