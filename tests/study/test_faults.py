"""Twenty kills at random moments of a small real study."""

import faults
import pytest


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_do_nothing_twice(tmp_path):
    said = faults.run(tmp_path, kills=20, seed=0)
    workers, launchers = int(said.split()[0]), int(said.split()[3])
    assert workers + launchers == 20 and launchers >= 2, said
