"""What a search may change, and what confirms its best trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shunted_lab.config.schema import ConfigError, at_least, one_of, option, require, unknown

SAMPLERS = ("tpe", "nsga2", "random", "brute_force", "grid")
PRUNERS = ("median", "hyperband")
MEASURED_LATER = ("latency", "memory")  # on the device, of a forward pass with one image
MEASURED = ("params", "macs", *MEASURED_LATER)


@dataclass
class SearchConfig:
    """A search: what may change, what is better, and what is allowed. The experiment's variants are tried first."""

    space: dict[str, Any] = option(
        {}, "DOTTED KEY: [choices] or {low:, high:, log:, step:}; rates: [8, 4, 2, 1], or one such list per stage"
    )
    objectives: Any = option(
        None,
        "METRIC: max|min, of the validation split, or params, macs, latency, memory; null is the metric that chooses "
        "the task's best epoch, e.g. {val/METRIC: max}",
        type="dict[str, str] | null",
    )
    constraints: dict[str, Any] = option({}, "params|macs: an upper bound, or 'baseline' for that of the baseline")
    trials: int = option(30, "number of different assignments to train")
    sampler: str = option("tpe", ", ".join(SAMPLERS))
    sampler_seed: int = option(0, "seed of the sampler")
    neighbours: bool = option(True, "after the variants, try the assignments that differ from the baseline by one step")
    pruner: str | None = option(None, f"stops unpromising trials early: {', '.join(PRUNERS)}; for one objective")

    def __post_init__(self) -> None:
        require(bool(self.space), "search.space", self.space, "is empty: name at least one key")
        at_least(1, "search", self, "trials")
        one_of("search.sampler", self.sampler, SAMPLERS)
        if self.pruner is not None and self.pruner not in PRUNERS:
            raise unknown("search.pruner", self.pruner, PRUNERS)
        if self.objectives is not None:  # else `study.search` takes the task's
            self._check_objectives(self.objectives)
        for name, bound in self.constraints.items():
            if name not in ("params", "macs"):
                raise unknown("search.constraints", name, ("params", "macs"))
            good = bound == "baseline" or (isinstance(bound, int | float) and bound > 0)
            require(good, f"search.constraints.{name}", bound, "is neither 'baseline' nor a number above 0")

    def _check_objectives(self, objectives: Any) -> None:
        if not isinstance(objectives, dict):
            raise ConfigError(
                f"search.objectives: {objectives} has no direction; write {{METRIC: max}} or {{METRIC: min}}"
            )
        require(bool(objectives), "search.objectives", objectives, "is empty: name at least one")
        for name, direction in objectives.items():
            if name not in MEASURED and not str(name).startswith("val/"):
                raise ConfigError(
                    f"search.objectives: '{name}' is not an objective; choices: val/METRIC, {', '.join(MEASURED)}"
                )
            if direction not in ("max", "min"):
                raise unknown(f"search.objectives.{name}", direction, ("max", "min"))
        if self.pruner is not None and len(objectives) > 1:
            raise ConfigError(
                f"search.pruner: '{self.pruner}' needs one objective, not {len(objectives)}; set it to null"
            )
        if self.pruner is not None and next(iter(objectives)) in MEASURED:
            raise ConfigError(f"search.pruner: '{self.pruner}' needs a metric of each epoch, e.g. val/top1")


@dataclass
class ConfirmConfig:
    """Which trials of a finished search become the variants of this experiment, beside its own."""

    search: str = option("", "the experiment that searched")
    best: int = option(3, "how many of its best assignments")

    def __post_init__(self) -> None:
        require(bool(self.search), "confirm.search", repr(self.search), "is empty; name an experiment with a search")
        at_least(1, "confirm", self, "best")
