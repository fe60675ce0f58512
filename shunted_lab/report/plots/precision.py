"""Precision against recall of detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shunted_lab.report.plots.style import COLOURS, INK, LINES, NAMED, new_axes, settle, shorten, styled


@styled()
def precision_recall(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """A line for each variant and threshold of IoU: variants differ in colour, thresholds in the kind of line.

    Args:
        curves: threshold -> variant -> precision at evenly spaced recalls from 0 to 1; of more than 10 variants the
            first 10 are drawn.

    Raises:
        ValueError: if there is no curve.
    """
    if not any(curves.values()):
        raise ValueError("no variant has a curve")
    figure, axes = new_axes(7.2, 3.8, "both")
    variants = list(dict.fromkeys(name for of in curves.values() for name in of))[:NAMED]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(variants)}
    lines: dict[str, Any] = {threshold: LINES[i % len(LINES)] for i, threshold in enumerate(curves)}
    for name, colour in colours.items():
        for threshold, line in lines.items():
            if name in curves[threshold]:
                precision = curves[threshold][name]
                axes.plot(np.linspace(0, 1, len(precision)), precision, color=colour, linestyle=line, linewidth=1.5)
    handles = [Line2D([], [], color=colour) for colour in colours.values()]
    handles += [Line2D([], [], color=INK, linestyle=line) for line in lines.values()]
    texts = [*map(shorten, variants), *lines]
    axes.set(xlabel="Recall", ylabel="Precision", xlim=(0, 1), ylim=(0, 1.02))
    figure.legend(handles, texts, loc="outside right upper")
    return settle(figure)
