"""The model's configuration and its presets: the published models, and small ones for a laptop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shunted_lab.config.schema import ConfigError, fractions, option, path_option, require, unknown
from shunted_lab.output.quantities import counted

# Names of the components that ship with the package. They stand here so that a misspelt one is refused before torch is
# imported; tests/test_config.py holds them against the registries. A name with a dot is left to the registry, and so
# is every name where modules of the user's own are imported.
COMPONENTS = {
    "patch_embed": ("conv_stem0", "conv_stem1", "conv_stem2", "conv_stem3", "non_overlapping", "overlapping"),
    "downsample": ("non_overlapping", "overlapping"),
    "attn": ("linear_sra", "msa", "sra", "ssa", "ssa_local_output", "ssa_local_values", "ssa_no_local"),
    "aggregation": ("conv", "none", "pooling"),
    "mlp": ("conv_glu", "detail_specific", "mlp", "mlp_dwconv", "mlp_relu_dwconv"),
}
PLACES = {"patch_embed": 1, "downsample": 3, "attn": 4, "aggregation": 4, "mlp": 4}
"""In how many places of the pyramid a component of each slot stands."""


def _slot(slot: str, default: str, what: str) -> Any:
    return option(default, f"{what}: {', '.join(COMPONENTS[slot])}")


@dataclass
class ModelConfig:
    """A four-stage pyramid; the lists have one entry per stage. The defaults are Shunted-S (paper, table 2).

    A component is a name, the dotted path of a class of your own, or `{name: ..., option: value}`.
    """

    name: str = option("shunted_s", "name of the preset, shown in tables", affects_result=False)
    embed_dims: list[int] = option([64, 128, 256, 512], "width (channels) of each stage")
    depths: list[int] = option([2, 4, 12, 1], "number of blocks of each stage")
    num_heads: list[int] = option([2, 4, 8, 16], "attention heads of each stage; divides its width")
    mlp_ratios: list[float] = option([8, 8, 4, 4], "hidden width of the feed-forward layer / width, per stage")
    rates: list[list[int]] = option(
        [[8, 4], [4, 2], [2, 1], [1]],
        "downsampling rate r of keys and values, one list per stage, spread over its heads in equal blocks",
    )
    qkv_bias: bool = option(True, "bias in the query, key and value projections")
    patch_embed: Any = _slot("patch_embed", "conv_stem1", "image to tokens")
    downsample: Any = _slot("downsample", "overlapping", "patch embedding between stages, one or three")
    attn: Any = _slot("attn", "ssa", "attention, one or one per stage")
    aggregation: Any = _slot("aggregation", "conv", "token aggregation of keys and values, one or one per stage")
    mlp: Any = _slot("mlp", "detail_specific", "feed-forward layer, one or one per stage")
    imports: list[str] = option([], "your modules to import first, which register components by a decorator")
    drop_rate: float = option(0.0, "dropout before the head")
    proj_drop_rate: float = option(0.0, "dropout after the projections")
    attn_drop_rate: float = option(0.0, "dropout of attention weights")
    drop_path_rate: float = option(0.2, "stochastic depth of the last block, rising linearly from 0")
    clip_grad: float | None = option(None, "largest gradient norm, where recipe.clip_grad is null; null: no clipping")
    # Its content is in the fingerprint, as if it were a component's source (`study.plan.sources_of`).
    checkpoint: str | None = path_option(
        None,
        "initial weights: a file, or a run's folder; null: random",
        affects_result=False,
        absolute=True,
    )

    def __post_init__(self) -> None:
        stages = len(self.depths)
        require(stages == 4, "model.depths", self.depths, f"has {counted(stages, 'stage')}; the pyramid has 4")
        for name in ("embed_dims", "num_heads", "mlp_ratios", "rates"):
            value = getattr(self, name)
            require(
                len(value) == stages,
                f"model.{name}",
                value,
                f"has {counted(len(value), 'entry', 'entries')} for {stages} stages",
            )
        for name in ("embed_dims", "depths", "num_heads"):
            require(min(getattr(self, name)) >= 1, f"model.{name}", getattr(self, name), "has an entry below 1")
        require(min(self.mlp_ratios) > 0, "model.mlp_ratios", self.mlp_ratios, "has an entry that is not above 0")
        for stage, (dim, heads, rates) in enumerate(zip(self.embed_dims, self.num_heads, self.rates, strict=True)):
            self._check_stage(stage, dim, heads, rates)
        for slot in COMPONENTS:
            self._check_slot(slot)
        fractions("model", self, "drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")

    @staticmethod
    def _check_stage(stage: int, dim: int, heads: int, rates: list[int]) -> None:
        key = f"model.rates[{stage}]"
        require(
            dim % heads == 0, f"model.embed_dims[{stage}]", dim, f"is not divisible by its {counted(heads, 'head')}"
        )
        require(all(r >= 1 for r in rates), key, rates, "has a rate that is not a positive integer")
        require(
            bool(rates) and heads % len(rates) == 0,
            key,
            rates,
            f"has {counted(len(rates), 'rate')} for {counted(heads, 'head')}; write one for each head, or a number of "
            "rates that divides the heads",
        )

    def _check_slot(self, slot: str) -> None:
        key, value, places = f"model.{slot}", getattr(self, slot), PLACES[slot]
        if isinstance(value, list):
            if places == 1:
                raise ConfigError(f"{key}: {value} is a list; the model has one, so write one name")
            require(
                len(value) == places,
                key,
                value,
                f"has {counted(len(value), 'entry', 'entries')}; one name, or {places}",
            )
        for place, spec in enumerate(_as_list(value)):
            where = f"{key}[{place}]" if isinstance(value, list) else key
            name = spec.get("name") if isinstance(spec, Mapping) else spec
            if not isinstance(name, str):
                raise ConfigError(f"{where}: {spec!r} is neither a name nor a mapping {{name: ..., option: value}}")
            if name not in COMPONENTS[slot] and "." not in name and not self.imports:
                raise unknown(where, name, COMPONENTS[slot])

    @property
    def has_own_components(self) -> bool:
        """Whether the model may have code of the user's own."""
        return bool(self.imports or self.own_components or self.dotted_options)

    @property
    def own_components(self) -> list[tuple[str, str]]:
        """Slot and name of the components that are not this package's: dotted, or registered by `imports`."""
        names = [(slot, spec["name"] if isinstance(spec, Mapping) else spec) for slot, spec in self._specs()]
        return [(slot, name) for slot, name in names if name not in COMPONENTS[slot]]

    @property
    def dotted_options(self) -> list[tuple[str, str]]:
        """Slot and text of the options that may be dotted paths: `attn: {name: ssa, aggregation: my_blocks.Mean}`."""
        options = [(slot, {**spec, "name": ""}) for slot, spec in self._specs() if isinstance(spec, Mapping)]
        return [(slot, text) for slot, values in options for text in _texts(values) if "." in text]

    def _specs(self) -> list[tuple[str, Any]]:
        return [(slot, spec) for slot in COMPONENTS for spec in _as_list(getattr(self, slot))]

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `nn.Pyramid`."""
        options = dataclasses.asdict(self)
        for name in ("name", "imports", "clip_grad", "checkpoint"):
            del options[name]
        return options


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value of YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _pvt_v2(variant: str, depths: list[int], drop_path_rate: float, **changes: Any) -> ModelConfig:
    """PVT v2 (arXiv 2106.13797, table 1) as a pyramid; timm's `pvt_v2_*` with the same numbers."""
    published: dict[str, Any] = {
        "embed_dims": [64, 128, 320, 512],
        "num_heads": [1, 2, 5, 8],
        "rates": [[8], [4], [2], [1]],
        "patch_embed": "overlapping",
        "attn": "sra",
        "mlp": "mlp_dwconv",
    }
    options = published | {"depths": depths, "drop_path_rate": drop_path_rate} | changes
    return ModelConfig(f"pvt_v2_{variant}", **options)


MODELS = {
    "shunted_t": ModelConfig("shunted_t", depths=[1, 2, 4, 1], patch_embed="conv_stem0", drop_path_rate=0.1),
    "shunted_s": ModelConfig(),
    "shunted_b": ModelConfig(
        "shunted_b", depths=[3, 4, 24, 2], patch_embed="conv_stem2", drop_path_rate=0.3, clip_grad=1.0
    ),
    # The same structure for 64 px images on a CPU: heads of 12 channels, 2 blocks at most in a stage.
    "shunted_lite": ModelConfig(
        "shunted_lite",
        embed_dims=[24, 48, 96, 192],
        depths=[1, 1, 2, 1],
        mlp_ratios=[4, 4, 4, 4],
        drop_path_rate=0.0,
    ),
    # Smaller still, for 32 px images and experiments with many seeds: heads of 8 channels, one block in a stage.
    "shunted_mini": ModelConfig(
        "shunted_mini",
        embed_dims=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        mlp_ratios=[4, 4, 4, 4],
        drop_path_rate=0.0,
    ),
    "pvt_v2_b0": _pvt_v2("b0", [2, 2, 2, 2], 0.1, embed_dims=[32, 64, 160, 256]),
    "pvt_v2_b1": _pvt_v2("b1", [2, 2, 2, 2], 0.1),
    "pvt_v2_b2": _pvt_v2("b2", [3, 4, 6, 3], 0.1),
    "pvt_v2_b2_li": _pvt_v2("b2_li", [3, 4, 6, 3], 0.1, rates=[[1]] * 4, attn="linear_sra", mlp="mlp_relu_dwconv"),
    "pvt_v2_b3": _pvt_v2("b3", [3, 4, 18, 3], 0.3),
    "pvt_v2_b4": _pvt_v2("b4", [3, 8, 27, 3], 0.3),
    "pvt_v2_b5": _pvt_v2("b5", [3, 6, 40, 3], 0.3, mlp_ratios=[4, 4, 4, 4]),
}
