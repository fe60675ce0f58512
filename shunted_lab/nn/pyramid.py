"""The pyramid: patch embedding, then stages of blocks at strides 4, 8, 16, 32. Everything in it is a component.

Shapes: B batch, N = H*W tokens, C channels, H W grid.
"""

# Annotations are not postponed in this file: TorchScript reads those of the forward of a traced model.
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shunted_lab.nn.attention import spread_rates
from shunted_lab.nn.components import ATTENTION, DOWNSAMPLE, MLP, PATCH_EMBED
from shunted_lab.nn.initial import backbone_seed, init_weights, place_seed, seeded
from shunted_lab.nn.layout import Grid, to_map, to_tokens
from shunted_lab.nn.registry import ComponentError, RatesError, Spec

torch.fx.wrap("check_size")  # branches on the size: a leaf for torch.fx


class DropPath(nn.Module):
    """Stochastic depth: in training, a sample keeps its branch with probability 1 - `rate`, scaled by its inverse.

    As `timm.layers.DropPath`, whose import takes longer than a plan may.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty([x.shape[0], 1, 1]).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate) if self.rate < 1 else x * keep


class Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)), each dropped with probability `drop_path`."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x), grid))


class Stage(nn.Module):
    """Embedding, blocks, norm: (B, C, H, W) -> (B, C', H', W')."""

    def __init__(self, embed: nn.Module, blocks: Sequence[Block], dim: int):
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        # As tokens lie in memory: no layer after this copies.
        x, grid = self.embed(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x, grid, use_reentrant=False)
            else:
                x = block(x, grid)
        return to_map(self.norm(x), grid)


class Pyramid(nn.Module):
    """A pyramid of stages; with the defaults of its slots, the Shunted Transformer (arXiv 2111.15193, section 3).

    Args:
        embed_dims, depths, num_heads, mlp_ratios: one entry per stage.
        rates: one list of downsampling rates per stage, spread over its heads (`spread_rates`).
        patch_embed: a component (see `registry.Spec`).
        attn, aggregation, mlp: a component, or one per stage.
        downsample: a component, or one per step between stages.
        drop_rate: dropout before the head; `proj_drop_rate`, `attn_drop_rate`: inside the blocks.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        global_pool: "avg", or "" to leave the last map as it is.
        num_classes: 0 for no head.
        device, dtype: of parameters and buffers.

    Raises:
        ComponentError: for lists of different lengths, for what the components refuse, and for an aggregation that the
            attention of its stage does not use.
    """

    is_backbone = True  # in any network, its initial values are seeded by the names inside it (`init_weights`)

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratios: Sequence[float],
        rates: Sequence[Sequence[int]],
        qkv_bias: bool = True,
        patch_embed: Spec = "conv_stem1",
        downsample: Spec | Sequence[Spec] = "overlapping",
        attn: Spec | Sequence[Spec] = "ssa",
        aggregation: Spec | Sequence[Spec] = "conv",
        mlp: Spec | Sequence[Spec] = "detail_specific",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        in_chans: int = 3,
        num_classes: int = 1000,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        stages = len(embed_dims)
        for name, value in (("depths", depths), ("num_heads", num_heads), ("mlp_ratios", mlp_ratios), ("rates", rates)):
            if len(value) != stages:
                raise ComponentError(f"{name}: {value} has {len(value)} entries for {stages} stages")
        _check_pool(global_pool)
        attns, mlps = _per_stage("attn", attn, stages), _per_stage("mlp", mlp, stages)
        aggregations = _per_stage("aggregation", aggregation, stages)
        downsamples = _per_stage("downsample", downsample, stages - 1)
        drop_path = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        common = {"qkv_bias": qkv_bias, "attn_drop": attn_drop_rate, "proj_drop": proj_drop_rate}
        # Each component is built under a seed of its place, so that what it draws does not depend on the others.
        with _factory(device, dtype), seeded(backbone_seed()):
            built = []
            for i, (dim, heads) in enumerate(zip(embed_dims, num_heads, strict=True)):
                if dim % heads:
                    raise ComponentError(f"num_heads[{i}]={heads} does not divide embed_dims[{i}]={dim}")
                _check_used(attns[i], aggregations[i], i)
                with seeded(place_seed(f"stages.{i}.embed")):
                    if i == 0:
                        embed = PATCH_EMBED.build(patch_embed, in_chans=in_chans, embed_dim=dim)
                    else:
                        embed = DOWNSAMPLE.build(downsamples[i - 1], in_chans=embed_dims[i - 1], embed_dim=dim)
                context: dict[str, Any] = {"dim": dim, "num_heads": heads, "hidden_dim": int(dim * mlp_ratios[i])}
                context |= common | {"rates": spread_rates(list(rates[i]), heads), "aggregation": aggregations[i]}
                try:
                    blocks = _blocks(f"stages.{i}.blocks", depths[i], attns[i], mlps[i], context, drop_path)
                except RatesError as error:
                    error.stage = i
                    raise
                built.append(Stage(embed, blocks, dim))
            self.stages = nn.Sequential(*built)
            self.head_drop = nn.Dropout(drop_rate)
            self.head = nn.Linear(embed_dims[-1], num_classes) if num_classes else nn.Identity()
        self.min_size = 2 ** (stages + 1)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.global_pool = global_pool
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.feature_info = [
            {"num_chs": dim, "reduction": 2 ** (i + 2), "module": f"stages.{i}"} for i, dim in enumerate(embed_dims)
        ]

    # --- forward -----------------------------------------------------------------------------------------------------

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> the last map (B, C, H/32, W/32).

        Raises:
            ComponentError: for an image with a side below 32 pixels.
        """
        return self.stages(check_size(x, self.min_size))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, num_classes), or (B, C) before the linear layer."""
        if self.global_pool == "avg":
            x = to_tokens(x).mean(1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """(B, 3, H, W) -> the last map, and the maps (B, C_i, H_i, W_i) of the stages `indices`, as in timm.

        Args:
            indices: of stages; the last n for a number n; None for all.
            norm: maps are normed in any case.
            stop_early: compute no stage after the last that is asked for.
            intermediates_only: return the maps only.
        """
        if output_fmt != "NCHW":
            raise ComponentError(f"output_fmt: '{output_fmt}' is not known; maps are NCHW")
        take = _take_indices(len(self.stages), indices)
        x = check_size(x, self.min_size)
        maps = []
        for i, stage in enumerate(self.stages):
            if not stop_early or i <= max(take):
                x = stage(x)
                if i in take:
                    maps.append(x)
        if intermediates_only:
            return maps
        else:
            return x, maps

    # --- what timm asks of a model -----------------------------------------------------------------------------------

    def init_weights(self, seed: int | None = None) -> None:
        """Initial values for every parameter and buffer (see `initial.init_weights`); a seed from torch's, if None."""
        init_weights(self, int(torch.randint(2**31, (), device="cpu")) if seed is None else seed)

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head, where the old weights are and of their type; `global_pool` as it was, if None."""
        if global_pool is not None:
            _check_pool(global_pool)
            self.global_pool = global_pool
        self.num_classes = num_classes
        like = next(self.parameters())
        with _factory(like.device, like.dtype):
            self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of blocks for the backward pass, and compute the rest anew: less memory, more time."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names, from input to output: for layer-wise learning rates."""
        if coarse:
            return {"stem": r"^stages\.0\.embed", "blocks": r"^stages\.(\d+)"}
        blocks = [
            (r"^stages\.(\d+)\.embed", (-1,)),  # before the blocks of its stage
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.norm", (99999,)),  # with the last block (timm's MATCH_PREV_GROUP)
        ]
        return {"stem": r"^stages\.0\.embed", "blocks": blocks}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that take no weight decay, besides biases and norms: those that components name."""
        return {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            if prefix and callable(own := getattr(module, "no_weight_decay", None))
            for name in own()
        }

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last of `indices` (as in `forward_intermediates`), and the head."""
        take = _take_indices(len(self.stages), indices)
        last = max(take)
        pruned = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if pruned:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if pruned or prune_head:
            self.reset_classifier(0, "")
        return take


def _blocks(
    place: str, depth: int, attn: Spec, mlp: Spec, context: dict[str, Any], drop_path: Iterator[float]
) -> list[Block]:
    blocks = []
    for j in range(depth):
        with seeded(place_seed(f"{place}.{j}.attn")):
            attention = ATTENTION.build(attn, **context)
        with seeded(place_seed(f"{place}.{j}.mlp")):
            feed_forward = MLP.build(mlp, **context)
        blocks.append(Block(context["dim"], attention, feed_forward, next(drop_path)))
    return blocks


def check_size(x: Tensor, least: int) -> Tensor:
    """(B, 3, H, W) as it is; an image with a side below `least` is refused."""
    H, W = x.shape[-2:]
    if min(H, W) < least:
        raise ComponentError(f"an image of {H} x {W} is too small for this model: at least {least} pixels a side")
    return x


def _check_pool(global_pool: str) -> None:
    if global_pool not in ("avg", ""):
        raise ComponentError(f"global_pool: '{global_pool}' is not known; choices: 'avg', ''")


def _take_indices(stages: int, indices: int | list[int] | None) -> list[int]:
    """The stages that `indices` means: all for None, the last n for n, and those counted from the end if negative.

    Raises:
        ComponentError: for a stage that there is not.
    """
    if indices is None:
        indices = stages
    wanted = list(range(stages - indices, stages)) if isinstance(indices, int) else list(indices)
    if not wanted or not all(-stages <= i < stages for i in wanted) or (isinstance(indices, int) and indices > stages):
        raise ComponentError(f"indices: {indices} names a stage that the model does not have; it has {stages}")
    return [i % stages for i in wanted]


def _per_stage(key: str, value: Spec | Sequence[Spec], count: int) -> list[Spec]:
    """One component for each of `count` places."""
    if isinstance(value, str | Mapping):
        return [value] * count
    if len(value) != count:
        raise ComponentError(f"{key}: {list(value)} has {len(value)} entries; one name, or {count}")
    return list(value)


def _check_used(attn: Spec, aggregation: Spec, stage: int) -> None:
    if aggregation != "conv" and not ATTENTION.accepts(attn, "aggregation"):
        name = attn if isinstance(attn, str) else attn["name"]
        raise ComponentError(f"aggregation: {aggregation!r} would do nothing in stage {stage + 1}: '{name}' takes none")


@contextmanager
def _factory(device: torch.device | str | None, dtype: torch.dtype | None) -> Iterator[None]:
    """Modules that are built inside have parameters on this device and of this type; None leaves it as it is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        if device is None:
            yield
        else:
            with torch.device(device):
                yield
    finally:
        torch.set_default_dtype(before)
