"""Twenty kills at random moments of small real studies."""

import faults
import pytest


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_do_nothing_twice(tmp_path):
    studies, trials = faults.run(tmp_path, kills=20, seed=0)
    assert 1 <= studies <= 20 and trials >= 4 * studies
