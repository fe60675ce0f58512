"""Seeds until decided: how many seeds are looked at when, and which differences matter."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from shunted_lab.config.schema import ConfigError, one_of, require, unknown
from shunted_lab.output.quantities import Unit

FORM = "write seeds: {look: [3, 5, 8, 12], until: decided, margin: 0.5}"


@dataclass
class RaceConfig:
    """`seeds: {look: [3, 5, 8, 12], until: decided, margin: 0.5}` in an experiment's file.

    Args:
        look: numbers of seeds, rising; after each of them undecided variants get more seeds.
        until: `decided`.
        margin: differences below it do not matter, in the unit of the table's differences; null: nothing is called
            equivalent.
        first: the first seed; the others follow it.
    """

    look: list[int] = field(default_factory=list)
    until: str = "decided"
    margin: Any = None
    first: int = 0

    def __post_init__(self) -> None:
        whole = isinstance(self.look, list) and all(type(n) is int for n in self.look)
        require(whole and bool(self.look), "seeds.look", self.look, f"is not a list of numbers of seeds; {FORM}")
        require(self.look[0] >= 2, "seeds.look", self.look, "begins below 2: one seed has no spread")
        rises = all(a < b for a, b in zip(self.look, self.look[1:], strict=False))
        require(rises, "seeds.look", self.look, "does not rise: each look has more seeds than the one before")
        one_of("seeds.until", self.until, ("decided",))
        require(type(self.first) is int and self.first >= 0, "seeds.first", self.first, "is not a seed: 0, 1, 2, ...")

    @property
    def seeds(self) -> list[int]:
        """All seeds, in their order."""
        return list(range(self.first, self.first + self.look[-1]))

    def margin_in(self, unit: Unit, metric: str) -> float | None:
        """The margin in base units (a fraction for percent).

        Raises:
            ConfigError: for a margin that is not a positive number, or of another unit.
        """
        if self.margin is None:
            return None
        shown = unit.of_difference or unit.symbol
        known = {shown, unit.symbol, *(["points", "point"] if unit.symbol == "%" else [])} - {""}
        number, _, symbol = str(self.margin).strip().partition(" ")
        if symbol and symbol.strip() not in known:
            raise ConfigError(
                f"seeds.margin: '{self.margin}' is not in {shown or 'the unit of the metric'}, which differences in "
                f"{metric} are shown in; write e.g. margin: 0.5"
            )
        try:
            value = float(number)
        except ValueError:
            raise ConfigError(
                f"seeds.margin: '{self.margin}' is not a number{f' of {shown}' if shown else ''}"
            ) from None
        largest = 100 if unit.symbol == "%" else float("inf")
        require(
            0 < value < largest, "seeds.margin", self.margin, f"is not between 0 and {largest:g}" + f" {shown}".rstrip()
        )
        return value / unit.scale


def race_of(seeds: dict[str, Any]) -> RaceConfig:
    """The race that a mapping at `seeds:` describes.

    Raises:
        ConfigError: for an unknown key or an impossible value.
    """
    known = [item.name for item in fields(RaceConfig)]
    for key in seeds:
        if key not in known:
            raise unknown("seeds", key, known)
    require("look" in seeds, "seeds", seeds, f"has no looks; {FORM}")
    return RaceConfig(**seeds)
