"""Components and the pyramid: pure PyTorch and timm layers, usable without the rest of the package."""

from shunted_lab.nn import aggregation, attention, embed, ffn  # noqa: F401  # each registers its components
from shunted_lab.nn.cost import Cost, count_cost
from shunted_lab.nn.pyramid import Pyramid, init_weights
from shunted_lab.nn.registry import AGGREGATION, ATTENTION, DOWNSAMPLE, MLP, PATCH_EMBED, ComponentError

__all__ = [
    "AGGREGATION",
    "ATTENTION",
    "DOWNSAMPLE",
    "MLP",
    "PATCH_EMBED",
    "ComponentError",
    "Cost",
    "Pyramid",
    "count_cost",
    "init_weights",
]
