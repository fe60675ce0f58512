"""The one place of initial values, so that the pairing of seeds can be seen in one file."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@torch.no_grad()
def init_weights(model: nn.Module, seed: int) -> None:
    """Each parameter is drawn from a generator of its own, seeded by (seed, name).

    So, within a seed, two models start from the same values in every parameter that they share by name and shape,
    whatever else differs (paired seeds). As in the official code, linear: truncated normal 0.02; convolution: normal
    sqrt(2 / fan out); biases 0; norms 1 and 0. A module of another kind that has `reset_parameters` (a user's
    component) is reset under a seed of its own name. Other parameters that a component makes keep the values of its
    constructor, which ran under a seed of its place (`seeded`). Values are drawn in float32 on the CPU, so they do not
    depend on the model's device and type. The global generators are left as they were.
    """
    for name, module in model.named_modules():
        generator = torch.Generator().manual_seed(_number(f"{seed}:{name}.weight"))
        if isinstance(module, nn.Linear):
            module.weight.copy_(nn.init.trunc_normal_(_empty(module.weight), std=0.02, generator=generator))
        elif isinstance(module, nn.Conv2d):
            kh, kw = module.kernel_size
            fan_out = kh * kw * module.out_channels // module.groups
            module.weight.copy_(_empty(module.weight).normal_(0, (2 / fan_out) ** 0.5, generator=generator))
        elif callable(reset := getattr(module, "reset_parameters", None)):
            with seeded(f"{seed}:{name}"):
                reset()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            module.bias.zero_()


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch (on the CPU) by `key`, and put them back afterwards.

    What is built inside has values that depend on the key alone, whatever was built before.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(key)
    np.random.seed(_number(key))
    torch.default_generator.manual_seed(_number(key))  # torch.manual_seed would seed GPUs too
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def place_seed(place: str) -> str:
    """The key of a component's place in the model that is being built, under the seed that holds now."""
    return f"{torch.initial_seed()}:{place}"


def _number(key: str) -> int:
    return zlib.crc32(key.encode())


def _empty(like: Tensor) -> Tensor:
    return torch.empty(like.shape, device="cpu", dtype=torch.float32)
