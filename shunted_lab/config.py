"""Every configuration dataclass and every preset; nothing heavy is imported here.

The dataclasses are the schema: Hydra refuses an unknown key or a wrong type, and each `__post_init__` refuses a value
that cannot work, in one line with the dotted key, the value and the choices. `metadata["help"]` goes into `--help`.

The dataclasses are not frozen: OmegaConf turns a frozen one into a read-only node, which no override could change.
Nobody assigns to one after it has been composed; `dataclasses.replace` makes the variants.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

# Names of the components that ship with the package. They stand here so that a misspelt one is refused before torch is
# imported; tests/test_config.py holds them against the registries. A name with a dot is left to the registry.
COMPONENTS = {
    "patch_embed": ("conv_stem0", "conv_stem1", "conv_stem2", "conv_stem3", "non_overlapping", "overlapping"),
    "downsample": ("non_overlapping", "overlapping"),
    "attn": ("ssa",),
    "aggregation": ("conv",),
    "mlp": ("detail_specific", "mlp"),
}
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


class ConfigError(ValueError):
    """What the user asked for cannot be done. The message is one line: key, value and what would be allowed."""


def nearest(value: object, choices: Iterable[object]) -> str:
    """`did you mean 'x'? choices: x, y` for a `value` that is none of `choices`."""
    names = sorted(str(c) for c in choices)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    return (f"did you mean '{near[0]}'? " if near else "") + f"choices: {', '.join(names)}"


def unknown(what: str, value: object, choices: Iterable[object]) -> ConfigError:
    """The error for a `value` of the key `what` that is none of `choices`."""
    return ConfigError(f"{what}: '{value}' is not known; {nearest(value, choices)}")


def _option(default: Any, help: str, *, result: bool = True) -> Any:
    """A field with its line of help. `result=False`: it cannot change the outcome of a run (see `fingerprint`)."""
    metadata = {"help": help, "result": result}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _require(ok: bool, key: str, value: object, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{key}: {value} {rule}")


def _at_least(low: float, prefix: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= low, f"{prefix}.{name}", value, f"is too small: at least {low:g}")


def _fractions(prefix: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(0 <= value <= 1, f"{prefix}.{name}", value, "is not between 0 and 1")


# --- model -----------------------------------------------------------------------------------------------------------


@dataclass
class ModelConfig:
    """A four-stage pyramid; the lists have one entry per stage. The defaults are Shunted-S (paper, table 2)."""

    name: str = _option("shunted_s", "label of the preset, shown in tables", result=False)
    embed_dims: list[int] = _option([64, 128, 256, 512], "width (channels) of each stage")
    depths: list[int] = _option([2, 4, 12, 1], "number of blocks of each stage")
    num_heads: list[int] = _option([2, 4, 8, 16], "attention heads of each stage; divides its width")
    mlp_ratios: list[float] = _option([8, 8, 4, 4], "hidden width of the feed-forward layer / width, per stage")
    rates: list[list[int]] = _option(
        [[8, 4], [4, 2], [2, 1], [1]],
        "downsampling rate r of keys and values, one list per stage, spread over its heads in equal blocks",
    )
    qkv_bias: bool = _option(True, "bias in the query, key and value projections")
    patch_embed: str = _option("conv_stem1", "image to tokens: " + ", ".join(COMPONENTS["patch_embed"]))
    downsample: str = _option("overlapping", "between stages: " + ", ".join(COMPONENTS["downsample"]))
    attn: str = _option("ssa", "attention: " + ", ".join(COMPONENTS["attn"]))
    aggregation: str = _option("conv", "token aggregation of keys and values: " + ", ".join(COMPONENTS["aggregation"]))
    mlp: str = _option("detail_specific", "feed-forward layer: " + ", ".join(COMPONENTS["mlp"]))
    drop_rate: float = _option(0.0, "dropout before the head")
    proj_drop_rate: float = _option(0.0, "dropout after the projections")
    attn_drop_rate: float = _option(0.0, "dropout of attention weights")
    drop_path_rate: float = _option(0.2, "stochastic depth of the last block, rising linearly from 0")

    def __post_init__(self) -> None:
        stages = len(self.depths)
        _require(stages == 4, "model.depths", self.depths, f"has {stages} stages; the pyramid has 4")
        for name in ("embed_dims", "num_heads", "mlp_ratios", "rates"):
            value = getattr(self, name)
            _require(len(value) == stages, f"model.{name}", value, f"has {len(value)} entries for {stages} stages")
        for name in ("embed_dims", "depths", "num_heads"):
            _require(min(getattr(self, name)) >= 1, f"model.{name}", getattr(self, name), "has an entry below 1")
        _require(min(self.mlp_ratios) > 0, "model.mlp_ratios", self.mlp_ratios, "has an entry that is not above 0")
        for stage, (dim, heads, rates) in enumerate(zip(self.embed_dims, self.num_heads, self.rates, strict=True)):
            self._check_stage(stage, dim, heads, rates)
        for slot, choices in COMPONENTS.items():
            name = getattr(self, slot)
            if name not in choices and "." not in name:
                raise unknown(f"model.{slot}", name, choices)
        _fractions("model", self, "drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")

    @staticmethod
    def _check_stage(stage: int, dim: int, heads: int, rates: list[int]) -> None:
        key = f"model.rates[{stage}]"
        _require(dim % heads == 0, f"model.embed_dims[{stage}]", dim, f"is not divisible by its {heads} heads")
        _require(all(r >= 1 for r in rates), key, rates, "has a rate that is not a positive integer")
        _require(
            bool(rates) and heads % len(rates) == 0,
            key,
            rates,
            f"has {len(rates)} rates for {heads} heads; as many as heads, or a number that divides them",
        )

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `nn.Pyramid`."""
        options = dataclasses.asdict(self)
        del options["name"]
        return options


# --- data ------------------------------------------------------------------------------------------------------------


@dataclass
class DataConfig:
    """What every data set has. Batches are `(B, 3, image_size, image_size)` images and `(B,)` labels."""

    name: str = MISSING
    image_size: int = _option(224, "pixels on each side of an image as the model sees it; at least 32")
    batch_size: int = _option(128, "images in a training batch")
    num_classes: int | None = _option(None, "number of classes; null counts them")

    def __post_init__(self) -> None:
        _require(self.name == type(self).name, "data.name", self.name, f"is fixed: '{type(self).name}'")
        # Strides reach 32 in the fourth stage.
        _require(self.image_size >= 32, "data.image_size", self.image_size, "is too small for four stages: at least 32")
        _at_least(1, "data", self, "batch_size")


@dataclass
class EarthConfig(DataConfig):
    """Satellite colour with land-cover labels; ships with the package (`data/earth/README.md`)."""

    name: str = "earth"
    image_size: int = _option(64, "pixels on each side; tiles of 64 are resized to it")
    batch_size: int = _option(64, "images in a training batch")
    num_classes: int | None = _option(9, "number of classes; fixed")

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.num_classes == 9, "data.num_classes", self.num_classes, "is wrong: earth has 9 classes")


@dataclass
class FolderConfig(DataConfig):
    """Images in `root/train/CLASS/*` and `root/val/CLASS/*` (and `root/test/CLASS/*`, where there is one)."""

    name: str = "folder"
    root: str = field(default=MISSING, metadata={"help": "folder of the data set", "result": False})
    val_fraction: float = _option(0.1, "share of train/ held back for validation, where val/ serves as the test")
    crop_pct: float = _option(0.875, "evaluation: centre crop / resized shorter side")
    interpolation: str = _option("bicubic", "resizing: bicubic, bilinear")

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 < self.val_fraction < 1, "data.val_fraction", self.val_fraction, "is not between 0 and 1")
        _require(0 < self.crop_pct <= 1, "data.crop_pct", self.crop_pct, "is not above 0 and at most 1")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise unknown("data.interpolation", self.interpolation, ("bicubic", "bilinear"))


@dataclass
class ImageNetConfig(FolderConfig):
    """ImageNet-1K in the usual folders: `root/train/n01440764/*.JPEG`, `root/val/n01440764/*.JPEG`."""

    name: str = "imagenet"
    num_classes: int | None = _option(1000, "number of classes; fixed")
    val_fraction: float = _option(0.01, "share of train/ held back for validation; val/ is the test")


@dataclass
class CIFAR100Config(FolderConfig):
    """CIFAR-100 as torchvision unpacks it: `root/cifar-100-python/{train,test,meta}`."""

    name: str = "cifar100"
    image_size: int = _option(32, "pixels on each side; images of 32 are resized to it")
    num_classes: int | None = _option(100, "number of classes; fixed")
    crop_pct: float = _option(1.0, "evaluation: centre crop / resized shorter side")


# --- recipe ----------------------------------------------------------------------------------------------------------


@dataclass
class RecipeConfig:
    """How a model is trained. The defaults are the paper's recipe for ImageNet-1K."""

    name: str = _option("paper", "label of the preset, shown in tables", result=False)
    epochs: int = _option(300, "passes over the training images")
    lr: float = _option(5e-4, "peak learning rate, for lr_batch images in a batch")
    lr_batch: int | None = _option(512, "lr is multiplied by batch / lr_batch; null takes lr as it is")
    min_lr: float = _option(1e-5, "learning rate at the end of the cosine")
    warmup_epochs: float = _option(5.0, "epochs of linear warm-up")
    warmup_lr: float = _option(1e-6, "learning rate at the start of the warm-up")
    weight_decay: float = _option(0.05, "AdamW weight decay; none on biases and norms")
    opt_eps: float = _option(1e-8, "AdamW epsilon")
    clip_grad: float | None = _option(None, "largest gradient norm; null does not clip (the paper: 1.0 for Shunted-B)")
    label_smoothing: float = _option(0.1, "label smoothing")
    mixup: float = _option(0.8, "mixup alpha; 0 is off")
    cutmix: float = _option(1.0, "cutmix alpha; 0 is off")
    random_resized_crop: bool = _option(True, "crops of random size and aspect")
    hflip: float = _option(0.5, "probability of a horizontal flip")
    dihedral: bool = _option(False, "one of the 8 flips and quarter turns; for images without an up side")
    rand_augment: str | None = _option("rand-m9-mstd0.5-inc1", "RandAugment in timm's notation; null is off")
    color_jitter: float = _option(0.4, "colour jitter; used where rand_augment is off, as in timm")
    random_erasing: float = _option(0.25, "probability of erasing a rectangle")
    repeated_aug: int = _option(3, "copies of an image in a row, each augmented anew; 1 is off")
    precision: str = _option("16-mixed", "arithmetic: " + ", ".join(PRECISIONS))
    select: str = _option("last", "which epoch is tested: last, or best (by validation)")
    limit_batches: int | None = _option(None, "at most so many batches of each split; null takes all")

    def __post_init__(self) -> None:
        _at_least(1, "recipe", self, "epochs", "repeated_aug")
        _require(self.lr > 0, "recipe.lr", self.lr, "is not above 0")
        names = ("min_lr", "warmup_epochs", "warmup_lr", "weight_decay", "opt_eps", "mixup", "cutmix", "color_jitter")
        _at_least(0, "recipe", self, *names)
        _fractions("recipe", self, "hflip", "random_erasing", "label_smoothing")
        for name in ("lr_batch", "clip_grad", "limit_batches"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"recipe.{name}", value, "is not above 0")
        _require(
            not (self.dihedral and self.hflip),
            "recipe.hflip",
            self.hflip,
            "does nothing beside recipe.dihedral; set it to 0",
        )
        if self.rand_augment is not None and not re.fullmatch(r"rand(-[a-z]+[\d.]+)+", self.rand_augment):
            raise ConfigError(
                f"recipe.rand_augment: '{self.rand_augment}' is not of timm's form, e.g. rand-m9-mstd0.5-inc1"
            )
        if self.select not in ("last", "best"):
            raise unknown("recipe.select", self.select, ("last", "best"))
        if self.precision not in PRECISIONS:
            raise unknown("recipe.precision", self.precision, PRECISIONS)


LITE_RECIPE = RecipeConfig(
    name="lite",
    epochs=4,
    lr=1.5e-3,
    lr_batch=None,
    warmup_epochs=0.5,
    mixup=0.0,
    cutmix=0.0,
    random_resized_crop=False,
    hflip=0.0,
    dihedral=True,
    rand_augment=None,
    color_jitter=0.0,
    random_erasing=0.0,
    repeated_aug=1,
    precision="32-true",
)


# --- launch ----------------------------------------------------------------------------------------------------------


@dataclass
class LaunchConfig:
    """Where runs are trained. Nothing here can change what a run computes."""

    name: str = "local"
    accelerator: str = _option("auto", "auto, cpu, gpu, mps", result=False)
    num_workers: int = _option(0, "processes that load images", result=False)
    max_attempts: int = _option(3, "how often a run that fails is tried, over all calls", result=False)

    def __post_init__(self) -> None:
        _at_least(0, "launch", self, "num_workers")
        _at_least(1, "launch", self, "max_attempts")
        choices = ("auto", "cpu", "gpu", "mps")
        if self.accelerator not in choices:
            raise unknown("launch.accelerator", self.accelerator, choices)


# --- experiment ------------------------------------------------------------------------------------------------------


@dataclass
class PaperConfig:
    """The published side of an experiment: the scale to count costs at, and numbers that have a source."""

    model: str = _option("shunted_s", "model preset whose variants are counted")
    image_size: int = _option(224, "pixels on each side")
    source: str | None = _option(None, "where the numbers in rows stand")
    rows: dict[str, dict[str, Any]] = _option({}, "VARIANT: {top1: %, params: M, flops: G}; unknown ones left out")


@dataclass
class Config:
    """The whole configuration of one command."""

    defaults: list[Any] = field(
        default_factory=lambda: [
            "_self_",
            {"model": "shunted_lite"},
            {"data": "earth"},
            {"recipe": "lite"},
            {"launch": "local"},
            {"experiment": None},
        ]
    )
    name: str = _option("", "the experiment's name: its file's, and its folder's in runs_dir", result=False)
    description: str = _option("", "one line for the table's caption", result=False)
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    recipe: RecipeConfig = MISSING
    launch: LaunchConfig = MISSING
    seeds: list[int] = _option([0, 1, 2], "one run per seed and variant")
    baseline: str | None = _option(None, "the variant that the others are compared with")
    variants: dict[str, dict[str, Any]] = _option({}, "NAME: {dotted key: value}, one row of the table each")
    paper: PaperConfig | None = _option(None, "costs at paper scale, and published numbers")
    runs_dir: str = _option("runs", "folder of all results", result=False)
    smoke: bool = _option(False, "one epoch of two small batches: does everything work?")
    plan_only: bool = _option(False, "print the plan and stop")

    def __post_init__(self) -> None:
        _require(bool(self.seeds), "seeds", self.seeds, "is empty: at least one seed")
        _require(min(self.seeds) >= 0, "seeds", self.seeds, "has a negative seed")
        _require(len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "has a seed twice")


PRESETS: dict[str, dict[str, Any]] = {
    "model": {
        "shunted_t": ModelConfig("shunted_t", depths=[1, 2, 4, 1], patch_embed="conv_stem0", drop_path_rate=0.1),
        "shunted_s": ModelConfig(),
        "shunted_b": ModelConfig("shunted_b", depths=[3, 4, 24, 2], patch_embed="conv_stem2", drop_path_rate=0.3),
        # The same structure for 64 px images on a CPU: heads of 12 channels, 2 blocks at most in a stage.
        "shunted_lite": ModelConfig(
            "shunted_lite",
            embed_dims=[24, 48, 96, 192],
            depths=[1, 1, 2, 1],
            mlp_ratios=[4, 4, 4, 4],
            drop_path_rate=0.0,
        ),
    },
    "data": {schema.name: schema() for schema in (EarthConfig, ImageNetConfig, FolderConfig, CIFAR100Config)},
    "recipe": {"paper": RecipeConfig(), "lite": LITE_RECIPE},
    "launch": {"local": LaunchConfig()},
}


# --- run -------------------------------------------------------------------------------------------------------------


@dataclass
class RunConfig:
    """Everything that one run is: what `config.yaml` in its folder holds."""

    model: ModelConfig
    data: DataConfig
    recipe: RecipeConfig
    launch: LaunchConfig
    seed: int

    def smoke(self) -> RunConfig:
        """The same run, cut down until it only shows that everything works."""
        data = dataclasses.replace(self.data, batch_size=min(self.data.batch_size, 16))
        recipe = dataclasses.replace(self.recipe, epochs=1, warmup_epochs=0.0, limit_batches=2)
        return dataclasses.replace(self, data=data, recipe=recipe)

    def fingerprint(self, data_identity: str) -> str:
        """16 hex digits over all that can change the result: everything but paths, workers, devices and labels.

        `data_identity` tells data sets of the same name apart (`data.DataFacts.identity`).
        """
        parts = {"seed": self.seed, "data_identity": data_identity}
        for key in ("model", "data", "recipe"):
            config = getattr(self, key)
            names = [f.name for f in dataclasses.fields(config) if f.metadata.get("result", True)]
            parts[key] = {name: getattr(config, name) for name in names}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
