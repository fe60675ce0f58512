"""One look for all figures: one ink, colours and shapes that stay apart in grey, no background of their own."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, ScalarFormatter

from shunted_lab.output.quantities import Unit

INK = "#1b1b1c"  # all text, axes and ticks; `to_svg` turns it into the colour of the page's text
GREY = "#8a8a8a"  # seen on white and on dark
# Okabe and Ito without yellow (lost on white) and black (lost on dark)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
LINES = ("-", "--", "-.", ":")
NAMED = len(MARKERS)  # as many can be distinguished; of more, only the first has a colour

SMALL = 9  # points
PAD = 6 / 72  # inches around everything
LETTERS = 36  # a longer name would leave no room for the data

LOOK = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same layout on every machine
    "font.size": 10,
    "text.parse_math": False,  # `$` in a variant's name is a dollar
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": SMALL,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "shunted_lab",
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
}
TIP = "tip:"  # how the identifier of an artist begins that has a tip
_LOCK = threading.RLock()  # matplotlib's settings are shared by all threads


@contextmanager
def styled() -> Iterator[None]:
    """Draw in our look, whatever the user's matplotlibrc says; also a decorator."""
    with _LOCK, style.context(["default", LOOK]):
        yield


def new_axes(width: float, height: float, grid: str) -> tuple[Figure, Axes]:
    """A transparent figure of inches with one axes and grid lines of the axis `grid` (x, y or both)."""
    figure = Figure(figsize=(width, height), facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.grid(axis=grid)  # type: ignore[arg-type]
    # ticks are made when they are first drawn, perhaps outside `styled`
    axes.tick_params(which="both", color=INK, labelcolor=INK, labelsize=SMALL)
    return figure, axes


def tip(artist: Artist, text: str) -> None:
    """A text that a page shows when the artist is pointed at or tapped; `to_svg` puts it there."""
    artist.set_gid(TIP + text)


def row_tips(axes: Axes, texts: Sequence[str]) -> None:
    """A text for each of the rows that `name_rows` has made."""
    for row, text in enumerate(texts):
        band = axes.axhspan(row - 0.5, row + 0.5, facecolor=GREY, edgecolor="none", alpha=0)
        tip(band, text)


def settle(figure: Figure) -> Figure:
    """Lay the figure out now and for good: a second layout would move things by a hair, and takes as long."""
    engine = ConstrainedLayoutEngine(w_pad=PAD, h_pad=PAD)
    figure.set_layout_engine(engine)
    engine.execute(figure)
    figure.set_layout_engine(None)  # not "none": with that, every file is drawn twice
    return figure


def shorten(name: str) -> str:
    """At most LETTERS letters: the ends tell names apart, the middle goes."""
    half = (LETTERS - 1) // 2
    return name if len(name) <= LETTERS else f"{name[:half].rstrip()}…{name[-half:].lstrip()}"


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows 0, 1, ... from top to bottom."""
    axes.set_yticks([])  # texts, since a hundred ticks take three times as long
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    write_rows(axes, [shorten(name) for name in names], -0.015, "right")


def write_rows(axes: Axes, texts: Sequence[str], x: float, side: Literal["left", "right"], size: float = SMALL) -> None:
    """A text in each row, at `x` in widths of the axes."""
    for row, text in enumerate(texts):
        axes.text(x, row, text, transform=axes.get_yaxis_transform(), ha=side, va="center", fontsize=size)


def show_in(axis: Axis, unit: Unit) -> None:
    """The ticks of an axis in the unit of a metric; percent have their sign at each tick."""
    sign = "%" if unit.symbol == "%" else ""
    axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{_short(unit.scale * value)}{sign}"))


def show_differences_in(axis: Axis, unit: Unit) -> None:
    """Differences of a metric in its unit, with their sign."""
    axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(unit.scale * value, "+")))


def axis_label(label: str, unit: Unit) -> str:
    """The label of an axis that `show_in` has made: with the unit, unless it is at each tick."""
    return label if unit.symbol in ("", "%") else f"{label} ({unit.symbol})"


def _short(value: float, sign: str = "") -> str:
    value = round(value, 6) + 0.0  # rounding of the arithmetic; no -0
    return f"{value:{sign if value else ''}.6g}".replace("-", "−")


def amounts(axis: Axis, values: Sequence[float]) -> None:
    """Counts, seconds or bytes: 22M, 4.9G; plain numbers where they are short."""
    largest = max(abs(value) for value in values)
    long = largest >= 10_000 or 0 < largest < 0.01
    axis.set_major_formatter(EngFormatter(sep="") if long else ScalarFormatter(useOffset=False, useMathText=False))


def is_number(value: float | None) -> bool:
    """Neither None nor NaN nor infinite."""
    return value is not None and math.isfinite(value)
