"""A study in Python: what commands do, for scripts and notebooks.

>>> from shunted_lab import Study
>>> study = Study("runs/ablate_embed")
>>> study.table, study.runs, study.figures["differences"]
>>> Study.plan(["experiment=ablate_embed", "seeds=[0,1]"]).execute().report()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shunted_lab.config.compose import compose
from shunted_lab.config.paths import expand
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import eval_transform
from shunted_lab.report.collect import StudyData, collect
from shunted_lab.report.render import to_markdown
from shunted_lab.report.states import states_of
from shunted_lab.study.folder import find_checkpoint
from shunted_lab.study.folder import load_run as read_run
from shunted_lab.study.manifest import Manifest, read_manifest
from shunted_lab.tasks.evidence import StoredEvidence, read_evidence
from shunted_lab.tasks.predictions import Predictions, read_predictions

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from torch import nn

    from shunted_lab.config.run import RunConfig
    from shunted_lab.study.session import Planned


@dataclass(frozen=True)
class Shown:
    """A table that a notebook shows; `data` is a `report.table.Table`, or a `report.search.SearchTable`."""

    markdown: str
    data: Any

    def _repr_markdown_(self) -> str:
        return self.markdown

    def __str__(self) -> str:
        return self.markdown


class Study:
    """The study in a folder as it is now, an experiment's or a search's. Reading it trains and writes nothing.

    Args:
        folder: e.g. `runs/ablate_embed`; a copy from another machine will do.

    Raises:
        ConfigError: for a folder that is not a study's.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(expand(str(folder)))
        self._planned: Planned | None = None
        self._overrides: list[str] = []
        self._plan: str | None = None

    @classmethod
    def plan(cls, overrides: Sequence[str]) -> Study:
        """The study of a command, e.g. `["experiment=ablate_embed"]`; nothing is written before `execute`.

        Raises:
            ConfigError: for overrides that do not compose, and for what cannot be planned.
        """
        from shunted_lab.study.session import plan_experiment

        planned = plan_experiment(compose(overrides), overrides)
        study = cls(planned.manifest.folder)
        study._planned, study._overrides = planned, list(overrides)
        return study

    @property
    def todo(self) -> list[str]:
        """The variant of each run that `execute` trains; empty for a study that was not planned."""
        return self._planned.names if self._planned else []

    def execute(self) -> Study:
        """Train what is missing, with the engine of the configuration (`launch=...`). Returns this study.

        Raises:
            ConfigError: for a study that was not planned, and for what cannot be started.
            KeyboardInterrupt: after Ctrl-C; the runs have written checkpoints.
        """
        from shunted_lab.study.session import execute, expect, next_look, plan_experiment
        from shunted_lab.study.watch import Quiet

        if self._planned is None:
            raise ConfigError(f'{self.folder}: was opened to read; Study.plan(["experiment=..."]) trains')
        if (before := self._planned.before) is not None:  # what the runs begin with
            other = Study(before.manifest.folder)
            other._planned = before
            other.execute()
            self._planned = plan_experiment(self._planned.experiment, self._overrides)
        planned: Planned | None = self._planned
        while planned is not None:  # once, or for each look of a race
            expected = expect(planned)
            planned.check(expected)
            planned.check_images(print)
            execute(planned, expected, lambda names, workers: Quiet(), print)
            planned = next_look(planned, self._overrides)
        self._planned = None
        return self

    def report(self) -> list[Path]:
        """Write the tables, the figures and the page; their files."""
        from shunted_lab.report.write import write_report
        from shunted_lab.report.write_search import write_search

        if self.manifest.search is None:
            return write_report(self.data).paths
        return write_search(self.manifest, self.optuna, self.table.data).paths

    @property
    def manifest(self) -> Manifest:
        """The last plan of the study."""
        return self._planned.manifest if self._planned else read_manifest(self.folder, self._plan)

    @property
    def optuna(self) -> Any:
        """Optuna's study, only to read; None before anything was enqueued."""
        from shunted_lab.study.manifest import read_home
        from shunted_lab.study.prepare import read_study

        return read_study(read_home(self.folder), self.manifest)

    @property
    def data(self) -> StudyData:
        """All that is known of an experiment: states, results, curves, evidence."""
        return collect(states_of(self.manifest))

    @property
    def table(self) -> Shown:
        """The table of the experiment or the search."""
        if self.manifest.search is None:
            table = self.data.table
            return Shown(to_markdown(table), table)
        from shunted_lab.report import search

        found = search.build_search_table(self.manifest, self.optuna)
        return Shown(search.to_markdown(found), found)

    @property
    def figures(self) -> dict[str, Figure]:
        """Name -> figure of the report, e.g. `top1_macs`, `differences`, `classes`; of a search `front`, `rates`."""
        from shunted_lab.report.page import pictures
        from shunted_lab.report.search import search_pictures

        found = pictures(self.data) if self.manifest.search is None else search_pictures(self.manifest, self.optuna)
        return {picture.name: picture.figure for picture in found}

    @property
    def runs(self) -> pandas.DataFrame:
        """One row a run, or a trial of a search: its state, metrics (fractions) and costs (counts, seconds, bytes)."""
        pandas = _pandas()
        if self.manifest.search is not None:
            return pandas.read_csv(_text(self.table.data.csv))
        from shunted_lab.report.write import runs_csv

        return pandas.read_csv(_text(runs_csv(self.data)))

    @property
    def image_differences(self) -> pandas.DataFrame:
        """Each variant against its baseline on the same test images: a paired bootstrap, and McNemar's p by seed."""
        from shunted_lab.report.collect import image_evidence
        from shunted_lab.report.render import interval_text

        data = self.data
        rows = [
            {"variant": found.variant, "difference": interval_text(found.bootstrap, data.goal.leading.unit)}
            | {f"seed {seed}: p": round(test.p, 4) for seed, test in found.mcnemar.items()}
            for found in image_evidence(data)
        ]
        return _pandas().DataFrame(rows)

    @property
    def class_scores(self) -> pandas.DataFrame:
        """Class x variant: the score on the test split, mean over the seeds."""
        from shunted_lab.report.collect import class_scores

        names, scores = class_scores(self.data)
        return _pandas().DataFrame(scores, index=names)

    def run_folder(self, variant: str, seed: int) -> Path:
        """The folder of a run.

        Raises:
            ConfigError: for a variant or a seed that was not planned.
        """
        from shunted_lab.config.schema import unknown

        folders = {(run.variant, run.seed): run.folder for run in self.manifest.runs}
        if (variant, seed) not in folders:
            raise unknown("run", f"{variant}, seed {seed}", [f"{name}, seed {number}" for name, number in folders])
        return folders[variant, seed]

    def predictions(self, variant: str, seed: int) -> Predictions | None:
        """What a classifier has predicted for each image of the test split; None where nothing is stored."""
        return read_predictions(self.run_folder(variant, seed))

    def evidence(self, variant: str, seed: int) -> StoredEvidence | None:
        """The score of each image of the test split, of any task; None where nothing is stored."""
        return read_evidence(self.run_folder(variant, seed))


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise ConfigError(
            "Study.runs needs pandas, which is not installed; pip install 'shunted_lab[notebooks]'"
        ) from None
    return pandas


def _text(text: str) -> Any:
    import io

    return io.StringIO(text)


@dataclass(frozen=True)
class TrainedRun:
    """A trained model and what it was trained as.

    Args:
        model: in `eval()`, on the CPU; takes what `transform` gives, in batches (B, 3, H, W).
        class_names: in the order of the labels; empty for a task without classes.
    """

    model: nn.Module
    config: RunConfig
    class_names: tuple[str, ...]

    @cached_property
    def transform(self) -> Any:
        """PIL image -> (3, H, W), as images of the test split are prepared."""
        return eval_transform(self.config.data)


def load_run(folder: str | Path) -> TrainedRun:
    """The model that a run was tested with, e.g. of `runs/ablate_embed/overlapping/seed0-1a2b3c4d`.

    Raises:
        ConfigError: for a folder that is not a run's, or has no weights.
    """
    import torch

    from shunted_lab.tasks.checkpoint import load_model

    path = expand(str(folder))
    config = read_run(Path(path)).config
    file = find_checkpoint(path)[1]
    names = tuple(torch.load(file, map_location="cpu", weights_only=True).get("class_names", ()))
    return TrainedRun(load_model(config.model, file, names, config.task).net.eval(), config, names)
