"""The registries of components, with those of this package registered: import them from here.

The modules that define components import `registry`; this one imports them all, so that none is missing when a name is
looked up, and that a name of this package is taken when a user registers it.
"""

import shunted_lab.nn.aggregation
import shunted_lab.nn.attention
import shunted_lab.nn.embed
import shunted_lab.nn.ffn  # noqa: F401  # each of the four registers its components
from shunted_lab.nn.registry import AGGREGATION, ATTENTION, DOWNSAMPLE, MLP, PATCH_EMBED, Registry

__all__ = ["AGGREGATION", "ATTENTION", "DOWNSAMPLE", "MLP", "PATCH_EMBED", "SLOTS"]

SLOTS: dict[str, Registry] = {slot.kind: slot for slot in (ATTENTION, AGGREGATION, PATCH_EMBED, DOWNSAMPLE, MLP)}
