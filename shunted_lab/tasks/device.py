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


def precision_of(precision: str, device: str) -> str:
    """Lightning's name of `recipe.precision` on `device` (cpu, cuda, mps).

    `mixed` is bf16 where it is computed natively, and float16 with a scaled loss on older GPUs.

    Raises:
        ConfigError: for arithmetic that the device has not.
    """
    bf16 = device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "mixed":
        return "bf16-mixed" if bf16 else "16-mixed"
    if precision == "16-mixed" and device == "cpu":
        raise ConfigError("recipe.precision: 16-mixed is not for a CPU; choices: mixed, 32-true, bf16-mixed")
    if precision == "bf16-mixed" and not bf16:
        raise ConfigError("recipe.precision: bf16-mixed is not for this GPU; choices: mixed, 32-true, 16-mixed")
    return precision
