"""How variants learn: a metric by epoch, as mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from shunted_lab.output.quantities import Unit, cell_text, value_text
from shunted_lab.report.plots.style import (
    COLOURS,
    GREY,
    INK,
    LINES,
    MARKERS,
    NAMED,
    SMALL,
    axis_label,
    new_axes,
    settle,
    shorten,
    show_in,
    styled,
    tip,
)

TIPPED = 120  # epochs with a text of their own
Curve = tuple[np.ndarray, np.ndarray, np.ndarray]  # mean, standard deviation (NaN below two seeds), seeds; by epoch


@styled()
def learning_curves(
    curves: Mapping[str, Sequence[Sequence[float | None]]],
    ylabel: str,
    unit: Unit,
    seconds: Mapping[str, float] | None = None,
    images: int | None = None,
) -> Figure:
    """A line for the mean of each variant and a band of one standard deviation to both sides.

    Each epoch counts the seeds that have it, so a run that is not finished ends early. Of more than 10 variants only
    the first, the baseline, has a colour and a band.

    Args:
        curves: for each variant one sequence a seed, one value an epoch; None or NaN where there is none.
        ylabel: what the values are.
        unit: what they are shown in.
        seconds: of an epoch of each variant; the curves are then drawn over time instead of epochs.
        images: of an epoch of all variants, for a second axis; None where they differ.

    Raises:
        ValueError: if there is no value at all.
    """
    found = {name: _curve(seeds) for name, seeds in curves.items()}
    found = {name: curve for name, curve in found.items() if curve[2].any()}
    if not found:
        raise ValueError("no variant has a value")
    figure, axes = new_axes(7.2, 3.8, "both")
    names = list(found) if len(found) <= NAMED else list(found)[:1]
    rest = [name for name in found if name not in names]
    step = {name: 1.0 if seconds is None else seconds[name] for name in found}
    handles = []
    for i, name in enumerate(names):
        mean, std, _ = found[name]
        epochs = step[name] * np.arange(1, len(mean) + 1)
        look: dict[str, Any] = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": LINES[i % len(LINES)],
            "marker": MARKERS[i],
        }
        every = max(1, len(mean) // 8)
        handles += axes.plot(epochs, mean, **look, markevery=every, markersize=4, linewidth=1.5, zorder=3)
        has_band = np.isfinite(std)
        if has_band.any():
            axes.fill_between(
                epochs, mean - std, mean + std, where=has_band.tolist(), color=look["color"], alpha=0.18, lw=0
            )
    if rest:
        means = {name: found[name][0] for name in rest}
        lines = [np.column_stack([step[n] * np.arange(1, len(mean) + 1), mean]) for n, mean in means.items()]
        axes.add_collection(LineCollection(lines, colors=GREY, linewidths=0.7, alpha=0.5, zorder=2))
        axes.set_title(f"{len(rest)} further variants in grey")
    axes.autoscale_view()
    if unit.scale != 1:
        show_in(axes.yaxis, unit)
    axes.set(xlabel="Epoch" if seconds is None else "Training time (s)", ylabel=axis_label(ylabel, unit))
    if seconds is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _epoch_tips(axes, {name: found[name] for name in names}, unit)
        if images is not None:
            top = axes.secondary_xaxis("top", functions=_scaled(images))
            top.set_xlabel("Training images")
            top.xaxis.set_major_formatter(EngFormatter(sep=""))
            top.tick_params(color=INK, labelcolor=INK, labelsize=SMALL)
    figure.legend(handles, [shorten(name) for name in names], loc="outside right upper")
    return settle(figure)


def _scaled(factor: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """To another unit and back, as an axis wants them."""
    return (lambda value: value * factor), (lambda value: value / factor)


def _epoch_tips(axes: Axes, found: Mapping[str, Curve], unit: Unit) -> None:
    """What each variant has after an epoch; of many epochs some share a text."""
    count = max(len(mean) for mean, *_ in found.values())
    every = -(-count // TIPPED)
    for epoch in range(every, count + 1, every):
        known = [
            (name, mean[epoch - 1], std[epoch - 1]) for name, (mean, std, _) in found.items() if epoch <= len(mean)
        ]
        texts = [
            f"{name} {value_text(float(value), unit)}{f' ± {cell_text(float(s), unit)}' if np.isfinite(s) else ''}"
            for name, value, s in known
            if np.isfinite(value)
        ]
        area = axes.axvspan(epoch - every / 2, epoch + every / 2, facecolor=GREY, edgecolor="none", alpha=0)
        tip(area, f"epoch {epoch}: {', '.join(texts)}")


def _curve(seeds: Sequence[Sequence[float | None]]) -> Curve:
    table = np.full((len(seeds), max((len(seed) for seed in seeds), default=0)), np.nan)
    for row, seed in zip(table, seeds, strict=True):
        row[: len(seed)] = np.array(seed, dtype=float)
    here = np.isfinite(table)
    n = here.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(here, table, 0).sum(0) / n
        std = np.sqrt(np.where(here, (table - mean) ** 2, 0).sum(0) / (n - 1))
    return mean, np.where(n > 1, std, np.nan), n
