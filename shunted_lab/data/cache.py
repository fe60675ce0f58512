"""Where what can be made again is kept on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(cache: str | None) -> Path:
    """`data.cache`, or `shunted_lab` in the user's folder of caches (XDG_CACHE_HOME)."""
    if cache is not None:
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shunted_lab"
