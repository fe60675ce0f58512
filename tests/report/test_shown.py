"""A report that would be the same is not made again; one that would differ in anything is."""

import json
from dataclasses import asdict

import pytest

from shunted_lab.report import shown as module
from shunted_lab.report.collect import collect
from shunted_lab.report.finding import finding
from shunted_lab.report.shown import make_report
from shunted_lab.study.costs import memo
from shunted_lab.study.statistics.family import compare


@pytest.fixture
def states():
    """The study as a command finds it, with the costs of its variants."""
    return lambda made: made.states()


def printed(found):
    tables = []
    return make_report(found, tables.append), tables


def test_the_same_is_shown_without_making_it_again(make, states, monkeypatch):
    found = states(make())
    first, tables = printed(found)
    assert tables == list(first.tables) and first.paths[-1].endswith("report/index.html") and first.open == []
    monkeypatch.setattr("shunted_lab.report.collect.collect", None)  # cannot be called
    second, again = printed(found)
    assert json.dumps(asdict(second)) == json.dumps(asdict(first)) and len(again) == len(tables)


CHANGES = {
    "a result": lambda made: (made.runs[0].folder / "history.csv").write_text("epoch,val/top1\n0,0.5\n"),
    "a file that is gone": lambda made: (made.folder / "table.tex").unlink(),
    "what was measured": lambda made: (made.folder / "costs.json").unlink(),
    "its own file": lambda made: (made.folder / module.FILE).write_text("{"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_makes_it_again(make, states, monkeypatch, what):
    made = make()
    found = states(made)
    make_report(found)
    CHANGES[what](made)
    calls = []
    monkeypatch.setattr("shunted_lab.report.collect.collect", lambda *args: calls.append(1) or collect(*args))
    make_report(found)
    assert calls == [1]
    assert (made.folder / "table.tex").exists()


@pytest.mark.parametrize("what", ["states", "costs", "code", "description"])
def test_what_a_report_is_made_of_is_in_its_stamp(make, states, monkeypatch, what):
    found = states(make())
    stamp = module.stamp_of(found)
    if what == "states":
        found.states.pop()
    elif what == "costs":
        found.manifest.costs.pop("conv_stem")
    elif what == "code":
        monkeypatch.setattr(module, "code_version", lambda: "other")
    else:
        found.manifest.config.description = "another question"
    assert module.stamp_of(found) != stamp
    assert memo.code_version() == memo.code_version()


def test_the_overrides_that_change_no_report_leave_its_stamp(make, states):
    found = states(make())
    stamp = module.stamp_of(found)
    found.manifest.config.launch.devices = 2
    found.manifest.config.plan_only = True
    assert module.stamp_of(found) == stamp


def test_the_table_is_written_and_shown_before_the_page_is_made(make, states, monkeypatch):
    made = make()
    found, order = states(made), []
    folder = made.folder
    monkeypatch.setattr("shunted_lab.report.page.pictures", lambda data: order.append("page") or [])
    make_report(found, lambda table: order.append(("table", (folder / "table.md").exists())))
    assert order == [("table", True), ("table", True), "page"] or order == [("table", True), "page"]


# --- in one sentence -------------------------------------------------------------------------------------------------


def sentence(make, accuracy, *words):
    made = make(accuracy, *words)
    return finding(made.data().table, made.experiment.config)


def test_a_difference_whose_interval_leaves_zero_out_is_stated(make):
    spread = {0: 0.0, 1: 0.004, 2: -0.004}
    better = {"non_overlapping": 0.7, "overlapping": 0.75, "conv_stem": 0.65}
    noise = {("overlapping", 1): 0.001, ("conv_stem", 2): 0.001}
    text = sentence(make, lambda variant, seed: better[variant] + spread[seed] + noise.get((variant, seed), 0.0))
    assert text == (
        "Top-1: overlapping is better than non_overlapping by 5.03 points [4.89, 5.18]; "
        "conv_stem is worse than non_overlapping by 4.97 points [4.82, 5.11]."
    )


def test_no_difference_is_stated_where_the_interval_has_zero(make):
    wide = {"non_overlapping": (0.7, 0.7, 0.7), "overlapping": (0.6, 0.8, 0.7), "conv_stem": (0.8, 0.6, 0.71)}
    text = sentence(make, lambda variant, seed: wide[variant][seed])
    family = compare(
        {name: dict(enumerate(of)) for name, of in wide.items()}, dict.fromkeys(list(wide)[1:], "non_overlapping")
    )
    more = f"5 more seeds would detect {100 * family.detectable('conv_stem', 8):.2f} points"
    assert family.method == "dunnett"  # 20 more seeds would decide neither of such means
    assert text == (
        f"Top-1: overlapping is undecided, +0.00 [−27.04, +27.04] points: {more}; "
        f"conv_stem is undecided, +0.33 [−26.71, +27.38] points: {more}."
    )


def test_what_more_seeds_would_decide_is_said(make):
    values = {"non_overlapping": (0.7, 0.7, 0.7), "overlapping": (0.71, 0.74, 0.7), "conv_stem": (0.7, 0.7, 0.7)}
    text = sentence(make, lambda variant, seed: values[variant][seed])
    family = compare(
        {name: dict(enumerate(of)) for name, of in values.items()}, dict.fromkeys(list(values)[1:], "non_overlapping")
    )
    count = next(n for n in range(4, 99) if family.detectable("overlapping", n) <= 0.05 / 3)
    more = f"{count - 3} more seeds would detect {100 * family.detectable('overlapping', count):.2f} points"
    assert f"overlapping is undecided, +1.67 [−5.79, +9.12] points: {more}" in text
    assert "conv_stem differs from non_overlapping by +0.00 points in every seed, which shows no spread" in text


def test_nothing_is_concluded_from_open_runs_or_one_seed(make):
    one = sentence(make, lambda variant, seed: 0.7, "seeds=[0]")
    assert one is None
    open_run = sentence(make, lambda variant, seed: None if (variant, seed) == ("conv_stem", 2) else 0.7)
    assert open_run == "Not all runs are done: nothing is concluded yet."
