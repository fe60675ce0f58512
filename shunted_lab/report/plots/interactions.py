"""How factors change each other's effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from matplotlib.figure import Figure

from shunted_lab.output.quantities import Unit, value_text
from shunted_lab.report.plots.style import COLOURS, axis_label, new_axes, settle, shorten, show_in, styled, tip

SIDE = 3.0  # inches of a panel


@styled()
def interactions(means: Mapping[frozenset[str], float], factors: Sequence[str], label: str, unit: Unit) -> Figure:
    """A panel for each pair of factors: the metric without and with the first one, a line without and with the second.

    Args:
        means: the factors that a variant has -> its mean over the seeds, for all 2^k combinations.
        label, unit: of the values.
    """
    pairs = list(combinations(factors, 2))
    figure, first = new_axes(SIDE * len(pairs) + 1, SIDE + 0.6, "y")
    figure.delaxes(first)
    panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for axes, (one, other) in zip(panels, pairs, strict=True):
        for has, colour in ((False, COLOURS[0]), (True, COLOURS[1])):
            line = [
                _mean([v for having, v in means.items() if (one in having) == x and (other in having) == has])
                for x in (False, True)
            ]
            name = f"{'with' if has else 'without'} {shorten(other)}"
            (drawn,) = axes.plot((0, 1), line, color=colour, marker="o", label=name)
            tip(drawn, f"{name}: without {one} {value_text(line[0], unit)}, with it {value_text(line[1], unit)}")
        axes.set_xticks((0, 1), ["without", "with"])
        axes.set_xlim(-0.25, 1.25)
        axes.set_xlabel(shorten(one))
        axes.legend()
    show_in(panels[0].yaxis, unit)
    panels[0].set_ylabel(axis_label(label, unit))
    return settle(figure)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
