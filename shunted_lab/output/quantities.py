"""Numbers as people are shown them: one form in lines, tables, pages and figures. Files keep fractions and base units.

What a metric is shown in is declared by its task (`config.task.Metric`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """What people are shown a quantity in: value x `scale`, with so many `digits` after the point.

    `of_difference` is the unit of a difference, where it is another one. A small value has more digits, until
    `significant` of them are not leading zeros.
    """

    symbol: str
    scale: float = 1
    digits: int = 4
    of_difference: str = ""
    significant: int = 0

    def places(self, value: float) -> int:
        """Digits after the point of a value in this unit."""
        if not self.significant or not value:
            return self.digits
        return max(self.digits, self.significant - 1 - math.floor(math.log10(abs(value))))


PERCENT = Unit("%", 100, 2, "percentage points")
LOSS = Unit("")
COSTS = {
    "latency": Unit("ms", 1e3, 1),
    "memory": Unit("MB", 1e-6, 1),
    "params": Unit("M", 1e-6, 2, significant=3),
    "macs": Unit("G", 1e-9, 3, significant=3),
    "macs_attention": Unit("G", 1e-9, 3, significant=3),
}


def value_text(value: float, unit: Unit) -> str:
    """`45.83 %`, `11.2 ms`, and `0.8123` for a loss."""
    return cell_text(value, unit) + (f" {unit.symbol}" if unit.symbol else "")


def cell_text(value: float, unit: Unit) -> str:
    """The number of `value_text`, for a column whose head has the unit."""
    shown = value * unit.scale
    return f"{shown:,.{unit.places(shown)}f}"


def head_text(label: str, unit: Unit) -> str:
    """The head of a column: `Top-1 (%)`, `latency (ms)`, `val/loss`."""
    return f"{label} ({unit.symbol})" if unit.symbol else label


def signed_text(value: float, unit: Unit) -> str:
    """The number of a difference with its sign: `+1.23`, `−0.4`."""
    shown = value * unit.scale
    return f"{shown:+,.{unit.places(shown)}f}".replace("-", "−")


def difference_text(value: float, unit: Unit) -> str:
    """A difference with its sign and unit: `+1.23 percentage points`, `−0.4 ms`."""
    symbol = unit.of_difference or unit.symbol
    return signed_text(value, unit) + (f" {symbol}" if symbol else "")


def in_unit(unit: Unit) -> str:
    """What follows the number of a difference in a sentence: ` points`, ` ms`; nothing without a unit."""
    symbol = "points" if unit.symbol == "%" else unit.symbol
    return f" {symbol}" if symbol else ""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 epoch`, `3 epochs`, `1,550 images`; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listed(names: Sequence[str], limit: int, noun: str = "") -> str:
    """`a, b and 3 more`: the first names, and how many there are beside them; with a noun `a, b and 3 more images`."""
    rest = len(names) - limit
    more = counted(rest, f"more {noun}") if noun else f"{rest:,} more"
    return ", ".join(names[:limit]) + (f" and {more}" if rest > 0 else "")


def percent(fraction: float) -> str:
    """`45.83 %`."""
    return value_text(fraction, PERCENT)


def duration(seconds: float) -> str:
    """A time in the two largest units that matter: `45 s`, `6 min`, `2 h 10 min`, `3 days 4 h`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if (minutes := round(seconds / 60)) < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(hours + minutes / 60), 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def file_size(size: float) -> str:
    """Bytes in the unit that suits: `900 kB`, `14 MB`, `1.2 GB`."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= one:
            return f"{size / one:.3g} {unit}"
    return f"{size / 1e3:.0f} kB"
