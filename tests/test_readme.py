"""The README's commands are valid, and what it says of files and links is true."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from shunted_lab.compose import compose, compose_cost, compose_evaluate
from shunted_lab.config import ConfigError

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)[3:]
    for line in re.findall(r"^(?:pip install \. && )?(python -m shunted_lab\.run .*)$", TEXT, re.M)
]


@pytest.mark.parametrize("line", re.findall(r"^python -m shunted_lab\.cost (.*)$", TEXT, re.M))
def test_every_cost_command_composes(line):
    assert compose_cost(shlex.split(line, comments=True)).model.name


@pytest.mark.parametrize("line", re.findall(r"^python -m shunted_lab\.evaluate (.*data=.*)$", TEXT, re.M))
def test_every_evaluate_command_of_a_file_composes(line):
    assert compose_evaluate(shlex.split(line, comments=True)).data.name == "imagenet"


def test_the_two_lines_are_there():
    assert "\npip install . && python -m shunted_lab.run experiment=ablate_embed\n" in TEXT
    assert "\npip install '.[test]' && pytest\n" in TEXT


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_composes(words):
    if words != ["--help"]:
        found = compose(words)
        assert f"experiment={found.config.name}" in words and found.variants


def test_the_error_that_is_shown_is_the_error():
    shown = re.search(r"^error: (.*)$", TEXT, re.M)
    command = re.search(r"^\$ python -m shunted_lab\.run (.*)$", TEXT, re.M)
    assert shown and command
    with pytest.raises(ConfigError, match=re.escape(shown[1])):
        compose(command[1].split())


def test_the_table_that_is_shown_has_the_form_of_the_report():
    from shunted_lab.report.render import PAPER_HEAD

    measured = ("Variant", "Params (M)", "GMACs", "Latency (ms)", "Memory (MB)", "Top-1 (%)", "Δ [95 % CI]")
    for head, rows in ((measured, 3), (PAPER_HEAD, 3)):
        block = TEXT.split(f"| {' | '.join(head)} |\n")[1].split("\n\n")[0].splitlines()
        assert len(block) == 1 + rows and all(line.count("|") == len(head) + 1 for line in block)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (ROOT / target).exists(), target


def test_results_are_not_committed():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "runs"], capture_output=True, text=True)
    assert listed.stdout == ""
