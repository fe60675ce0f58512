"""What the stages of a pyramid are given in a forward pass: what attention maps are computed from.

Shapes: H W image or grid, N = H*W tokens, M = H'*W' reduced tokens, C channels, h heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shunted_lab.nn.attention import GroupedAttention, HeadGroup, split_heads
from shunted_lab.nn.layout import Grid
from shunted_lab.nn.pyramid import Block, Pyramid, Stage
from shunted_lab.nn.registry import ComponentError
from shunted_lab.nn.windows import Cells, cells_of


class QueriesAndKeys(NamedTuple):
    """Queries and keys of the heads of one rate in one layer."""

    heads: list[int]
    rate: int
    q: Tensor  # (h, n, d) of n tokens, scaled by 1 / sqrt(d)
    k: Tensor  # (h, M, d)
    cells: Cells  # the tokens that each key covers

    def weights(self, chunk: int) -> Iterator[tuple[slice, Tensor]]:
        """Slices of the queries with their weights (h, part of n, M): at most `chunk` numbers, or one query."""
        step = max(1, chunk // (self.k.shape[0] * self.k.shape[1]))
        for start in range(0, self.q.shape[1], step):
            part = slice(start, start + step)
            yield part, (self.q[:, part] @ self.k.mT).softmax(-1)


class AttentionInputs(NamedTuple):
    """An attention, and the tokens (1, N, C) that it was given."""

    attn: GroupedAttention
    where: str  # e.g. `stage 1, block 2`
    block: int
    x: Tensor
    grid: Grid

    def groups(self, queries: Tensor | None = None) -> Iterator[QueriesAndKeys]:
        """The heads rate by rate, with the queries of these tokens (indices into N), or of all."""
        d = self.attn.head_dim
        asked = self.x if queries is None else self.x[:, queries]
        q = split_heads(self.attn.q(asked), d)[0] * d**-0.5  # (h, n, d), heads in the order of the layer
        for group in self.attn.groups.values():
            assert isinstance(group, HeadGroup)
            k, _, reduced = group.keys_values(self.x, self.grid)
            cells = cells_of(group, self.grid, reduced, self.where, self.x.device)
            yield QueriesAndKeys(group.heads, group.rate, q[group.heads].float(), split_heads(k, d)[0].float(), cells)


class ConvSizes(NamedTuple):
    """A convolution of an embedding: the size that it was given, with what the embedding padded, and what it made."""

    conv: nn.Conv2d
    given: Grid
    made: Grid


@dataclass
class StageInputs:
    """What one stage was given and made of it."""

    embed: nn.Module
    size: Grid = (0, 0)  # of the map before the embedding
    grid: Grid = (0, 0)
    device: torch.device = torch.device("cpu")
    convs: list[ConvSizes] = field(default_factory=list)
    layers: list[AttentionInputs] = field(default_factory=list)

    def embedded(self, module: nn.Module, args: tuple[Tensor], output: tuple[Tensor, Grid]) -> None:
        self.size = (args[0].shape[-2], args[0].shape[-1])
        self.grid = output[1]
        self.device = output[0].device

    def convolved(self, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        given, made = args[0].shape, output.shape
        self.convs.append(ConvSizes(module, (given[-2], given[-1]), (made[-2], made[-1])))

    def attends(self, where: str, block: int) -> Callable[[nn.Module, Any], None]:
        def keep(module: nn.Module, args: tuple[Tensor, Grid]) -> None:
            assert isinstance(module, GroupedAttention)
            self.layers.append(AttentionInputs(module, where, block, *args))

        return keep


def record_stages(model: Pyramid, image: Tensor, all_blocks: bool) -> list[StageInputs]:
    """One pass in evaluation mode: what each stage was given, with the inputs of its last attention, or of all.

    Raises:
        ComponentError: for an image that the model does not take, and an attention that is not a `GroupedAttention`.
    """
    size_of_image(model, image)
    like = next(model.parameters())
    with _recording(model, all_blocks) as seen:
        model.forward_features(image.to(like))
    return seen


def size_of_image(model: Pyramid, image: Tensor) -> Grid:
    """(H, W) of an image (1, C, H, W).

    Raises:
        ComponentError: for a batch of several, and for other channels than the model's.
    """
    if image.ndim != 4 or image.shape[:2] != (1, model.in_chans):
        raise ComponentError(f"image: {tuple(image.shape)} is not a single image (1, {model.in_chans}, H, W)")
    return image.shape[-2], image.shape[-1]


@contextmanager
def _recording(model: Pyramid, all_blocks: bool) -> Iterator[list[StageInputs]]:
    """In evaluation mode, with hooks that record what each stage is given; afterwards the model is as it was."""
    seen, handles = [], []
    training = [(module, module.training) for module in model.modules()]  # a frozen norm stays frozen
    try:
        model.eval()
        for index, stage in enumerate(model.stages):
            assert isinstance(stage, Stage)
            notes = StageInputs(stage.embed)
            seen.append(notes)
            handles.append(stage.embed.register_forward_hook(notes.embedded))
            convs = [module for module in stage.embed.modules() if isinstance(module, nn.Conv2d)]
            handles += [conv.register_forward_hook(notes.convolved) for conv in convs]
            for number, block in list(enumerate(stage.blocks))[0 if all_blocks else -1 :]:
                assert isinstance(block, Block)
                where = f"stage {index + 1}, block {number + 1}"
                if not isinstance(block.attn, GroupedAttention):
                    name = type(block.attn).__name__
                    raise ComponentError(
                        f"{where}: {name} is not a GroupedAttention, so it has no attention weights to show"
                    )
                handles.append(block.attn.register_forward_pre_hook(notes.attends(where, number)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training:
            module.training = mode
