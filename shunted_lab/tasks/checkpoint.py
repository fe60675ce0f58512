"""A model with the weights of a file: a checkpoint of a run of ours, or published ones. Nothing but tensors is read."""

from __future__ import annotations

import hashlib
import warnings
from functools import lru_cache
from pathlib import Path

from shunted_lab.config import ConfigError, ModelConfig
from shunted_lab.nn import Pyramid
from shunted_lab.nn.official import CheckpointError, load_official, read_checkpoint
from shunted_lab.tasks.model import build_model


def load_model(config: ModelConfig, file: Path, num_classes: int | None = None) -> Pyramid:
    """The model of `config`, with the weights in `file`, on the CPU.

    Args:
        file: a `.ckpt` of Lightning, whose `state_dict` is taken (the averages, where weights were averaged), or what
            `nn.official.load_official` knows.
        num_classes: what the head must be for; None takes the head as it is.

    Raises:
        ConfigError: for a file that is absent, truncated or holds more than tensors, for weights of another model,
            with the first differences, and for a head for another number of classes.
    """
    try:
        found = read_checkpoint(file)
    except CheckpointError as error:
        raise ConfigError(f"checkpoint: {error}") from None
    head = found.get("head.weight")
    classes = 0 if head is None or head.ndim != 2 else len(head)
    if num_classes is not None and classes != num_classes:
        has = f"a head for {classes} classes" if classes else "no head that classifies"
        raise ConfigError(f"checkpoint: {file} has {has}, and the data have {num_classes} classes")
    net = build_model(config, classes)
    try:
        load_official(net, found, keep_head=True)
    except CheckpointError as error:
        reason = str(error).removeprefix("the state dict ")
        raise ConfigError(f"checkpoint: {file} {reason.replace('the model', config.name, 1)}") from None
    return net


def load_initial(net: Pyramid, file: str | Path) -> None:
    """Give `net` the weights in `file` to begin with. A head for another number of classes stays as it is.

    Raises:
        ConfigError: for a file that is absent, truncated or holds more than tensors, and for weights of another model.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*its head, .* is dropped")
            load_official(net, file)
    except CheckpointError as error:
        raise ConfigError(f"model.checkpoint: {error}") from None


def digest_of(file: str | Path) -> str:
    """SHA-256 of the content of a file in hex digits; not read again while its time and size stay."""
    state = Path(file).stat()
    return _digest(str(file), state.st_mtime_ns, state.st_size)


@lru_cache
def _digest(file: str, time: int, size: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
