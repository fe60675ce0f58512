"""How a model is trained: the recipe's configuration and its presets."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from shunted_lab.config.schema import ConfigError, at_least, fractions, one_of, option, require

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
SCHEDULES = ("epoch", "step", "poly", "multistep")
DECAYS = ("weights", "but_norms", "all")
OF_MAPS = ("resize_ratio", "cat_max_ratio", "photometric_distortion")  # augmentation of images with label maps
OF_BOXES = ("short_sides", "random_crop")  # of images of any size with boxes
OF_DATA = (*OF_MAPS, *OF_BOXES)  # what only some data sets can be augmented by (`DataConfig.augments`)


SOURCES = ("init", "order", "augmentation")  # of variation, that a seed decides


@dataclass
class RecipeConfig:
    """How a model is trained. The defaults are the paper's recipe for ImageNet-1K.

    They are those of DeiT (arXiv 2012.12877, table 9), on whose training script the authors' is built; `min_lr`,
    `warmup_lr`, `color_jitter` and `opt_eps` are that script's defaults. Its arithmetic is float16-mixed; bf16 needs no
    scaled loss and is in every current device. Drop path and the gradient's clip differ by size: they are in the
    model's preset. Averages of the weights, rates that differ by layer, gradient checkpointing and the compiler are not
    the paper's.
    """

    name: str = option("paper", "name of the preset, shown in tables", affects_result=False)
    epochs: int = option(300, "passes over the training images")
    lr: float = option(5e-4, "peak learning rate, for lr_batch images in a batch")
    lr_batch: int | None = option(512, "lr is multiplied by batch / lr_batch; null: lr is not scaled")
    min_lr: float = option(1e-5, "learning rate at the end of the cosine")
    warmup_epochs: float = option(5.0, "epochs of linear warm-up")
    warmup_steps: int | None = option(None, "steps of linear warm-up, in place of warmup_epochs; null: warmup_epochs")
    warmup_lr: float = option(1e-6, "learning rate at the start of the warm-up")
    schedule: str = option(
        "epoch",
        "epoch or step: a cosine that changes each epoch as in timm, or each step after the warm-up; poly or "
        "multistep: from the first step, multiplied by the warm-up as in OpenMMLab",
    )
    power: float = option(1.0, "of schedule=poly: the rate falls as (1 - done) ** power")
    milestones: list[int] = option([], "of schedule=multistep: epochs after which the rate is multiplied by gamma")
    gamma: float = option(0.1, "of schedule=multistep")
    steps_per_epoch: int | None = option(
        None, "steps that count as an epoch, of an endless stream of permutations; null: one pass over the images"
    )
    weight_decay: float = option(0.05, "AdamW weight decay")
    decay: str = option(
        "weights", "what decays: weights (no biases and norms, as timm), but_norms (all whose name has no norm), all"
    )
    head_lr: float = option(1.0, "learning rate of what is outside the backbone / that of the backbone")
    freeze_bn: bool | None = option(
        False, "keep the backbone's BatchNorm at the statistics of its weights; null: where it begins with weights"
    )
    opt_eps: float = option(1e-8, "AdamW epsilon")
    layer_decay: float | None = option(
        None, "learning rate of a block / that of the next block; null: one rate for all"
    )
    clip_grad: float | None = option(None, "largest gradient norm; 0: no clipping; null: model.clip_grad")
    label_smoothing: float = option(0.1, "label smoothing")
    mixup: float = option(0.8, "mixup alpha; 0 is off")
    cutmix: float = option(1.0, "cutmix alpha; 0 is off")
    random_resized_crop: bool = option(True, "crops of random size and aspect")
    hflip: float = option(0.5, "probability of a horizontal flip")
    dihedral: bool = option(False, "one of the 8 flips and quarter turns; for images without a fixed orientation")
    rand_augment: str | None = option("rand-m9-mstd0.5-inc1", "RandAugment in timm's notation; null is off")
    color_jitter: float = option(0.4, "colour jitter; used where rand_augment is off, as in timm")
    random_erasing: float = option(0.25, "probability of erasing a rectangle")
    resize_ratio: list[float] | None = option(
        None, "of label maps: images are resized by a ratio between these two, then cropped; null is off"
    )
    cat_max_ratio: float = option(1.0, "of label maps: a crop is drawn again where a class covers more, up to 10 times")
    photometric_distortion: bool = option(False, "of label maps: brightness, contrast, saturation and hue, as in mmseg")
    short_sides: list[int] = option(
        [], "of boxes: shorter sides of which one is drawn for each training image; []: data.image_size"
    )
    random_crop: bool = option(
        False, "of boxes: half of the images are cropped to 384 to 600 pixels before they are resized, as in DETR"
    )
    repeated_aug: int = option(3, "copies of an image in a row, each with its own augmentation; 1 is off")
    precision: str = option("bf16-mixed", "32-true, bf16-mixed, or 16-mixed (GPUs without bf16; a scaled loss)")
    # Where a run has several devices the layout of its batch says so (`tasks.model.batch_layout`).
    sync_bn: bool = option(True, "BatchNorm over the images of all devices of a run", affects_result=False)
    ema: float | None = option(
        None, "decay of an exponential moving average of the weights, which is tested instead of them; null: none"
    )
    recalibrate_bn: int | None = option(
        None,
        "batches of training images, at most an epoch's, that BatchNorm's statistics are computed from before each "
        "validation; null: running averages of the training",
    )
    pair: list[str] = option(
        list(SOURCES), f"what a seed shares between variants: {', '.join(SOURCES)}; each variant draws the others anew"
    )
    grad_checkpointing: bool = option(False, "recompute blocks in the backward pass: less memory, more time")
    select: str = option("last", "which epoch is tested: last, or best (by validation)")
    limit_batches: int | None = option(None, "use at most this many batches of each split; null: all")

    def __post_init__(self) -> None:
        at_least(1, "recipe", self, "epochs", "repeated_aug")
        for name in ("steps_per_epoch", "warmup_steps", "recalibrate_bn"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"recipe.{name}", value, "is below 1")
        for source in self.pair:
            one_of("recipe.pair", source, SOURCES)
        self.pair = [source for source in SOURCES if source in self.pair]
        require(self.lr > 0, "recipe.lr", self.lr, "is not above 0")
        at_least(0, "recipe", self, "min_lr", "warmup_epochs", "warmup_lr", "weight_decay", "opt_eps")
        at_least(0, "recipe", self, "mixup", "cutmix", "color_jitter")
        require(self.clip_grad is None or self.clip_grad >= 0, "recipe.clip_grad", self.clip_grad, "is below 0")
        fractions("recipe", self, "hflip", "random_erasing", "label_smoothing")
        for name in ("lr_batch", "limit_batches"):
            value = getattr(self, name)
            require(value is None or value > 0, f"recipe.{name}", value, "is not above 0")
        require(
            not (self.dihedral and self.hflip),
            "recipe.hflip",
            self.hflip,
            "has no effect with recipe.dihedral=true; set it to 0",
        )
        if self.rand_augment is not None and not re.fullmatch(r"rand(-[a-z]+[\d.]+)+", self.rand_augment):
            raise ConfigError(
                f"recipe.rand_augment: '{self.rand_augment}' is not of timm's form, e.g. rand-m9-mstd0.5-inc1"
            )
        for name in ("ema", "layer_decay"):
            value = getattr(self, name)
            require(value is None or 0 < value < 1, f"recipe.{name}", value, "is not between 0 and 1")
        one_of("recipe.schedule", self.schedule, SCHEDULES)
        one_of("recipe.decay", self.decay, DECAYS)
        self._check_schedule()
        self._check_maps()
        one_of("recipe.select", self.select, ("last", "best"))
        one_of("recipe.precision", self.precision, PRECISIONS)
        self._check_warmup()

    def _check_schedule(self) -> None:
        """Refuse values of a schedule that it cannot follow."""
        for name in ("power", "gamma", "head_lr"):
            require(getattr(self, name) > 0, f"recipe.{name}", getattr(self, name), "is not above 0")
        require(
            all(0 < epoch < self.epochs for epoch in self.milestones)
            and sorted(set(self.milestones)) == self.milestones,
            "recipe.milestones",
            self.milestones,
            f"are not ascending epochs between 1 and {self.epochs - 1} (recipe.epochs={self.epochs})",
        )
        require(
            not self.milestones or self.schedule == "multistep",
            "recipe.milestones",
            self.milestones,
            f"have no effect with recipe.schedule={self.schedule}; set recipe.schedule=multistep",
        )
        require(
            self.steps_per_epoch is None or self.limit_batches is None,
            "recipe.limit_batches",
            self.limit_batches,
            f"is not used together with recipe.steps_per_epoch={self.steps_per_epoch}; set one of them to null",
        )
        require(
            self.steps_per_epoch is None or self.repeated_aug == 1,
            "recipe.repeated_aug",
            self.repeated_aug,
            f"is not supported with recipe.steps_per_epoch={self.steps_per_epoch}; set it to 1",
        )

    def _check_maps(self) -> None:
        """Refuse ratios and sides that nothing can be resized or cropped by."""
        sides = self.short_sides
        require(min(sides, default=32) >= 32, "recipe.short_sides", sides, "has a side below 32")
        ratio = self.resize_ratio
        good = ratio is None or (len(ratio) == 2 and 0 < ratio[0] <= ratio[1])
        require(good, "recipe.resize_ratio", ratio, "is not two ascending ratios above 0, e.g. [0.5, 2.0]")
        good = 0 < self.cat_max_ratio <= 1
        require(good, "recipe.cat_max_ratio", self.cat_max_ratio, "is not above 0 and at most 1")

    def _check_warmup(self) -> None:
        """Refuse a warm-up after which nothing is trained at `lr`, and one that a rate per epoch cannot follow."""
        warmup, epochs = self.warmup_epochs, self.epochs
        if self.warmup_steps is not None:
            require(
                self.schedule != "epoch",
                "recipe.warmup_steps",
                self.warmup_steps,
                "needs a rate that changes each step; set recipe.schedule to step, poly or multistep",
            )
            require(
                self.steps_per_epoch is None or self.warmup_steps < epochs * self.steps_per_epoch,
                "recipe.warmup_steps",
                self.warmup_steps,
                f"leaves no step of {epochs} x {self.steps_per_epoch} at recipe.lr={self.lr:g}",
            )
            return
        require(
            warmup < epochs,
            "recipe.warmup_epochs",
            f"{warmup:g}",
            f"leaves no epoch of recipe.epochs={epochs} at recipe.lr={self.lr:g}; set it below {epochs}",
        )
        require(
            self.schedule != "epoch" or warmup == int(warmup),
            "recipe.warmup_epochs",
            f"{warmup:g}",
            "is not a whole number, and with recipe.schedule=epoch the rate changes between epochs only; round it, or "
            "set recipe.schedule=step",
        )


PAPER_RECIPE = RecipeConfig()
LITE_RECIPE = RecipeConfig(
    name="lite",
    epochs=4,
    lr=1.5e-3,
    lr_batch=None,
    warmup_epochs=0.5,
    schedule="step",
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

# Chosen for the least spread between seeds in the time of a table (experiments/LOG.md, 2026-11-27 and 2026-11-28). All
# 86 batches of an epoch of earth32 recalibrate BatchNorm: which ten are taken moves the accuracy of a run by a point.
MINI_RECIPE = dataclasses.replace(LITE_RECIPE, name="mini", epochs=8, lr=2e-3, ema=0.99, recalibrate_bn=100)

# ConvNeXt's fine-tuning of models that were trained on the same images (arXiv 2201.03545, appendix A; `TRAINING.md` of
# its repository): no paper of the Shunted Transformer says how to go on from its weights.
FINETUNE_RECIPE = RecipeConfig(
    name="finetune",
    epochs=30,
    lr=5e-5,
    min_lr=1e-6,
    warmup_epochs=0.0,
    schedule="step",
    weight_decay=1e-8,
    layer_decay=0.7,
    mixup=0.0,
    cutmix=0.0,
    repeated_aug=1,
)

SEGMENT_LITE_RECIPE = dataclasses.replace(LITE_RECIPE, name="segment_lite", epochs=20, lr=2e-3, label_smoothing=0.0)
DETECT_LITE_RECIPE = dataclasses.replace(SEGMENT_LITE_RECIPE, name="detect_lite", epochs=4)

# Semantic segmentation of ADE20K, as in the code of papers that compare with the Shunted Transformer: batches of 16
# images, epochs of 8,000 steps. `configs/sem_fpn/PVT/fpn_pvt_s_ade20k_40k.py` of whai362/PVT (its 40,000 steps with
# 32 images at 2e-4 are 80,000 with 16 at 1e-4).
ADE20K_SEMANTIC_FPN_RECIPE = RecipeConfig(
    name="ade20k_semantic_fpn",
    epochs=10,
    steps_per_epoch=8000,
    lr=1e-4,
    lr_batch=16,
    min_lr=0.0,
    warmup_epochs=0.0,
    schedule="poly",
    power=0.9,
    weight_decay=1e-4,
    decay="all",
    freeze_bn=None,
    clip_grad=0.0,
    label_smoothing=0.0,
    mixup=0.0,
    cutmix=0.0,
    random_resized_crop=False,
    rand_augment=None,
    color_jitter=0.0,
    random_erasing=0.0,
    resize_ratio=[0.5, 2.0],
    cat_max_ratio=0.75,
    photometric_distortion=True,
    repeated_aug=1,
    precision="32-true",
)

# `upernet_swin_tiny_patch4_window7_512x512_160k_ade20k.py` of the Swin Transformer's segmentation code.
ADE20K_UPERNET_RECIPE = dataclasses.replace(
    ADE20K_SEMANTIC_FPN_RECIPE,
    name="ade20k_upernet",
    epochs=20,
    lr=6e-5,
    warmup_steps=1500,
    warmup_lr=6e-11,  # 1e-6 of the rate
    power=1.0,
    weight_decay=0.01,
    decay="but_norms",
)

# `segformer.b2.512x512.ade.160k.py` of NVlabs/SegFormer: its head learns ten times as fast.
ADE20K_SEGFORMER_RECIPE = dataclasses.replace(ADE20K_UPERNET_RECIPE, name="ade20k_segformer", head_lr=10.0)

# Detection on COCO: batches of 16 images, 12 epochs (1x) or 36 (3x). `detection/configs/` of whai362/PVT:
# `mask_rcnn_pvt_v2_b2_fpn_1x_coco.py`; the rate falls to a tenth after epochs 8 and 11.
COCO_MASK_RCNN_1X_RECIPE = dataclasses.replace(
    ADE20K_SEMANTIC_FPN_RECIPE,
    name="coco_mask_rcnn_1x",
    epochs=12,
    steps_per_epoch=None,
    lr=2e-4,
    warmup_steps=500,
    warmup_lr=2e-7,  # 0.001 of the rate
    schedule="multistep",
    power=1.0,
    milestones=[8, 11],
    resize_ratio=None,
    cat_max_ratio=1.0,
    photometric_distortion=False,
)

# `retinanet_pvt_v2_b2_fpn_1x_coco.py` there.
COCO_RETINANET_1X_RECIPE = dataclasses.replace(
    COCO_MASK_RCNN_1X_RECIPE, name="coco_retinanet_1x", lr=1e-4, warmup_lr=1e-7
)

# `mask_rcnn_pvt_v2_b2_fpn_3x_mstrain_fp16_coco.py` there, which is Swin's: images of many sizes, half of them cropped.
COCO_MASK_RCNN_3X_RECIPE = dataclasses.replace(
    COCO_MASK_RCNN_1X_RECIPE,
    name="coco_mask_rcnn_3x",
    epochs=36,
    milestones=[27, 33],
    lr=1e-4,
    warmup_lr=1e-7,
    weight_decay=0.05,
    decay="but_norms",
    short_sides=list(range(480, 801, 32)),
    random_crop=True,
)
