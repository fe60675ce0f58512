"""How a race of variants decides; what it decides by is in `statistics.race`."""

from __future__ import annotations

from dataclasses import dataclass

RACES = "races"  # attribute of a study: the first run of a baseline -> what was registered of its race
BETTER, WORSE, EQUIVALENT, UNDECIDED = "better", "worse", "equivalent", "undecided"


@dataclass(frozen=True)
class Rule:
    """How a race decides.

    Args:
        looks: numbers of seeds, rising.
        margin: differences below it do not matter (base units); None: nothing is called equivalent.
        level: of the intervals of each look (`study.race.level_of`).
        sizes: how many variants are compared with each baseline.
        sign: 1 where larger values are better, -1 where smaller ones are.
    """

    looks: tuple[int, ...]
    margin: float | None
    level: float
    sizes: tuple[int, ...]
    sign: int = 1

    def verdict(self, low: float, high: float) -> str:
        """What an interval says."""
        if self.margin is not None and -self.margin < low and high < self.margin:
            return EQUIVALENT
        if low > 0:
            return BETTER if self.sign > 0 else WORSE
        if high < 0:
            return WORSE if self.sign > 0 else BETTER
        return UNDECIDED  # also where there is no interval
