"""A task's goal names the metrics that its results have, no more and no fewer."""

import math

import pytest
from torch import nn

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.scales import ScalesConfig
from shunted_lab.tasks.base import TaskModule
from shunted_lab.tasks.multilabel import MultiLabelClassification


def measured(module):
    """The names of what a module measures on the validation split."""
    return [*module.metrics["val"], "val/loss"]


@pytest.mark.parametrize("classes", [2, 5, 6, 1000])
def test_a_classification_has_top5_above_five_classes(classes):
    module = TaskModule(nn.Identity(), compose(["experiment=train"]).variants["model"], ["class"] * classes)
    assert sorted(module.goal.names("val")) == sorted(measured(module))
    assert module.goal.monitor == "val/top1" and module.goal.headline == "test/top1" and module.goal.mode == "max"


@pytest.mark.parametrize(("ratio", "sizes"), [(1, 3), (4, 3), (16, 2)])
def test_recall_has_the_sizes_that_the_ratio_has(ratio, sizes):
    run = compose(["experiment=train", "data=scales", f"data.size_ratio={ratio}"]).variants["model"]
    module = TaskModule(nn.Identity(), run, ["class"] * 6)
    assert sorted(module.goal.names("val")) == sorted(measured(module))
    assert len(module.goal.metrics) == 1 + sizes and module.goal.monitor == "val/recall"


def test_the_data_choose_the_task_and_another_one_is_refused():
    assert compose(["experiment=train"]).variants["model"].task.name == "classification"
    assert compose(["experiment=train", "data=scales"]).variants["model"].task.name == "multilabel"
    with pytest.raises(ConfigError, match=r"task: multilabel needs images with sizes, and data=earth has label"):
        compose(["experiment=train", "task=multilabel"])
    with pytest.raises(ConfigError, match=r"task: 'multilable' is not known; did you mean 'multilabel'\?"):
        compose(["experiment=train", "task=multilable"])


def test_several_labels_cannot_be_mixed():
    with pytest.raises(ConfigError, match=r"recipe\.mixup: 0\.8 "):
        compose(["experiment=train", "data=scales", "recipe.mixup=0.8"])


def test_the_table_has_a_column_for_each_size_whichever_the_first_variant_has():
    data = ScalesConfig(size_ratio=16)
    task = MultiLabelClassification()
    assert [metric.label for metric in task.goal(data).columns] == ["Small", "Medium", "Large"]
    assert [metric.label for metric in task.goal(data, 6).columns] == ["Small", "Large"]  # what is measured


def test_variants_that_are_measured_by_different_metrics_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    text = "baseline: a\nvariants: {a: {}, b: {data: scales}}\n"
    (tmp_path / "experiments" / "mixed.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"mixed\.yaml: variants\.b: is measured by recall, and 'a' by top1; "):
        compose(["experiment=mixed"])


def test_what_a_split_has_nothing_for_is_not_part_of_a_result():
    goal = MultiLabelClassification().goal(ScalesConfig())
    values = {"test/recall": 0.5, "test/recall_small": math.nan, "test/recall_large": 0.25, "test/loss": math.nan}
    kept = goal.known(values)
    assert kept.keys() == {"test/recall", "test/recall_large", "test/loss"}, "a loss that is NaN is an error"
