"""Components and the pyramid: torch and timm, usable without the rest of the package.

Importing this is instant: torch is imported with the first name that needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from shunted_lab.nn.check import check_component
    from shunted_lab.nn.components import AGGREGATION, ATTENTION, DOWNSAMPLE, MLP, PATCH_EMBED
    from shunted_lab.nn.cost import Cost, Speed
    from shunted_lab.nn.count import count_cost, count_parts
    from shunted_lab.nn.detection.check import check_detector
    from shunted_lab.nn.initial import build_seeded, init_weights
    from shunted_lab.nn.pyramid import Pyramid
    from shunted_lab.nn.registry import ComponentError
    from shunted_lab.nn.segmentation.check import check_head
    from shunted_lab.nn.speed import device_name, measure

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
    "build_seeded",
    "check_component",
    "check_detector",
    "check_head",
    "count_cost",
    "count_parts",
    "device_name",
    "init_weights",
    "measure",
]
_NAMES = {  # module -> what is taken from it
    "check": ["check_component"],
    "cost": ["Cost", "Speed"],
    "detection.check": ["check_detector"],
    "count": ["count_cost", "count_parts"],
    "initial": ["build_seeded", "init_weights"],
    "pyramid": ["Pyramid"],
    "components": ["AGGREGATION", "ATTENTION", "DOWNSAMPLE", "MLP", "PATCH_EMBED"],
    "registry": ["ComponentError"],
    "segmentation.check": ["check_head"],
    "speed": ["device_name", "measure"],
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@wrapt.when_imported("timm")
def _register_with_timm(timm: object) -> None:
    """The zoo registers its models when timm is imported, now or later: a plan needs us, and not timm's seconds."""
    importlib.import_module("shunted_lab.nn.zoo")
