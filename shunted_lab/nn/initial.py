"""The one place of initial values, so that the pairing of seeds can be seen in one function."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn


@torch.no_grad()
def init_weights(model: nn.Module, seed: int) -> None:
    """Each parameter is drawn from a generator of its own, seeded by (seed, name).

    So, within a seed, two models start from the same values in every parameter that they share by name and shape,
    whatever else differs (paired seeds). As in the official code, linear: truncated normal 0.02; convolution: normal
    sqrt(2 / fan out); biases 0; norms 1 and 0. A module of another kind that has `reset_parameters` (a user's
    component) is reset under a seed of its own name. Parameters that a component makes by itself keep the values of
    its constructor. Values are drawn in float32 on the CPU, so they do not depend on the model's device and type.
    The global generator is left as it was.
    """
    for name, module in model.named_modules():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}.weight".encode()))
        if isinstance(module, nn.Linear):
            module.weight.copy_(nn.init.trunc_normal_(_empty(module.weight), std=0.02, generator=generator))
        elif isinstance(module, nn.Conv2d):
            kh, kw = module.kernel_size
            fan_out = kh * kw * module.out_channels // module.groups
            module.weight.copy_(_empty(module.weight).normal_(0, (2 / fan_out) ** 0.5, generator=generator))
        elif callable(reset := getattr(module, "reset_parameters", None)):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(generator.initial_seed())  # torch.manual_seed would seed GPUs too
                reset()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            module.bias.zero_()


def _empty(like: Tensor) -> Tensor:
    return torch.empty(like.shape, device="cpu", dtype=torch.float32)
