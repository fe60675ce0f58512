"""What cheap baselines would have made of the trials of a search: one epoch for each, random draws, and costs alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from optuna.trial import FrozenTrial
from scipy import stats

from shunted_lab.output.quantities import Unit, cell_text, counted
from shunted_lab.report.facts import Fact
from shunted_lab.report.render import UNKNOWN, Block
from shunted_lab.study.search.trials import DRAWN, RANDOM, costs_of

FEWEST = 5  # trials with a rank correlation
TOP = 3  # assignments that a baseline hands on


def baseline_blocks(trials: Sequence[FrozenTrial], metric: str, sign: int, unit: Unit, epochs: int) -> list[Block]:
    """The baselines of a search with one objective that is measured after each epoch; none for too few trials.

    Args:
        trials: the finished ones.
        metric: the objective.
        sign: 1 where more of it is better, -1 where less is.
        epochs: of a training.
    """
    scored = [t for t in trials if t.intermediate_values]
    if len(scored) < FEWEST:
        return []
    return [_correlations(scored, metric, sign), _baselines(trials, scored, metric, sign, unit, epochs)]


def _first(trial: FrozenTrial) -> float:
    """The objective after the first epoch."""
    return trial.intermediate_values[min(trial.intermediate_values)]


def _correlations(trials: Sequence[FrozenTrial], metric: str, sign: int) -> Block:
    """How well a trial's rank is known before it is trained to its end."""
    final = [sign * t.values[0] for t in trials]
    early: dict[str, Callable[[FrozenTrial], float]] = {
        "parameters": lambda t: float(costs_of(t)["params"]),
        "MACs": lambda t: float(costs_of(t)["macs"]),
        f"{metric} after 1 epoch": lambda t: sign * _first(t),
    }
    rows: list[Sequence[str]] = []
    for name, of in early.items():
        found = stats.spearmanr([of(t) for t in trials], final)
        known = np.isfinite(found.statistic)
        rows.append((name, f"{found.statistic:+.2f}".replace("-", "−") if known else UNKNOWN))
    text = f"with the final {metric} of {counted(len(trials), 'trial')}; 1: the same order, 0: no relation"
    return Block("Rank correlations", ("Known before", "Spearman's ρ"), rows, [Fact("Spearman's ρ", text)])


def _baselines(
    trials: Sequence[FrozenTrial],
    scored: Sequence[FrozenTrial],
    metric: str,
    sign: int,
    unit: Unit,
    epochs: int,
) -> Block:
    """The best of the search, and the best that cheaper ways would have chosen from its trials."""

    def best(of: Sequence[FrozenTrial]) -> FrozenTrial:
        return max(of, key=lambda t: (sign * t.values[0], -t.number))

    def row(name: str, of: Sequence[FrozenTrial], count: int, trained: float) -> Sequence[str]:
        value = cell_text(best(of).values[0], unit) if of else UNKNOWN
        return name, value, str(count), f"{trained:.0f}"

    rows = [row("this search", trials, len(trials), len(trials) * epochs)]
    ranked = sorted(scored, key=lambda t: (-sign * _first(t), t.number))[:TOP]
    rows.append(row("i-Epoch, i = 1", ranked, len(scored), len(scored) + len(ranked) * (epochs - 1)))
    drawn = [t for t in trials if t.user_attrs.get(DRAWN) == RANDOM]
    rows.append(row("random search", drawn, len(drawn), len(drawn) * epochs))
    facts = [
        Fact(
            "i-Epoch", f"one epoch for each assignment, then the {TOP} best are trained to the end (arXiv 2404.04111)"
        ),
        Fact(
            "Random search", "the assignments here that were drawn at random; search.sampler=random draws all of them"
        ),
        Fact("Not evidence", "values of the validation split with one seed each: the best of them is partly luck"),
    ]
    head = ("Way to choose", f"best {metric}" + (f" ({unit.symbol})" if unit.symbol else ""), "Assignments", "Epochs")
    return Block("Baselines of the search", head, rows, facts)
