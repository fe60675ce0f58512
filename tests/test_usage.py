"""The help texts name types as they are written in YAML."""

import re

import pytest

from shunted_lab.usage import attention_usage, convert_usage, cost_usage, dashboard_usage, evaluate_usage, usage

TEXTS = [usage, attention_usage, convert_usage, cost_usage, dashboard_usage, evaluate_usage]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.__name__)
def test_types_and_defaults_are_those_of_yaml(text):
    keys = re.findall(r"^  ([a-z_.]+): (.*) = (.*)$", text(), re.M)
    assert keys
    for key, kind, default in keys:
        assert not re.search(r"None|shunted_lab|typing|class", kind), (key, kind)
        assert default not in ("True", "False", "None"), (key, default)
        assert kind != "component" or key.startswith("model."), key
