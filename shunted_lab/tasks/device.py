"""The device that a command runs on."""

from __future__ import annotations

import torch

from shunted_lab.config import ConfigError


def find_device(name: str) -> torch.device:
    """The device that `device=` means; `auto` is the first of cuda, mps and cpu that is there.

    Raises:
        ConfigError: for a device that this machine has not.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[name]:
        raise ConfigError(f"device: '{name}' is not there; choices: {', '.join(d for d in there if there[d])}")
    return torch.device(name)
