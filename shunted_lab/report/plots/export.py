"""Figures as SVG inside a page, and as files for papers. The same data give the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from matplotlib.figure import Figure

from shunted_lab.output.files import write_bytes
from shunted_lab.report.plots.style import INK, TIP, styled

METADATA: dict[str, dict[str, str | None]] = {
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "pdf": {"CreationDate": None},
    "png": {},
}
TIPPED = rf"<g id=([\"']){TIP}(.*?)\1>"  # the text holds no tags: it is escaped
POINT = 96 / 72  # CSS pixels


def to_svg(figure: Figure, label: str = "figure", prefix: str = "") -> str:
    """The `<svg>` element, to stand inline in HTML: as wide as its place allows, in the colour of the page's text.

    Args:
        figure: from this package; its INK becomes `currentColor`.
        label: what a screen reader says.
        prefix: of all ids, letters, digits, `-` and `_`; a page with several figures gives each its own.

    Raises:
        ValueError: if `prefix` has other letters.
    """
    if not re.fullmatch(r"[\w-]*", prefix, re.ASCII):
        raise ValueError(f"prefix {prefix!r}: use letters, digits, - and _ only")
    text = _rendered(figure, "svg").decode()
    text = text[text.index("<svg") :].rstrip()
    # the rule `*` would hold for the whole page; on the root it is inherited by this figure alone
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, count=1, flags=re.DOTALL)
    text = re.sub(TIPPED, lambda found: f'<g class="tip" tabindex="0"><title>{found[2]}</title>', text)
    # inside of tags only: a variant may have any name
    text = re.sub(r"<[^>]*>", lambda tag: _in_tag(tag[0], prefix), text)
    return re.sub(r"<svg[^>]*>", _root(figure, label), text, count=1)


def _in_tag(tag: str, prefix: str) -> str:
    tag = tag.replace(INK, "currentColor")
    return re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{prefix}", tag) if prefix else tag


def _root(figure: Figure, label: str) -> str:
    width, height = (72 * inches for inches in figure.get_size_inches())
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    look = f"width: 100%; max-width: {POINT * width:.0f}px; height: auto; stroke-linejoin: round; stroke-linecap: butt"
    box = f"0 0 {width:g} {height:g}"
    root = f'<svg {spaces} viewBox="{box}" role="img" aria-label={quoteattr(label)} style="{look}">'
    return root.replace("\\", r"\\")  # it is a template of re.sub


def save(figure: Figure, folder: Path, name: str, formats: Sequence[str] = ("svg", "pdf")) -> list[Path]:
    """Write `NAME.FORMAT` for each format into an existing folder, each whole or not at all.

    Raises:
        ValueError: for a format other than svg, pdf and png.
    """
    unknown = [form for form in formats if form not in METADATA]
    if unknown:
        raise ValueError(f"format {unknown[0]!r}: choose from {', '.join(METADATA)}")
    rendered = {form: re.sub(TIPPED.encode(), b"<g>", _rendered(figure, form)) for form in formats}
    return [write_bytes(folder / f"{name}.{form}", data) for form, data in rendered.items()]


@styled()
def _rendered(figure: Figure, form: str) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=form, metadata=METADATA[form])
    return out.getvalue()
