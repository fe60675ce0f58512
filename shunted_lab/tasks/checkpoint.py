"""A model with the weights of a file: a checkpoint of a run of ours, or published ones.

The rows of a head are matched to the classes of the data by name where the file says its classes, as the checkpoints of
runs do, and by position where it does not.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shunted_lab.config.model import ModelConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.task import TaskConfig
from shunted_lab.nn import Pyramid
from shunted_lab.nn.weights import Checkpoint, CheckpointError, load_weights, read_checkpoint
from shunted_lab.output.quantities import listed
from shunted_lab.tasks.model import build_model

BY_NAME = "matched by name"
REORDERED = "matched by name, in the order of the data"
BY_POSITION = "matched by position (the file has no class names)"
OTHER_TASK = "the file is of another task, and its backbone is taken"
BACKBONE = "backbone."  # before a backbone's names in a network with the head of another task
NAMED = 3  # classes that a message names, of each kind


@dataclass(frozen=True)
class LoadedModel:
    """A model with the weights of a file, the entry of the file that they are, how its classes were matched to those of
    the data (None where no data were given), and their names (none where the file has none)."""

    net: Any
    entry: str | None
    classes: str | None
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class InitialWeights:
    """What a training begins with: the entry of the file, and how its head was matched, or why it was not taken."""

    entry: str | None
    new_head: bool
    head: str

    def __str__(self) -> str:
        head = f"its head is re-initialized: {self.head}" if self.new_head else f"its classes are {self.head}"
        return f"{entry_text(self.entry)}; {head}"

    def note(self) -> dict[str, Any]:
        """Plain values, for checkpoints and results."""
        return asdict(self)


def entry_text(entry: str | None) -> str:
    """Which weights of a file were taken."""
    return "the whole file" if entry is None else f"its entry '{entry}'"


def load_model(
    config: ModelConfig, file: Path, class_names: Sequence[str] | None = None, task: TaskConfig | None = None
) -> LoadedModel:
    """The model of `config`, with the weights in `file`, on the CPU.

    Args:
        file: a `.ckpt` of Lightning, whose `state_dict` is taken (the averages, where weights were averaged), or what
            `nn.weights.load_weights` knows.
        class_names: the classes of the data in the order of their labels, which the rows of the head are put into; None
            takes the head as it is.
        task: whose network it is; None is the model by itself.

    Raises:
        ConfigError: for a file that is absent, truncated or holds more than tensors and plain values, for weights of
            another model, with the first differences, and for a head for other classes.
    """
    checkpoint = _read("checkpoint", file)
    classes = None
    rows = checkpoint.num_classes or len(checkpoint.class_names or ())
    if class_names and not checkpoint.num_classes and checkpoint.class_names is not None:  # of another task's head
        if checkpoint.class_names != tuple(class_names):
            text = _other_names(checkpoint.class_names, class_names) or "the same in another order"
            raise ConfigError(f"checkpoint: {file} has a head for other classes than the data have: {text}")
        classes = BY_NAME
    elif class_names:
        difference = _difference(checkpoint, class_names)
        if difference is not None:
            raise ConfigError(f"checkpoint: {file} {difference}")
        checkpoint, classes = _ordered(checkpoint, class_names)
    net: Any = build_model(config, rows) if task is None else task.build(config, rows)
    try:
        _fill(net, checkpoint.state_dict)
    except CheckpointError as error:
        reason = str(error).removeprefix("the state dict ")
        raise ConfigError(f"checkpoint: {file} {reason.replace('the model', config.name, 1)}") from None
    return LoadedModel(net, checkpoint.entry, classes, checkpoint.class_names or ())


def load_initial(net: Any, file: str | Path, class_names: Sequence[str]) -> InitialWeights:
    """Give `net` the weights in `file` to begin with. A head for other classes stays as it is; a network of another
    task than that of the file gets the backbone.

    Args:
        class_names: the classes of the data in the order of their labels.

    Raises:
        ConfigError: for a file that is absent, truncated or holds more than tensors and plain values, and for the
            weights of another model.
    """
    checkpoint = _read("model.checkpoint", file)
    try:
        if not isinstance(net, Pyramid):
            return _load_other_task(net, checkpoint, class_names)
        if any(name.startswith(BACKBONE) for name in checkpoint.state_dict):
            load_weights(net, _backbone_of(checkpoint), head="ignored")
            return InitialWeights(checkpoint.entry, True, OTHER_TASK)
        difference = _difference(checkpoint, class_names)
        if difference is not None:
            load_weights(net, checkpoint.state_dict, head="ignored")
            return InitialWeights(checkpoint.entry, True, f"it {difference}")
        checkpoint, matched = _ordered(checkpoint, class_names)
        load_weights(net, checkpoint.state_dict, head="required")
        return InitialWeights(checkpoint.entry, False, matched)
    except CheckpointError as error:
        reason = str(error).removeprefix("the state dict ")
        raise ConfigError(f"model.checkpoint: {file} {reason}") from None


def _load_other_task(net: nn.Module, checkpoint: Checkpoint, class_names: Sequence[str]) -> InitialWeights:
    """Give a network that contains a backbone all weights of a file of the same task and classes, or those of the
    backbone.
    """
    head = OTHER_TASK
    if net.state_dict().keys() == checkpoint.state_dict.keys():
        theirs = checkpoint.class_names
        if theirs is None or theirs == tuple(class_names):
            _fill(net, checkpoint.state_dict)
            return InitialWeights(checkpoint.entry, False, "those of the file")
        head = f"the file is of other classes: {_other_names(theirs, class_names) or 'in another order'}"
    backbone = next((part for part in net.modules() if isinstance(part, Pyramid)), None)
    if backbone is None:
        raise CheckpointError("the state dict does not fit the model, which contains no backbone")
    load_weights(backbone, _backbone_of(checkpoint), head="ignored")
    return InitialWeights(checkpoint.entry, True, head)


def _backbone_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The weights of the backbone alone, of a network with a head of another task; else all."""
    inside = {n.removeprefix(BACKBONE): v for n, v in checkpoint.state_dict.items() if n.startswith(BACKBONE)}
    return inside or checkpoint.state_dict


def _fill(net: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load all weights: published or own ones into a `Pyramid`, own ones into the network of another task."""
    if isinstance(net, Pyramid):
        load_weights(net, state_dict, head="required")
        return
    own = net.state_dict()
    missing, extra = sorted(own.keys() - state_dict.keys()), sorted(state_dict.keys() - own.keys())
    shapes = [n for n in own.keys() & state_dict.keys() if own[n].shape != state_dict[n].shape]
    found = {"missing": missing, "not in the model": extra, "shapes": sorted(shapes)}
    if text := "; ".join(f"{what} {listed(names, NAMED)}" for what, names in found.items() if names):
        raise CheckpointError(f"the state dict does not fit the model: {text}")
    net.load_state_dict(dict(state_dict))


def _read(key: str, file: str | Path) -> Checkpoint:
    try:
        return read_checkpoint(file)
    except CheckpointError as error:
        raise ConfigError(f"{key}: {error}") from None


def _difference(checkpoint: Checkpoint, class_names: Sequence[str]) -> str | None:
    """Why the head of a file is not one for these classes; None if it is."""
    if not checkpoint.num_classes:
        return f"has no head that classifies, and the data have {len(class_names)} classes"
    theirs = checkpoint.class_names
    if theirs is None:
        if checkpoint.num_classes == len(class_names):
            return None
        return f"has a head for {checkpoint.num_classes} classes, and the data have {len(class_names)} classes"
    differing = _other_names(theirs, class_names)
    return f"has a head for other classes than the data have: {differing}" if differing else None


def _other_names(theirs: Sequence[str], class_names: Sequence[str]) -> str:
    """The names that only the file has, and those that only the data have; empty where all are the same."""
    ours, known = set(class_names), set(theirs)
    lost = [name for name in theirs if name not in ours]
    new = [name for name in class_names if name not in known]
    found = [f"only the file has {_listed(lost, new)}"] if lost else []
    found += [f"only the data have {_listed(new, lost)}"] if new else []
    return "; ".join(found)


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    """The first of some names, each with the nearest of the others."""
    near = [difflib.get_close_matches(name, others, n=1, cutoff=0.6) for name in names[:NAMED]]
    shown = [f"'{name}'" + (f" (nearest: '{m[0]}')" if m else "") for name, m in zip(names, near, strict=False)]
    return listed([*shown, *names[NAMED:]], NAMED)


def _ordered(checkpoint: Checkpoint, class_names: Sequence[str]) -> tuple[Checkpoint, str]:
    """The rows of a head for these classes in their order, and how they were matched."""
    theirs = checkpoint.class_names
    if theirs is None:
        return checkpoint, BY_POSITION
    if theirs == tuple(class_names):
        return checkpoint, BY_NAME
    places = {name: row for row, name in enumerate(theirs)}
    rows = torch.tensor([places[name] for name in class_names])
    state = {name: value[rows] if name.startswith("head.") else value for name, value in checkpoint.state_dict.items()}
    return replace(checkpoint, state_dict=state, class_names=tuple(class_names)), REORDERED
