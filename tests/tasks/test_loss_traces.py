"""A change of the package's code that changes the numbers of a run must raise RESULTS_VERSION (see loss_traces.py)."""

import json

import loss_traces
import pytest
import torch

from shunted_lab import RESULTS_VERSION
from shunted_lab.config.model import COMPONENTS

SAME_CLASS = {"conv_stem0", "conv_stem2", "conv_stem3"}  # as conv_stem1, with another number of layers
REMEDY = "if the change is wanted, raise shunted_lab.RESULTS_VERSION and run python tests/tasks/loss_traces.py"


@pytest.fixture(scope="module")
def stored():
    return json.loads(loss_traces.FILE.read_text())


def test_the_stored_traces_are_of_this_version(stored):
    assert stored["results_version"] == RESULTS_VERSION, REMEDY
    assert stored["traces"].keys() == loss_traces.CASES.keys()


def test_every_component_is_in_a_trace(tmp_path):
    """A fingerprint has no hash of this package's code: `RESULTS_VERSION` covers it, and the traces are what tells."""
    models = [loss_traces.run_of(name, tmp_path).model for name in loss_traces.CASES]
    for slot, names in COMPONENTS.items():
        chosen = [getattr(model, slot) for model in models]
        used = {name for value in chosen for name in (value if isinstance(value, list) else [value])}
        assert used >= set(names) - SAME_CLASS


@pytest.mark.parametrize("name", loss_traces.CASES)
def test_the_first_steps_give_the_stored_losses(stored, name, tmp_path):
    """Rounding differs between processors and grows with the steps: to 4e-3 in 20 of them, where BatchNorm is used."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = loss_traces.trace(name, tmp_path)
    finally:
        torch.set_num_threads(threads)
    expected = stored["traces"][name]
    assert found["losses"][:4] == pytest.approx(expected["losses"][:4], rel=5e-6), REMEDY
    assert found["losses"] == pytest.approx(expected["losses"], rel=2e-2), REMEDY
    assert found["validation"] == pytest.approx(expected["validation"], rel=2e-2), REMEDY
