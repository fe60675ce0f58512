"""Attention maps: where a token looks, what the whole pyramid looks at, and how much of it falls on an object.

The paper does not say how its figure of attention was made; the docstrings have the rules that are used instead.

Shapes: H W image or grid, N = H*W tokens, M = H'*W' reduced tokens, C channels, h heads, d channels of a head, r rate.
A window of tokens or pixels is a product of rows and columns. So what spreads mass over windows is two small matrices,
rows (H', H) and columns (W', W), each of whose rows sums to 1: a map m (H', W') becomes rows^T m columns (H, W).
No weights of all queries are held at once: they are computed for `chunk` weights at a time, in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shunted_lab.nn.layout import Grid
from shunted_lab.nn.pyramid import Pyramid
from shunted_lab.nn.recording import AttentionInputs, StageInputs, record_stages, size_of_image
from shunted_lab.nn.registry import ComponentError
from shunted_lab.nn.windows import Cells, pixels_of, receptive_field, stride_of

CHUNK = 2**20  # weights: 4 MB stay in a CPU's cache, which is faster than 64 MB (tests/benchmarks/attention_maps.py)


class QueryMap(NamedTuple):
    """Where one token looks: the attention of the heads of one rate in one block."""

    stage: int  # from 0, as `block`
    block: int
    rate: int
    heads: list[int]  # of the layer
    token: tuple[int, int]  # row and column of the query in `grid`
    grid: Grid  # of all tokens of the stage
    weights: Tensor  # (h, H', W'), each head sums to 1
    cells: Cells  # the tokens that each reduced token covers

    @property
    def heads_text(self) -> str:
        """`heads 0-3`."""
        return f"head {self.heads[0]}" if len(self.heads) == 1 else f"heads {self.heads[0]}-{self.heads[-1]}"

    def on_image(self, size: Grid) -> Tensor:
        """The mean over the heads on an image of this size, (H, W), summing to 1.

        The mass of a reduced token goes evenly over the pixels of the tokens that it covers. A token of stage i has
        the pixels of its square of 4 * 2^i, less what lies outside; positions that the aggregation pads are not pixels.

        Raises:
            ComponentError: for a size that does not give this grid.
        """
        rows, columns = pixels_of(self.cells, self.grid, size, self.stage)
        return rows.T @ self.weights.mean(0) @ columns

    def over_uniform(self, size: Grid) -> Tensor:
        """The same, (H, W), over what uniform attention gives each pixel: 1 is a weight of 1 / M. A reduced token at
        the border, which covers fewer pixels, is not brighter for that.
        """
        weights = self.weights.new_full(self.weights.shape, 1 / self.weights[0].numel())
        return self.on_image(size) / self._replace(weights=weights).on_image(size)


class Concentration(NamedTuple):
    """The share of attention on an object over the object's share of the area, for the heads of one rate."""

    stage: int  # from 0, as `block`
    block: int
    rate: int
    ratio: float


@torch.no_grad()
def attention_of(model: Pyramid, image: Tensor, query: tuple[float, float], blocks: str = "last") -> list[QueryMap]:
    """Where the token at a point of the image looks: one map per stage, block and rate.

    The weights are softmax(q k^T / sqrt(d)) (paper, section 3.1, equation 4): what the values, the local enhancement
    and the feed-forward layers make of it is not in them.

    Args:
        model: left in the mode that it was in.
        image: (1, 3, H, W), normalised as for training.
        query: the point (y, x) as fractions of height and width, in [0, 1).
        blocks: "last" for the last block of each stage, or "all".

    Raises:
        ComponentError: for a point outside the image, an image that the model does not take, and an attention that is
            not a `GroupedAttention`.
    """
    if blocks not in ("last", "all"):
        raise ComponentError(f"blocks: '{blocks}' is not known; choices: 'last', 'all'")
    _check_query(query)
    found = []
    for index, stage in enumerate(record_stages(model, image, all_blocks=blocks == "all")):
        row, column = _token_at(query, image, index)
        place = torch.tensor([row * stage.grid[1] + column], device=stage.device)
        for layer in stage.layers:
            for heads in layer.groups(place):
                _, weights = next(heads.weights(CHUNK))  # (h, 1, M)
                size = (heads.cells[0].shape[0], heads.cells[1].shape[0])
                drawn = weights[:, 0].unflatten(-1, size)  # (h, H', W')
                found.append(
                    QueryMap(index, layer.block, heads.rate, heads.heads, (row, column), stage.grid, drawn, heads.cells)
                )
    return found


@torch.no_grad()
def rollout(
    model: Pyramid,
    image: Tensor,
    query: tuple[float, float] | None = None,
    residual: float = 0.5,
    chunk: int = CHUNK,
) -> Tensor:
    """Attention rollout through the whole pyramid, (H, W), summing to 1 (Abnar and Zuidema, arXiv 2005.00928).

    Mass starts on the last map: uniform, which is what mean pooling sees, or on the token at `query`. It goes back
    through every block as v <- residual * v + (1 - residual) * v A, where A is the mean over all heads of the layer,
    and a reduced token's mass goes evenly to the tokens that it covers. Through an embedding, it goes evenly to the
    positions that its convolution sees, one convolution after the other; padding gets nothing. As in the original,
    feed-forward layers count as the identity; so do their convolutions and the local enhancement.

    Args:
        model: left in the mode that it was in.
        image: (1, 3, H, W), normalised as for training.
        query: a point (y, x) as fractions of height and width, in [0, 1); None for the whole last map.
        residual: the share of the skip connection, 0 to 1.
        chunk: attention weights that are held at once.

    Raises:
        ComponentError: as `attention_of`; for a residual outside 0 to 1; for an embedding that is not a chain of
            convolutions.
    """
    if query is not None:
        _check_query(query)
    if not 0 <= residual <= 1:
        raise ComponentError(f"residual: {residual} is not a share between 0 and 1")
    stages = record_stages(model, image, all_blocks=True)
    H, W = stages[-1].grid
    mass = torch.full((H, W), 1 / (H * W), device=stages[-1].device)
    if query is not None:
        mass.zero_()
        mass[_token_at(query, image, len(stages) - 1)] = 1
    for index, stage in reversed(list(enumerate(stages))):
        for layer in reversed(stage.layers):
            mass = residual * mass + (1 - residual) * _mass_before(layer, mass, chunk)
        rows, columns = _receptive_fields(stage, index)
        mass = rows.T @ mass @ columns
    return mass


@torch.no_grad()
def concentration(
    model: Pyramid, image: Tensor, mask: Tensor, queries: str = "all", chunk: int = CHUNK
) -> list[Concentration]:
    """How much more attention falls on an object than its area explains, per stage (last block) and rate.

    The ratio is the share of attention on the mask, averaged over queries and heads, over the share of the area. A
    reduced token gives the object its weight times the share of its pixels that are the object's. Uniform attention has
    ratio 1 where the reduced tokens are of equal size; at other sizes those at the border, which are smaller, shift it.

    Args:
        model: left in the mode that it was in.
        image: (1, 3, H, W), normalised as for training.
        mask: (H, W), bool or 0 to 1: how much of a pixel is the object's.
        queries: "all", or "object" for the tokens whose central pixel is the object's (mask of at least 0.5). Where a
            stage has none, its ratio is NaN.
        chunk: attention weights that are held at once.

    Raises:
        ComponentError: as `attention_of`; for a mask that is empty, full, of another size or outside 0 to 1.
    """
    if queries not in ("all", "object"):
        raise ComponentError(f"queries: '{queries}' is not known; choices: 'all', 'object'")
    size = size_of_image(model, image)
    area = _check_mask(mask, size)
    found = []
    for index, stage in enumerate(record_stages(model, image, all_blocks=False)):
        drawn = mask.to(stage.device, torch.float32)
        asked = _tokens_centred_on(drawn, stage.grid, index) if queries == "object" else None
        for layer in stage.layers:
            for heads in layer.groups(asked):
                rows, columns = pixels_of(heads.cells, stage.grid, size, index)
                share = (rows @ drawn @ columns.T).flatten()  # (M,)
                total = sum(float((weights @ share).sum()) for _, weights in heads.weights(chunk))
                count = heads.q.shape[0] * heads.q.shape[1]
                ratio = total / count / area if count else float("nan")
                found.append(Concentration(index, layer.block, heads.rate, ratio))
    return found


# --- mass ------------------------------------------------------------------------------------------------------------


def _mass_before(layer: AttentionInputs, mass: Tensor, chunk: int) -> Tensor:
    """v A of one layer, (H, W) -> (H, W): A is the mean over its heads, with reduced tokens spread over tokens."""
    v = mass.flatten()
    out = torch.zeros_like(mass)
    for heads in layer.groups():
        rows, columns = heads.cells
        reduced = v.new_zeros(heads.k.shape[1])  # (M,), the sum over heads
        for part, weights in heads.weights(chunk):
            reduced += v[part].repeat(len(heads.heads)) @ weights.flatten(0, 1)
        out += rows.T @ reduced.view(rows.shape[0], columns.shape[0]) @ columns
    return out / len(layer.attn.rates)


def _receptive_fields(stage: StageInputs, index: int) -> Cells:
    """What each token of a stage sees of the map before it: uniform in each convolution, one after the other."""
    axes = []
    for axis in (0, 1):
        length = stage.size[axis]
        chain = torch.eye(length, device=stage.device)
        for step in stage.convs:
            seen = receptive_field(step.conv, step.made[axis], axis, length, stage.device)
            # An embedding may pad at the end, up to a multiple of the stride; anything else breaks the chain.
            if not 0 <= step.given[axis] - length < step.conv.stride[axis] or seen.isnan().any():
                length = 0
                break
            chain, length = seen @ chain, step.made[axis]
        if length != stage.grid[axis]:
            name = type(stage.embed).__name__
            raise ComponentError(f"stage {index + 1}: {name} is not a chain of convolutions, which rollout needs")
        axes.append(chain)
    return axes[0], axes[1]


# --- places ----------------------------------------------------------------------------------------------------------


def _check_query(query: tuple[float, float]) -> None:
    if len(query) != 2 or not all(0 <= place < 1 for place in query):
        raise ComponentError(f"query: {query} is not a point of the image: fractions (y, x), each in [0, 1)")


def _token_at(query: tuple[float, float], image: Tensor, stage: int) -> tuple[int, int]:
    H, W = image.shape[-2:]
    return int(query[0] * H) // stride_of(stage), int(query[1] * W) // stride_of(stage)


def _check_mask(mask: Tensor, size: Grid) -> float:
    """The object's share of the area."""
    if tuple(mask.shape) != size:
        raise ComponentError(f"mask: {tuple(mask.shape)} is not the size {size} of the image")
    if not (float(mask.min()) >= 0 and float(mask.max()) <= 1):
        raise ComponentError(
            f"mask: {float(mask.min())} to {float(mask.max())} are not shares: bool, or values between 0 and 1"
        )
    area = float(mask.double().mean())
    if area in (0, 1):
        raise ComponentError(f"mask: it is {'full' if area else 'empty'}, so there is nothing to compare")
    return area


def _tokens_centred_on(mask: Tensor, grid: Grid, stage: int) -> Tensor:
    """Indices of the tokens whose central pixel is the object's; at the border, the centre of what lies inside."""
    places = []
    for count, length in zip(grid, mask.shape, strict=True):
        start = torch.arange(count, device=mask.device) * stride_of(stage)
        places.append((start + (start + stride_of(stage)).clamp(max=length)) // 2)
    return (mask[places[0]][:, places[1]] >= 0.5).flatten().nonzero()[:, 0]
