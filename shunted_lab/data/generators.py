"""The global generators of Python, numpy and torch, which the transforms of timm and torchvision draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserve_generators() -> Iterator[None]:
    """Restore the global generators afterwards, whatever is seeded or drawn inside."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def seed_generators(seed: Sequence[int]) -> None:
    """Seed the global generators by numbers, each generator by a draw of its own."""
    draws = np.random.SeedSequence(seed).generate_state(3)
    random.seed(int(draws[0]))
    np.random.seed(int(draws[1]))
    torch.default_generator.manual_seed(int(draws[2]))
