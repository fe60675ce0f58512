"""One thread for torch, here and in the processes that tests start: the models are tiny, and threads that wait for one
another on a busy machine make them many times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

TIMM_MARKERS = ("backward", "base", "cfg", "cfg_nonstd", "features", "forward", "fxbackward", "fxforward", "timeout")


def pytest_configure(config):
    """timm's own test file, which `timm_suite` reads, has markers of its own."""
    for name in (*TIMM_MARKERS, "torchscript"):
        config.addinivalue_line("markers", f"{name}: of timm's tests")
