"""What cheap baselines would have chosen from the trials of a search."""

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from scipy import stats

from shunted_lab.output.quantities import PERCENT
from shunted_lab.report.proxies import baseline_blocks

FINAL = [0.70, 0.75, 0.72, 0.78, 0.74, 0.71]
EARLY = [0.50, 0.58, 0.51, 0.55, 0.57, 0.49]
PARAMS = [1, 2, 3, 4, 5, 6]
DRAWN = ["listed", "random", "random", "sampler", "sampler", "sampler"]


def trials(count=6):
    return [
        create_trial(
            value=FINAL[i],
            params={"x": 0.1 * i},
            distributions={"x": FloatDistribution(0, 1)},
            intermediate_values={0: EARLY[i], 3: FINAL[i]},
            user_attrs={"costs": {"params": PARAMS[i], "macs": 7 - PARAMS[i]}, "result": {}, "drawn": DRAWN[i]},
        )
        for i in range(count)
    ]


def test_rank_correlations_are_scipys():
    correlations, _ = baseline_blocks(trials(), "val/top1", 1, PERCENT, 4)
    found = {row[0]: float(row[1].replace("−", "-")) for row in correlations.rows}
    assert found["parameters"] == pytest.approx(stats.spearmanr(PARAMS, FINAL).statistic, abs=0.005)
    assert found["MACs"] == -found["parameters"]
    assert found["val/top1 after 1 epoch"] == pytest.approx(stats.spearmanr(EARLY, FINAL).statistic, abs=0.005)


def test_baselines_choose_by_what_they_can_see():
    _, baselines = baseline_blocks(trials(), "val/top1", 1, PERCENT, 4)
    assert [tuple(row) for row in baselines.rows] == [
        ("this search", "78.00", "6", "24"),
        ("i-Epoch, i = 1", "78.00", "6", "15"),  # 6 x 1, and 3 more epochs for the 3 best of them: 1, 4 and 3
        ("random search", "75.00", "2", "8"),
    ]


def test_a_loss_is_better_where_it_is_smaller():
    correlations, baselines = baseline_blocks(trials(), "val/top1", -1, PERCENT, 4)
    assert baselines.rows[0][1] == "70.00" and baselines.rows[2][1] == "72.00"
    assert float(correlations.rows[2][1]) == pytest.approx(stats.spearmanr(EARLY, FINAL).statistic, abs=0.005)


def test_few_trials_have_no_baselines():
    assert baseline_blocks(trials(4), "val/top1", 1, PERCENT, 4) == []
