"""Samplers and pruners of a search, by their names."""

from __future__ import annotations

import numpy as np
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from shunted_lab.config.search import SearchConfig


def make_sampler(config: SearchConfig, trials: int = 0, worker: int = 0) -> BaseSampler:
    """The sampler by its name.

    Args:
        trials: of the study so far: a search that was stopped does not repeat itself.
        worker: its number: two workers do not propose the same.
    """
    seed = int(np.random.SeedSequence([config.sampler_seed, trials, worker]).generate_state(1)[0])
    if config.sampler == "tpe":
        return TPESampler(seed=seed, n_startup_trials=random_trials(config))
    if config.sampler == "nsga2":
        return NSGAIISampler(seed=seed, population_size=random_trials(config))
    return RandomSampler(seed=seed)  # for grid and brute_force it is never asked


def random_trials(config: SearchConfig) -> int:
    """How many of the first trials a sampler draws at random."""
    if config.sampler == "tpe":
        return min(10, max(2, config.trials // 3))
    if config.sampler == "nsga2":
        return max(4, min(50, config.trials // 4))
    return 0 if config.sampler == "grid" else config.trials


def make_pruner(config: SearchConfig, epochs: int) -> BasePruner:
    """The pruner by its name, for runs of so many epochs."""
    if config.pruner == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 10))
    if config.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    return NopPruner()
