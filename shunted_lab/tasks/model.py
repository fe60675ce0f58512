"""From a model's configuration to the model."""

from __future__ import annotations

from shunted_lab.config import ConfigError, ModelConfig
from shunted_lab.nn import ComponentError, Pyramid
from shunted_lab.nn.registry import import_module


def build_model(config: ModelConfig, num_classes: int) -> Pyramid:
    """The pyramid that `config` describes, with the values of its constructors (see `nn.init_weights`).

    Raises:
        ConfigError: for a module that cannot be imported, and for what the components refuse.
    """
    try:
        for name in config.imports:
            import_module(name, "imports")
        return Pyramid(**config.options(), num_classes=num_classes)
    except ComponentError as error:
        raise ConfigError(f"model.{error}") from None  # its message begins with the key
