"""From a model's configuration to the model."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.dropout import _DropoutNd as Dropout

from shunted_lab.config.model import ModelConfig
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.nn import ComponentError, Pyramid
from shunted_lab.nn.attention import GroupedAttention
from shunted_lab.nn.components import SLOTS
from shunted_lab.nn.pyramid import DropPath
from shunted_lab.nn.registry import RatesError, import_module
from shunted_lab.nn.source import module_hash
from shunted_lab.tasks.optimizer import backbone_of

# Modules whose other layers draw nothing, and compute nothing over a batch.
INDEPENDENT = ("torch.", "shunted_lab.", "torchvision.models.detection.", "torchvision.ops.misc.")


def build_model(config: ModelConfig, num_classes: int) -> Pyramid:
    """The pyramid that `config` describes, with the values of its constructors (see `nn.init_weights`).

    Raises:
        ConfigError: for a module that cannot be imported, and for what the components refuse.
    """
    try:
        _import(config)
        return Pyramid(**config.options(), num_classes=num_classes)
    except RatesError as error:
        write = f"; write model.rates: {allowed_rates(config)}" if error.stage is not None else ""
        raise ConfigError(f"model.{error}{write}") from None
    except ComponentError as error:
        raise ConfigError(f"model.{error}") from None  # its message begins with the key


def allowed_rates(config: ModelConfig) -> list[list[int]]:
    """The rates of `config`, where a stage's attention cannot have its own the nearest that it can have."""
    options = config.options()
    rates = [list(each) for each in options.pop("rates")]
    for _ in rates:  # each time the first stage that is refused
        try:
            with torch.device("meta"):
                Pyramid(**options, rates=rates)
        except RatesError as error:
            assert error.stage is not None
            rates[error.stage] = error.allowed
        except ComponentError:
            break  # of another key than the rates
    return rates


def model_sources(config: ModelConfig) -> dict[str, str]:
    """`slot: name` -> hash of the files of each component that is not of this package, and of each module that `config`
    imports (`nn.source`).

    Raises:
        ConfigError: for a component that is not known, and for a module that cannot be imported.
    """
    try:
        _import(config)
        modules = {f"import: {name}": [name] for name in config.imports}
        modules |= {f"{slot}: {path}": [path.rpartition(".")[0]] for slot, path in config.dotted_options}
        modules |= {f"{slot}: {name}": _modules_of(slot, name) for slot, name in config.own_components}
    except ComponentError as error:
        raise ConfigError(f"model.{error}") from None
    return {name: found for name, those in modules.items() if (found := module_hash(*those))}


def _modules_of(slot: str, name: str) -> list[str]:
    """Where a component is found and where it is defined, which no import may tell."""
    found = SLOTS[slot].find(name)
    defined = (found.func if isinstance(found, partial) else found).__module__
    return [name.rpartition(".")[0], defined] if "." in name else [defined]


def batch_layout(config: RunConfig) -> str:
    """How a batch of the run is cut, as far as its numbers depend on it; "" where they do not.

    A batch that is shared by devices, or trained in parts, gives other numbers than a whole one where a layer computes
    statistics over it (BatchNorm), and where something is drawn for each piece (mixup, dropout, stochastic depth).
    A layer that is not from this package or torch is taken to depend on it.
    """
    launch = config.launch
    if launch.parts == 1:
        return ""
    layers, found = _layers(config), []
    if any(isinstance(layer, BatchNorm) for layer in layers):
        ranks = 1 if config.recipe.sync_bn else launch.ranks
        found.append(f"BatchNorm over {config.data.batch_size // launch.accumulate // ranks} images")
    if config.recipe.mixup or config.recipe.cutmix or any(map(_depends_on_batch, layers)):
        found.append(f"pieces of {config.per_device_batch_size} images on {launch.ranks} devices")
    return ", ".join(found)


def has_batch_norm(config: RunConfig) -> bool:
    """Whether a layer computes statistics over the images of a batch."""
    return any(isinstance(layer, BatchNorm) for layer in _layers(config))


def _layers(config: RunConfig) -> list[nn.Module]:
    """All layers of the network but those whose statistics are frozen."""
    with torch.device("meta"):
        net = config.task.build(config.model, 1)
    frozen = [m for m in backbone_of(net).modules() if isinstance(m, BatchNorm)] if config.freezes_bn else []
    return [layer for layer in net.modules() if layer not in frozen]


def _depends_on_batch(layer: nn.Module) -> bool:
    """Whether a layer draws something in training, or may do anything."""
    if isinstance(layer, Dropout):
        return layer.p > 0
    if isinstance(layer, DropPath):
        return layer.rate > 0
    if isinstance(layer, GroupedAttention):
        return layer.attn_drop > 0
    return not f"{type(layer).__module__}.".startswith(INDEPENDENT)


def _import(config: ModelConfig) -> None:
    for name in config.imports:
        import_module(name, "imports")
