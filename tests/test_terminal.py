"""Tables at any width: every number is whole, names fold, and nothing is left out."""

import io
import re
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console, Group

from shunted_lab.config.compose import compose
from shunted_lab.nn.cost import Cost
from shunted_lab.output.terminal import WIDE, Grid
from shunted_lab.report.facts import Fact
from shunted_lab.report.lines import plan_grid
from shunted_lab.report.render import Block, grids
from shunted_lab.report.table import Row, Table
from shunted_lab.study.costs.measure import Measured
from shunted_lab.study.folder import Run
from shunted_lab.study.states import RunState
from shunted_lab.study.statistics.paired import Difference, Summary
from shunted_lab.tasks.classification import Classification

WIDTHS = [40, 80, 120, WIDE]  # the last one is a file
LONG = [f"variant_{i:02d}_" + "x" * 69 for i in range(60)]  # 80 characters
SHORT = [f"v{i}" for i in range(60)]


def shown(printed, width: int, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")
    Console(width=width, file=file, color_system=None).print(printed)
    file.seek(0)
    text = file.read()
    assert "…" not in text
    if width < WIDE:
        assert max(map(len, text.splitlines())) <= width
    return text


def tokens(text: str) -> Counter[str]:
    return Counter(re.sub(r"[│┃|]", " ", text).split())


def numbers(rows) -> Counter[str]:
    """Everything between spaces in all cells but the names."""
    return tokens(" ".join(cell for row in rows for cell in row[1:]))


def unfolded(text: str) -> str:
    """The text without what stands between the parts of a folded name in its column."""
    return "".join(re.split(r"[│┃|\s]", text))


def result(names: list[str]) -> Table:
    rows = [
        Row(
            name,
            Cost(1_140_000 + 13 * i, 12_000_000 + 1000 * i, 1, 1),
            3,
            Summary(0.7 + i / 1000, 0.0123, 3),
            Difference(i / 1000, 0.01, -0.05, 0.05 + i / 1000, 3),
            False,
            {} if i % 7 else {"failed": 1, "missing": 12},
            Cost(22_000_000 + 1000 * i, 4_900_000_000 + 1_000_000 * i, 1, 1),
            {"top1": 82.9, "params": 22.4},
            measured={"a CPU": Measured(0.0042 + i / 1e4, 712_345.0 + i * 1e5)},
        )
        for i, name in enumerate(names)
    ]
    return Table(
        "mine: rows and columns",
        Classification().goal(None, 5),
        rows,
        [Fact(f"Fact {i}", "Accuracy. " * 20) for i in range(2)],
        "At paper scale",
        [Fact("Costs", "counted")],
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("names", [SHORT, LONG], ids=["short", "long"])
def test_every_number_of_a_result_is_whole_at_any_width(width, names):
    from shunted_lab.report.render import blocks

    table = result(names)
    text = shown(Group(*grids(table)), width)
    assert len(names) == 60
    found: list[Block] = blocks(table)
    assert tokens(text) >= numbers([row for block in found for row in block.rows])
    assert text.count("Accuracy.") == 40
    if names is SHORT or width == WIDE:
        assert tokens(text) >= Counter(names + names)
    if names is LONG and width == 40:  # blocks, one below the other
        assert all(unfolded(text).count(name) == 2 for name in names)
    elif names is LONG:
        assert all(text.count(name[:13]) == 2 for name in names)


def plan(count: int, names: list[str]) -> Grid:
    config = compose(["experiment=train", f"seeds=[{','.join(map(str, range(count)))}]"]).config
    states = ["done", "missing", "interrupted"]
    runs = [(name, seed) for seed in config.seeds for name in names]
    found = [RunState(Run(name, seed, None, "", Path()), states[(seed + len(name)) % 3]) for name, seed in runs]
    return plan_grid(config, found, {name: Cost(1_140_000 + i, 21_000_000 + i, 1, 1) for i, name in enumerate(names)})


@pytest.mark.parametrize("width", WIDTHS)
def test_thirty_seeds_of_a_plan_are_counted_and_three_are_listed(width):
    many = shown(plan(30, LONG), width)
    many = " ".join(many.split())
    assert many.count("10 missing") == 60 and "30 seeds" in many and "seed 29" not in many
    few = shown(plan(3, SHORT), width)
    if width >= 80:
        assert "seed 2" in few and tokens(few)["interrupted"] == 60
    else:
        assert " ".join(few.split()).count("1 done, 1 interrupted, 1 missing") == tokens(few)["1.14"] == 60


def test_a_file_gets_one_line_for_each_row_and_captions_of_120_columns():
    text = shown(Group(*grids(result(LONG))), WIDE)
    assert sum(name in line for name in LONG for line in text.splitlines()) == 120
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("Fact 0: Accuracy. "))
    framed = max(len(line) for line in lines)
    assert 100 < len(lines[first]) <= framed and lines[first + 1].startswith("  Accuracy."), "continued with an indent"


def test_heads_wrap_and_frames_go_before_a_table_becomes_blocks():
    grid = Grid("t", ("name", "a long head (%)", "two"), [("n" * 20, "12.34", "5678.90"), ("m", "1", "2")], "c")
    wide, narrow, bare, blocks = (shown(grid, width).splitlines() for width in (80, 46, 36, 24))
    assert any("a long head (%)" in line for line in wide)
    assert not any("a long head" in line for line in narrow) and any("n" * 20 in line for line in narrow)
    assert "│" in "".join(narrow) and "│" not in "".join(bare) and any("12.34  5678.90" in line for line in bare)
    assert "  two              5678.90" in blocks or "  two  5678.90" in blocks


def test_a_table_without_a_head_folds_its_values():
    grid = Grid("", ("", ""), [("Checkpoint", "/runs/" + "x" * 80), ("Top-1 (%)", "62.50  [30.57, 86.32]")], names=1)
    for width in (20, 40, 80):
        text = shown(grid, width)
        assert unfolded(text).count("x") == 80 and {"62.50", "[30.57,", "86.32]"} <= set(tokens(text))


@pytest.mark.parametrize(
    ("encoding", "cell"),
    [("utf-8", "+1.00 ± 0.20 −0.43 –"), ("latin-1", "+1.00 ± 0.20 -0.43 -"), ("ascii", "+1.00 +- 0.20 -0.43 -")],
)
def test_characters_that_the_encoding_does_not_have_are_replaced_before_columns_are_measured(encoding, cell):
    grid = Grid("t", ("v", "Δ [95 % CI]"), [("a", "+1.00 ± 0.20 −0.43 –")], "c ± d")
    lines = shown(grid, 80, encoding).splitlines()
    assert any(cell in line for line in lines)
    table = [line for line in lines if line[0] in "+|┏┃┡│└"]
    assert len({len(line) for line in table}) == 1
    assert ("delta [95 % CI]" in "".join(lines)) == (encoding != "utf-8")
