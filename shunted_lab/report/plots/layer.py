"""A drawing of a shunted attention layer with the shapes of its tensors, as SVG for light and dark pages.

python -m shunted_lab.report.plots.layer > notebooks/pictures/shunted_attention.svg
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from html import escape

import torch

from shunted_lab.config.compose import compose
from shunted_lab.nn import Pyramid
from shunted_lab.nn.attention import GroupedAttention, HeadGroup
from shunted_lab.nn.layout import Grid
from shunted_lab.report.plots.style import COLOURS

BOX, GAP, HEIGHT, ROW = 176, 26, 62, 118  # pixels: width of a box, between boxes, its height, between groups
TOP, LEFT = 74, 10
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1b1b1c; text-anchor: middle; }
.name { font-weight: 600; } .shape { font-family: ui-monospace, monospace; font-size: 11.5px; }
.box { fill: #f4f5f6; stroke: #8a8a8a; } .arrow { stroke: #62646a; fill: none; marker-end: url(#head); }
#head path { fill: #62646a; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8e8ea; } .box { fill: #1f2125; } .arrow { stroke: #a0a3ab; } #head path { fill: #a0a3ab; }
}
"""


def draw_layer(attn: GroupedAttention, grid: Grid) -> str:
    """The `<svg>` of a layer: from tokens to tokens, a row for each group of heads of one rate.

    Shapes are those of tensors of the layer on the `meta` device: B images, tokens, channels.

    Args:
        attn: any attention with groups of heads, e.g. SSA.
        grid: height and width of its tokens.
    """
    copied = copy.deepcopy(attn).to("meta").eval()  # the layer keeps its weights
    groups = [group for group in copied.groups.values() if isinstance(group, HeadGroup)]
    dim, heads, count = attn.q.in_features, len(attn.rates), grid[0] * grid[1]
    middle = TOP + ROW * len(groups) / 2 + 10
    x = [LEFT + i * (BOX + GAP) for i in range(6)]
    above = TOP - 40  # where the queries are
    boxes = [
        _box(x[0], middle, "tokens", [f"grid {grid[0]} x {grid[1]}", _shape(count, dim)]),
        _box(x[0], above, "queries", ["linear, all heads", f"(B, {heads}, {count}, {attn.head_dim})"]),
        _box(x[5], middle, "concatenate, project", ["linear", _shape(count, dim)]),
    ]
    lines = [_line([(x[0] + BOX / 2, middle), (x[0] + BOX / 2, above + HEIGHT)])]
    for number, group in enumerate(groups):
        y, at = TOP + 42 + number * ROW, x[4] + BOX / 2 + 30 * number
        boxes += _group(group, attn, grid, x, y, COLOURS[number % len(COLOURS)])
        centre, half = y + HEIGHT / 2, HEIGHT / 2
        lines.append(_line([(x[0] + BOX, middle + half), (x[1], centre)]))
        lines.append(_line([(x[0] + BOX, above + half), (at, above + half), (at, y)]))  # behind the boxes in between
        lines += [_line([(x[1 + i] + BOX, centre), (x[2 + i], centre)]) for i in range(3)]
        lines.append(_line([(x[4] + BOX, centre), (x[5], middle + half)]))
    width, height = x[5] + BOX + LEFT, TOP + 42 + ROW * len(groups)
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    head += '<path d="M0 0 L8 4 L0 8 z"/></marker>'
    box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    label = f"Attention with rates {', '.join(map(str, attn.rates))}"
    body = "\n".join([*lines, *boxes])
    return f'<svg {box} role="img" aria-label="{label}">\n<style>{STYLE}</style><defs>{head}</defs>\n{body}\n</svg>\n'


def _group(
    group: HeadGroup, attn: GroupedAttention, grid: Grid, x: Sequence[float], y: float, colour: str
) -> list[str]:
    """The boxes of one group, from aggregation to attention."""
    dim, count = attn.q.in_features, grid[0] * grid[1]
    tokens = torch.zeros(1, count, dim, device="meta")
    keys, values, reduced = group.keys_values(tokens, grid)
    out = group(torch.zeros(1, len(group.heads), count, group.head_dim, device="meta"), tokens, grid, 0.0)
    first, last = group.heads[0], group.heads[-1]
    name = f"head {first}" if first == last else f"heads {first}-{last}"
    how = "tokens as they are" if group.aggregation is None else type(group.aggregation).__name__
    size = f"{reduced[0]} x {reduced[1]}"
    local = {"values": "+ 3x3 depthwise", "output": "3x3 depthwise of values"}
    kind = "values" if group.enhances_values else "output" if group.enhances_output else ""
    boxes = [
        (f"rate {group.rate}: {size}", [how, _shape(keys.shape[1], dim)]),
        ("keys, values", ["linear", f"2 x {_shape(*values.shape[1:])}"]),
        ("local enhancement", [local.get(kind, "none"), _shape(*values.shape[1:])]),
        (f"attention, {name}", ["softmax(q k / sqrt d) v", _shape(*out.shape[1:])]),
    ]
    return [_box(x[1 + i], y, title, lines, colour) for i, (title, lines) in enumerate(boxes)]


def _shape(tokens: int, channels: int) -> str:
    return f"(B, {tokens}, {channels})"


def _box(x: float, y: float, name: str, lines: Sequence[str], colour: str | None = None) -> str:
    edge = f' style="stroke: {colour}; stroke-width: 2"' if colour else ""
    found = [f'<rect class="box" x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="6"{edge}/>']
    for i, text in enumerate((name, *lines)):
        kind = "name" if i == 0 else "shape" if text.startswith(("(", "2 x (")) else ""
        found.append(f'<text class="{kind}" x="{x + BOX / 2}" y="{y + 18 + 17 * i}">{escape(text)}</text>')
    return "".join(found)


def _line(points: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{'M' if i == 0 else 'L'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
    return f'<path class="arrow" d="{path}"/>'


def main() -> None:
    """The first stage of Shunted-S at 224 x 224: 56 x 56 tokens of 64 channels, two heads at rates 8 and 4."""
    model = compose(["experiment=train", "model=shunted_s"]).config.model
    with torch.device("meta"):
        pyramid = Pyramid(**model.options(), num_classes=0)
    attn = next(layer for layer in pyramid.modules() if isinstance(layer, GroupedAttention))
    print(draw_layer(attn, (56, 56)), end="")


if __name__ == "__main__":
    main()
