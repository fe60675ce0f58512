"""What a search may change: any dotted key, and how many heads of each stage work at each of the allowed rates."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError, unknown
from shunted_lab.config.variants import VARIED

RATES = "rates"  # the key of the search's own kind of choice
STRIDES = (4, 8, 16, 32)  # of the pyramid's stages
MOST = 2000  # assignments of one stage; a sampler cannot use a categorical choice with more


def write_rates(rates: Sequence[int]) -> str:
    """A stage's rates without the order of its heads, e.g. `8x1 4x1`: one head at 8, one at 4."""
    return " ".join(f"{rate}x{count}" for rate, count in sorted(Counter(rates).items(), reverse=True))


def read_rates(text: str) -> list[int]:
    """The shortest `model.rates` entry of what `write_rates` wrote: `8x2 4x2` is [8, 4]."""
    counts = [(int(rate), int(count)) for rate, count in (part.split("x") for part in text.split())]
    shared = math.gcd(*(count for _, count in counts))
    return [rate for rate, count in counts for _ in range(count // shared)]


@dataclass(frozen=True)
class Space:
    """Parameters of Optuna -> changes of a configuration.

    `distributions` has a categorical one for each stage (`rates[0]`, ...) whose choices are written by `write_rates`,
    so that no two of them are the same model; and one for each other key.
    """

    distributions: dict[str, BaseDistribution]
    base: RunConfig

    def changes(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Dotted key -> value."""
        found = {key: self._value(key, value) for key, value in params.items() if not key.startswith(RATES + "[")}
        if any(key.startswith(RATES + "[") for key in self.distributions):
            rates = [list(stage) for stage in self.base.model.rates]
            for key, value in params.items():
                if key.startswith(RATES + "["):
                    rates[int(key[len(RATES) + 1 : -1])] = read_rates(value)
            found["model.rates"] = rates
        return found

    def _value(self, key: str, value: Any) -> Any:
        return json.loads(value[1:]) if isinstance(value, str) and value.startswith(JSON) else value

    def params(self, run: RunConfig) -> dict[str, Any]:
        """The parameters that give a configuration.

        Raises:
            ConfigError: if the space does not hold it.
        """
        found: dict[str, Any] = {}
        for key, distribution in self.distributions.items():
            if key.startswith(RATES + "["):
                stage = int(key[len(RATES) + 1 : -1])
                heads, rates = run.model.num_heads[stage], run.model.rates[stage]
                value: Any = write_rates([rate for rate in rates for _ in range(heads // len(rates))])
            else:
                group, _, name = key.partition(".")
                value = _primitive(getattr(getattr(run, group), name))
            inside = (
                value in distribution.choices
                if isinstance(distribution, CategoricalDistribution)
                else (distribution._contains(distribution.to_internal_repr(value)))
            )
            if not inside:
                raise ConfigError(f"search.space: {key} does not contain '{value}', the value of a variant")
            found[key] = value
        return found

    def label(self, params: Mapping[str, Any]) -> str:
        """A readable name, e.g. `8x1 4x1 | 4x2 2x2 | 2x4 1x4 | 1x16`."""
        rates = [str(params[key]) for key in self.distributions if key.startswith(RATES + "[")]
        others = [
            f"{key}={self._value(key, params[key])}" for key in self.distributions if not key.startswith("rates[")
        ]
        return " | ".join(rates) + (", " if rates and others else "") + ", ".join(others)

    def neighbours(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What differs in one step: one head at the next rate, or the next choice of one key."""
        found = []
        for key, distribution in self.distributions.items():
            if not isinstance(distribution, CategoricalDistribution):
                continue
            for value in _steps(key, params[key], distribution.choices):
                found.append({**params, key: value})
        return found

    def is_finite(self) -> bool:
        return all(not isinstance(d, FloatDistribution) or d.step is not None for d in self.distributions.values())

    def size(self) -> int:
        """Number of points of a finite space."""
        return math.prod(len(_points(d)) for d in self.distributions.values())

    def points(self) -> Any:
        """All points of a finite space, the last key fastest."""
        names = list(self.distributions)
        for values in product(*(_points(d) for d in self.distributions.values())):
            yield dict(zip(names, values, strict=True))

    def describe(self) -> dict[str, str]:
        """What a study keeps, to see whether the space has changed."""
        return {key: distribution_to_json(d) for key, d in self.distributions.items()}


JSON = "="  # a choice that is a list or a mapping is kept as text: Optuna's storages know only plain values


def _primitive(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else JSON + json.dumps(value, sort_keys=True)


def _steps(key: str, value: Any, choices: Sequence[Any]) -> list[Any]:
    if not key.startswith(RATES + "["):
        at = choices.index(value)
        return [choices[i] for i in (at - 1, at + 1) if 0 <= i < len(choices)]
    allowed = sorted({rate for choice in choices for rate in read_rates(choice)})
    heads = [rate for rate, count in _counts(value) for _ in range(count)]
    found = []
    for rate in sorted(set(heads), reverse=True):
        for step in (-1, 1):
            at = allowed.index(rate) + step
            if 0 <= at < len(allowed):
                moved = list(heads)
                moved[moved.index(rate)] = allowed[at]
                found.append(write_rates(moved))
    return [choice for choice in dict.fromkeys(found) if choice in choices]


def _counts(text: str) -> list[tuple[int, int]]:
    return [(int(rate), int(count)) for rate, count in (part.split("x") for part in text.split())]


def _points(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    step = distribution.step
    assert step is not None
    count = math.floor((distribution.high - distribution.low) / step + 1e-9) + 1
    if isinstance(distribution, IntDistribution):
        return [distribution.low + i * int(step) for i in range(count)]
    return [distribution.low + i * step for i in range(count)]


def make_space(space: Mapping[str, Any], base: RunConfig) -> Space:
    """The space of an experiment's `search.space`.

    Raises:
        ConfigError: for a choice that is none, and for rates that no stage can hold.
    """
    found: dict[str, BaseDistribution] = {}
    for key, choice in space.items():
        if key == RATES:
            found |= _rates(choice, base)
        elif key.split(".")[0] not in VARIED or "." not in key:
            raise ConfigError(
                f"search.space: '{key}' cannot be searched; keys are 'rates' or begin with one of {VARIED}"
            )
        elif key == "model.rates":
            raise ConfigError("search.space: 'model.rates' is searched as 'rates': [8, 4, 2, 1]")
        else:
            found[key] = _distribution(f"search.space.{key}", choice)
    if not found:
        raise ConfigError("search.space: leaves no choice")
    return Space(found, base)


def _rates(allowed: Any, base: RunConfig) -> dict[str, BaseDistribution]:
    model, size = base.model, base.data.image_size
    grids = [math.ceil(size / stride) for stride in STRIDES]
    nested = isinstance(allowed, list) and all(isinstance(stage, list) for stage in allowed)
    flat = [rate for stage in allowed for rate in stage] if nested else allowed
    if not isinstance(flat, list) or not flat or not all(isinstance(r, int) and r >= 1 for r in flat):
        raise ConfigError(
            f"search.space.rates: {allowed} is neither a list of positive integers nor one such per stage"
        )
    if nested and len(allowed) != len(grids):
        raise ConfigError(f"search.space.rates: has {len(allowed)} lists for {len(grids)} stages")
    sides = ", ".join(map(str, grids))
    found: dict[str, BaseDistribution] = {}
    for stage, (grid, heads) in enumerate(zip(grids, model.num_heads, strict=True)):
        given = sorted(set(allowed[stage] if nested else allowed), reverse=True)
        held = [rate for rate in given if rate <= grid]
        if nested and held != given:
            raise ConfigError(f"search.space.rates[{stage}]: {given[0]} is coarser than the stage's grid of {grid}")
        if not held:
            raise ConfigError(f"search.space.rates: {given} leaves no rate for stage {stage + 1}, a grid of {grid}")
        choices = [write_rates(heads_rates) for heads_rates in combinations_with_replacement(held, heads)]
        if len(choices) > MOST:
            raise ConfigError(
                f"search.space.rates: {heads} heads at {len(held)} rates make {len(choices)} assignments of stage "
                f"{stage + 1}; allow fewer rates in that stage, with one list per stage"
            )
        if len(choices) > 1 or write_rates(_spread(model.rates[stage], heads)) not in choices:
            found[f"{RATES}[{stage}]"] = CategoricalDistribution(choices)
    for rate in sorted(set(flat)):
        if rate > max(grids):
            raise ConfigError(
                f"search.space.rates: {rate} is too coarse for every stage; the grids at {size} px are {sides}"
            )
    return found


def _spread(rates: Sequence[int], heads: int) -> list[int]:
    return [rate for rate in rates for _ in range(heads // len(rates))]


def _distribution(where: str, choice: Any) -> BaseDistribution:
    if isinstance(choice, Mapping) and set(choice) == {"choices"}:
        choice = choice["choices"]
    if isinstance(choice, list):
        if len(choice) < 2:
            raise ConfigError(f"{where}: {choice} leaves no choice")
        return CategoricalDistribution([_primitive(value) for value in choice])
    if not isinstance(choice, Mapping):
        raise ConfigError(f"{where}: {choice} is neither a list of choices nor {{low:, high:, log:, step:}}")
    for name in choice:
        if name not in ("low", "high", "log", "step"):
            raise unknown(where, name, ("choices", "low", "high", "log", "step"))
    low, high = choice.get("low"), choice.get("high")
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low >= high:
        raise ConfigError(f"{where}: needs numbers low < high, not {low} and {high}")
    log, step = bool(choice.get("log", False)), choice.get("step")
    try:
        if isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int)):
            return IntDistribution(low, high, log=log, step=step or 1)
        return FloatDistribution(float(low), float(high), log=log, step=step)
    except ValueError as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from None
