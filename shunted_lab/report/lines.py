"""What a command prints beside its tables: the plan, what failed, what was found, and what can be done next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from shunted_lab.config.experiment import Config
from shunted_lab.data import DataFacts
from shunted_lab.nn import Cost
from shunted_lab.output.quantities import COSTS, cell_text, counted
from shunted_lab.output.terminal import Grid
from shunted_lab.report.shown import Shown
from shunted_lab.study.folder import TRACEBACK
from shunted_lab.study.plan import study_folder
from shunted_lab.study.states import RunState


def plan_grid(config: Config, states: list[RunState], costs: dict[str, Cost]) -> Grid:
    """The plan as a table: per variant its costs and the state of each seed, or how many seeds are in each state."""
    runs: dict[str, dict[int, str]] = {name: {} for name in costs}
    for state in states:
        runs[state.run.variant][state.run.seed] = state.state
    planned = [seed for seed in config.all_seeds if any(seed in of for of in runs.values())]
    known = {
        name: (name, cell_text(cost.params, COSTS["params"]), cell_text(cost.macs, COSTS["macs"]))
        for name, cost in costs.items()
    }
    head = ("variant", "params (M)", "GMACs")
    counts = [(*known[name], _counted(list(found.values()))) for name, found in runs.items()]
    short = Grid(config.name, (*head, counted(len(planned), "seed")), counts)
    rows = [(*known[name], *(found.get(seed, "") for seed in planned)) for name, found in runs.items()]
    return Grid(config.name, (*head, *(f"seed {seed}" for seed in planned)), rows, short=short)


def _counted(states: Sequence[str]) -> str:
    """`12 done, 18 missing`."""
    found = Counter(states)
    return ", ".join(f"{found[state]} {state}" for state in sorted(found, key=lambda state: (state != "done", state)))


def progress_line(states: list[RunState], others: int) -> str:
    """How many runs are done, and how many there are of other configurations."""
    left = sum(state.state != "done" for state in states)
    parts = [f"{len(states) - left} of {counted(len(states), 'run')} done"]
    if others:
        kept = counted(others, "finished run")
        parts.append(
            f"{kept} of other seeds or configurations: old results are kept, and are not in this table "
            "(name=NAME gives this configuration a table of its own)"
        )
    return "; ".join(parts)


def data_notes(facts: dict[str, DataFacts]) -> list[str]:
    """What is to be said of the data sets, each line once."""
    return list(dict.fromkeys(note for found in facts.values() for note in found.notes))


def by_variant(lines: dict[str, str]) -> list[str]:
    """Each line once, with the names of its variants where variants differ."""
    names: dict[str, list[str]] = {}
    for name, line in lines.items():
        names.setdefault(line, []).append(name)
    return list(names) if len(names) == 1 else [f"{line} ({', '.join(of)})" for line, of in names.items()]


def stale_lines(states: list[RunState], rerun: str | None) -> list[str]:
    """What has changed since the stale runs were trained, and what becomes of them."""
    changes: dict[str, list[str]] = {}
    for state in states:
        if state.state == "stale":
            changes.setdefault(state.error or "", []).append(f"{state.run.variant} seed {state.run.seed}")
    lines = [f"stale: {what} ({', '.join(runs)})" for what, runs in changes.items()]
    if not lines:
        return []
    if rerun in ("stale", "all"):
        return [*lines, f"rerun={rerun}: stale runs are trained again; old results are kept"]
    return [*lines, "stale runs are not trained again; rerun=stale trains them, and old results are kept"]


def failure_lines(states: list[RunState], limit: int) -> list[str]:
    """A line for each failed run: where its traceback is, and how it is tried again."""
    lines = []
    for run, attempts in ((state.run, state.attempts) for state in states if state.state == "failed"):
        again = f"{'the same command' if attempts < limit else 'rerun=failed'} retries it"
        tried = f"{attempts} of {counted(limit, 'attempt')}"
        lines.append(f"failed: {run.variant}, seed {run.seed}, {tried}; {run.folder / TRACEBACK}; {again}")
    return lines


def next_steps(config: Config, overrides: Sequence[str], shown: Shown) -> list[str]:
    """What was found, where it can be seen, and what can be done next.

    Args:
        overrides: the overrides of the command.
    """
    lines = [f"found: {shown.finding}"] if shown.finding and not config.smoke else []
    lines += places(config, shown.paths)
    if not shown.open and not config.smoke and config.race is None:
        seeds = ",".join(map(str, [*config.all_seeds, max(config.all_seeds) + 1]))
        again = [word for word in overrides if not word.startswith("seeds=")]
        lines.append(f"one more seed: python -m shunted_lab.run {shlex.join([*again, f'seeds=[{seeds}]'])}")
    return lines


def places(config: Config, paths: Sequence[str]) -> list[str]:
    """Where a study can be looked at: its page, TensorBoard, the dashboard."""
    pages = [f"page: {Path(path).absolute().as_uri()}" for path in paths if path.endswith(".html")]
    curves = f"curves: tensorboard --logdir {shlex.quote(str(study_folder(config)))}"
    place = [] if config.runs_dir == "runs" else [shlex.quote(f"runs_dir={config.runs_dir}")]
    return [
        *pages,
        *([curves] if "tensorboard" in config.launch.loggers else []),
        " ".join(["runs in a browser: python -m shunted_lab.dashboard", *place]),
    ]
