"""The help texts name types as they are written in YAML."""

import re
from importlib import import_module

import pytest

COMMANDS = ("run", "attention", "convert", "cost", "dashboard", "evaluate")


@pytest.mark.parametrize("command", COMMANDS)
def test_types_and_defaults_are_those_of_yaml(command, capsys):
    assert import_module(f"shunted_lab.{command}").main(["--help"]) == 0
    keys = re.findall(r"^  ([a-z_.]+): (.*) = (.*)$", capsys.readouterr().out, re.M)
    assert keys
    for key, kind, default in keys:
        assert not re.search(r"None|shunted_lab|typing|class", kind), (key, kind)
        assert default not in ("True", "False", "None"), (key, default)
        assert kind != "component" or key.startswith(("model.", "task.head")), key
