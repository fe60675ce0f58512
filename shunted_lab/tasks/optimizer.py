"""Groups of parameters: what decays, and how fast each learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.nn import Pyramid


def backbone_of(net: nn.Module) -> nn.Module:
    """The backbone of a network; the network itself where it has none of this package."""
    return next((part for part in net.modules() if isinstance(part, Pyramid)), net)


def parameter_groups(net: nn.Module, recipe: RecipeConfig, lr: float) -> list[dict[str, Any]]:
    """Groups for an optimizer with its rate and decay: of the backbone, and of what is outside.

    The rate of what is outside is `recipe.head_lr` times that of the backbone; `recipe.layer_decay` scales the rates of
    the backbone's layers.
    """
    backbone = backbone_of(net)
    if backbone is net:
        return _groups(net, recipe, lr)
    inside = {id(parameter) for parameter in backbone.parameters()}
    rest = nn.ParameterDict({_flat(n): p for n, p in net.named_parameters() if id(p) not in inside})
    outside = _decaying(rest, recipe, lr * recipe.head_lr, {_flat(name) for name in _exempt(net)})
    return [*_groups(backbone, recipe, lr), *(group for group in outside if group["params"])]


def _flat(name: str) -> str:
    return name.replace(".", "/")  # a ParameterDict takes no dots


def _groups(net: nn.Module, recipe: RecipeConfig, lr: float) -> list[dict[str, Any]]:
    if recipe.layer_decay is None:
        return _decaying(net, recipe, lr, _exempt(net))
    groups = param_groups_layer_decay(net, recipe.weight_decay, _exempt(net), layer_decay=recipe.layer_decay)
    return [group | {"lr": lr * group["lr_scale"]} for group in groups]


def _decaying(net: nn.Module, recipe: RecipeConfig, lr: float, exempt: set[str]) -> list[dict[str, Any]]:
    if recipe.decay == "weights":
        groups = param_groups_weight_decay(net, recipe.weight_decay, no_weight_decay_list=exempt)
        return [group | {"lr": lr} for group in groups]
    return list(_by_name(net, recipe, lr))


def _by_name(net: nn.Module, recipe: RecipeConfig, lr: float) -> Iterator[dict[str, Any]]:
    """As OpenMMLab: all parameters decay, or all without `norm` in their name."""
    free = [p for name, p in net.named_parameters() if recipe.decay == "but_norms" and "norm" in name]
    skipped = set(map(id, free))
    yield {
        "params": [p for p in net.parameters() if id(p) not in skipped],
        "lr": lr,
        "weight_decay": recipe.weight_decay,
    }
    if free:
        yield {"params": free, "lr": lr, "weight_decay": 0.0}


def _exempt(net: Any) -> set[str]:
    """Names of parameters that do not decay, beside biases and norms."""
    return net.no_weight_decay() if callable(getattr(net, "no_weight_decay", None)) else set()
