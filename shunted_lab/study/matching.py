"""Variants of equal cost: a knob of each is scaled until it costs what its baseline does (`match`, `match_by`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from shunted_lab.config.compose import Experiment
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import DataFacts
from shunted_lab.nn import Cost
from shunted_lab.output.quantities import COSTS, value_text
from shunted_lab.study.plan import model_cost

TOLERANCE = 0.01  # of the baseline's cost
SMALLEST, LARGEST = 1 / 16, 16  # factors of a knob
STEPS = 40


def match_costs(experiment: Experiment, facts: Mapping[str, DataFacts]) -> tuple[Experiment, list[str]]:
    """The experiment with matched variants, and a line for each that was changed; as it is without `match`.

    A matched variant is another configuration of its model, and its runs are identified by it. A variant that sets the
    knob itself is scaled from there.

    Raises:
        ConfigError: for a variant that no scale of its knob brings within 1 % of its baseline's cost.
    """
    config = experiment.config
    if config.match is None:
        return experiment, []
    kind, knob = config.match, config.match_by.removeprefix("model.")
    runs, lines = dict(experiment.variants), []
    for name, run in experiment.variants.items():
        baseline = config.baseline_of(name)
        target = _cost(baseline, experiment.variants[baseline], facts[baseline], kind)
        before = _cost(name, run, facts[name], kind)
        if abs(before / target - 1) <= TOLERANCE:
            continue
        runs[name], after = _scaled(name, run, facts[name], kind, knob, target)
        old, new = (_text(getattr(found.model, knob)) for found in (run, runs[name]))
        unit = COSTS[kind]
        lines.append(
            f"matched: {name}, {config.match_by} {old} -> {new}: {value_text(before, unit)} -> "
            f"{value_text(after, unit)} ({baseline}: {value_text(target, unit)})"
        )
    return dataclasses.replace(experiment, variants=runs), lines


def _scaled(
    name: str, run: RunConfig, facts: DataFacts, kind: str, knob: str, target: float
) -> tuple[RunConfig, float]:
    """The run with its knob scaled so that it costs `target`, and what it costs.

    By bisection of one factor for all stages; widths and depths, which are coarse, are then changed stage by stage.
    """

    def cost_of(values: list[Any]) -> float:
        return _cost(name, _with(run, knob, values), facts, kind)

    low, high = SMALLEST, LARGEST
    known: dict[tuple[Any, ...], float] = {}
    for _ in range(STEPS):
        factor = (low * high) ** 0.5
        values = SCALERS[knob](getattr(run.model, knob), factor, run)
        if tuple(values) not in known:
            known[tuple(values)] = cost_of(values)
        cost = known[tuple(values)]
        if abs(cost / target - 1) < TOLERANCE / 10:
            break
        low, high = (factor, high) if cost < target else (low, factor)
    while True:
        best = min(known, key=lambda values: (abs(known[values] - target), values))
        others = [values for values in _neighbours(best, knob, run) if values not in known]
        if abs(known[best] / target - 1) <= TOLERANCE or not others:
            break
        known |= {values: cost_of(list(values)) for values in others}
    if abs(known[best] / target - 1) > TOLERANCE:
        unit, choices = COSTS[kind], ", ".join(f"model.{other}" for other in SCALERS if other != knob)
        wanted, off = value_text(target, unit), f"{100 * abs(known[best] / target - 1):.1f} % off"
        raise ConfigError(
            f"match: variant '{name}' cannot have its baseline's {wanted} within 1 % by model.{knob}; "
            f"nearest: {_text(best)}, {off}; other choices of match_by: {choices}"
        )
    return _with(run, knob, list(best)), known[best]


def _with(run: RunConfig, knob: str, values: list[Any]) -> RunConfig:
    changes: dict[str, Any] = {knob: values}
    return dataclasses.replace(run, model=dataclasses.replace(run.model, **changes))


def _neighbours(values: tuple[Any, ...], knob: str, run: RunConfig) -> Iterator[tuple[Any, ...]]:
    """One stage changed by the least that its width or depth can; nothing for ratios, which are fine enough."""
    steps = {"embed_dims": run.model.num_heads, "depths": [1] * len(values)}.get(knob, [])
    for stage, step in enumerate(steps):
        for change in (-step, step):
            if values[stage] + change > 0:
                yield (*values[:stage], values[stage] + change, *values[stage + 1 :])


def _cost(name: str, run: RunConfig, facts: DataFacts, kind: str) -> float:
    cost: Cost = model_cost(f"variants.{name}", run, run.task.input_size(run.data), len(facts.class_names))
    return float(getattr(cost, kind))


def _ratios(values: list[float], factor: float, run: RunConfig) -> list[float]:
    return [round(value * factor, 4) for value in values]


def _widths(values: list[int], factor: float, run: RunConfig) -> list[int]:
    """Multiples of the heads of each stage."""
    heads = run.model.num_heads
    return [max(1, round(value * factor / of)) * of for value, of in zip(values, heads, strict=True)]


def _depths(values: list[int], factor: float, run: RunConfig) -> list[int]:
    return [max(1, round(value * factor)) for value in values]


SCALERS: dict[str, Callable[[Any, float, RunConfig], list[Any]]] = {
    "mlp_ratios": _ratios,
    "embed_dims": _widths,
    "depths": _depths,
}


def _text(values: Sequence[Any]) -> str:
    return ",".join(f"{value:g}" for value in values)
