"""The figures of effects, of `leave_one_out` and `factorial`."""

from __future__ import annotations

from collections.abc import Iterator

from shunted_lab.config.variants import cells
from shunted_lab.report import plots
from shunted_lab.report.collect import StudyData
from shunted_lab.report.picture import Picture
from shunted_lab.study.states import headlines


def effect_pictures(data: StudyData) -> Iterator[Picture]:
    """Each effect with its interval; of a factorial, how the factors change each other's."""
    family, leading = data.table.evidence.effects, data.goal.leading
    if family is None:
        return
    rows = [(name, d.mean, d.low, d.high, d.n) for name, d in family.differences.items() if d is not None]
    if rows:
        text = f"{data.table.effects_facts[0].text}. Simultaneous 95 % intervals."
        yield Picture("main_effects", "Effects", text, plots.forest(rows, leading.label, leading.unit))
    factors, values = data.config.factorial, headlines(data.variants, [run.state for run in data.runs])
    if factors and all(values.values()):
        means = {having: sum(values[name].values()) / len(values[name]) for having, name in cells(data.config).items()}
        text = "Mean over the seeds and the other factors. Parallel lines: the factors do not interact."
        figure = plots.interactions(means, factors, leading.label, leading.unit)
        yield Picture("interactions", "Interactions", text, figure)
