"""What a search has found: its best trials beside the baseline. Trials of a search are never evidence."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import json_to_distribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from shunted_lab.config.model import ModelConfig
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.quantities import COSTS, Unit, cell_text, counted, difference_text, head_text
from shunted_lab.output.terminal import Grid
from shunted_lab.report.facts import INCOMPLETE, SMOKE_TEST, Fact
from shunted_lab.report.proxies import baseline_blocks
from shunted_lab.report.render import Block, block_grid, block_markdown
from shunted_lab.report.table_facts import replaced_images
from shunted_lab.study.manifest import Manifest, SearchSpec, read_home, read_manifest
from shunted_lab.study.prepare import read_study
from shunted_lab.study.search.space import Space
from shunted_lab.study.search.trials import best, costs_of, finished, is_over, tried
from shunted_lab.study.states import current

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shunted_lab.report.picture import Picture

COUNTED = {"macs": "MACs", "params": "params"}  # label of an axis with counts, which its ticks scale
SHOWN = 10  # rows of the table; the CSV has all


@dataclass(frozen=True)
class SearchTable:
    """The best trials of a search as text, and what may be said about them."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[str]]
    facts: list[Fact]
    complete: bool
    csv: str
    baselines: list[Block] = field(default_factory=list)


def build_search_table(manifest: Manifest, study: Study | None) -> SearchTable:
    """The table of a search; of an empty one where there is no study yet."""
    config, search = manifest.config, _spec(manifest)
    names = list(search.objectives)
    head = ("Assignment", *(head_text(n, manifest.goal.unit(n)) for n in names), "Params (M)", "GMACs")
    done = finished(study) if study else []
    base = [t for t in done if _is_baseline(t, search)]
    rows = [_row(manifest, names, t) for t in rows_of(manifest, study)]
    trials = tried(current(study)) if study else {}
    over = study is not None and bool(study.user_attrs.get("exhausted"))
    points = sum(is_over(ts) for ts in trials.values())
    complete = (over and points == len(trials)) or points >= search.trials
    facts = [SMOKE_TEST] if config.smoke else []
    facts += _counts(search, study, trials, over)
    facts.append(_verdict(manifest, base, done))
    facts += replaced_images({t.user_attrs["name"]: t.user_attrs["result"] for t in done})
    facts += _uncertain(done) if "latency" in names else []
    again = f"an experiment with confirm: {{search: {config.name}}} trains the best again with other seeds"
    facts.append(Fact("Not evidence", f"each trial has one seed and was chosen by validation; {again}"))
    title = f"{config.name}: {config.description}" if config.description else config.name
    baselines = _baselines(manifest, done)
    return SearchTable(title, head, rows, facts, complete, _csv(names, done), baselines)


def _baselines(manifest: Manifest, done: list[FrozenTrial]) -> list[Block]:
    """Cheaper ways to choose, for a search with one objective that each epoch measures."""
    (name, way), *others = _spec(manifest).objectives.items()
    if others or not name.startswith("val/"):
        return []
    epochs = base_of(manifest).recipe.epochs
    return baseline_blocks(done, name, 1 if way == "max" else -1, manifest.goal.unit(name), epochs)


def _spec(manifest: Manifest) -> SearchSpec:
    assert manifest.search is not None
    return manifest.search


def _is_baseline(trial: FrozenTrial, search: SearchSpec) -> bool:
    return trial.params == search.baseline


def rows_of(manifest: Manifest, study: Study | None) -> list[FrozenTrial]:
    """The trials of the table's rows: the baseline, then the best."""
    if study is None:
        return []
    top = best(study, SHOWN)
    base = [t for t in finished(study) if _is_baseline(t, _spec(manifest))]
    return [*base, *(t for t in top if t not in base)]


def load_search(folder: Path) -> tuple[Manifest, Study | None]:
    """The search in a folder, as it is now. Nothing is trained or written.

    Raises:
        ConfigError: for a folder that is not a search's, or a database that cannot be read.
    """
    manifest = read_manifest(folder)
    if manifest.search is None:
        raise ConfigError(f"{folder}: is not a search")
    return manifest, read_study(read_home(folder), manifest)


def rates_of_heads(model: ModelConfig) -> list[list[int]]:
    """The rate of every head of each stage."""
    return [
        [rate for rate in rates for _ in range(heads // len(rates))]
        for rates, heads in zip(model.rates, model.num_heads, strict=True)
    ]


def front_figure(manifest: Manifest, study: Study) -> Figure | None:
    """The first objective against the second one, or against the MACs; None before a trial is done."""
    from shunted_lab.report.plots import search_front

    done, search, goal = finished(study), _spec(manifest), manifest.goal
    names = list(search.objectives.items())
    if not done:
        return None
    base = next((i for i, t in enumerate(done) if _is_baseline(t, search)), None)
    labels = [t.user_attrs["name"] for t in done]
    (xname, xway), other = ("macs", "min"), [_macs(t) for t in done]
    if len(names) > 1:
        (xname, xway), other = names[1], [t.values[1] for t in done]
    yname, yway = names[0]
    axes = [_axis(xname, goal.unit(xname), other)]
    axes.append(_axis(yname, goal.unit(yname), [t.values[0] for t in done]))
    (xlabel, x, x_percent), (ylabel, y, y_percent) = axes
    good, ways = [True] * len(done), (xway, yway)
    return search_front(x, y, labels, good, base, xlabel, ylabel, ways, (x_percent, y_percent))


def _axis(name: str, unit: Unit, values: list[float]) -> tuple[str, list[float], bool]:
    """The label and values of an axis, and whether they are fractions in percent; its ticks scale counts."""
    if unit.symbol == "%":
        return name, values, True
    if name in COUNTED:
        return COUNTED[name], values, False
    return head_text(name, unit), [value * unit.scale for value in values], False


def importance_of(study: Study) -> dict[str, float]:
    """Parameter -> its importance for the first objective (PED-ANOVA, arXiv 2304.10255); empty for too few trials."""
    done = finished(study)
    if len(done) < 4 or not any(len({str(t.params[k]) for t in done if k in t.params}) > 1 for k in done[0].params):
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    if len(study.directions) == 1:
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*low `target` values.*")  # with a target, low is taken for good: so it is
        return optuna.importance.get_param_importances(
            study, evaluator=evaluator, target=lambda trial: sign * trial.values[0]
        )


def search_pictures(manifest: Manifest, study: Study | None) -> list[Picture]:
    """The figures of a search."""
    from shunted_lab.report.picture import Picture
    from shunted_lab.report.plots import importance, rates_heatmap

    if study is None:
        return []
    made = []
    front = front_figure(manifest, study)
    if front is not None:
        made.append(Picture("front", "Pareto front of the search", "All finished trials; one seed each.", front))
    weights = importance_of(study)
    if any(weights.values()):
        text = (
            "PED-ANOVA of the first objective: how much the best trials agree on it. It is not evidence of an effect."
        )
        made.append(Picture("importance", "Importance of parameters", text, importance(weights)))
    space = Space({key: json_to_distribution(text) for key, text in _spec(manifest).space.items()}, base_of(manifest))
    chosen = [
        (t.user_attrs["name"], rates_of_heads(replace(space.base.model, **_model_changes(space, t.params))))
        for t in rows_of(manifest, study)
    ]
    if chosen and any(key.startswith("rates[") for key in space.distributions):
        text = "Baseline first, then the best; one column per head."
        made.append(Picture("rates", "Rates of the heads", text, rates_heatmap(chosen)))
    return made


def _model_changes(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a point changes of the model's heads and rates."""
    changes = space.changes(params)
    return {k: changes[f"model.{k}"] for k in ("rates", "num_heads") if f"model.{k}" in changes}


def base_of(manifest: Manifest) -> RunConfig:
    """The configuration that the points of a search change."""
    return next(iter(manifest.variants.values()))


def _row(manifest: Manifest, names: Sequence[str], trial: FrozenTrial) -> Sequence[str]:
    costs, known = costs_of(trial), _spec(manifest).names
    label = trial.user_attrs["name"]
    shown = f"{label} ({known[label]})" if label in known else label
    values = (cell_text(v, manifest.goal.unit(name)) for name, v in zip(names, trial.values, strict=True))
    return shown, *values, *(cell_text(costs[name], COSTS[name]) for name in ("params", "macs"))


def _counts(search: SearchSpec, study: Study | None, trials: dict[str, list[FrozenTrial]], over: bool) -> list[Fact]:
    states = [ts[-1].state for ts in trials.values()]
    done = sum(any(t.state == TrialState.COMPLETE for t in ts) for ts in trials.values())
    pruned = states.count(TrialState.PRUNED)
    planned = counted(search.trials, "assignment")
    facts = [Fact("Tried", f"{len(trials)} of {planned}: {done} trained, {pruned} pruned")]
    rest = len(trials) - done - pruned
    if rest:
        facts.append(Fact(INCOMPLETE, f"{rest} {'is' if rest == 1 else 'are'} running, interrupted or failed"))
    if over:
        facts.append(Fact("Exhausted", "no other assignment satisfies the constraints"))
    given = study.get_trials(deepcopy=False) if study else []
    broken = sum(str(t.user_attrs.get("given_back", "")).startswith("more ") for t in given)
    if broken:
        verb = "violates" if broken == 1 else "violate"
        facts.append(Fact("Rejected before training", f"{counted(broken, 'proposal')} that {verb} a constraint"))
    facts += [Fact("Constraint", f"{name} at most {bound:,.0f}") for name, bound in search.bounds.items()]
    return facts


def _verdict(manifest: Manifest, base: list[FrozenTrial], done: list[FrozenTrial]) -> Fact:
    """Whether something was found that is better than the baseline in the first objective, and costs no more: among
    all points, not only those that the table shows.
    """
    if not base:
        return Fact("Best", "the baseline is not trained yet")
    name, way = next(iter(_spec(manifest).objectives.items()))
    sign = 1 if way == "max" else -1
    better = [t for t in done if _macs(t) <= _macs(base[0]) and sign * (t.values[0] - base[0].values[0]) > 0]
    if not better:
        return Fact("Best", f"nothing was found with a better {name} than the baseline at its MACs or fewer")
    best_one = max(better, key=lambda t: (sign * t.values[0], -t.number))
    gain = difference_text(best_one.values[0] - base[0].values[0], manifest.goal.unit(name))
    return Fact("Best at the baseline's MACs or fewer", f"{best_one.user_attrs['name']}, {name} {gain}")


def _uncertain(trials: list[FrozenTrial]) -> list[Fact]:
    """How many latencies were measured on a machine that was too busy for them."""
    costs = [costs_of(t) for t in trials]
    spreads = [found["latency_spread"] for found in costs if "latency_spread" in found]
    if not spreads:
        return []
    differed = f"rounds differed by up to {100 * max(spreads):.0f} %, the machine was busy"
    return [Fact("Uncertain latency", f"{len(spreads)} of {counted(len(trials), 'trial')}: {differed}")]


def _macs(trial: FrozenTrial) -> float:
    return float(costs_of(trial)["macs"])


def _csv(names: list[str], trials: list[FrozenTrial]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", "name", *names, "params", "macs", "macs_attention", "seconds", "fingerprint"])
    for t in trials:
        costs = costs_of(t)
        counts = [costs[key] for key in ("params", "macs", "macs_attention")]
        more = [t.user_attrs["result"].get("seconds", ""), t.user_attrs["fingerprint"]]
        writer.writerow([t.number, t.user_attrs["name"], *t.values, *counts, *more])
    return out.getvalue()


def blocks_of(table: SearchTable) -> list[Block]:
    """The trials, and what cheaper ways would have chosen."""
    return [Block(table.title, table.head, table.rows, table.facts), *table.baselines]


def to_markdown(table: SearchTable) -> str:
    """Pipe tables with their facts."""
    return "\n".join(map(block_markdown, blocks_of(table)))


def to_terminal(table: SearchTable) -> list[Grid]:
    """For a terminal."""
    return [block_grid(block) for block in blocks_of(table)]
