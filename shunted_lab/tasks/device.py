"""The device that a command or a run computes on, and the arithmetic that it has. Importing this imports no torch."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from shunted_lab.config.recipe import PRECISIONS
from shunted_lab.config.schema import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")  # what a command's `device` may be


def find_device(name: str = "auto", key: str = "device") -> str:
    """The device that `name` means on this machine: cuda, mps or cpu.

    Args:
        name: auto (the first of cuda, mps and cpu), gpu (cuda or mps), cuda, mps or cpu.
        key: the dotted key that was given as `name`, named in the error.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    found = _available()
    wanted = {"auto": ("cuda", "mps", "cpu"), "gpu": ("cuda", "mps")}.get(name, (name,))
    for device in wanted:
        if device in found:
            return device
    raise ConfigError(f"{key}: this machine has no '{name}'; choices: {', '.join(found)}")


def _available() -> list[str]:
    if "torch" not in sys.modules and _has_no_gpu_driver():
        return ["cpu"]  # torch takes 2 s to say the same
    import torch

    have = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [device for device in have if have[device]]


def _has_no_gpu_driver() -> bool:
    """Whether torch cannot find a GPU: CUDA needs this library of the driver, and ROCm this device."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False


def supports(device: str, precision: str) -> bool:
    """Whether `device` has this arithmetic (one of `recipes.PRECISIONS`)."""
    if precision == "bf16-mixed" and device == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    return precision != "16-mixed" or device != "cpu"


def check_precision(precision: str, device: str, key: str = "recipe.precision") -> None:
    """Raise ConfigError for arithmetic that `device` does not have.

    A precision is never replaced by another one: it is part of what a run is.
    """
    if not supports(device, precision):
        choices = ", ".join(p for p in PRECISIONS if supports(device, p))
        raise ConfigError(f"{key}: '{precision}' is not available on this machine's {device}; choices: {choices}")
