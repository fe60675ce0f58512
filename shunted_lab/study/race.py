"""Seeds until decided: what is registered before the first run, and which runs its results ask for next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.study import Study

from shunted_lab.config.experiment import Config
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.task import Goal
from shunted_lab.output.quantities import counted
from shunted_lab.study.costs.memo import remember
from shunted_lab.study.folder import Run
from shunted_lab.study.rule import RACES, Rule
from shunted_lab.study.states import RunState, headlines
from shunted_lab.study.statistics.family import sizes_of
from shunted_lab.study.statistics.race import DRAWS, Standing, calibrated_level, simulate, standing

WEIGHED = (0.0, 1.0, 2.0)  # true differences that a plan is weighed for, in standard deviations of paired differences


@dataclass(frozen=True)
class Race:
    """A race as it is planned: how it decides, and how it stands."""

    rule: Rule
    standing: Standing


def rule_of(config: Config, goal: Goal) -> Rule | None:
    """How the race of an experiment decides; None for a fixed list of seeds."""
    race, leading = config.race, goal.leading
    if race is None:
        return None
    sizes = sizes_of(config.compared)
    margin = race.margin_in(leading.unit, leading.label)
    sign = 1 if leading.direction == "max" else -1
    return Rule(tuple(race.look), margin, level_of(race.look, sizes), sizes, sign)


def level_of(looks: Sequence[int], sizes: tuple[int, ...], error: float = 0.05) -> float:
    """The level of each look for which a race without any true difference has `error` false alarms; kept on disk."""
    return float(remember("race", [list(looks), sizes, error, DRAWS], lambda: calibrated_level(looks, sizes, error)))


def plan_race(config: Config, goal: Goal, states: Sequence[RunState]) -> Race | None:
    """How a race decides, and how it stands with these runs; None for a fixed list of seeds."""
    rule = rule_of(config, goal)
    if rule is None:
        return None
    values = headlines(config.variants, states)
    return Race(rule, standing(values, config.compared, config.all_seeds, rule))


def required_runs(config: Config, runs: Sequence[Run], race: Race) -> list[Run]:
    """The runs that a race has needed so far, and those of its next look."""
    place = {seed: index for index, seed in enumerate(config.all_seeds)}
    need = race.standing.required(config.compared)
    return [run for run in runs if place[run.seed] < need[run.variant]]


def check_registered(study: Study | None, config: Config, runs: Sequence[Run], states: Sequence[RunState]) -> None:
    """Refuse looks, a margin or variants that are not those that were registered, once results can be known.

    Args:
        runs: all runs that the experiment may need.
        states: theirs.

    Raises:
        ConfigError: with what differs.
    """
    known: dict[str, Any] = (study.user_attrs.get(RACES, {}) if study is not None else {}).get(_key(config, runs), {})
    begun = any(state.state != "missing" for state in states)
    other = f"name={config.name}_2 starts another study"
    if not known and config.race is not None and begun:
        raise ConfigError(
            f"seeds.look: {config.race.look} was not registered before the first run of this study; {other}"
        )
    if not known or not begun:
        return
    if config.race is None:
        raise ConfigError(
            f"seeds: {config.seeds} are not the looks {known['look']} that were registered before the first run; "
            f"{other}"
        )
    for key, value in registration(config, runs).items():
        if known[key] != value:
            raise ConfigError(
                f"seeds.{key}: {_shown(key, value)} is not what was registered before the first run: "
                f"{_shown(key, known[key])}; {other}"
            )


def _shown(key: str, value: Any) -> Any:
    return ", ".join(value) if key == "variants" else value


def register(study: Study, config: Config, runs: Sequence[Run]) -> None:
    """Keep in the study how its race decides."""
    if config.race is not None:
        study.set_user_attr(RACES, study.user_attrs.get(RACES, {}) | {_key(config, runs): registration(config, runs)})


def registration(config: Config, runs: Sequence[Run]) -> dict[str, Any]:
    """What is fixed before the first run."""
    assert config.race is not None
    first = config.all_seeds[0]
    variants = {run.variant: run.fingerprint for run in runs if run.seed == first}
    return {
        "look": list(config.race.look),
        "margin": config.race.margin,
        "first": first,
        "variants": variants,
    }


def _key(config: Config, runs: Sequence[Run]) -> str:
    """The fingerprint of the baseline's first run: another recipe, model or data set is another race."""
    base = next(iter(config.compared.values()), config.baseline)
    return next((run.fingerprint for run in runs if run.variant == base), "")


def race_line(config: Config, race: Race) -> str:
    """How a race stands, and what is next, for people."""
    rule, found = race.rule, race.standing
    if found.is_over:
        return f"race: {_verdicts(found)}; over after {counted(sum(found.seeds.values()), 'run')}"
    need = sum(found.required(config.compared).values()) - sum(found.seeds.values())
    active = f"{', '.join(found.active)} and {'their baselines' if config.across else config.baseline}"
    before = f"{_verdicts(found)}; " if found.family is not None else ""
    number = rule.looks.index(found.needed) + 1
    return (
        f"race: {before}look {number} of {len(rule.looks)} is after {found.needed} seeds; "
        f"{counted(need, 'run')} for it: {active}"
    )


def _verdicts(found: Standing) -> str:
    names: dict[str, list[str]] = {}
    for name, verdict in found.verdicts.items():
        names.setdefault(verdict, []).append(name)
    return ", ".join(f"{verdict}: {', '.join(of)}" for verdict, of in names.items())


def weigh(rule: Rule, std: float | None) -> list[tuple[float, float]]:
    """The expected number of runs of a race, for true differences of all variants in standard deviations.

    Args:
        std: of the paired differences (base units), which a margin is compared with; None: not known, and no margin.
    """
    used = rule if std is not None else replace(rule, margin=None)
    spread = std or 1.0
    count = sum(rule.sizes)
    return [(d, float(simulate(used, [d * spread] * count, spread, draws=200).runs.mean())) for d in WEIGHED]


def runs_at(rule: Rule, look: int) -> int:
    """The runs of all variants and baselines with as many seeds as a look has."""
    return (sum(rule.sizes) + len(rule.sizes)) * look
