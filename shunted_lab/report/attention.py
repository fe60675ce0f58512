"""The figure of attention: where points of an image attend, a row for each stage and rate, a column for each point.

The image is dimmed to grey, and what is attended lights up on one scale for all panels: the weight of a pixel over that
of uniform attention. So bright parts of the image do not look attended, and panels can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import Tensor

from shunted_lab.nn.maps import Concentration, QueryMap
from shunted_lab.output.light import COLOURS, dimmed, lit
from shunted_lab.report.plots.style import INK, SMALL, styled

PANEL = 1.75  # inches: the width of a panel
ABOVE, LEFT, BELOW, RIGHT = 0.5, 1.25, 0.55, 0.2  # inches: titles of columns, those of rows, the scale, its last number
GAP = 0.06
STRONGEST = 64  # times uniform: the end of the scale at most
LEAST = 4  # and at least


@dataclass(frozen=True)
class Look:
    """A column: where a model looks from a point.

    Args:
        title: e.g. `ssa, small object`.
        query: the point (y, x) as fractions.
        maps: of that point, one per stage, block and rate.
        rolled: (H, W) mass of the rollout of the whole image; None leaves it out.
    """

    title: str
    query: tuple[float, float]
    maps: Sequence[QueryMap]
    rolled: Tensor | None = None
    found: Sequence[Concentration] = field(default=())


@styled()
def attention_figure(picture: np.ndarray, looks: Sequence[Look]) -> Figure:
    """A row for the image with the marked points, one for the rollout, and one for each stage, block and rate.

    Args:
        picture: (H, W, 3) uint8.
        looks: the columns. Concentrations on an object (`found`) are written below the maps that they belong to.
    """
    height, width = picture.shape[:2]
    keys = sorted({(m.stage, m.block, m.rate) for look in looks for m in look.maps}, key=lambda k: (k[0], k[1], -k[2]))
    drawn = [{(m.stage, m.block, m.rate): _array(m.over_uniform((height, width))) for m in look.maps} for look in looks]
    rolled = [None if look.rolled is None else _array(look.rolled * look.rolled.numel()) for look in looks]
    norm = LogNorm(1, _top([*(v for of in drawn for v in of.values()), *(v for v in rolled if v is not None)]))
    grey = dimmed(picture)
    rows = 1 + any(look.rolled is not None for look in looks) + len(keys)
    panel = PANEL * height / width
    size = (LEFT + (PANEL + GAP) * len(looks) + RIGHT, ABOVE + (panel + GAP) * rows + BELOW)
    figure = Figure(figsize=size, facecolor="none")

    def axes_at(row: int, column: int) -> Axes:
        x, y = LEFT + column * (PANEL + GAP), size[1] - ABOVE - row * (panel + GAP) - panel
        axes = figure.add_axes((x / size[0], y / size[1], PANEL / size[0], panel / size[1]))
        axes.set_axis_off()
        return axes

    def name_row(row: int, text: str) -> None:
        y = size[1] - ABOVE - row * (panel + GAP) - panel / 2
        figure.text((LEFT - 0.1) / size[0], y / size[1], text, ha="right", va="center", fontsize=SMALL)

    for column, look in enumerate(looks):
        axes = axes_at(0, column)
        axes.imshow(picture)
        axes.set_title(look.title, fontsize=SMALL, loc="center")
        _mark(axes, look.query, picture)
        if (mass := rolled[column]) is not None:
            axes_at(1, column).imshow(lit(grey, norm(mass)))
        ratios = {(c.stage, c.block, c.rate): c.ratio for c in look.found}
        for row, key in enumerate(keys, rows - len(keys)):
            if key not in drawn[column]:
                continue  # the other model has it
            axes = axes_at(row, column)
            axes.imshow(lit(grey, norm(drawn[column][key])))
            _mark(axes, look.query, picture)
            if key in ratios:
                text = f"object x{ratios[key]:.2f}"
                axes.text(0.03, 0.03, text, color="white", fontsize=SMALL - 1, transform=axes.transAxes)
    name_row(0, "image, point")
    if rows - len(keys) == 2:
        name_row(1, "rollout,\nwhole image")
    heads: dict[tuple[int, int, int], list[str]] = {key: [] for key in keys}
    for m in (m for look in looks for m in look.maps):  # models may differ in them
        heads[m.stage, m.block, m.rate].append(m.heads_text)
    for row, (stage, block, rate) in enumerate(keys, rows - len(keys)):
        which = " / ".join(dict.fromkeys(heads[stage, block, rate]))
        name_row(row, f"stage {stage + 1}, block {block + 1},\n{which},\nrate {rate}")
    _scale(figure, norm, size)
    return figure


def _array(relative: Tensor) -> np.ndarray:
    return np.asarray(relative.cpu().numpy(), dtype=np.float32)


def _top(panels: Sequence[np.ndarray]) -> float:
    """The end of the scale, a power of two: what the brightest pixels have, but for a few of them."""
    highest = max((float(np.quantile(panel, 0.995)) for panel in panels), default=LEAST)
    return float(2 ** math.ceil(math.log2(min(STRONGEST, max(LEAST, highest)))))


def _mark(axes: Axes, query: tuple[float, float], picture: np.ndarray) -> None:
    """A ring around the point, seen on any image, and never cut at its border."""
    height, width = picture.shape[:2]
    x, y = query[1] * width - 0.5, query[0] * height - 0.5
    for size, colour, line in ((9, "black", 3.2), (9, "white", 1.4)):
        axes.plot(x, y, "o", markersize=size, fillstyle="none", color=colour, markeredgewidth=line, clip_on=False)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def _scale(figure: Figure, norm: LogNorm, size: tuple[float, float]) -> None:
    axes = figure.add_axes((LEFT / size[0], 0.38 / size[1], (size[0] - LEFT - GAP - RIGHT) / size[0], 0.09 / size[1]))
    bar = figure.colorbar(ScalarMappable(norm, colormaps[COLOURS]), cax=axes, orientation="horizontal")
    assert norm.vmax is not None
    bar.ax.xaxis.set_major_locator(FixedLocator([2**i for i in range(int(math.log2(norm.vmax)) + 1)]))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x" if value > 1 else "1x or less"))
    bar.ax.tick_params(labelsize=SMALL - 1, color=INK, labelcolor=INK)
    bar.outline.set_visible(False)
    x = (LEFT - 0.1) / size[0]
    figure.text(x, 0.42 / size[1], "weight, of uniform", ha="right", va="center", fontsize=SMALL - 1)
