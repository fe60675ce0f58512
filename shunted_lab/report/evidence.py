"""What the seeds of a table prove: its comparisons as one family, its race, and the effects of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shunted_lab.config.experiment import Config
from shunted_lab.config.variants import cells
from shunted_lab.study.rule import Rule
from shunted_lab.study.statistics.effects import estimate, factorial, leave_one_out
from shunted_lab.study.statistics.family import Family, compare
from shunted_lab.study.statistics.paired import Difference
from shunted_lab.study.statistics.race import Standing, standing

Values = Mapping[str, Mapping[int, float]]  # variant -> seed -> the metric of the table


@dataclass(frozen=True)
class Evidence:
    """What the seeds prove.

    Args:
        differences: variant -> its difference to its baseline, with an interval that holds together with the others.
        separate: the same with intervals that hold one by one.
        family: of the table; of a race, that of its last complete look. None where nothing is compared.
        rule, standing: of a race.
        effects: of parts or factors; None without `leave_one_out` and `factorial`.
    """

    differences: Mapping[str, Difference | None] = field(default_factory=dict)
    separate: Mapping[str, Difference | None] = field(default_factory=dict)
    family: Family | None = None
    rule: Rule | None = None
    standing: Standing | None = None
    effects: Family | None = None


def evidence_of(config: Config, values: Values, rule: Rule | None = None) -> Evidence:
    """What these values prove.

    Args:
        values: of all variants, also of those without any.
        rule: how a race decides.
    """
    baselines = config.compared
    if not baselines:
        return Evidence()
    if rule is not None:
        found = standing(values, baselines, config.all_seeds, rule)
        return Evidence(found.differences, found.separate, found.family, rule, found)
    family = compare(values, baselines)
    return Evidence(family.differences, family.separate, family, effects=_effects(config, values))


def _effects(config: Config, values: Values) -> Family | None:
    if len(config.all_seeds) == 1:
        return None
    if config.factorial:
        return estimate(values, factorial(cells(config), config.factorial))
    if config.leave_one_out is not None and config.baseline is not None:
        parts = config.leave_one_out
        return estimate(values, leave_one_out(config.baseline, parts.without, parts.none))
    return None
