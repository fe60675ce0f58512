"""Write a report into the folder of its study."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shunted_lab.output.files import write_text
from shunted_lab.output.quantities import counted
from shunted_lab.report.collect import RunData, StudyData
from shunted_lab.report.finding import finding
from shunted_lab.report.index import SUMMARY, Summary
from shunted_lab.report.render import blocks, calibration_csv, effects_csv, to_csv, to_latex, to_markdown
from shunted_lab.study.states import RunState

if TYPE_CHECKING:
    from shunted_lab.report.picture import Picture

TABLES = {"table.md": to_markdown, "table.csv": to_csv, "table.tex": to_latex}
RUNS = "runs.csv"
CALIBRATION = "calibration.csv"  # with calibrate
EFFECTS = "effects.csv"  # with leave_one_out and factorial
PAGE = "report/index.html"
INCOMPLETE = "incomplete"  # in the study's folder: a report with fewer finished runs than the one beside it


@dataclass(frozen=True)
class Written:
    """The files of a report, and what its reader should know of them."""

    paths: list[Path]
    warnings: list[str]


@dataclass(frozen=True)
class Coverage:
    """What a report covers: `done` of `planned` runs or trials (`what`)."""

    what: str
    done: int
    planned: int
    complete: bool


def write_report(data: StudyData, show: Callable[[], None] = lambda: None) -> Written:
    """Write the tables, `runs.csv`, and `report/` with the page and its figures, each file whole or not at all.

    An incomplete report never replaces one with more finished runs; it goes to `incomplete/` then.

    Args:
        show: called when the tables are written, before the page is made, which takes seconds.
    """
    target, tables = write_tables(data)
    show()
    page = write_page(data, target)
    return Written(tables.paths + page.paths, list(dict.fromkeys(tables.warnings + page.warnings)))


def write_tables(data: StudyData) -> tuple[Target, Written]:
    """Write the tables and `runs.csv`, which take no time; and say where the rest of the report belongs."""
    done = sum(run.state.state == "done" for run in data.runs)
    coverage = Coverage("runs", done, len(data.runs), data.table.complete)
    target = choose_target(data.folder / "table.md", _done_before(data.folder), coverage)
    texts = {name: render(data.table) for name, render in TABLES.items()} | {RUNS: runs_csv(data)}
    if data.table.evidence.effects is not None:
        texts[EFFECTS] = effects_csv(data.table)
    if data.table.calibration is not None:
        texts[CALIBRATION] = calibration_csv(data.table)
    return target, publish(target, texts, [])


def write_page(data: StudyData, target: Target) -> Written:
    """Write the page with its figures."""
    from shunted_lab.report.page import pictures, render_page  # matplotlib: 1 s

    made = list(pictures(data))
    texts = {SUMMARY: summary_of(data).text(), PAGE: render_page(data, made, target.folder / "report")}
    return publish(target, texts, made)


def summary_of(data: StudyData) -> Summary:
    """What the page of all studies says of this one."""
    done, config, block = sum(run.state.state == "done" for run in data.runs), data.config, blocks(data.table)[0]
    return Summary(
        config.name,
        config.description,
        f"{done} of {counted(len(data.runs), 'run')} done",
        data.table.complete,
        config.smoke,
        None if config.smoke else finding(data.table, config),
        block.head,
        block.rows,
    )


@dataclass(frozen=True)
class Target:
    """Where a report is written: to the study's own folder, or, with the reason, to `incomplete/` in it."""

    folder: Path
    reason: str | None = None


def choose_target(table: Path, before: int, coverage: Coverage) -> Target:
    """Where to write a report, so that it does not replace one that says more.

    Args:
        table: the file of the table in the study's folder.
        before: finished runs or trials in the report that is there.
        coverage: of the report that is to be written.
    """
    if coverage.complete or coverage.done >= before or not table.exists():
        return Target(table.parent)
    place = table.parent / INCOMPLETE
    return Target(
        place,
        f"{table.name} has {before} finished {coverage.what} and is kept; this report has {coverage.done} of "
        f"{coverage.planned}: {place / table.name}",
    )


def publish(target: Target, texts: Mapping[str, str], made: Sequence[Picture]) -> Written:
    """Write the texts of a report by their names, and its figures. Any but an incomplete one removes `incomplete/`.

    A folder that cannot be written is a warning: what was found can still be shown.
    """
    paths: list[Path] = []
    figures = target.folder / "report" / "figures"
    try:
        figures.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            path = write_text(target.folder / name, text)
            paths += [path] if name != SUMMARY else []  # of use to the page of all studies only
        for picture in made:
            from shunted_lab.report.plots import save  # matplotlib: 1 s

            save(picture.figure, figures, picture.name)
        if target.reason is None:
            _remove_incomplete(target.folder / INCOMPLETE, texts)
    except OSError as error:
        return Written(paths, [f"{target.folder}: the report cannot be written ({error.strerror})"])
    return Written(paths, [] if target.reason is None else [target.reason])


def _remove_incomplete(place: Path, texts: Mapping[str, str]) -> None:
    """Remove an incomplete report, and nothing else: a variant may have the name of its folder."""
    for name in texts:
        (place / name).unlink(missing_ok=True)
    shutil.rmtree(place / "report", ignore_errors=True)
    with suppress(OSError):
        place.rmdir()


def _done_before(folder: Path) -> int:
    """Finished runs in the report that is there; 0 if there is none."""
    try:
        lines = (folder / RUNS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    return sum(line.get("state") == "done" for line in csv.DictReader(lines))


def runs_csv(data: StudyData) -> str:
    """One line a run, with its state, its metrics and costs in full: fractions, counts, seconds, bytes.

    `difference` is that of its metric to the baseline's with its seed; `separate_low` and `separate_high` are the
    95 % t-interval of its variant's mean difference, which holds for this variant alone.
    """
    metrics: dict[str, None] = {}
    costs: dict[str, None] = {}
    for run in data.runs:
        if run.state.result is not None:
            metrics |= dict.fromkeys(run.state.result["metrics"])
            costs |= dict.fromkeys(_costs_of(run.state))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["variant", "seed", "state", "fingerprint", "folder", "device", "seconds", *metrics, *costs, *SEPARATE]
    )
    by_place = {(run.state.run.variant, run.state.run.seed): run.value for run in data.runs}
    for run in data.runs:
        state, result = run.state, run.state.result or {}
        values = [result.get("metrics", {}).get(key, "") for key in metrics]
        values += [_costs_of(state).get(key, "") for key in costs]
        known = [state.run.variant, state.run.seed, state.state, state.run.fingerprint, state.run.folder]
        values += _separate(data, run, by_place)
        writer.writerow([*known, result.get("device", ""), result.get("seconds", ""), *values])
    return out.getvalue()


SEPARATE = ("difference", "separate_low", "separate_high")


def _separate(data: StudyData, run: RunData, values: Mapping[tuple[str, int], float | None]) -> list[Any]:
    name, seed = run.state.run.variant, run.state.run.seed
    mine, base = run.value, values.get((data.config.compared.get(name, ""), seed))
    difference = "" if mine is None or base is None else mine - base
    found = data.table.evidence.separate.get(name)
    return [difference, *([found.low, found.high] if found is not None and found.has_interval else ["", ""])]


def _costs_of(state: RunState) -> dict[str, float]:
    """What the model of a run costs: counted, and measured where a search compares it."""
    return state.run.costs | ((state.result or {}).get("costs") or {})
