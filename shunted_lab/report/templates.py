"""The HTML templates of this package: a file each, with what they include beside it. This imports no matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def render(name: str, **values: Any) -> str:
    """A template with its values, which are escaped."""
    where = jinja2.FileSystemLoader(Path(__file__).parent)
    made = jinja2.Environment(loader=where, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return made.get_template(name).render(**values)
