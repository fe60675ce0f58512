"""The rates of all heads, assignment by assignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D, AffineDeltaTransform

from shunted_lab.report.plots.style import name_rows, new_axes, settle, styled

GAP = 0.6  # between stages, in cells
CELL = (0.22, 0.2)  # inches
LIGHT, DARK = "#ffffff", "#000000"  # of the numbers: on their cells and not on the page, so never INK
Assignment = tuple[str, Sequence[Sequence[int]]]


@styled()
def rates_heatmap(assignments: Sequence[Assignment]) -> Figure:
    """One row an assignment, one column a head, stages apart; the colour is log2 of the rate, the number the rate.

    Args:
        assignments: the name, and for each stage the rate of each head.

    Raises:
        ValueError: for no assignment, heads that differ in number, or a rate below 1.
    """
    if not assignments:
        raise ValueError("no assignment to show")
    heads = [len(stage) for stage in assignments[0][1]]
    for name, stages in assignments:
        if [len(stage) for stage in stages] != heads:
            raise ValueError(f"{name} has {[len(stage) for stage in stages]} heads by stage, the first has {heads}")
        if any(rate < 1 for stage in stages for rate in stage):
            raise ValueError(f"{name}: a rate is 1 or more")
    rates = np.array([[rate for stage in stages for rate in stage] for _, stages in assignments], dtype=float)
    columns = np.concatenate([np.arange(n) + GAP * i + sum(heads[:i]) for i, n in enumerate(heads)])
    width, height = columns[-1] + 1, len(assignments)
    figure, axes = new_axes(2.2 + CELL[0] * width, 0.7 + CELL[1] * height, "y")
    axes.grid(False)
    x, y = (side.ravel() for side in np.meshgrid(columns, np.arange(height)))
    square = Path(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * 0.47, closed=True)
    at = np.column_stack([x, y])
    cells = PathCollection(
        [square], None, offsets=at, offset_transform=axes.transData, facecolors=_colours(rates.ravel())
    )
    to_cells = AffineDeltaTransform(axes.transData)  # type: ignore[arg-type]  # transData of linear scales is affine
    cells.set(transform=to_cells, edgecolor="none", clip_on=False)  # one square, used for every cell
    axes.add_collection(cells)
    _numbers(axes, x, y, rates.ravel())
    name_rows(axes, [name for name, _ in assignments])
    axes.set_xlim(-0.6, width - 0.4)
    middles = [columns[sum(heads[:i]) : sum(heads[: i + 1])].mean() for i in range(len(heads))]
    axes.xaxis.tick_top()
    axes.set_xticks(middles, [f"stage {i + 1}" for i in range(len(heads))])
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)
    return settle(figure)


def _colours(rates: np.ndarray) -> np.ndarray:
    """(k, 4). The darkest end of the map is left out: it is lost on a dark page."""
    shade = np.log2(rates)
    return colormaps["cividis"](0.15 + 0.85 * shade / max(shade.max(), 1))


def _numbers(axes: Axes, x: np.ndarray, y: np.ndarray, rates: np.ndarray) -> None:
    """Each rate as a marker of its digits: thousands of texts would take seconds."""
    for rate in np.unique(rates):
        here = rates == rate
        digits = TextPath((0, 0), f"{rate:g}", size=7, prop=FontProperties(family="DejaVu Sans"))
        box = digits.get_extents()
        path = Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2).transform_path(digits)
        red, green, blue, _ = _colours(np.array([rate, rates.max()]))[0]
        ink = DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else LIGHT
        size = 2 * np.abs(path.vertices).max()  # matplotlib scales a marker to it
        axes.plot(
            x[here],
            y[here],
            linestyle="none",
            marker=path,
            markersize=size,
            color=ink,
            mew=0,
            clip_on=False,
            label=f"{rate:g}",
        )
