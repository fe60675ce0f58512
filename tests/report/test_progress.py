"""What a user sees while runs train: in a file a line per epoch and every 30 s, in a terminal a live table."""

import io

from rich.console import Console

from shunted_lab.report.progress import Progress
from shunted_lab.study.watch import Title
from shunted_lab.tasks.classification import Classification
from shunted_lab.tasks.listener import Status


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def title(variant="a", seed=0, epochs=4):
    return Title(variant, seed, epochs)


def made(variants, slots=1, expected=None, terminal=False):
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, width=120, force_terminal=terminal, color_system=None)
    return Progress(console, variants, slots, Classification().goal(None), expected, clock), clock, file


def status(epoch, batch, loss=1.5, speed=500.0):
    return Status(epoch, 4, batch, 10, loss, speed)


RESULT = {"metrics": {"val/top1": 0.5}, "seconds": 40.0}


def test_a_run_says_something_every_30_seconds_and_at_each_epoch():
    progress, clock, file = made(["a"])
    with progress:
        progress.started(0, title())
        for second in range(1, 101):
            clock.now += 1
            if second >= 40:
                progress.step(0, status((second - 40) // 20, (second - 40) % 20 // 2))
            if second == 60:
                progress.epoch(0, 0, {"val/top1": 0.4583, "val/loss": 1.2})
            progress.refresh()
    assert file.getvalue().splitlines() == [
        "a, seed 0: starting since 30 s",
        "a, seed 0: epoch 1 of 4 done; loss 1.5000; val/top1 45.83 %; 500 images/s; run: 1 min left; study: 1 min left",
        "a, seed 0: epoch 3 of 4, 50 %; loss 1.5000; val/top1 45.83 %; 500 images/s; run: 30 s left; study: 30 s left",
    ]


def test_the_time_left_is_known_before_the_first_run_ends():
    progress, clock, _ = made(["a", "a", "b"], slots=2, expected={"b": 100.0})
    progress.started(0, title("a"))
    assert progress.study_left() == []  # nothing is known of `a` yet
    clock.now += 10
    progress.step(0, status(0, 0))
    clock.now += 10
    progress.step(0, status(1, 0))  # a quarter in 10 s: 30 s are left, and a run takes 50 s
    assert progress.study_left() == ["study: 2 min left"]  # (30 + 50 + 100) / 2 = 90 s
    progress.started(1, title("b"))
    assert progress.study_left() == ["study: 2 min left"]  # b alone takes 100 s
    clock.now += 30
    progress.ended(0, "done", RESULT)
    assert progress.study_left() == ["study: 1 min left"]  # b 70 s; a second run of `a`, of 40 s, fits beside it


def test_runs_that_take_turns_on_one_worker_add_up():
    progress, _, _ = made(["a"] * 5, expected={"a": 60.0})
    progress.started(0, title())
    assert progress.study_left() == ["study: 5 min left"]


def test_a_run_that_died_is_left_to_be_trained():
    progress, _, file = made(["a"], expected={"a": 60.0})
    progress.started(0, title())
    progress.ended(0, "died", None, "killed by SIGKILL")
    assert progress.study_left() == ["study: 1 min left"]
    progress.started(0, title())
    progress.ended(0, "done", RESULT)
    assert progress.study_left() == []
    assert file.getvalue().splitlines() == [
        "[0/1] a, seed 0: killed by SIGKILL; study: 1 min left",
        "[1/1] a, seed 0: val/top1 50.00 %; 40 s",
    ]


def test_a_terminal_shows_where_each_worker_is():
    progress, clock, file = made(["a", "b"], slots=2, terminal=True)
    with progress:
        progress.refresh()
        assert "starting" in file.getvalue()
        progress.started(0, title("a"))
        progress.started(1, title("b", 7))
        for slot in (0, 1):
            progress.step(slot, status(0, 0))
        clock.now += 30
        progress.step(0, status(3, 5, loss=0.25))
        progress.epoch(1, 2, {"val/top1": 0.25})
        before = len(file.getvalue())
        progress.refresh()
        screen = file.getvalue()[before:]
    assert "starting" not in screen and "2 training" in screen and "study:" not in screen
    row = next(line for line in screen.splitlines() if "4 of 4, 50 %" in line)
    assert row.split() == ["0", "a", "0", "4", "of", "4,", "50", "%", "0.2500", "500", "30", "s", "4", "s"]
    assert "25.00 %" in screen
