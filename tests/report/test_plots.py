"""Figures: they draw what they are given, stand inline in a page of any colour, and are the same bytes each time."""

import math
import random
import re
import threading
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from shunted_lab.nn import Pyramid
from shunted_lab.nn.attention import GroupedAttention
from shunted_lab.output.quantities import LOSS, PERCENT
from shunted_lab.report.plots import (
    INK,
    Point,
    class_bars,
    forest,
    importance,
    layer,
    learning_curves,
    metric_against_cost,
    paired_lines,
    pareto_front,
    precision_recall,
    rates_heatmap,
    save,
    search_front,
    to_svg,
)
from shunted_lab.report.plots.style import COLOURS, GREY, LETTERS

NASTY = 'a$_b$ <&> "id="x" url(#y) #1b1b1c'


def names(k: int) -> list[str]:
    return [NASTY, "_hidden", *(f"variant {i} {'x' * (i % 60)}" for i in range(2, k))][:k]


def points(k: int) -> list[Point]:
    rng = np.random.default_rng(0)
    values, costs = rng.uniform(0.6, 0.8, k).tolist(), rng.uniform(1e9, 5e9, k).tolist()
    return [Point(n, v, v - 0.01, v + 0.01, c) for n, v, c in zip(names(k), values, costs, strict=True)]


def effects(k: int) -> list[tuple[str, float, float, float, int]]:
    means = np.random.default_rng(1).normal(0, 0.02, k).tolist()
    return [(name, mean, mean - 0.01, mean + 0.01, 3) for name, mean in zip(names(k), means, strict=True)]


def curves(k: int) -> dict[str, list[list[float]]]:
    rng = np.random.default_rng(2)
    return {name: [np.sort(rng.random(n)).tolist() for n in (20, 20, 12)] for name in names(k)}


def assignments(k: int) -> list[tuple[str, list[list[int]]]]:
    rng = np.random.default_rng(3)
    return [(name, [rng.choice([1, 2, 4, 8], n).tolist() for n in (2, 4, 8, 16)]) for name in names(k)]


def search(k: int) -> Figure:
    rng = np.random.default_rng(4)
    x, y = rng.uniform(1e7, 3e7, k).tolist(), rng.uniform(0.5, 0.8, k).tolist()
    feasible = (rng.random(k) > 0.2).tolist()
    return search_front(x, y, names(k), feasible, 1, "MACs", "val/top1", ("min", "max"), (False, True))


def importances(k: int) -> dict[str, float]:
    return dict(zip(names(k), np.random.default_rng(5).dirichlet(np.ones(k)).tolist(), strict=True))


def precisions(k: int) -> dict[str, dict[str, list[float]]]:
    falling = np.linspace(1, 0, 101)
    return {t: {n: (falling ** (1 + i + j)).tolist() for i, n in enumerate(names(k))} for j, t in enumerate(("a", "b"))}


def by_class(k: int, classes: int = 100) -> Figure:
    rng = np.random.default_rng(6)
    return class_bars(
        [f"class {i}" for i in range(classes)], {n: rng.random(classes).tolist() for n in names(k)}, "Top-1", PERCENT
    )


FIGURES = {
    "cost": lambda k: metric_against_cost(points(k), "MACs", "Top-1", PERCENT),
    "search": search,
    "forest": lambda k: forest(effects(k), "Top-1 less that of the baseline", PERCENT),
    "curves": lambda k: learning_curves(curves(k), "Validation top-1", PERCENT),
    "heatmap": lambda k: rates_heatmap(assignments(k)),
    "importance": lambda k: importance(importances(k)),
    "classes": by_class,
    "precision": lambda k: precision_recall(precisions(k)),
    "paired": lambda k: paired_lines({f"<{v}>": {s: 0.7 + 0.01 * s for s in range(k)} for v in "ab"}, "Top-1", PERCENT),
    "times": lambda k: learning_curves(curves(k), "Top-1", PERCENT, seconds={name: 2.0 for name in curves(k)}),
}


def marks(figure: Figure, label: str) -> list[tuple[float, float]]:
    """What the line of this label draws."""
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == label]
    xy = np.column_stack([line.get_xdata(), line.get_ydata()])
    return [(x, y) for x, y in xy.tolist() if not math.isnan(x + y)]


def texts(figure: Figure) -> list[str]:
    axes = figure.axes[0]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [text.get_text() for text in axes.texts] + [axes.get_title("left")] + legends


def rows(figure: Figure) -> list[str]:
    """Names of the rows from top to bottom."""
    named = [text for text in figure.axes[0].texts if text.get_ha() == "right"]
    return [text.get_text() for text in sorted(named, key=lambda text: text.get_position()[1])]


@pytest.mark.parametrize("k", [1, 100])
@pytest.mark.parametrize("name", FIGURES)
def test_an_svg_stands_inline_in_a_page(name, k):
    text = to_svg(FIGURES[name](k), 'a "figure" <of> \\1', f"{name}-")
    root = ElementTree.fromstring(text)
    assert text.startswith("<svg ") and text.endswith("</svg>") and "<style" not in text and "<metadata" not in text
    assert root.get("role") == "img" and root.get("aria-label") == 'a "figure" <of> \\1'
    assert root.get("viewBox") and root.get("width") is None and "max-width" in root.get("style")
    assert all(INK not in tag for tag in re.findall(r"<[^>]*>", text)) and "currentColor" in text
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        assert "currentColor" in element.get("style"), "text without a colour is black"
    ids, targets = ids_and_targets(text)
    assert ids and len(set(ids)) == len(ids) and all(i.startswith(f"{name}-") for i in ids)
    assert targets <= set(ids)


def ids_and_targets(text: str) -> tuple[list[str], set[str]]:
    ids, targets = [], set()
    for element in ElementTree.fromstring(text).iter():
        for key, value in element.attrib.items():
            if key == "id":
                ids.append(value)
            elif key.endswith("href"):
                targets.add(value.removeprefix("#"))
            targets |= set(re.findall(r"url\(#([^)]*)\)", value)) if key != "aria-label" else set()
    return ids, targets


def test_figures_of_one_page_share_no_id():
    figure = FIGURES["curves"](8)
    a, b = (ids_and_targets(to_svg(figure, prefix=prefix)) for prefix in ("a-", "b-"))
    assert not set(a[0]) & set(b[0]) and a[1] and b[1]
    with pytest.raises(ValueError, match="use letters, digits, - and _ only"):
        to_svg(figure, prefix="a b")


def test_names_are_shown_as_they_are():
    for name in ("cost", "forest", "curves", "heatmap", "importance", "classes"):
        root = ElementTree.fromstring(to_svg(FIGURES[name](2), prefix="p"))
        shown = {"".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")}
        assert {NASTY, "_hidden"} <= shown, name


def test_numbers_on_cells_do_not_take_the_colour_of_the_page():
    inks = {line.get_color() for line in rates_heatmap(assignments(3)).axes[0].lines}
    assert inks == {"#ffffff", "#000000"}


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_data_give_the_same_bytes(name, tmp_path):
    first, second = FIGURES[name](3), FIGURES[name](3)
    assert to_svg(first) == to_svg(second) == to_svg(first)
    one = {path.name: path.read_bytes() for path in save(first, tmp_path, "f", ("svg", "pdf", "png"))}
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "text.color": "blue"}):
        two = {path.name: path.read_bytes() for path in save(FIGURES[name](3), tmp_path, "f", ("svg", "pdf", "png"))}
    assert one == two and set(one) == {"f.svg", "f.pdf", "f.png"}


def test_drawing_leaves_the_users_settings_alone():
    before = dict(matplotlib.rcParams)
    for make in FIGURES.values():
        to_svg(make(3))
    assert dict(matplotlib.rcParams) == before


def test_threads_draw_the_same():
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(to_svg(FIGURES["forest"](9)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [to_svg(FIGURES["forest"](9))] * 4


@pytest.mark.parametrize("name", FIGURES)
def test_a_hundred_variants_are_drawn_once_and_need_no_more_than_their_share_of_artists(name, monkeypatch):
    drawn, real = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: drawn.append(figure) or real(figure, renderer))
    passes, artists = [], []
    for count in (10, 100):
        drawn.clear()
        figure = FIGURES[name](count)
        to_svg(figure)
        passes.append(len(drawn))
        artists.append(len(figure.findobj()))
    assert passes[1] <= passes[0]
    assert artists[1] <= 10 * artists[0]


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off(name):
    figure = FIGURES[name](15)
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height


def test_save_is_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = forest(effects(3), "x", PERCENT)
    assert save(figure, tmp_path, "forest") == [tmp_path / "forest.svg", tmp_path / "forest.pdf"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["forest.pdf", "forest.svg"]
    assert INK in (tmp_path / "forest.svg").read_text(encoding="utf-8")
    before = (tmp_path / "forest.svg").read_bytes()

    def breaks(self, *_, **__):
        raise RuntimeError("no paper")

    monkeypatch.setattr(Figure, "savefig", breaks)
    with pytest.raises(RuntimeError, match="no paper"):
        save(figure, tmp_path, "forest")
    assert (tmp_path / "forest.svg").read_bytes() == before and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="format 'gif': choose from svg, pdf, png"):
        save(figure, tmp_path, "forest", ("svg", "gif"))


def test_the_pareto_front_is_that_of_brute_force():
    draw = random.Random(0)
    for _ in range(300):
        n = draw.randrange(0, 25)
        costs = [draw.choice([1, 2, 3, 4, 5, math.nan]) if draw.random() < 0.7 else draw.random() * 5 for _ in range(n)]
        values = [draw.choice([1, 2, 3, 4]) if draw.random() < 0.7 else draw.random() * 5 for _ in range(n)]

        def beats(j: int, i: int, c: list[float] = costs, v: list[float] = values) -> bool:
            return c[j] <= c[i] and v[j] >= v[i] and (c[j], v[j]) != (c[i], v[i])

        expected = [i for i in range(n) if not math.isnan(costs[i]) and not any(beats(j, i) for j in range(n))]
        assert pareto_front(costs, values) == sorted(expected, key=lambda i: (costs[i], i))


def test_of_equal_cost_the_best_and_all_duplicates():
    assert pareto_front([1, 1, 1, 2, 2, 0.5], [3, 5, 5, 5, 6, math.nan]) == [1, 2, 4]


def test_metric_against_cost_draws_every_known_variant():
    given = [*points(9), Point("no value", math.nan, None, None, 1e9), Point("no cost", 0.9, 0.8, 1.0, None)]
    given.append(Point("one seed", 0.7, math.nan, math.nan, 2e9))
    figure = metric_against_cost(given, "MACs", "Top-1", PERCENT)
    front, others = marks(figure, "front"), marks(figure, "others")
    assert sorted(front + others) == sorted((p.cost, p.value) for p in [*points(9), given[-1]])
    assert front == marks(figure, "Pareto front") == [(p.cost, p.value) for p in _front_of(points(9) + given[-1:])]
    (bars,) = figure.axes[0].collections
    assert len(bars.get_segments()) == 9
    assert {"one seed", "_hidden"} <= set(texts(figure)) and len(figure.axes[0].texts) == 10
    assert not metric_against_cost(points(16), "MACs", "Top-1", PERCENT).axes[0].texts
    for nothing in ([], given[9:11]):
        with pytest.raises(ValueError, match="no variant has both a value and a cost"):
            metric_against_cost(nothing, "MACs", "Top-1", PERCENT)


def _front_of(given: list[Point]) -> list[Point]:
    return [given[i] for i in pareto_front([p.cost for p in given], [p.value for p in given])]


def test_a_long_name_keeps_its_ends():
    (shown,) = rows(importance({f"{'a' * 100}_1": 1.0}))
    assert len(shown) <= LETTERS and shown.startswith("aaa") and shown.endswith("a_1") and "…" in shown


def test_labels_do_not_cover_each_other():
    figure = metric_against_cost(
        [Point(f"variant_{i}", 0.7, 0.69, 0.71, 1e9) for i in range(8)], "MACs", "Top-1", PERCENT
    )
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # without the line to its point
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


WAYS = {("min", "max"): [1, 2], ("max", "max"): [2], ("min", "min"): [1, 3], ("max", "min"): [3, 2]}


@pytest.mark.parametrize("ways", WAYS, ids=" ".join)
def test_search_front_follows_the_ways(ways):
    x, y = [1.0, 2.0, 5.0, 4.0, 6.0, 0.5, None], [0.1, 0.4, 0.9, 0.3, 0.95, math.nan, 0.5]
    figure = search_front(x, y, names(7), [False, True, True, True, False, True, True], 3, "x", "y", ways)
    assert marks(figure, "front") == marks(figure, "Pareto front") == [(x[i], y[i]) for i in WAYS[ways]]
    assert len(figure.axes[0].texts) == len(WAYS[ways])
    assert marks(figure, "baseline") == [(4.0, 0.3)]
    assert marks(figure, "breaks a constraint") == [(1.0, 0.1), (6.0, 0.95)]
    assert sorted(marks(figure, "front") + marks(figure, "trial")) == [(2.0, 0.4), (4.0, 0.3), (5.0, 0.9)]


def test_search_front_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="no trial has both values"):
        search_front([None], [0.5], ["a"], [True], None, "x", "y", ("min", "max"))
    with pytest.raises(ValueError, match="each is 'max' or 'min'"):
        search_front([1], [0.5], ["a"], [True], None, "x", "y", ("min", "maximize"))
    nothing_allowed = search_front([1], [0.5], ["a"], [False], None, "x", "y", ("min", "max"))
    assert marks(nothing_allowed, "front") == [] and marks(nothing_allowed, "breaks a constraint") == [(1, 0.5)]


def test_forest_shows_one_pair_as_a_hollow_point_and_no_pair_as_an_empty_row():
    given = [*effects(4), ("single", 0.01, math.nan, math.nan, 1), ("none", math.nan, math.nan, math.nan, 0)]
    figure = forest(given, "x", PERCENT)
    assert marks(figure, "interval") == [(mean, row) for row, (_, mean, *_) in enumerate(given[:4])]
    assert marks(figure, "one pair") == [(0.01, 4)]
    (single,) = [line for line in figure.axes[0].lines if line.get_label() == "one pair"]
    assert single.get_fillstyle() == "none"
    (intervals,) = figure.axes[0].collections
    assert [segment[:, 0].tolist() for segment in intervals.get_segments()] == [[r[2], r[3]] for r in given[:4]]
    assert rows(figure) == [row[0] for row in given] and texts(figure).count("n = 3") == 4
    assert {"n = 1", "n = 0"} <= set(texts(figure))
    assert figure.axes[0].get_xlabel() == "x (percentage points)"
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top, "the first row is on top"
    assert forest(effects(40), "x", PERCENT).get_figheight() > 4 * forest(effects(5), "x", PERCENT).get_figheight()
    with pytest.raises(ValueError, match="no variant has a difference"):
        forest(given[5:], "x", PERCENT)


def test_forest_of_one_pair_alone():
    figure = forest([("single", 0.01, math.nan, math.nan, 1)], "x", PERCENT)
    assert marks(figure, "one pair") == [(0.01, 0)] and marks(figure, "interval") == []
    to_svg(figure)


def test_curves_count_the_seeds_that_have_an_epoch():
    seeds = [[0.1, 0.2, 0.3, 0.4], [0.3, 0.4], [0.2, math.nan, 0.5], []]
    figure = learning_curves({"a": seeds, "b": [[0.1]], "nothing": [[], [None]]}, "Top-1", PERCENT)
    a, b = figure.axes[0].lines
    assert a.get_ydata() == pytest.approx([0.2, 0.3, 0.4, 0.4]) and a.get_xdata().tolist() == [1, 2, 3, 4]
    assert b.get_ydata().tolist() == [0.1]
    (band,) = figure.axes[0].collections  # b has one seed
    y = band.get_paths()[0].vertices
    assert y[:, 0].max() == 3, "no band where one seed is left"
    assert sorted(set(np.round(y[y[:, 0] == 1, 1], 9))) == pytest.approx([0.1, 0.3])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    with pytest.raises(ValueError, match="no variant has a value"):
        learning_curves({"nothing": [[math.nan]]}, "Top-1", PERCENT)


def test_of_many_curves_only_the_baseline_has_a_colour():
    ten, eleven = learning_curves(curves(10), "Top-1", PERCENT), learning_curves(curves(11), "Top-1", PERCENT)
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ten.axes[0].lines}
    assert len(looks) == 10 and {look[0] for look in looks} <= set(COLOURS)
    assert len({look[2] for look in looks}) == 10
    (baseline,) = eleven.axes[0].lines
    assert baseline.get_color() == COLOURS[0] and len(eleven.legends[0].get_texts()) == 1
    grey = [found for found in eleven.axes[0].collections if hasattr(found, "get_segments")]
    assert len(grey[0].get_segments()) == 10 and "10 further variants in grey" in texts(eleven)


def test_a_loss_is_not_in_percent():
    for unit, mark in ((PERCENT, True), (LOSS, False)):
        figure = learning_curves({"a": [[0.1, 0.9]]}, "y", unit)
        assert figure.axes[0].yaxis.get_major_formatter()(0.5, 0).endswith("%") == mark


def test_heatmap_writes_the_rate_of_every_head():
    given = assignments(12)
    figure = rates_heatmap(given)
    (cells,) = figure.axes[0].collections
    assert len(cells.get_offsets()) == 12 * 30
    at = {tuple(xy): line.get_label() for line in figure.axes[0].lines for xy in line.get_xydata().tolist()}
    rates = [[at[xy] for xy in sorted(at) if xy[1] == row] for row in range(12)]
    assert rates == [[str(rate) for stage in stages for rate in stage] for _, stages in given]
    x = sorted({xy[0] for xy in at})
    assert [i for i in range(1, 30) if x[i] - x[i - 1] > 1.01] == [2, 6, 14], "stages are apart"
    assert rows(figure)[:5] == [name for name, _ in given[:5]]
    with pytest.raises(ValueError, match=r"b has \[2\] heads by stage, the first has \[1\]"):
        rates_heatmap([("a", [[1]]), ("b", [[1, 2]])])
    with pytest.raises(ValueError, match="no assignment"):
        rates_heatmap([])
    with pytest.raises(ValueError, match="a rate is 1 or more"):
        rates_heatmap([("a", [[0]])])


def test_importance_has_the_largest_on_top():
    figure = importance({"small": 0.1, "large": 0.7, "unknown": math.nan, "middle": 0.2})
    assert rows(figure) == ["large", "middle", "small"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.7, 0.2, 0.1]
    with pytest.raises(ValueError, match="no importance to show"):
        importance({"unknown": math.nan})


def test_classes_are_sorted_by_the_baseline():
    figure = class_bars(["x", "y", "z"], {"base": [0.2, 0.9, 0.5], "other": [0.3, math.nan, 0.4]}, "Top-1", PERCENT)
    assert rows(figure) == ["y", "z", "x"]
    assert marks(figure, "base") == [(0.9, 0), (0.5, 1), (0.2, 2)] and marks(figure, "other") == [(0.4, 1), (0.3, 2)]
    with pytest.raises(ValueError, match="other has 1 scores, there are 2 classes"):
        class_bars(["x", "y"], {"base": [0.1, 0.2], "other": [0.3]}, "Top-1", PERCENT)
    with pytest.raises(ValueError, match="no classes or no variants"):
        class_bars([], {}, "Top-1", PERCENT)


def test_of_many_classes_those_of_largest_and_smallest_spread_are_shown():
    spread = np.random.default_rng(0).permutation(50) / 100
    figure = class_bars(
        [str(i) for i in range(50)], {"base": [0.1] * 50, "other": (0.1 + spread).tolist()}, "Top-1", PERCENT
    )
    order = np.argsort(spread)
    assert set(rows(figure)) == {str(i) for i in [*order[:15], *order[-15:]]} and len(rows(figure)) == 30
    assert "50 classes; shown: 15 each of largest and smallest spread between variants" in texts(figure)
    alone = class_bars([str(i) for i in range(50)], {"base": spread.tolist()}, "Top-1", PERCENT)
    assert rows(alone) == [str(i) for i in [*order[::-1][:15], *order[:15][::-1]]]


def test_of_many_variants_only_the_baseline_has_a_colour_in_classes():
    lines = by_class(11, 5).axes[0].lines
    assert [line.get_color() for line in lines] == [GREY] * 10 + [COLOURS[0]]
    assert len({(line.get_color(), line.get_marker()) for line in by_class(10, 5).axes[0].lines}) == 10


def test_the_drawing_of_the_layer_has_the_shapes_of_the_real_one(capsys):
    layer.main()
    text = capsys.readouterr().out
    picture = Path(__file__).parents[2] / "notebooks" / "pictures" / "shunted_attention.svg"
    assert picture.read_text() == text, "made by another version of python -m shunted_lab.report.plots.layer"
    said = [element.text for element in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    for shape in (
        "(B, 3136, 64)",
        "(B, 2, 3136, 32)",
        "(B, 49, 64)",
        "2 x (B, 49, 32)",
        "(B, 196, 64)",
        "(B, 3136, 32)",
    ):
        assert shape in said, shape
    assert "rate 8: 7 x 7" in said and "rate 4: 14 x 14" in said and "attention, head 1" in said


def test_a_layer_that_is_drawn_keeps_its_weights_and_one_rate_has_one_row():
    model = Pyramid([8] * 4, [1] * 4, [2] * 4, [2] * 4, [[1]] * 4, attn="msa")
    attn = next(part for part in model.modules() if isinstance(part, GroupedAttention))
    before = attn.q.weight.clone()
    text = layer.draw_layer(attn, (7, 5))
    assert torch.equal(attn.q.weight, before) and text.count("tokens as they are") == 1
    assert "attention, heads 0-1" in text and "(B, 35, 8)" in text


def tips(text):
    return [title.text for title in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}title")]


def test_parts_of_a_figure_say_their_values_in_a_page_and_not_in_a_file(tmp_path):
    rows = [("wide & 'good'", 0.02, -0.0048, 0.0448, 3), ("alone", 0.01, math.nan, math.nan, 1)]
    figure = forest(rows, "Top-1", PERCENT)
    assert tips(to_svg(figure, "f", "f-")) == [
        "wide & 'good': +2.00 percentage points [−0.48, +4.48], n = 3",
        "alone: +1.00 percentage points, n = 1",
    ]
    (path,) = save(figure, tmp_path, "forest", ("svg",))
    assert tips(path.read_text()) == [] and "tip:" not in path.read_text()
    found = tips(to_svg(learning_curves({"a": [[0.5, 0.6]], "b": [[0.4, math.nan]]}, "Top-1", PERCENT), "c", "c-"))
    assert found == ["epoch 1: a 50.00 %, b 40.00 %", "epoch 2: a 60.00 %"]
    found = tips(to_svg(paired_lines({"a": {0: 0.7, 1: 0.71}, "b": {0: 0.72}}, "Top-1", PERCENT), "p", "p-"))
    assert found == ["seed 0: a 70.00 %, b 72.00 %", "seed 1: a 71.00 %"]
    shown = metric_against_cost(
        [Point("a", 0.7, 0.69, 0.71, 22e6), Point("b", 0.6, None, None, 4e6)], "MACs", "T", PERCENT
    )
    assert tips(to_svg(shown, "m", "m-")) == ["a: 70.00 % ± 1.00; MACs 22.00M", "b: 60.00 %; MACs 4.00M"]


def test_curves_over_time_end_where_training_did():
    figure = learning_curves({"a": [[0.5, 0.6]], "b": [[0.4, 0.5]]}, "Top-1", PERCENT, seconds={"a": 10, "b": 25})
    assert [line.get_xdata().tolist() for line in figure.axes[0].lines] == [[10, 20], [25, 50]]
    assert figure.axes[0].get_xlabel() == "Training time (s)"


def test_one_variant_has_no_paired_lines():
    with pytest.raises(ValueError, match="seeds of two variants"):
        paired_lines({"a": {0: 0.7}}, "Top-1", PERCENT)


def test_precision_is_drawn_over_recall_for_each_threshold():
    figure = precision_recall(
        {"IoU 0.50": {"a": [1.0, 0.5, 0.0], "b": [1.0, 1.0, 0.5]}, "IoU 0.75": {"a": [0.5, 0.0, 0.0]}}
    )
    lines = figure.axes[0].lines
    assert [line.get_ydata().tolist() for line in lines] == [[1.0, 0.5, 0.0], [0.5, 0.0, 0.0], [1.0, 1.0, 0.5]]
    assert lines[0].get_xdata().tolist() == [0.0, 0.5, 1.0]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    assert texts(figure)[-4:] == ["a", "b", "IoU 0.50", "IoU 0.75"]
    with pytest.raises(ValueError, match="no variant has a curve"):
        precision_recall({"IoU 0.50": {}})


def test_rows_can_keep_their_order():
    scores = {"a": [0.1, 0.9, 0.5]}
    kept = class_bars(["all", "small", "large"], scores, "AP", PERCENT, in_order=True)
    assert marks(kept, "a") == [(0.1, 0.0), (0.9, 1.0), (0.5, 2.0)]
    assert [x for x, _ in marks(class_bars(["all", "small", "large"], scores, "AP", PERCENT), "a")] == [0.9, 0.5, 0.1]
