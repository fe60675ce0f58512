"""Components and the pyramid: torch and timm, usable without the rest of the package."""

import importlib

import wrapt

from shunted_lab.nn import aggregation, attention, embed, ffn  # noqa: F401  # each registers its components
from shunted_lab.nn.check import check_component
from shunted_lab.nn.cost import Cost, Speed, count_cost, count_parts, device_name, measure
from shunted_lab.nn.initial import init_weights
from shunted_lab.nn.pyramid import Pyramid
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
    "Speed",
    "check_component",
    "count_cost",
    "count_parts",
    "device_name",
    "init_weights",
    "measure",
]


@wrapt.when_imported("timm")
def _register_with_timm(timm: object) -> None:
    """The zoo registers its models when timm is imported, now or later: a plan needs us, and not timm's seconds."""
    importlib.import_module("shunted_lab.nn.zoo")
