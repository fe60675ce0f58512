"""Figures of a report. Each takes plain data and returns a matplotlib Figure; `to_svg` and `save` make files of it."""

from shunted_lab.report.plots.curves import learning_curves
from shunted_lab.report.plots.export import save, to_svg
from shunted_lab.report.plots.fronts import Point, metric_against_cost, pareto_front, search_front
from shunted_lab.report.plots.heatmap import rates_heatmap
from shunted_lab.report.plots.interactions import interactions
from shunted_lab.report.plots.paired import VARIANTS as PAIRED_VARIANTS
from shunted_lab.report.plots.paired import paired_lines
from shunted_lab.report.plots.precision import precision_recall
from shunted_lab.report.plots.rows import INTERVALS, class_bars, forest, importance
from shunted_lab.report.plots.style import INK

__all__ = [
    "INK",
    "INTERVALS",
    "PAIRED_VARIANTS",
    "Point",
    "class_bars",
    "forest",
    "importance",
    "interactions",
    "learning_curves",
    "metric_against_cost",
    "paired_lines",
    "pareto_front",
    "precision_recall",
    "rates_heatmap",
    "save",
    "search_front",
    "to_svg",
]
