"""Checkpoints in our models: the official Shunted Transformer, PVT v2 as published or as in timm, and our own names.

    load_weights(timm.create_model("shunted_s"), "ckpt_S.pth")

Nothing but tensors and plain values is read (`weights_only=True`): a file that holds pickled code is refused, and none
of it runs.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from shunted_lab.nn.attention import SSA
from shunted_lab.nn.pyramid import Block, Pyramid, Stage

ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")  # which is taken, in timm's order: averages first
WRAPPERS = ("_orig_mod.", "module.")  # before a model's names: of torch.compile and of torch's parallel wrappers
LIGHTNING = "net."  # before a model's names in the LightningModule of a run, which has other parts too
PLAIN: list[Any] = [
    argparse.Namespace
]  # values that are read beside tensors: the options in files of timm's and DeiT's scripts
SHOWN = 3  # differences that a message names, of each kind


class CheckpointError(ValueError):
    """A file that is not a checkpoint, or a checkpoint that does not fit the model."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Args:
        state_dict: names to tensors, without the prefixes of wrappers.
        entry: where they stand in the file, one of `ENTRIES`; None if they are the whole file.
        class_names: the classes of the head, which the checkpoints of runs have; None if the file has none.
    """

    state_dict: dict[str, Tensor]
    entry: str | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def num_classes(self) -> int:
        """Rows of the head; 0 without a head that classifies."""
        return _rows(self.state_dict)


def load_weights(
    model: Pyramid,
    checkpoint: str | Path | Mapping[str, Any],
    head: Literal["required", "optional", "ignored"] = "optional",
) -> None:
    """Load weights into `model`: published ones, timm's or our own.

    Args:
        checkpoint: a file, or what one holds: a state dict, or one as an entry (`ENTRIES`). The names are the official
            ones of the Shunted Transformer or of PVT v2, those of timm's `pvt_v2_*`, or our own.
        head: required: one that does not fit is refused; optional: it is dropped with a warning; ignored: the model
            keeps its own.

    Raises:
        TypeError: for a model that is not a Pyramid, such as timm's wrapper for `features_only`.
        CheckpointError: for a file that is missing, truncated, not a checkpoint or holds more than tensors and plain
            values, and for names or shapes that are not the model's; the message names the first differences. The model
            is left as it was.
    """
    if not isinstance(model, Pyramid):
        raise TypeError(
            f"load_weights needs a Pyramid, not a {type(model).__name__}; load before features_only wraps it"
        )
    where = str(checkpoint) if isinstance(checkpoint, str | Path) else "the state dict"
    read = read_checkpoint(checkpoint) if isinstance(checkpoint, str | Path) else _checkpoint(checkpoint, where)
    found, ours = read.state_dict, model.state_dict()
    if head == "ignored":
        found, ours = (_without_head(names) for names in (found, ours))
    theirs = published_names(model, found)
    missing, shapes, loaded = [], [], {}
    for name, value in ours.items():
        other = theirs[name]
        if other not in found:
            if not name.endswith("num_batches_tracked"):  # older checkpoints lack it
                missing.append(other)
            continue
        tensor = _reshaped(found[other], value)
        if tensor.shape == value.shape:
            loaded[name] = tensor
        elif head == "required" or not name.startswith("head."):
            shapes.append(f"{other} is {_size(tensor)} and not {_size(value)}")
    known = set(theirs.values())
    extra = [name for name in found if name not in known and (head == "required" or not name.startswith("head."))]
    if missing or shapes or extra:
        listed = _first("missing", missing) + _first("not in the model", extra) + _first("shapes", shapes)
        raise CheckpointError(f"{where} does not fit the model: {'; '.join(listed)}")
    if any(name.startswith("head.") and name not in loaded for name in (*ours, *found)):
        there = f"for {len(found['head.weight'])} classes" if "head.weight" in found else "of another kind"
        warnings.warn(
            f"{where}: its head, {there}, is dropped; the model has {model.num_classes or 'none'}", stacklevel=2
        )
    model.load_state_dict(model.state_dict() | loaded)


def _without_head(names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in names.items() if not name.startswith("head.")}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """What a file of torch or a `.safetensors` file holds.

    Raises:
        CheckpointError: see `load_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: does not exist")
    if path.suffix == ".safetensors":
        return _checkpoint(_read_safetensors(path), str(path))
    try:
        with torch.serialization.safe_globals(PLAIN):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message is many lines long and recommends to read the file without this guard.
        named = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise CheckpointError(
            f"{path}: is not a checkpoint, or contains more than tensors{what}; nothing in it was executed; if you "
            "trust its source, load it elsewhere and torch.save its state dict alone"
        ) from None
    except Exception as error:  # the bytes of a damaged file lead torch to errors of any kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: is truncated, or not a checkpoint ({reason})") from None
    return _checkpoint(found, str(path))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is truncated, or not a checkpoint ({str(error).splitlines()[0]})") from None


def _checkpoint(found: Any, where: str) -> Checkpoint:
    """The first of `ENTRIES` that `found` has, or all of it, as timm's `load_state_dict` chooses.

    With weights averaged in training, Lightning's `state_dict` are the averages.
    """
    entry = None
    if isinstance(found, Mapping):
        entry = next((key for key in ENTRIES if isinstance(found.get(key), Mapping)), None)
    state = found if entry is None else found[entry]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{where}: holds no state dict; expected names to tensors, or one of {', '.join(ENTRIES)} with them"
        )
    state = _clean(state)
    inside = {name.removeprefix(LIGHTNING): v for name, v in state.items() if name.startswith(LIGHTNING)}
    state = _clean(inside) or state
    names = found.get("class_names")
    rows = _rows(state)  # of a classifier; the head of another task is not known here
    known = isinstance(names, list) and rows in (0, len(names)) and all(isinstance(name, str) for name in names)
    return Checkpoint(state, entry, tuple(names) if known else None)


def _clean(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes of wrappers, in whichever order these wrap the model."""
    cleaned = {}
    for name, value in state.items():
        while prefix := next((prefix for prefix in WRAPPERS if name.startswith(prefix)), None):
            name = name.removeprefix(prefix)
        cleaned[name] = value
    return cleaned


def _rows(state: Mapping[str, Tensor]) -> int:
    head = state.get("head.weight")
    return 0 if head is None or head.ndim != 2 else len(head)


def published_names(model: Pyramid, state_dict: Iterable[str] = ()) -> dict[str, str]:
    """Our name of each parameter and buffer -> that in `state_dict`: official, or timm's or ours, if it has them."""
    if any(name.startswith("stages.0.embed.") for name in state_dict):
        return {ours: ours for ours in model.state_dict()}
    names = {ours: _official_name(ours, model) for ours in model.state_dict()}
    if "patch_embed.proj.weight" in state_dict:
        return {ours: _timm_name(official) for ours, official in names.items()}
    return names


def from_published(state_dict: dict[str, Tensor], model: Pyramid) -> dict[str, Tensor]:
    """timm's `pretrained_filter_fn`: published names become ours; a state dict with our names is returned as it is."""
    if any(name.startswith("stages.0.embed.") for name in state_dict):
        return state_dict
    ours = {theirs: name for name, theirs in published_names(model, state_dict).items()}
    shapes = model.state_dict()
    renamed = {
        ours.get(name, name): value for name, value in _checkpoint(state_dict, "the checkpoint").state_dict.items()
    }
    return {name: _reshaped(value, shapes[name]) if name in shapes else value for name, value in renamed.items()}


def _official_name(ours: str, model: Pyramid) -> str:
    """`stages.0.blocks.1.attn.groups.r8.kv.weight` -> `block1.1.attn.kv1.weight`."""
    parts = ours.split(".")
    if parts[0] != "stages":
        return ours
    stage = model.stages[int(parts[1])]
    assert isinstance(stage, Stage)
    number, rest = int(parts[1]) + 1, parts[2:]
    if rest[0] == "norm":
        return f"norm{number}.{rest[1]}"
    if rest[0] == "embed":
        if rest[1] == "proj" and hasattr(stage.embed, "conv"):  # the last layer of the stem
            rest = ["embed", "conv", str(len(stage.embed.conv)), rest[2]]  # type: ignore[arg-type]
        return f"patch_embed{number}." + ".".join(rest[1:])
    prefix = f"block{number}.{rest[1]}."
    if rest[2:4] != ["attn", "groups"]:
        return prefix + ".".join(rest[2:]).replace("dwconv.", "dwconv.dwconv.")
    block = stage.blocks[int(rest[1])]
    assert isinstance(block, Block)
    numbered = isinstance(block.attn, SSA) and set(block.attn.rates) != {1}
    group = list(block.attn.groups).index(rest[4]) + 1 if numbered else ""  # type: ignore[arg-type]
    part = ".".join(rest[5:-1])
    known = {"aggregation.conv": "sr", "aggregation.proj": "sr", "aggregation.norm": "norm", "local": "local_conv"}
    return f"{prefix}attn.{known.get(part, part)}{group}.{rest[-1]}"


def _timm_name(official: str) -> str:
    """`block1.0.attn.kv.weight` -> `stages.0.blocks.0.attn.kv.weight`, as in timm's pvt_v2."""
    for pattern, name in ((r"block(\d)\.", "blocks."), (r"norm(\d)\.", "norm."), (r"patch_embed(\d)\.", "downsample.")):
        if match := re.match(pattern, official):
            official = f"stages.{int(match[1]) - 1}.{name}{official[match.end() :]}"
    return official.replace("stages.0.downsample.", "patch_embed.").replace("dwconv.dwconv.", "dwconv.")


def _reshaped(tensor: Tensor, like: Tensor) -> Tensor:
    """A 1x1 convolution (C', C, 1, 1) where we have a linear layer (C', C) is the same; anything else as it is."""
    return tensor.flatten(1) if tensor.ndim == 4 and like.ndim == 2 and tensor.shape[2:] == (1, 1) else tensor


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _first(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{what}: {', '.join(names[:SHOWN])}{more}"]
