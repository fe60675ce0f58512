"""The configuration of `run`: what is fixed, what varies, with how many seeds; and what is refused across its keys."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import MISSING

from shunted_lab.config.data import DataConfig
from shunted_lab.config.launch import LaunchConfig, StudyConfig
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.race import RaceConfig, race_of
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import group, height_width, one_of, option, path_option, require, section
from shunted_lab.config.search import ConfirmConfig, SearchConfig
from shunted_lab.config.task import TaskConfig

KNOBS = ("model.mlp_ratios", "model.embed_dims", "model.depths")  # of match_by
FEWEST_SEEDS = 6  # of an A/A study
RERUNS = ("stale", "failed", "all")


@dataclass
class PaperConfig:
    """The published side of an experiment: the scale to count costs at, and numbers that have a source."""

    model: str = option("shunted_s", "model preset for the costs at paper scale")
    image_size: Any = option(224, "pixels: the side of a square, or HEIGHTxWIDTH", type="int | str")
    classes: int = option(1000, "classes of its head")
    data: str = option("imagenet", "data set of the published numbers")
    head: str | None = option(None, "task.head at paper scale; null: that of the experiment")
    source: str | None = option(None, "publication that the numbers in rows are from")
    rows: dict[str, dict[str, Any]] = option(
        {}, "VARIANT: {METRIC: value, params: M, flops: G}, of the task's leading metric; leave unknown numbers out"
    )

    def __post_init__(self) -> None:
        height_width("paper.image_size", self.image_size)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image that costs are counted for."""
        return height_width("paper.image_size", self.image_size)


@dataclass
class LeaveOneOutConfig:
    """Which variants leave out one part of the baseline, so that their difference is the effect of that part."""

    without: list[str] = option([], "the variants that lack one part each")
    none: str | None = option(None, "the variant that lacks all of them; with it the interaction is reported")

    def __post_init__(self) -> None:
        require(bool(self.without), "leave_one_out.without", self.without, "is empty: name variants")


@dataclass
class BeginWithConfig:
    """Which runs of another experiment the runs begin with: those of the same variant and the same seed."""

    experiment: str = option(MISSING, "the other experiment; what it lacks is trained first")
    runs_dir: str | None = path_option(None, "folder of its results; null: runs_dir")
    variants: dict[str, str] = option({}, "VARIANT here: VARIANT there, where the names differ")


@dataclass
class Config:
    """The whole configuration of one command."""

    selects: ClassVar = ("experiment",)  # keys of the command line that choose a file, and are not in it

    name: str = option("", "the experiment's name: its file's, and its folder's in runs_dir")
    description: str = option("", "the question, in one line: the table's title")
    model: ModelConfig = group("shunted_lite")
    data: DataConfig = group("earth")
    task: TaskConfig = group(None)  # that of the data
    recipe: RecipeConfig = group("lite")
    launch: LaunchConfig = group("local")
    seeds: Any = option(
        [0, 1, 2],
        "one run per seed and variant; or {look: [3, 5, 8], until: decided, margin: 0.5}: more seeds for variants that "
        "are undecided",
        type="list[int] | {look:, until:, margin:, first:}",
    )
    baseline: str | None = option(None, "the variant that the others are compared with")
    variants: dict[str, dict[str, Any]] = option({}, "NAME: {dotted key: value}; each is one row of the table")
    across: dict[str, dict[str, Any]] = option(
        {}, "SETTING: {dotted key: value}; every variant in each, compared with the baseline in the same one"
    )
    leave_one_out: LeaveOneOutConfig | None = option(None, "report the effect of each part that variants leave out")
    factorial: list[str] = option(
        [], "variants that are factors: all combinations of their changes are trained, and effects reported"
    )
    calibrate: bool = option(
        False, "an A/A study: variants that differ in recipe.pair only; report coverage, pairing and noise"
    )
    match: str | None = option(
        None, "params or macs: scale match_by of each variant until it costs what the baseline does, within 1 %"
    )
    match_by: str = option(
        "model.mlp_ratios", "what is scaled: model.mlp_ratios, model.embed_dims (multiples of the heads), model.depths"
    )
    paper: PaperConfig | None = option(None, "costs at paper scale, and published numbers")
    search: SearchConfig | None = option(None, "search over a space instead of training all variants")
    confirm: ConfirmConfig | None = option(None, "train the best assignments of a finished search as variants")
    begin_with: BeginWithConfig | None = option(None, "begin with the weights of the runs of another experiment")
    study: StudyConfig = section(StudyConfig)
    only: Any = option(
        None,
        "train only this variant, or these: [a,b]; the table has all rows",
        type="str | list[str] | null",
    )
    rerun: str | None = option(None, "train finished or failed runs again: stale, failed, all; old results are kept")
    runs_dir: str = path_option("runs", "folder of all results")
    smoke: bool = option(False, "one epoch of two small batches, to test that everything works")
    plan_only: bool = option(False, "print what the call would do, and stop")

    def __post_init__(self) -> None:
        self._check_seeds()
        one_of("rerun", self.rerun, (None, *RERUNS))
        one_of("match", self.match, (None, "params", "macs"))
        one_of("match_by", self.match_by, KNOBS)
        if self.match is not None:
            varies = self.search is None and self.confirm is None
            require(varies, "match", self.match, "needs variants, and is not supported for search and confirm")
            require(
                self.paper is None, "match", self.match, "cannot be combined with paper: variants are not the paper's"
            )
        if self.begin_with is not None:
            name = self.begin_with.experiment
            varies = self.search is None and self.confirm is None
            require(varies, "begin_with", name, "is not supported for search and confirm")
            given = self.model.checkpoint
            require(given is None, "model.checkpoint", given, f"cannot be combined with begin_with ({name})")
            require(name != self.name, "begin_with.experiment", name, "is this experiment itself")
        names = self.only if isinstance(self.only, list) else [self.only]
        good = bool(names) and not any(isinstance(name, list | dict) or name == "" for name in names)
        require(good, "only", self.only, "is neither a variant's name nor a list of names")
        if self.search is not None:
            require(
                self.only is None, "only", self.only, "is not supported for a search, which has no rows to choose from"
            )
            one = len(self.all_seeds) == 1
            require(one, "seeds", self.seeds, "are too many for a search: all trials share one seed")
            require(self.confirm is None, "confirm", "", "cannot be combined with search")
            require(not self.across, "across", list(self.across), "is not supported for a search")
            known = self.rerun in (None, "failed")
            require(
                known,
                "rerun",
                self.rerun,
                "is not supported for a search, only failed is; start a new search with runs_dir=...",
            )

    def _check_seeds(self) -> None:
        if isinstance(self.seeds, dict):
            race_of(self.seeds)
            require(not self.calibrate, "calibrate", "true", "needs a list of seeds, not seeds.until")
            require(self.only is None, "only", self.only, "is not supported with seeds.until: all variants take part")
            require(
                self.rerun != "all", "rerun", "all", "is not supported with seeds.until; name=NAME starts another race"
            )
            return
        whole = isinstance(self.seeds, list) and all(type(seed) is int for seed in self.seeds)
        require(whole, "seeds", self.seeds, "is not a list of whole numbers, e.g. seeds=[0,1,2]")
        require(bool(self.seeds), "seeds", self.seeds, "is empty: at least one seed")
        require(min(self.seeds) >= 0, "seeds", self.seeds, "has a negative seed")
        require(len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "has a seed twice")
        enough = not self.calibrate or len(self.seeds) >= FEWEST_SEEDS
        require(enough, "seeds", self.seeds, f"are too few for calibrate: at least {FEWEST_SEEDS}, better 20")

    @property
    def race(self) -> RaceConfig | None:
        """How seeds are added until all variants are decided; None for a fixed list of seeds."""
        if not isinstance(self.seeds, dict):
            return None
        race = race_of(self.seeds)
        return dataclasses.replace(race, look=race.look[:2]) if self.smoke else race

    @property
    def all_seeds(self) -> list[int]:
        """Every seed that may be trained; a race may need fewer of them."""
        if self.race is not None:
            return self.race.seeds
        return list(self.seeds)[: FEWEST_SEEDS if self.calibrate and self.smoke else None]

    @property
    def compared(self) -> dict[str, str]:
        """Variant -> the baseline that it is compared with."""
        return {name: base for name in self.variants if (base := self.baseline_of(name)) != name}

    def baseline_of(self, variant: str) -> str:
        """The variant that another one is compared with: the baseline, in the same setting of `across`."""
        baseline = self.baseline or ""
        settings = [name for name in self.across if variant.endswith(f"-{name}")]
        return f"{baseline}-{max(settings, key=len)}" if settings else baseline
