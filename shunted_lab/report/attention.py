"""The figure of attention of one image: where a point looks, per stage and rate, and what the whole model looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from shunted_lab.nn.maps import Concentration, QueryMap
from shunted_lab.report.plots.style import settle, styled


@styled()
def attention_figure(
    picture: np.ndarray,
    query: tuple[float, float],
    maps: Sequence[QueryMap],
    rolled: Tensor,
    found: Sequence[Concentration] = (),
) -> Figure:
    """A panel for the image with the query, one for the rollout, and one for each map.

    Args:
        picture: (H, W, 3) uint8.
        query: the point (y, x) as fractions, marked by a cross.
        maps: of that point, in the order they are to stand.
        rolled: (H, W) mass of the rollout.
        found: concentrations on an object, written above the maps that they belong to.
    """
    height, width = picture.shape[:2]
    panels: list[tuple[str, Tensor | None]] = [("image and query", None), ("rollout", rolled)]
    ratios = {(c.stage, c.block, c.rate): c.ratio for c in found}
    for m in maps:
        ratio = ratios.get((m.stage, m.block, m.rate))
        panels.append(
            (
                f"stage {m.stage + 1}, r = {m.rate}" + ("" if ratio is None else f", on object x{ratio:.2f}"),
                m.on_image((height, width)),
            )
        )
    columns = min(len(panels), 5)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.1 * columns, (2.1 * height / width + 0.25) * rows), facecolor="none")
    for place, (title, mass) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(picture)
        if mass is not None:
            axes.imshow(mass.cpu().numpy(), cmap="viridis", alpha=0.65)
        x, y = query[1] * width - 0.5, query[0] * height - 0.5
        axes.plot(x, y, "+", color="#d55e00", markersize=9, markeredgewidth=2)
        axes.set_title(title, loc="left")
        axes.set_axis_off()
    return settle(figure)
