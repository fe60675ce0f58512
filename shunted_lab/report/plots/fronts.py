"""What is paid for what: a metric against a cost, two objectives of a search, and the Pareto front of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from shunted_lab.output.quantities import PERCENT, Unit, cell_text, value_text
from shunted_lab.report.plots.labels import label_points
from shunted_lab.report.plots.style import (
    COLOURS,
    GREY,
    amounts,
    axis_label,
    is_number,
    new_axes,
    settle,
    show_in,
    styled,
    tip,
)

TIPPED = 300  # points with a text of their own: more make a page slow
LABELLED = 15  # more names than that cover the data
WIDTH, HEIGHT = 6.4, 4.2  # inches


@dataclass(frozen=True)
class Point:
    """A variant: its metric, the ends of its error bar (None or NaN: no bar), and its cost."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    cost: float | None


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that no other point beats (costs no more, is worth no less, and differs in one).

    Sorted by cost, then index. Points with the same cost and value are all kept; a NaN is never on the front.
    """
    known = [i for i in range(len(costs)) if is_number(costs[i]) and is_number(values[i])]
    front: list[int] = []
    for i in sorted(known, key=lambda i: (costs[i], -values[i], i)):
        last = front[-1] if front else None
        if last is None or values[i] > values[last] or (costs[i], values[i]) == (costs[last], values[last]):
            front.append(i)
    return front


@styled()
def metric_against_cost(
    points: Sequence[Point], cost_label: str, value_label: str, unit: Unit, direction: str = "max"
) -> Figure:
    """Each variant as a point with its error bar; those on the Pareto front are filled, and a step line joins them.

    Up to 15 variants are named. One without a value or a cost is left out.

    Args:
        unit: what values are shown in.
        direction: max or min, whichever value is better.

    Raises:
        ValueError: if none is left.
    """
    shown = [point for point in points if is_number(point.value) and is_number(point.cost)]
    if not shown:
        raise ValueError("no variant has both a value and a cost")
    x = np.array([point.cost for point in shown], dtype=float)
    y = np.array([point.value for point in shown], dtype=float)
    front = pareto_front(x.tolist(), (y if direction == "max" else -y).tolist())
    others = sorted(set(range(len(shown))) - set(front))
    figure, axes = new_axes(WIDTH, HEIGHT, "both")
    axes.margins(0.1)
    bars = [(p.cost, p.low, p.high) for p in shown if is_number(p.low) and is_number(p.high)]
    if bars:
        at, low, high = np.array(bars, dtype=float).T
        axes.vlines(at, low, high, colors=COLOURS[0], alpha=0.5, linewidth=1.2, label="spread")
    _front_line(axes, x[front], y[front], "post")
    dot: dict[str, Any] = {
        "linestyle": "none",
        "marker": "o",
        "markersize": 6,
        "color": COLOURS[0],
        "markeredgewidth": 1.3,
    }
    axes.plot(x[others], y[others], **dot, fillstyle="none", label="others")
    axes.plot(x[front], y[front], **dot, label="front")
    if len(shown) <= TIPPED:
        for point, cost, value in zip(shown, x, y, strict=True):
            (area,) = axes.plot(cost, value, linestyle="none", marker="o", markersize=14, color=GREY, alpha=0)
            found = f"{value_text(float(value), unit)}{_spread(point, unit)}"
            tip(area, f"{point.name}: {found}; {cost_label} {_cost(float(cost))}")
    handles = [line for line in axes.lines if line.get_label() == "Pareto front"]
    figure.legend(handles=handles, loc="outside upper left")
    amounts(axes.xaxis, x.tolist())
    show_in(axes.yaxis, unit)
    axes.set(xlabel=cost_label, ylabel=axis_label(value_label, unit))
    settle(figure)
    if len(shown) <= LABELLED:
        lines = [(cost, low, cost, high) for cost, low, high in bars] + _steps(x[front], y[front], "post")
        named = [(float(cost), float(value), point.name) for cost, value, point in zip(x, y, shown, strict=True)]
        label_points(figure, axes, named, np.array(lines, dtype=float).reshape(-1, 4))
    return figure


def _spread(point: Point, unit: Unit) -> str:
    if not (is_number(point.low) and is_number(point.high)) or point.high == point.low:
        return ""
    assert point.high is not None and point.low is not None
    return f" ± {cell_text((point.high - point.low) / 2, unit)}"


def _cost(value: float) -> str:
    return EngFormatter(sep="", places=2)(value) if value >= 10_000 else f"{value:.4g}"


def _front_line(axes: Axes, x: np.ndarray, y: np.ndarray, where: str) -> None:
    axes.plot(x, y, drawstyle=f"steps-{where}", color=COLOURS[1], linestyle="--", linewidth=1.3, label="Pareto front")


def _steps(x: np.ndarray, y: np.ndarray, where: str) -> list[tuple[float, ...]]:
    """The pieces of the front's line, each as x, y of both ends."""
    corners: list[tuple[float, ...]] = []
    for i in range(len(x) - 1):
        corner = (x[i + 1], y[i]) if where == "post" else (x[i], y[i + 1])
        corners += [(x[i], y[i], *corner), (*corner, x[i + 1], y[i + 1])]
    return corners


@styled()
def search_front(
    values_x: Sequence[float | None],
    values_y: Sequence[float | None],
    labels: Sequence[str],
    feasible: Sequence[bool],
    baseline: int | None,
    xlabel: str,
    ylabel: str,
    ways: tuple[str, str],
    in_percent: tuple[bool, bool] = (False, False),
) -> Figure:
    """All trials of a search by two objectives, and the Pareto front of those that keep the constraints.

    Up to 15 of the front are named. A trial without both values is left out.

    Args:
        values_x, values_y, labels, feasible: one for each trial.
        baseline: index of the baseline's trial, marked by a star; None if it is not among them.
        xlabel, ylabel: names of the objectives.
        ways: of x and y, each "max" or "min".
        in_percent: whether x and y are fractions that are shown in percent.

    Raises:
        ValueError: for another way, or if no trial is left.
    """
    if set(ways) - {"max", "min"}:
        raise ValueError(f"ways {ways}: each is 'max' or 'min'")
    trials = zip(values_x, values_y, labels, feasible, strict=True)
    kept = [i for i, (x, y, *_) in enumerate(trials) if is_number(x) and is_number(y)]
    if not kept:
        raise ValueError("no trial has both values")
    x = np.array([values_x[i] for i in kept], dtype=float)
    y = np.array([values_y[i] for i in kept], dtype=float)
    good = np.array([feasible[i] for i in kept], dtype=bool)
    to_min, to_max = (x if ways[0] == "min" else -x), (y if ways[1] == "max" else -y)
    front = pareto_front(to_min.tolist(), np.where(good, to_max, np.nan).tolist())
    front.sort(key=lambda i: x[i])
    figure, axes = new_axes(WIDTH, HEIGHT, "both")
    axes.margins(0.1)
    rest = good.copy()
    rest[front] = False
    dot: dict[str, Any] = {"linestyle": "none", "markersize": 3.5, "color": GREY}
    axes.plot(x[~good], y[~good], **dot, marker="x", label="breaks a constraint")
    axes.plot(x[rest], y[rest], **dot, marker="o", label="trial")
    where = "post" if ways[0] == "min" else "pre"
    _front_line(axes, x[front], y[front], where)
    axes.plot(x[front], y[front], linestyle="none", marker="o", markersize=5, color=COLOURS[0], label="front")
    if baseline in kept:
        star = [kept.index(baseline)]
        axes.plot(x[star], y[star], linestyle="none", marker="*", markersize=13, color=COLOURS[2], label="baseline")
    for axis, values, fractions in ((axes.xaxis, x, in_percent[0]), (axes.yaxis, y, in_percent[1])):
        if fractions:
            show_in(axis, PERCENT)
        else:
            amounts(axis, values.tolist())
    axes.set(xlabel=xlabel, ylabel=ylabel)
    handles = [line for line in axes.lines if len(line.get_xdata()) and line.get_label() != "front"]  # type: ignore[arg-type]
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    settle(figure)
    if front and len(front) <= LABELLED:
        named = [(float(x[i]), float(y[i]), labels[kept[i]]) for i in front]
        lines = [(*at, *at) for at in zip(x, y, strict=True)] + _steps(x[front], y[front], where)
        label_points(figure, axes, named, np.array(lines, dtype=float).reshape(-1, 4))
    return figure
