"""Names beside points, placed so that they do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shunted_lab.report.plots.style import GREY, shorten

SIZE = 8.5  # points, as all lengths here
DOT = 4.5  # half the side of a marker's box
LINE = 1.0  # half the width of a line's
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
STEPS = (7, 16, 26, 38, 52)  # from a point to its label; from the second on a line joins them
ALIGN_X = {1: "left", 0: "center", -1: "right"}
ALIGN_Y = {1: "bottom", 0: "center", -1: "top"}
Box = tuple[float, float, float, float]  # left, bottom, right, top


def label_points(figure: Figure, axes: Axes, named: Sequence[tuple[float, float, str]], lines: np.ndarray) -> None:
    """Write each name where it covers least: tries the sides of its point, near ones first, from left to right.

    Args:
        figure, axes: with all data drawn and settled.
        named: x, y and name, in data coordinates.
        lines: (k, 4), level or upright lines that a name should not cover, as x, y of both ends.
    """
    scale = 72 / figure.dpi
    frame = np.array(axes.get_window_extent().extents) * scale
    at = axes.transData.transform([(x, y) for x, y, _ in named]) * scale
    ends = np.sort(axes.transData.transform(lines.reshape(-1, 2)).reshape(-1, 2, 2) * scale, axis=1)
    taken: list[Box] = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in at]
    taken += [(x - LINE, y - LINE, right + LINE, top + LINE) for (x, y), (right, top) in ends]
    for i in sorted(range(len(named)), key=lambda i: (*at[i], i)):
        name = shorten(named[i][2])
        width, height = _size(figure, name)
        places = [(dx, dy, step) for step in STEPS for dx, dy in SIDES]
        boxes = [_box(at[i, 0], at[i, 1], place, width, height) for place in places]
        costs = [_covered(box, taken) + _outside(box, frame) for box in boxes]
        best = int(np.argmin(np.round(costs, 3)))  # the first of the best
        dx, dy, step = places[best]
        axes.annotate(
            name,
            named[i][:2],
            (dx * step, dy * step),
            textcoords="offset points",
            fontsize=SIZE,
            ha=ALIGN_X[dx],
            va=ALIGN_Y[dy],
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.5, "shrinkB": 4} if step > STEPS[0] else None,
        )
        taken.append(boxes[best])


def _size(figure: Figure, name: str) -> tuple[float, float]:
    text = figure.text(0, 0, name, fontsize=SIZE)
    box = text.get_window_extent()
    text.remove()
    return box.width * 72 / figure.dpi, box.height * 72 / figure.dpi


def _box(x: float, y: float, place: tuple[int, int, int], width: float, height: float) -> Box:
    dx, dy, step = place
    left = x + dx * step - width * (1 - dx) / 2
    bottom = y + dy * step - height * (1 - dy) / 2
    return left, bottom, left + width, bottom + height


def _covered(box: Box, taken: Sequence[Box]) -> float:
    """Area that the box shares with others."""
    left, bottom, right, top = np.array(taken).T
    wide = np.minimum(right, box[2]) - np.maximum(left, box[0])
    high = np.minimum(top, box[3]) - np.maximum(bottom, box[1])
    return float((wide.clip(0) * high.clip(0)).sum())


def _outside(box: Box, frame: np.ndarray) -> float:
    """Area of the box that is out of the axes, and would be cut or cover the ticks."""
    wide = max(0.0, min(box[2], frame[2]) - max(box[0], frame[0]))
    high = max(0.0, min(box[3], frame[3]) - max(box[1], frame[1]))
    return (box[2] - box[0]) * (box[3] - box[1]) - wide * high
