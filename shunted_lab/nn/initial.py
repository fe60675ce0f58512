"""The one place of initial values, so that the pairing of seeds can be seen in one file."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def build_seeded(make: Callable[[], M], seed: int) -> M:
    """The network that `make()` builds, with the initial values of a seed: its constructors run under the seed
    (`seeded`), then `init_weights` draws what it draws.
    """
    with seeded(str(seed)):
        model = make()
    init_weights(model, seed)
    return model


@torch.no_grad()
def init_weights(model: nn.Module, seed: int) -> None:
    """Set the initial values of a network, each drawn from a generator of its own, seeded by (seed, name).

    So, within a seed, two models start from the same values in every parameter that they share by name and shape,
    whatever else differs (paired seeds). Who decides a value:

    * A backbone (a `Pyramid`, or another module with `is_backbone = True`), wherever it is in `model`, gets the values
      that it has as a classifier of that seed: its modules are named relative to it. As in the official code, linear:
      truncated normal 0.02; convolution: normal sqrt(2 / fan out); biases 0; norms 1 and 0. A module of another kind
      that has `reset_parameters` (a user's component) is reset under a seed of its own name. Other parameters that a
      component makes keep the values of its constructor, which ran under a seed of its place (`seeded`). A model
      without a backbone counts as one.
    * A module that defines `init_own_weights()`, in a backbone or outside, decides about all that it contains, except
      modules inside that define it too, and backbones. It is called under a seed of its name.
    * Everything else outside a backbone, such as a head of torchvision, keeps the values of its constructor.
      `build_seeded` makes these follow the seed.

    Values in a backbone are drawn in float32 on the CPU, so they do not depend on the model's device and type. The
    global generators are left as they were.
    """
    whole = not any(_is_backbone(module) for module in model.modules())
    for name, module, in_backbone in _named_places(model, "", whole, set()):
        if callable(own := getattr(module, "init_own_weights", None)):
            with seeded(f"{seed}:{name}"):
                own()
        elif in_backbone:
            _draw(module, name, seed)


def _named_places(
    module: nn.Module, name: str, in_backbone: bool, seen: set[nn.Module]
) -> Iterator[tuple[str, nn.Module, bool]]:
    """Each module once, as `named_modules` has them: name, module, and whether the rules of a backbone hold for it."""
    if module in seen:
        return
    seen.add(module)
    if _is_backbone(module):
        name, in_backbone = "", True
    yield name, module, in_backbone
    in_backbone = in_backbone and not hasattr(module, "init_own_weights")
    for child, inside in module.named_children():
        yield from _named_places(inside, f"{name}.{child}" if name else child, in_backbone, seen)


def _is_backbone(module: nn.Module) -> bool:
    return getattr(module, "is_backbone", False) is True


def _draw(module: nn.Module, name: str, seed: int) -> None:
    """The values of one module of a backbone, those of the modules inside it not included."""
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


_under_a_seed: ContextVar[bool] = ContextVar("under_a_seed", default=False)


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch (on the CPU) by `key`, and put them back afterwards.

    What is built inside has values that depend on the key alone, whatever was built before.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    inside = _under_a_seed.set(True)
    random.seed(key)
    np.random.seed(_number(key))
    torch.default_generator.manual_seed(_number(key))  # torch.manual_seed would seed GPUs too
    try:
        yield
    finally:
        _under_a_seed.reset(inside)
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def place_seed(place: str) -> str:
    """The key of a component's place in the model that is being built, under the seed that holds now."""
    return f"{torch.initial_seed()}:{place}"


def backbone_seed() -> str:
    """The key of a backbone that is being built.

    Under `seeded` it follows from that seed alone: what the network around the backbone drew before does not matter, so
    a detector's backbone is built as the classifier's. Elsewhere it is drawn from torch's global generator.
    """
    generator = torch.default_generator
    drawn = torch.randint(2**62, (), generator=generator, device="cpu")  # also under a seed: one draw in any case
    if _under_a_seed.get():
        first = torch.Generator("cpu").manual_seed(torch.initial_seed())
        drawn = torch.randint(2**62, (), generator=first, device="cpu")
    return str(int(drawn))


def _number(key: str) -> int:
    return zlib.crc32(key.encode())


def _empty(like: Tensor) -> Tensor:
    return torch.empty(like.shape, device="cpu", dtype=torch.float32)
