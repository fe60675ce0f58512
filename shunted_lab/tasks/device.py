"""The device that a command or a run computes on, and the arithmetic that it has."""

from __future__ import annotations

import torch

from shunted_lab.config import PRECISIONS, ConfigError


def find_device(name: str = "auto", key: str = "device") -> torch.device:
    """The device that `name` means on this machine.

    Args:
        name: auto (the first of cuda, mps and cpu), gpu (cuda or mps), cuda, mps or cpu.
        key: the dotted key that was given as `name`, named in the error.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    have = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [device for device in have if have[device]]
    wanted = {"auto": ("cuda", "mps", "cpu"), "gpu": ("cuda", "mps")}.get(name, (name,))
    for device in wanted:
        if device in found:
            return torch.device(device)
    raise ConfigError(f"{key}: this machine has no '{name}'; choices: {', '.join(found)}")


def supports(device: torch.device, precision: str) -> bool:
    """Whether `device` has this arithmetic (one of `recipes.PRECISIONS`)."""
    if precision == "bf16-mixed" and device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return precision != "16-mixed" or device.type != "cpu"


def check_precision(precision: str, device: torch.device, key: str = "recipe.precision") -> None:
    """Raise ConfigError for arithmetic that `device` does not have.

    A precision is never replaced by another one: it is part of what a run is.
    """
    if not supports(device, precision):
        choices = ", ".join(p for p in PRECISIONS if supports(device, p))
        raise ConfigError(f"{key}: '{precision}' is not available on this machine's {device.type}; choices: {choices}")
