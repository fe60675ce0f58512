"""Seeds until decided: its constants and decisions, by simulation."""

import numpy as np
import pytest

from shunted_lab.study.rule import Rule
from shunted_lab.study.statistics.family import compare
from shunted_lab.study.statistics.race import calibrated_level, simulate, standing

LOOKS = (3, 5, 8, 12)


@pytest.fixture(scope="module")
def level():
    return {k: calibrated_level(LOOKS, (k,), 0.05, draws=20_000) for k in (1, 2, 6)}


def test_the_constant_of_one_comparison_is_the_known_one(level):
    """p < 0.0157 at each of the four looks gives 5.0 % false alarms (simulated, 200,000 races)."""
    assert level[1] == pytest.approx(0.0157, abs=0.001)
    assert calibrated_level((3,), (1,), 0.05, draws=20_000) == pytest.approx(0.05, abs=0.001), (
        "one look is an ordinary test"
    )


@pytest.mark.parametrize("k", [1, 2, 6])
def test_false_alarms_are_at_most_5_percent(level, k):
    found = simulate(Rule(LOOKS, None, level[k], (k,)), [0.0] * k, 1.0, draws=600, seed=1)
    assert (found.verdicts != "undecided").any(1).mean() <= 0.05 + 2.6 * 0.0089  # the noise of 600 races


def test_a_variant_without_an_effect_is_as_safe_beside_one_that_is_decided_early(level):
    found = simulate(Rule(LOOKS, None, level[2], (2,)), [0.0, 4.0], 1.0, draws=600)
    assert (found.verdicts[:, 0] != "undecided").mean() <= 0.05 and (found.verdicts[:, 1] == "better").all()
    assert found.seeds[:, 1].mean() < 4 and found.runs.mean() < 2 * 12 + 5


def test_a_difference_of_the_margin_is_rarely_called_equivalent(level):
    rule = Rule(LOOKS, 1.0, level[1], (1,))
    wrong = simulate(rule, [1.0], 0.4, draws=400)
    assert (wrong.verdicts == "equivalent").mean() <= 0.05
    right = simulate(rule, [0.0], 0.4, draws=400)
    assert (right.verdicts == "equivalent").mean() > 0.9 and right.seeds.mean() < 8


def test_repeated_intervals_hold_the_truth_at_every_look(level):
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        y = rng.normal([0, 0.5, 0], 1, (12, 3))
        values = {name: dict(enumerate(c)) for name, c in zip(("base", "v", "w"), y.T.tolist(), strict=True)}
        families = [
            compare(
                {n: {s: of[s] for s in range(look)} for n, of in values.items()},
                {"v": "base", "w": "base"},
                1 - level[2],
            )
            for look in LOOKS
        ]
        held += all(
            f.differences["v"].low <= 0.5 <= f.differences["v"].high
            and f.differences["w"].low <= 0 <= f.differences["w"].high
            for f in families
        )
    assert 0.93 <= held / 400 <= 0.98


def values_of(**seeds) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(of)) for name, of in seeds.items()}


class TestStanding:
    rule = Rule((3, 5), 0.02, 0.03, (2,))

    @property
    def baselines(self):
        return {"v": "base", "w": "base"}

    def test_nothing_is_decided_before_a_look_is_complete(self):
        found = standing(
            values_of(base=[0.1, 0.2, 0.3], v=[0.5, 0.6, 0.7], w=[0.1, 0.2]), self.baselines, range(5), self.rule
        )
        assert (found.needed, found.active, found.family) == (3, ["v", "w"], None)
        assert found.required(self.baselines) == {"base": 3, "v": 3, "w": 3}

    def test_only_undecided_variants_and_the_baseline_go_on(self):
        values = values_of(base=[0.1, 0.2, 0.3], v=[0.5, 0.6, 0.71], w=[0.1, 0.25, 0.22])
        found = standing(values, self.baselines, range(5), self.rule)
        assert found.verdicts == {"v": "better", "w": "undecided"} and found.needed == 5
        assert found.required(self.baselines) == {"base": 5, "v": 3, "w": 5} and not found.is_over
        assert standing(values, self.baselines, range(5), Rule((3, 5), 0.02, 0.03, (2,), -1)).verdicts["v"] == "worse"

    def test_results_beyond_a_look_do_not_change_it(self):
        few = values_of(base=[0.1, 0.2, 0.3], v=[0.5, 0.6, 0.71], w=[0.1, 0.25, 0.22])
        more = values_of(base=[0.1, 0.2, 0.3, 9.0], v=[0.5, 0.6, 0.71, -9.0], w=[0.1, 0.25, 0.22, 5.0])
        a, b = (standing(values, self.baselines, range(5), self.rule) for values in (few, more))
        assert a.verdicts == b.verdicts and a.differences == b.differences

    def test_the_race_is_over_after_the_last_look(self):
        values = values_of(base=[0.1, 0.2, 0.3, 0.2, 0.1], v=[0.5, 0.6, 0.71], w=[0.1, 0.25, 0.22, 0.3, 0.02])
        found = standing(values, self.baselines, range(5), self.rule)
        assert found.is_over and found.verdicts["w"] == "undecided" and found.differences["w"].n == 5
        assert found.differences["v"].n == 3 and found.active == []

    def test_an_interval_inside_the_margin_is_equivalent(self):
        rng = np.random.default_rng(0)
        base = rng.normal(0.5, 0.05, 3)
        first, second = np.array([0.001, -0.001, 0.0005]), np.array([0.0, 0.001, 0.0007])
        values = values_of(base=base, v=base + first, w=base + second)
        found = standing(values, self.baselines, range(5), self.rule)
        assert found.verdicts == {"v": "equivalent", "w": "equivalent"} and found.is_over
