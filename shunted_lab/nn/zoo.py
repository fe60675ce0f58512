"""The published models in timm: `timm.create_model("shunted_s")` works after `import shunted_lab.nn`.

Paper, table 2. There are no weights to download; a checkpoint file is read by `load_weights`, or by timm with
`pretrained=True, pretrained_cfg_overlay=dict(file="ckpt_S.pth")`.
"""

from __future__ import annotations

from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from shunted_lab.nn.pyramid import Pyramid
from shunted_lab.nn.weights import from_published

__all__ = ["shunted_b", "shunted_s", "shunted_t"]

_CFG = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "min_input_size": (3, 32, 32),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "stages.0.embed.conv.0",
    "classifier": "head",
    "paper_ids": "arXiv:2111.15193",
    "paper_name": "Shunted Self-Attention via Multi-Scale Token Aggregation",
}
default_cfgs = generate_default_cfgs({name: dict(_CFG) for name in __all__})


def _build(**options: Any) -> Pyramid:
    """A pyramid with initial values from torch's global generator, as timm's users expect; none on `meta`."""
    model = Pyramid(**options)
    if next(model.parameters()).device.type != "meta":
        model.init_weights()
    return model


def _shunted(name: str, pretrained: bool, depths: list[int], extra: int, options: dict[str, Any]) -> Pyramid:
    """A model of the paper: `depths`, and `extra` 3x3 convolutions in the stem."""
    fixed: dict[str, Any] = {
        "embed_dims": [64, 128, 256, 512],
        "depths": depths,
        "num_heads": [2, 4, 8, 16],
        "mlp_ratios": [8, 8, 4, 4],
        "rates": [[8, 4], [4, 2], [2, 1], [1]],
        "patch_embed": f"conv_stem{extra}",
    }
    out_indices = options.pop("out_indices", (0, 1, 2, 3))
    return build_model_with_cfg(
        _build,
        name,
        pretrained,
        pretrained_filter_fn=from_published,
        feature_cfg={"flatten_sequential": True, "out_indices": out_indices},
        **(fixed | options),
    )


@register_model
def shunted_t(pretrained: bool = False, **kwargs: Any) -> Pyramid:
    """Shunted-T: 11.6 M parameters, 2.1 GMACs at 224 x 224."""
    return _shunted("shunted_t", pretrained, [1, 2, 4, 1], 0, kwargs)


@register_model
def shunted_s(pretrained: bool = False, **kwargs: Any) -> Pyramid:
    """Shunted-S: 22.4 M parameters, 5.0 GMACs at 224 x 224."""
    return _shunted("shunted_s", pretrained, [2, 4, 12, 1], 1, kwargs)


@register_model
def shunted_b(pretrained: bool = False, **kwargs: Any) -> Pyramid:
    """Shunted-B: 39.6 M parameters, 8.2 GMACs at 224 x 224."""
    return _shunted("shunted_b", pretrained, [3, 4, 24, 2], 2, kwargs)
