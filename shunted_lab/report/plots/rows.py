"""Figures of one row per thing: differences to the baseline, importances, scores by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from shunted_lab.output.quantities import Unit, difference_text, head_text, signed_text, value_text
from shunted_lab.report.plots.style import (
    COLOURS,
    GREY,
    INK,
    MARKERS,
    NAMED,
    axis_label,
    is_number,
    name_rows,
    new_axes,
    row_tips,
    settle,
    shorten,
    show_differences_in,
    show_in,
    styled,
    write_rows,
)

WIDTH = 6.4  # inches, as these
ROW, AROUND = 0.23, 0.7
CLASSES = 30
INTERVALS = 4  # variants whose intervals are drawn
Effect = tuple[str, float, float, float, int]  # name, mean, low, high, n


@styled()
def forest(rows: Sequence[Effect], label: str, unit: Unit) -> Figure:
    """Paired differences to the baseline with their intervals; the first row on top.

    Args:
        rows: name, mean and ends of the interval in the base unit, number of pairs. With a NaN interval (one pair) the
            point is hollow; with a NaN mean (no pair) the row is empty.
        label: the metric that is compared.
        unit: what it is shown in.

    Raises:
        ValueError: if no row has a mean.
    """
    if not any(is_number(mean) for _, mean, *_ in rows):
        raise ValueError("no variant has a difference to the baseline")
    figure, axes = new_axes(WIDTH, AROUND + ROW * len(rows), "x")
    axes.axvline(0, color=INK, linewidth=0.9, label="zero")
    sure = [i for i, (_, mean, low, high, _) in enumerate(rows) if all(map(is_number, (mean, low, high)))]
    single = [i for i, (_, mean, *_) in enumerate(rows) if is_number(mean) and i not in set(sure)]
    axes.hlines(sure, [rows[i][2] for i in sure], [rows[i][3] for i in sure], colors=COLOURS[0], linewidth=1.8)
    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5.5, "color": COLOURS[0]}
    axes.plot([rows[i][1] for i in sure], sure, **dot, label="interval")
    axes.plot([rows[i][1] for i in single], single, **dot, fillstyle="none", label="one pair")
    name_rows(axes, [name for name, *_ in rows])
    show_differences_in(axes.xaxis, unit)
    axes.set_xlabel(head_text(label, Unit(unit.of_difference or unit.symbol)))
    write_rows(axes, [f"n = {n}" for *_, n in rows], 1.015, "left", size=8)
    row_tips(axes, [_effect_text(row, unit) for row in rows])
    return settle(figure)


def _effect_text(row: Effect, unit: Unit) -> str:
    name, mean, low, high, n = row
    if not is_number(mean):
        return f"{name}: no pair"
    interval = f" [{signed_text(low, unit)}, {signed_text(high, unit)}]" if is_number(low) else ""
    return f"{name}: {difference_text(mean, unit)}{interval}, n = {n}"


@styled()
def importance(names_to_value: Mapping[str, float]) -> Figure:
    """Horizontal bars, the largest on top. A NaN is left out.

    Raises:
        ValueError: if no value is left.
    """
    known = {name: value for name, value in names_to_value.items() if is_number(value)}
    if not known:
        raise ValueError("no importance to show")
    names = sorted(known, key=lambda name: -known[name])
    figure, axes = new_axes(WIDTH, AROUND + ROW * len(names), "x")
    bars = axes.barh(range(len(names)), [known[name] for name in names], height=0.62, color=COLOURS[0])
    for bar in bars:
        bar.set_in_layout(False)  # inside of the axes: no need to measure it
    for row, name in enumerate(names):  # bar_label would take three times as long
        text = f"\N{NO-BREAK SPACE}{known[name]:.2f}"  # a plain space in front is dropped in SVG
        axes.text(known[name], row, text, va="center", fontsize=7.5).set_in_layout(False)
    axes.margins(x=0.08)
    name_rows(axes, names)
    axes.set_xlabel("Importance")
    return settle(figure)


@styled()
def class_bars(
    class_names: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    label: str,
    unit: Unit,
    intervals: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    in_order: bool = False,
) -> Figure:
    """A dot per variant on one row per class, sorted by the score of the first variant, the baseline.

    Of more than 30 classes, the 15 with the largest and the 15 with the smallest spread between variants are shown
    (with one variant: its best and worst). Of more than 10 variants only the baseline has a colour.

    Args:
        class_names: in the order of the scores.
        scores: for each variant one score per class; NaN for a class without images.
        label, unit: of the score.
        intervals: for each variant the lower and the upper ends, drawn for up to `INTERVALS` variants.
        in_order: keep the order of the names, where all are shown.

    Raises:
        ValueError: for no class, no variant, or another number of scores than of classes.
    """
    if not class_names or not scores:
        raise ValueError("no classes or no variants to show")
    for name, values in scores.items():
        if len(values) != len(class_names):
            raise ValueError(f"{name} has {len(values)} scores, there are {len(class_names)} classes")
    table = np.array(list(scores.values()), dtype=float)  # (variants, classes)
    chosen, note = _chosen(table)
    if not in_order:
        chosen = chosen[np.argsort(-table[0, chosen], kind="stable")]
    table = table[:, chosen]
    rows = np.arange(len(chosen))
    names = list(scores)
    figure, axes = new_axes(7.2, AROUND + 0.2 * bool(note) + ROW * len(chosen), "x")
    if not intervals or len(names) > INTERVALS:
        axes.hlines(rows, _least(table), -_least(-table), colors=GREY, linewidth=0.8, alpha=0.6)
    alone = len(names) <= NAMED
    ends = (intervals or {}) if len(names) <= INTERVALS else {}
    apart = 0.22 if ends else 0.0  # rows between the dots of two variants, whose bars would lie on each other
    for i in reversed(range(len(names))):  # the baseline above the others
        look: dict[str, Any] = {"color": GREY, "marker": "o", "markersize": 2.5}
        if alone or i == 0:
            look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i], "markersize": 5.5}
        places = rows + apart * (i - (len(names) - 1) / 2)
        if names[i] in ends:
            low, high = (np.array(end, dtype=float)[chosen] for end in ends[names[i]])
            axes.hlines(places, low, high, colors=look["color"], linewidth=1.2, alpha=0.6)
        axes.plot(table[i], places, linestyle="none", **look, alpha=0.9, label=shorten(names[i]))
    name_rows(axes, [class_names[i] for i in chosen])
    show_in(axes.xaxis, unit)
    axes.set_xlabel(axis_label(label, unit))
    notes = [note] if note else []
    notes += [] if alone else [f"{len(names) - 1} further variants in grey"]
    axes.set_title("\n".join(notes))
    if alone:
        row_tips(axes, [_class_text(class_names[c], names, table[:, i], unit) for i, c in enumerate(chosen)])
    shown = axes.lines[::-1][: len(names) if alone else 1]
    figure.legend(shown, [str(line.get_label()) for line in shown], loc="outside right upper")
    return settle(figure)


def _class_text(label: str, names: Sequence[str], scores: np.ndarray, unit: Unit) -> str:
    known = [f"{name} {value_text(float(v), unit)}" for name, v in zip(names, scores, strict=True) if is_number(v)]
    return f"{label}: {', '.join(known)}"


def _chosen(table: np.ndarray) -> tuple[np.ndarray, str]:
    """Indices of the classes to show, and what to say about those that are not."""
    classes = table.shape[1]
    if classes <= CLASSES:
        return np.arange(classes), ""
    half = CLASSES // 2
    if len(table) == 1:
        key, what = table[0], "best and worst"
    else:
        key, what = -_least(-table) - _least(table), "largest and smallest spread between variants"
    order = np.argsort(-key, kind="stable")  # NaN last
    order = order[: np.isfinite(key).sum()] if np.isfinite(key).sum() >= CLASSES else order
    return np.concatenate([order[:half], order[-half:]]), f"{classes} classes; shown: {half} each of {what}"


def _least(table: np.ndarray) -> np.ndarray:
    """By class, NaN where no variant has a value."""
    least = np.where(np.isnan(table), np.inf, table).min(0)
    return np.where(np.isinf(least), np.nan, least)
