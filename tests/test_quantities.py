"""Numbers as people are shown them."""

import pytest

from shunted_lab.data.scales import ScalesConfig
from shunted_lab.output.quantities import cell_text, counted, difference_text, head_text, listed, percent, value_text
from shunted_lab.tasks.classification import Classification
from shunted_lab.tasks.multilabel import MultiLabelClassification

CLASSES = Classification().goal(None)
OBJECTS = MultiLabelClassification().goal(ScalesConfig())


@pytest.mark.parametrize(
    ("goal", "name", "value", "head", "cell", "text", "difference"),
    [
        (CLASSES, "val/top1", 0.45833, "val/top1 (%)", "45.83", "45.83 %", "+45.83 percentage points"),
        (OBJECTS, "test/recall_small", 0.2, "test/recall_small (%)", "20.00", "20.00 %", "+20.00 percentage points"),
        (CLASSES, "val/loss", 1.23456, "val/loss", "1.2346", "1.2346", "+1.2346"),
        (CLASSES, "latency", 0.0112, "latency (ms)", "11.2", "11.2 ms", "+11.2 ms"),
        (CLASSES, "memory", 7.5e8, "memory (MB)", "750.0", "750.0 MB", "+750.0 MB"),
        (CLASSES, "params", 22_401_256, "params (M)", "22.40", "22.40 M", "+22.40 M"),
        (CLASSES, "params", 438_249, "params (M)", "0.438", "0.438 M", "+0.438 M"),
        (CLASSES, "macs", 4_993_077_312, "macs (G)", "4.993", "4.993 G", "+4.993 G"),
        (CLASSES, "macs", 1_172_000, "macs (G)", "0.00117", "0.00117 G", "+0.00117 G"),
    ],
)
def test_every_quantity_has_one_form(goal, name, value, head, cell, text, difference):
    unit = goal.unit(name)
    assert (head_text(name, unit), cell_text(value, unit), value_text(value, unit)) == (head, cell, text)
    assert difference_text(value, unit) == difference
    assert difference_text(-value, unit) == difference.replace("+", "−")


def test_a_number_with_its_noun():
    assert [counted(n, "epoch") for n in (0, 1, 2, 1550)] == ["0 epochs", "1 epoch", "2 epochs", "1,550 epochs"]
    assert (counted(1, "entry", "entries"), counted(2, "entry", "entries")) == ("1 entry", "2 entries")
    assert percent(0.4583333) == "45.83 %"


def test_a_list_names_its_first_items_and_counts_the_others():
    assert listed([], 2) == "" and listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert listed("abcd", 1, "image") == "a and 3 more images" and listed("ab", 1, "image") == "a and 1 more image"
    assert listed(["a"] * 1235, 1) == "a and 1,234 more"
