"""From a model's configuration to the model."""

from __future__ import annotations

from shunted_lab.config import ConfigError, ModelConfig
from shunted_lab.nn import ComponentError, Pyramid
from shunted_lab.nn.registry import import_module
from shunted_lab.nn.source import SLOTS, component_sources


def build_model(config: ModelConfig, num_classes: int) -> Pyramid:
    """The pyramid that `config` describes, with the values of its constructors (see `nn.init_weights`).

    Raises:
        ConfigError: for a module that cannot be imported, and for what the components refuse.
    """
    try:
        _import(config)
        return Pyramid(**config.options(), num_classes=num_classes)
    except ComponentError as error:
        raise ConfigError(f"model.{error}") from None  # its message begins with the key


def model_sources(config: ModelConfig) -> dict[str, str]:
    """`slot: name` -> hash of the source of each component that `config` names.

    Raises:
        ConfigError: for a component that is not known.
    """
    try:
        _import(config)
        return component_sources({slot: getattr(config, slot) for slot in SLOTS})
    except ComponentError as error:
        raise ConfigError(f"model.{error}") from None


def _import(config: ModelConfig) -> None:
    for name in config.imports:
        import_module(name, "imports")
