"""What so many seeds will detect, told before training by the spread of earlier studies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shunted_lab.config.experiment import Config
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.quantities import Unit, counted, in_unit
from shunted_lab.study.folder import read_result
from shunted_lab.study.manifest import PLANS, STUDY, Manifest, read_manifest
from shunted_lab.study.race import runs_at, weigh
from shunted_lab.study.rule import Rule
from shunted_lab.study.states import RunState, checked, headlines
from shunted_lab.study.statistics.family import compare, sizes_of
from shunted_lab.study.statistics.power import POWER, detectable_with, deviation_range

OFFERED = (3, 5, 8, 12, 20)  # numbers of seeds that a plan names


@dataclass(frozen=True)
class Spread:
    """The standard deviation of paired differences (base units) in an earlier study, with its degrees of freedom."""

    study: str
    std: float
    df: int


def earlier_spread(manifest: Manifest) -> Spread | None:
    """The spread of the finished study beside this one that tells most: on the same data, model, recipe and metric.

    Of several studies the one with the most degrees of freedom, its own earlier runs included.
    """
    found = [spread for folder in _studies(Path(manifest.config.runs_dir)) if (spread := _spread(folder, manifest))]
    return max(found, key=lambda spread: spread.df, default=None)


def _studies(runs_dir: Path) -> Iterator[Path]:
    for file in sorted(runs_dir.glob(f"*/{STUDY}")):
        if (file.parent / PLANS).is_dir():
            yield file.parent


def _spread(folder: Path, manifest: Manifest) -> Spread | None:
    try:
        other = read_manifest(folder)
    except ConfigError:  # of another version: its own command says so
        return None
    if other.search is not None or _key(other) != _key(manifest):
        return None
    states = []
    for run in other.runs:
        result = read_result(run)
        states.append(RunState(run, "missing" if result is None else "done", result))
    values = headlines(other.variants, checked(states))
    baselines = {
        n: base for n, base in other.config.compared.items() if len(values[n].keys() & values[base].keys()) > 1
    }
    if not baselines:
        return None
    family = compare(values, baselines)
    if family.method == "dunnett":
        return Spread(folder.name, family.std, family.df)
    own = [d for d in family.separate.values() if d is not None and d.has_interval]
    if not own:
        return None
    return Spread(folder.name, math.sqrt(sum(d.std**2 for d in own) / len(own)), max(d.n - 1 for d in own))


def _key(manifest: Manifest) -> list[object]:
    """What two studies share whose spreads are alike: data, model, recipe, metric, and whether it is a smoke test."""
    run = next(iter(manifest.variants.values()))
    identity = next(iter(manifest.facts.values())).identity
    recipe = [run.recipe.name, run.recipe.epochs, run.recipe.ema]
    return [
        run.data.name,
        identity,
        run.data.image_size,
        run.model.name,
        recipe,
        manifest.goal.lead,
        manifest.config.smoke,
    ]


def power_lines(manifest: Manifest) -> list[str]:
    """What the planned seeds detect, and what more would; for a race how many runs it takes."""
    config, leading = manifest.config, manifest.goal.leading
    if not config.compared:
        return []
    spread = earlier_spread(manifest)
    if manifest.rule is not None:
        return [_race_line(manifest.rule, spread, leading.unit)]
    if spread is None:
        return []
    return [_power_line(config, spread, leading.unit)]


def _power_line(config: Config, spread: Spread, unit: Unit) -> str:
    """`power: 3 seeds detect 2.1 points, 5 1.3, 8 0.9`."""
    sizes, planned = sizes_of(config.compared), len(config.all_seeds)
    counts = [*([planned] if planned > 1 else []), *[n for n in OFFERED if n > planned][:2]]
    low, high = deviation_range(spread.df)
    each = {n: unit.scale * detectable_with(spread.std, sizes, n) for n in counts}
    digits = max(unit.digits - 1, 0)
    found = ", ".join(
        f"{n} seeds detect {value:.{digits}f} [{low * value:.{digits}f}, {high * value:.{digits}f}]{in_unit(unit)}"
        for n, value in each.items()
    )
    return f"power: {found}, with {100 * POWER:.0f} % probability; {_about(spread, unit)}"


def _race_line(rule: Rule, spread: Spread | None, unit: Unit) -> str:
    least, most = (runs_at(rule, look) for look in (rule.looks[0], rule.looks[-1]))
    parts = []
    for effect, runs in weigh(rule, None if spread is None else spread.std):
        size = f"{effect:g} standard deviations of a paired difference"
        if spread is not None:
            size = f"{unit.scale * effect * spread.std:.{max(unit.digits - 1, 0)}f}{in_unit(unit)}"
        parts.append(f"{runs:.0f} if all variants differ by {size}" if effect else f"{runs:.0f} if none differs")
    about = f"; {_about(spread, unit)}" if spread is not None else ""
    return f"race: {least} to {counted(most, 'run')}; expected {', '.join(parts)}{about}"


def _about(spread: Spread, unit: Unit) -> str:
    value = f"{unit.scale * spread.std:.{unit.digits}f}{in_unit(unit)}"
    return f"standard deviation of paired differences {value}, from {spread.study}"
