"""One thread for torch, here and in the processes that tests start: the models are tiny, and threads that wait for one
another on a busy machine make them many times slower. And a cache of the tests' own, beside the fonts of figures."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "MPLCONFIGDIR", str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib")
)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


TIMM_MARKERS = ("backward", "base", "cfg", "cfg_nonstd", "features", "forward", "fxbackward", "fxforward", "timeout")


def pytest_configure(config):
    """timm's own test file, which `timm_suite` reads, has markers of its own."""
    for name in (*TIMM_MARKERS, "torchscript"):
        config.addinivalue_line("markers", f"{name}: of timm's tests")
