"""Tables in a terminal of any width: names fold, numbers are never cut. In a file a table is as wide as it needs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shunted_lab.output.streams import encodable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table
    from rich.text import Text

WIDE = 100_000  # columns of a console that is not a terminal: lines are as long as they are
CAPTION = 120  # columns of a caption where there is no terminal, unless the table is wider
NAME = 16  # columns that names keep at least; where that is too much, each row becomes a block


@dataclass(frozen=True)
class Grid:
    """A table of text that rich prints. One column holds names, which fold; the others hold numbers, which do not.

    Args:
        title, caption: lines above and below; a long one is continued with an indent.
        head: the names of the columns; all empty for a table without a head.
        rows: the cells.
        names: which column holds names.
        rules: rows above which there is a rule.
        short: printed instead where this grid does not fit, as a plan without a column for each seed.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    names: int = 0
    rules: Sequence[int] = ()
    short: Grid | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.text import Text

        shown = _encodable(self, options.encoding)
        room = options.max_width if options.max_width < WIDE else None
        form = _fit(shown, room)
        if self.short is not None and _is_wide(shown, form, room):
            yield self.short
            return
        if shown.title:
            yield Text(shown.title, style="italic")
        yield from _blocks(shown, options.max_width) if form is None else [_table(shown, form)]
        for line in shown.caption.splitlines():
            width = room or max(CAPTION, form.total if form else 0)
            yield Text("\n".join(_wrapped(line, width, "", "  ")))


@dataclass(frozen=True)
class Form:
    """How a grid is printed as a table: the width of each column, and whether there is a frame around the cells."""

    widths: Sequence[int]
    framed: bool

    @property
    def total(self) -> int:
        count = len(self.widths)
        return sum(self.widths) + (3 * count + 1 if self.framed else 2 * (count - 1))


def say(console: Console, line: str) -> None:
    """Print a line as it is: a path or a message is neither broken nor coloured."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _encodable(grid: Grid, encoding: str) -> Grid:
    """The grid in characters of an encoding: done before anything is measured, since some become longer."""
    rows = [[encodable(cell, encoding) for cell in row] for row in (grid.head, *grid.rows)]
    title, caption = (encodable(text, encoding) for text in (grid.title, grid.caption))
    return Grid(title, rows[0], rows[1:], caption, grid.names, grid.rules)


def _fit(grid: Grid, room: int | None) -> Form | None:
    """The form of a grid in `room` columns (None: any number); None if names or numbers do not get the width they need.

    First the heads wrap, then the names fold, then the frame is left out.
    """
    from rich.cells import cell_len

    cells = [max((cell_len(row[i]) for row in grid.rows), default=0) for i in range(len(grid.head))]
    heads = [cell_len(name) for name in grid.head]
    words = [max((cell_len(word) for word in name.split()), default=0) for name in grid.head]
    whole, wrapped = ([max(pair) for pair in zip(cells, least, strict=True)] for least in (heads, words))
    if room is None or Form(whole, True).total <= room:
        return Form(whole, True)
    for framed in (True, False):
        name = wrapped[grid.names]
        rest = room - Form(wrapped, framed).total + name
        if rest >= min(NAME, name):
            widths = [min(rest, name) if i == grid.names else width for i, width in enumerate(wrapped)]
            return Form(widths, framed)
    return None


def _is_wide(grid: Grid, form: Form | None, room: int | None) -> bool:
    """Whether a grid is too wide for a terminal, or, beside its names, for a file that somebody reads."""
    return form is None or (room is None and form.total > CAPTION + form.widths[grid.names])


def _table(grid: Grid, form: Form) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    frame = {"box": box.HEAVY_HEAD} if form.framed else {"box": None, "padding": (0, 2, 0, 0), "pad_edge": False}
    table = Table(show_header=any(grid.head), **frame)
    for i, (name, width) in enumerate(zip(grid.head, form.widths, strict=True)):
        numbers = i != grid.names and any(grid.head)
        table.add_column(Text(name), justify="right" if numbers else "left", width=width, overflow="fold")
    for i, row in enumerate(grid.rows):
        if i in grid.rules:
            table.add_section()
        table.add_row(*map(Text, row))
    return table


def _blocks(grid: Grid, room: int) -> Iterator[Text]:
    """Each row as lines: its first cell, then each other column with its value. Lines break between words."""
    from rich.text import Text

    longest = max(map(len, grid.head[1:]))
    for row in grid.rows:
        yield Text(f"{grid.head[0]} {row[0]}".strip(), style="bold", overflow="fold")
        for name, value in zip(grid.head[1:], row[1:], strict=True):
            line = f"{name:<{longest}}  {value}" if longest + len(value) + 4 <= room else f"{name}  {value}"
            if value:
                yield Text("\n".join(_wrapped(line.strip(), room)))


def _wrapped(line: str, room: int, first: str = "  ", rest: str = "    ") -> list[str]:
    return textwrap.wrap(line, room, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
