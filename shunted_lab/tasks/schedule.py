"""The learning rate of every step, as a function of the recipe alone. Importing this imports no torch."""

from __future__ import annotations

import math

from shunted_lab.config.recipe import RecipeConfig


def learning_rate(step: int, total: int, recipe: RecipeConfig, peak: float) -> float:
    """The learning rate of a step of `total`: linear from `warmup_lr` to `peak`, then a cosine to `min_lr`.

    With `recipe.schedule` "epoch" it stays within an epoch, and the cosine begins with the first epoch, of which the
    warm-up hides a part (timm's CosineLRScheduler); with "step" it begins when the warm-up ends. "poly" and "multistep"
    begin with the first step, and the warm-up multiplies their rate (OpenMMLab).
    """
    if recipe.schedule in ("poly", "multistep"):
        return _falling(step, total, recipe, peak) * _warming(step, total, recipe, peak)
    if recipe.schedule == "epoch":
        now, end, warmup = step * recipe.epochs // total, recipe.epochs, recipe.warmup_epochs
        begin = 0.0
    else:
        now, end, warmup = step, total, warmup_steps(total, recipe)
        begin = warmup
    if now < warmup:
        return recipe.warmup_lr + (peak - recipe.warmup_lr) * now / warmup
    done = min(1.0, (now - begin) / max(1, end - begin))
    return recipe.min_lr + 0.5 * (peak - recipe.min_lr) * (1 + math.cos(math.pi * done))


def warmup_steps(total: int, recipe: RecipeConfig) -> int:
    """Steps of the warm-up, of a schedule that changes each step."""
    if recipe.warmup_steps is not None:
        return recipe.warmup_steps
    return round(total * recipe.warmup_epochs / recipe.epochs)


def _falling(step: int, total: int, recipe: RecipeConfig, peak: float) -> float:
    """The rate of "poly" or "multistep" without a warm-up."""
    if recipe.schedule == "poly":
        return recipe.min_lr + (peak - recipe.min_lr) * (1 - min(1.0, step / total)) ** recipe.power
    return peak * recipe.gamma ** sum(step * recipe.epochs >= epoch * total for epoch in recipe.milestones)


def _warming(step: int, total: int, recipe: RecipeConfig, peak: float) -> float:
    """What the warm-up multiplies a rate by: from `warmup_lr / peak` to 1."""
    warmup = warmup_steps(total, recipe)
    return 1.0 if step >= warmup else 1 - (1 - step / warmup) * (1 - recipe.warmup_lr / peak)


def peak_rate(recipe: RecipeConfig, batch_size: int) -> float:
    """The rate that the warm-up leads to, for batches of `batch_size` images (of all devices and parts)."""
    return recipe.lr * (1.0 if recipe.lr_batch is None else batch_size / recipe.lr_batch)


def highest_rate(recipe: RecipeConfig, peak: float) -> float:
    """The highest learning rate that training reaches. Below `peak` where the warm-up hides the top of the cosine.

    Where the rate changes each step it is the peak, up to the length of a step.
    """
    if recipe.schedule != "epoch":
        return peak
    return max(learning_rate(epoch, recipe.epochs, recipe, peak) for epoch in range(recipe.epochs))
