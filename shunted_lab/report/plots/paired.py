"""The seeds one by one: what pairing compares."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from shunted_lab.output.quantities import Unit, value_text
from shunted_lab.report.plots.style import (
    COLOURS,
    GREY,
    INK,
    axis_label,
    is_number,
    new_axes,
    settle,
    shorten,
    show_in,
    styled,
    tip,
)

VARIANTS = 12  # more would stand too close
HEIGHT = 3.8  # inches


@styled()
def paired_lines(values: Mapping[str, Mapping[int, float]], label: str, unit: Unit) -> Figure:
    """A column for each variant, and a line for each seed through its values: parallel lines are a clear difference.

    Args:
        values: variant -> seed -> value; a seed without a value in a variant has a gap there.
        label, unit: of the values.

    Raises:
        ValueError: for fewer than two variants, or without a value.
    """
    names = list(values)
    seeds = sorted({seed for of in values.values() for seed in of})
    if len(names) < 2 or not seeds:
        raise ValueError("seeds of two variants are needed")
    figure, axes = new_axes(max(4.5, 1.1 * len(names) + 1), HEIGHT, "y")
    for seed in seeds:
        line = [values[name].get(seed, float("nan")) for name in names]
        (drawn,) = axes.plot(range(len(names)), line, color=GREY, marker="o", markersize=3.5, linewidth=1, alpha=0.8)
        known = [f"{n} {value_text(v, unit)}" for n, v in zip(names, line, strict=True) if is_number(v)]
        tip(drawn, f"seed {seed}: {', '.join(known)}")
    for i, name in enumerate(names):
        if values[name]:
            mean = sum(values[name].values()) / len(values[name])
            axes.hlines(mean, i - 0.18, i + 0.18, colors=COLOURS[0], linewidth=3, zorder=3)
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_xticks(range(len(names)), [shorten(name) for name in names])
    if max(map(len, names)) * len(names) > 60:  # letters that would run into each other
        axes.set_xticks(range(len(names)), [shorten(name) for name in names], rotation=25, ha="right")
    axes.tick_params(axis="x", color=INK)
    show_in(axes.yaxis, unit)
    axes.set_ylabel(axis_label(label, unit))
    return settle(figure)
