"""A task's goal names the metrics that its results have, no more and no fewer."""

import pytest
from torch import nn

from shunted_lab.config.groups import PRESETS
from shunted_lab.config.recipe import LITE_RECIPE
from shunted_lab.data.scales import ScalesConfig
from shunted_lab.tasks import goal_of
from shunted_lab.tasks.classification import Classification
from shunted_lab.tasks.objects import Objects


@pytest.mark.parametrize("classes", [2, 5, 6, 1000])
def test_a_classification_has_top5_above_five_classes(classes):
    data = PRESETS["data"]["earth"]
    task = Classification(nn.Identity(), LITE_RECIPE, [str(label) for label in range(classes)], 16, 0)
    reported = {*task.metrics["val"], *(f"{split}/loss" for split in task.losses if split == "val")}
    assert {f"val/{name}" for name in goal_of(data).metrics(data, classes)} == reported
    assert goal_of(data).monitor in reported


@pytest.mark.parametrize(("ratio", "sizes"), [(1, 3), (4, 3), (16, 2)])
def test_recall_has_the_sizes_that_the_ratio_has(ratio, sizes):
    data = ScalesConfig(size_ratio=ratio)
    task = Objects(nn.Identity(), LITE_RECIPE, [str(label) for label in range(6)], 16, 0, dict(data.size_ranges()))
    names = goal_of(data).metrics(data, 6)
    assert {f"val/{name}" for name in names} == {*task.metrics["val"], "val/loss"}
    assert len(names) == 2 + sizes and goal_of(data).monitor in {f"val/{name}" for name in names}
