"""Results of trainings that this package has not seen, from a CSV file, as the table of an experiment.

Exports of W&B (the runs table), MLflow (`mlflow experiments csv`) and trackio (its metrics) are read as they come.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shunted_lab.config.experiment import Config
from shunted_lab.config.schema import ConfigError, unknown
from shunted_lab.config.task import Goal, Metric
from shunted_lab.nn.cost import Cost
from shunted_lab.output.quantities import PERCENT, Unit, counted, listed
from shunted_lab.report.comparison_facts import comparison_facts
from shunted_lab.report.evidence import Evidence, evidence_of
from shunted_lab.report.facts import INCOMPLETE, Fact
from shunted_lab.report.table import Row, Table
from shunted_lab.report.write import PAGE, TABLES, Target, Written, publish
from shunted_lab.study.statistics.paired import summarize

VARIANT = ("variant", "params.variant", "config.variant", "Group", "group")
SEED = ("seed", "params.seed", "config.seed", "Seed")
NAME = ("Name", "run_name", "tags.mlflow.runName", "name")  # of a run, which may tell both: `conv_stem-seed3`
RUN = ("run_id", "ID", "Name", "run_name")  # what tells runs apart
STATE = ("State", "status", "state")
STEP = ("step", "Step", "_step")
METRIC = ("", "metrics.", "summary.")  # in front of the name of a metric
# What exports say of a run beside its metrics and options
ABOUT = {*VARIANT, *SEED, *NAME, *STATE, *STEP, "Notes", "User", "Tags", "Created", "Runtime", "Sweep", "ID"}
ABOUT |= {"run_id", "experiment_id", "artifact_uri", "start_time", "end_time", "id", "timestamp", "params", "macs"}
DONE = {"finished", "done", "completed", ""}
PARTS = re.compile(r"(?P<variant>.+?)[-_/ ,]+(?:seed[-_= ]?|s)?(?P<seed>\d+)")
NAMED = 12  # columns that an error names


@dataclass
class Results:
    """Values of a metric: variant -> seed -> value. `open` has those that are not there, by the state of their run."""

    metric: str
    values: dict[str, dict[int, float]]
    open: dict[str, dict[int, str]]
    costs: dict[str, Cost] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        done, gone = ({seed for of in known.values() for seed in of} for known in (self.values, self.open))
        return sorted(done | gone)


def read_results(path: Path, metric: str | None = None, variant: str | None = None, seed: str | None = None) -> Results:
    """Read a CSV file with a line a run or, with a column `step`, a line a step: then the last one of each run counts.

    Two runs of one variant and seed are refused in both forms: nobody knows which one is meant.

    Args:
        metric, variant, seed: columns; None finds them.

    Raises:
        ConfigError: for a file that cannot be read, a column that is missing, text where a number belongs, a run that
            is there twice, and fewer than two variants.
    """
    lines = _read(path)
    columns = list(lines[0][1])
    whose = _Whose(path, columns, variant, seed)
    shown = _metric_column(path, metric, lines)
    step = next((name for name in STEP if name in columns), None)
    found = Results(shown.removeprefix("metrics.").removeprefix("summary."), {}, {})
    run = next((name for name in RUN if name in columns), None)
    first: dict[tuple[str, int], tuple[int, str]] = {}
    steps: dict[tuple[str, int], float] = {}
    for number, line in lines:
        name, of = whose.read(number, line)
        key, who = (name, of), line[run] if run is not None else ""
        known, its_run = first.setdefault(key, (number, who))
        at = _number(path, number, step, line[step]) if step is not None else None
        value = _number(path, number, shown, line[shown])
        is_again = step is None or its_run != who or (value is not None and steps.get(key) == at)
        if known != number and is_again:
            raise ConfigError(
                f"{path}, line {number}: variant '{name}' with seed {of} is in line {known} already; "
                "one run for each variant and seed"
            )
        found.values.setdefault(name, {})
        found.open.setdefault(name, {})
        state = next((line[column].lower() for column in STATE if column in line), "")
        if value is None or state not in DONE:
            if of not in found.values[name]:
                found.open[name][of] = state if state not in DONE else "missing"
            continue
        if at is None or at >= steps.get(key, -math.inf):
            steps[key] = -math.inf if at is None else at
            found.values[name][of] = value
            found.open[name].pop(of, None)
        _cost_of(path, number, line, name, found)
    if len(found.values) < 2:
        raise ConfigError(
            f"{path}: column '{whose.variant or whose.name}' has only {', '.join(found.values)}; at least two variants "
            "are compared"
        )
    seeds = found.seeds
    for name in found.values:
        missing = [s for s in seeds if s not in found.values[name] and s not in found.open[name]]
        found.open[name] |= dict.fromkeys(missing, "missing")
    return found


class _Whose:
    """Which variant and seed a line is of."""

    def __init__(self, path: Path, columns: Sequence[str], variant: str | None, seed: str | None):
        self.path = path
        self.variant = _column(path, columns, "variant", variant, VARIANT)
        self.seed = _column(path, columns, "seed", seed, SEED)
        self.name = next((name for name in NAME if name in columns), None)
        if (self.variant is None or self.seed is None) and self.name is None:
            lacking = "variant" if self.variant is None else "seed"
            raise ConfigError(
                f"{path}: there is no column '{lacking}'; {lacking}=COLUMN names it; columns: {_listed(columns)}"
            )

    def read(self, number: int, line: Mapping[str, str]) -> tuple[str, int]:
        parts = PARTS.fullmatch(line[self.name]) if self.name is not None else None
        variant = line[self.variant] if self.variant is not None else parts and parts["variant"]
        seed = line[self.seed] if self.seed is not None else parts and parts["seed"]
        if not variant or not seed:
            lacking, column = ("variant", self.variant) if not variant else ("seed", self.seed)
            said = f"'{line[self.name]}' in column '{self.name}' is not VARIANT-SEED" if self.name else "is empty"
            where = f"column '{column}' is empty" if column is not None else said
            raise ConfigError(f"{self.path}, line {number}: no {lacking}: {where}")
        try:
            value = float(seed)
        except ValueError:
            value = math.nan
        if not value.is_integer():
            raise ConfigError(f"{self.path}, line {number}: seed '{seed}' is not an integer")
        return variant, int(value)


def _read(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of the file with their numbers."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            lines = [(reader.line_num, {k: (v or "").strip() for k, v in line.items() if k}) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read as CSV ({reason})") from None
    if not lines:
        raise ConfigError(f"{path}: has no line of results")
    return lines


def _column(path: Path, columns: Sequence[str], key: str, given: str | None, usual: Sequence[str]) -> str | None:
    if given is not None and given not in columns:
        raise unknown(key, given, columns)
    return given or next((name for name in usual if name in columns), None)


def _metric_column(path: Path, metric: str | None, lines: Sequence[tuple[int, dict[str, str]]]) -> str:
    columns = list(lines[0][1])
    if metric is not None:
        found = next((prefix + metric for prefix in METRIC if prefix + metric in columns), None)
        if found is None:
            raise unknown("metric", metric, columns)
        return found
    options = ("params.", "config.", "tags.")
    rest = [name for name in columns if name not in ABOUT and not name.startswith(options)]
    numbers = [name for name in rest if _has_numbers(line[name] for _, line in lines)]
    metrics = [name for name in numbers if name.startswith("metrics.")] or numbers
    if not metrics:
        raise ConfigError(f"{path}: there is no column of numbers beside variant and seed; columns: {_listed(columns)}")
    if len(metrics) > 1:
        raise ConfigError(f"metric: is missing; choices: {_listed(metrics)}")
    return metrics[0]


def _has_numbers(texts: Iterable[str]) -> bool:
    found = False
    for text in texts:
        if text:
            try:
                float(text)
            except ValueError:
                return False
            found = True
    return found


def _number(path: Path, number: int, column: str, text: str) -> float | None:
    """A number; None for an empty cell and for NaN."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{path}, line {number}: '{text}' in column '{column}' is not a number") from None
    return value if math.isfinite(value) else None


def _cost_of(path: Path, number: int, line: Mapping[str, str], name: str, found: Results) -> None:
    """Parameters and MACs where the file has them, as counts."""
    known = [_number(path, number, key, line.get(key, "")) for key in ("params", "macs")]
    if known[0] is not None and known[1] is not None:
        found.costs.setdefault(name, Cost(int(known[0]), int(known[1]), int(known[1]), 0))


def _listed(columns: Sequence[str]) -> str:
    return listed(list(columns), NAMED)


def table_of(found: Results, baseline: str | None, direction: str, percent: bool, source: str) -> tuple[Table, Config]:
    """The table of results, and the experiment that it stands for.

    Args:
        baseline: None is the first variant.
        direction: max or min, whichever is better.
        percent: whether values are fractions that are shown in percent.
        source: what the results are from.

    Raises:
        ConfigError: for a baseline that is none of the variants.
    """
    names = list(found.values)
    if baseline is not None and baseline not in names:
        raise unknown("baseline", baseline, names)
    baseline = baseline or names[0]
    unit = PERCENT if percent else Unit("", digits=_digits(found))
    key = found.metric.rpartition("/")[2]
    goal = Goal((Metric(key, found.metric, found.metric, unit, direction),), key)
    config = Config(name=source, seeds=found.seeds, baseline=baseline, variants={name: {} for name in names})
    evidence = evidence_of(config, found.values)
    rows = [_row(found, name, baseline, evidence) for name in names]
    facts = _facts(found, config, rows, unit, source, evidence)
    return Table(f"{source}: {found.metric}", goal, rows, facts, evidence=evidence), config


def _row(found: Results, name: str, baseline: str, evidence: Evidence) -> Row:
    values, states = found.values[name], list(found.open[name].values())
    return Row(
        name,
        found.costs.get(name),
        len(found.seeds),
        summarize(list(values.values())) if values else None,
        evidence.differences.get(name),
        name == baseline,
        {state: states.count(state) for state in dict.fromkeys(states)},
    )


def _facts(
    found: Results, config: Config, rows: Sequence[Row], unit: Unit, source: str, evidence: Evidence
) -> list[Fact]:
    gone = [f"{name} seed {seed} {state}" for name, of in found.open.items() for seed, state in sorted(of.items())]
    facts = []
    if gone:
        of = counted(sum(row.planned for row in rows), "result")
        facts.append(Fact(INCOMPLETE, f"{len(gone)} of {of} not there: {listed(gone, NAMED)}"))
    facts.append(Fact("Results", f"{source}, column {found.metric}; trained elsewhere: nothing else is known of them"))
    facts += comparison_facts(config, rows, unit, evidence)
    pairs = "by the number of the seed; it helps where runs of one seed share more, e.g. the order of images"
    return [*facts, Fact("Pairing", pairs)]


def write_comparison(folder: Path, table: Table, config: Config, found: Results) -> Written:
    """Write the tables, and `report/` with the page and its figures."""
    from shunted_lab.report.page import comparison_pictures, render_comparison

    texts = {name: render(table) for name, render in TABLES.items()}
    made = list(comparison_pictures(table, found.values))
    return publish(Target(folder), texts | {PAGE: render_comparison(table, config, made)}, made)


def _digits(found: Results) -> int:
    """So many that the largest value has four digits at least."""
    largest = max((abs(value) for of in found.values.values() for value in of.values()), default=1.0)
    return max(1, min(4, 4 - len(str(int(largest))))) if largest >= 1 else 4
