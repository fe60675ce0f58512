"""The list of commands, and that each is the module that it names."""

import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

import pytest

from shunted_lab.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_the_list_has_every_command_and_the_main_job(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out and command.purpose in out for name, command in COMMANDS.items())
    assert "python -m shunted_lab run experiment=ablate_embed" in out
    assert max(map(len, out.splitlines())) <= 120


def test_every_module_that_can_be_run_is_a_command():
    found = {path for path in (ROOT / "shunted_lab").rglob("*.py") if "sys.exit(main())" in path.read_text()}
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found}
    assert modules - {"shunted_lab.__main__"} == {command.module for command in COMMANDS.values()}
    assert all(find_spec(command.module) for command in COMMANDS.values())


def test_a_command_gets_the_other_words_and_gives_its_status(monkeypatch):
    given = []
    monkeypatch.setattr(import_module("shunted_lab.cost"), "main", lambda words: given.append(words) or 3)
    assert main(["cost", "model=shunted_t", "size=64"]) == 3 and given == [["model=shunted_t", "size=64"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evalute", "checkpoint=x"], "error: command: 'evalute' is not known; did you mean 'evaluate'? choices: att"),
        (["experiment=train"], "error: 'experiment=train' is an override; did you mean: python -m shunted_lab run exp"),
        (["--version"], "error: command: '--version' is not known; choices: attention"),
    ],
)
def test_another_word_is_one_line(words, message, capsys):
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1


def test_the_script_is_installed_and_the_module_runs():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert EntryPoint("shunted-lab", scripts["shunted-lab"], "console_scripts").load() is main
    found = subprocess.run(
        [sys.executable, "-m", "shunted_lab", "cost", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert found.returncode == 0 and found.stdout.startswith("usage: python -m shunted_lab.cost")


def test_components_in_the_working_directory_are_found_as_by_python_m(tmp_path, monkeypatch):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry and entry != str(tmp_path)])
    monkeypatch.setattr("shunted_lab.run.main", lambda words: seen.append(sys.path[0]) or 0)
    assert main(["run", "experiment=ablate_embed"]) == 0 and seen == [str(tmp_path)]
