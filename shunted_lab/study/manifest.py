"""What a command has planned, as a file of the study: enough to train every run and to report on them.

`study.json` in a study's folder says which study it is and which plan is the latest. `plans/ID.json` is the manifest
of a plan: the configuration of every variant, its costs, what it is measured by, and the fingerprint of each run. A
worker and a report read nothing else but the folders of the runs: no experiment file, no data set, no user's code.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from shunted_lab import __version__
from shunted_lab.config.data import DataFacts
from shunted_lab.config.experiment import BeginWithConfig, Config, LeaveOneOutConfig, PaperConfig
from shunted_lab.config.launch import StudyConfig
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.search import ConfirmConfig, SearchConfig
from shunted_lab.config.task import Goal
from shunted_lab.config.variants import chosen
from shunted_lab.nn.cost import Cost
from shunted_lab.output.files import atomic, digest_of_values, write_json
from shunted_lab.study.folder import FORMAT, WEIGHTS, Run
from shunted_lab.study.recorded import read_goal, run_of
from shunted_lab.study.rule import Rule
from shunted_lab.study.storage import masked

STUDY, PLANS = "study.json", "plans"
STORAGE = "SHUNTED_LAB_STORAGE"  # environment of a worker: the URL of the database, with its password


@dataclass(frozen=True)
class Home:
    """Which study a folder holds. Two folders with an experiment of one name are two studies, in one database too.

    `storage` is `study.storage` without its password; `plan` the manifest of the last command.
    """

    folder: Path
    id: str
    name: str
    storage: str | None
    plan: str | None = None

    @property
    def url(self) -> str | None:
        """`study.storage` with its password, which is in the environment only."""
        given = os.environ.get(STORAGE)
        return (
            given if given is not None and self.storage is not None and masked(given) == self.storage else self.storage
        )

    def study_name(self, goal: Goal | None) -> str:
        """The name of Optuna's study: one for each leading metric, and one for a search (None)."""
        return "-".join([self.name, self.id, *([goal.lead.replace("/", "-")] if goal else [])])


def keep_password(storage: str | None) -> None:
    """Keep the password of `study.storage` for this process and its workers; no file has it."""
    if storage is not None and storage != masked(storage):
        os.environ[STORAGE] = storage


def read_home(folder: Path) -> Home | None:
    """The study of a folder; None if there is none yet.

    Raises:
        ConfigError: for a study of another version.
    """
    path = folder / STUDY
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        written = found.pop("format"), found.pop("version")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{path}: is not a study of this version; move the folder away, or set runs_dir=..."
        ) from None
    if written[0] != FORMAT:
        raise ConfigError(
            f"{path}: format {written[0]}, written by shunted_lab {written[1]}; this version reads format {FORMAT}; "
            "move the folder away, or set runs_dir=..."
        )
    return Home(folder, **found)


def make_home(folder: Path, storage: str | None) -> Home:
    """The study of a folder, made if there is none. `storage` changes where it is kept; None keeps it where it is."""
    given = None if storage is None else masked(storage)
    home = read_home(folder)
    if home is None:
        folder.mkdir(parents=True, exist_ok=True)
        home = _first(Home(folder, uuid.uuid4().hex[:8], folder.name, given))
    if given is not None and home.storage != given:
        home = replace(home, storage=given)
        _write(home)
    return home


def _first(home: Home) -> Home:
    """The study of a folder that has none: of several processes that make one at once, the first wins."""
    path = home.folder / STUDY
    draft = path.with_name(f".{STUDY}.{home.id}")
    write_json(draft, _content(home))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        with suppress(FileExistsError), open(path, "x") as file:
            json.dump(_content(home), file, indent=2)
    finally:
        draft.unlink()
    found = read_home(home.folder)
    assert found is not None
    return found


def _content(home: Home) -> dict[str, Any]:
    content = {key: value for key, value in asdict(home).items() if key != "folder"}
    return {"format": FORMAT, "version": __version__, **content}


def _write(home: Home) -> None:
    write_json(home.folder / STUDY, _content(home))


@dataclass(frozen=True)
class SearchSpec:
    """A search as it was planned: enough to propose points, and to report on them.

    Args:
        objectives: metric -> max or min.
        space: parameter -> Optuna's distribution as JSON.
        first: the points that are tried first.
        baseline: the point that all are compared with.
        names: label of a point -> the variant of the experiment that it is.
        bounds: params or macs -> the most that is allowed.
        base: what all trials share, flat: another base is another search.
        trials: how many points are to be tried.
    """

    objectives: dict[str, str]
    space: dict[str, str]
    first: list[dict[str, Any]]
    baseline: dict[str, Any]
    names: dict[str, str]
    bounds: dict[str, float]
    base: dict[str, Any]
    trials: int


@dataclass(frozen=True)
class Manifest:
    """A plan. `config`, `variants` and `goal` are as in `config.compose.Experiment`.

    Args:
        folder: the study's.
        facts: of each variant's data.
        costs, paper_costs: by variant; `paper_costs` is empty for an experiment without `paper:`.
        measured_as: variant -> the key of its measured costs (`study.costs.measure`).
        runs: all that the table shows.
        search: of a search.
        rule: how an experiment with `seeds.until` decides.
        begins_with: what the weights are that the runs begin with, for people; empty without `begin_with`.
    """

    folder: Path
    config: Config
    variants: dict[str, RunConfig]
    goal: Goal
    facts: dict[str, DataFacts]
    costs: dict[str, Cost]
    paper_costs: dict[str, Cost] = field(default_factory=dict)
    measured_as: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    search: SearchSpec | None = None
    begins_with: str = ""
    rule: Rule | None = None

    @property
    def objectives(self) -> dict[str, str]:
        """Metric -> max or min: what Optuna's study is named after."""
        return self.search.objectives if self.search else {self.goal.monitor: self.goal.mode}

    @property
    def trained(self) -> dict[str, Run]:
        """Fingerprint -> the runs that workers may take: all of the variants that `only` chooses."""
        only = chosen(self.config)
        return {run.fingerprint: run for run in self.runs if run.variant in only}

    @property
    def measures(self) -> bool:
        """Whether latency and memory of the variants are measured when all are trained."""
        return self.config.launch.measure and not self.config.smoke and self.search is None

    def study_name(self, home: Home) -> str:
        """The name of Optuna's study."""
        return home.study_name(None if self.search else self.goal)

    def write(self, home: Home) -> str:
        """Write the manifest and make it the study's latest plan; its ID, by which workers find it."""
        content = _packed(self)
        plan = digest_of_values(content)[:12]
        (home.folder / PLANS).mkdir(exist_ok=True)
        path = home.folder / PLANS / f"{plan}.json"
        if not path.exists():
            with atomic(path) as file:
                file.write(json.dumps(content).encode())
        if plan != home.plan:
            _write(replace(home, plan=plan))
        return plan


def read_manifest(folder: Path, plan: str | None = None, recorded: bool = True) -> Manifest:
    """The manifest of a study's folder.

    Args:
        plan: its ID; None is the latest one.
        recorded: take what was recorded of data sets and tasks; else their classes are imported, to train.

    Raises:
        ConfigError: for a folder that is not a study's, or of another version.
    """
    home = read_home(folder)
    if home is None or (home.plan is None and plan is None):
        raise ConfigError(
            f"{folder}: is not a study's folder: it has no {STUDY} with a plan; give e.g. runs/ablate_embed"
        )
    path = folder / PLANS / f"{plan or home.plan}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: does not exist; the experiment's command makes it again") from None
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); the experiment's command makes it again") from None
    return _unpacked(folder, content, recorded)


def _packed(manifest: Manifest) -> dict[str, Any]:
    config = manifest.config
    variants = {}
    for name, run in manifest.variants.items():
        facts = manifest.facts[name]
        variants[name] = {
            "config": asdict(run),
            "data": {key: getattr(run.data, key) for key in ("description", "preparation", "regions", "synthetic")},
            "task": {
                "per_class_meaning": run.task.per_class_meaning,
                "input_size": run.task.input_size(run.data),
                "goal": asdict(run.task.goal(run.data)),
            },
            "facts": asdict(facts),
            "cost": asdict(manifest.costs[name]) if name in manifest.costs else None,
            "paper_cost": asdict(manifest.paper_costs[name]) if name in manifest.paper_costs else None,
            "measured_as": manifest.measured_as.get(name),
        }
    sources = {run.variant: run.sources for run in manifest.runs}
    kept = {**asdict(config), "study": asdict(replace(config.study, storage=None)), "plan_only": False}
    return {
        "format": FORMAT,
        "config": kept,
        "goal": asdict(manifest.goal),
        "begins_with": manifest.begins_with,
        "variants": variants,
        "sources": sources,
        "runs": [
            [
                run.variant,
                run.seed,
                run.fingerprint,
                run.configuration,
                str(run.folder.relative_to(manifest.folder)),
                [run.config.model.checkpoint, run.sources.get(WEIGHTS)],  # by seed, where runs begin with others
            ]
            for run in manifest.runs
        ],
        "search": None if manifest.search is None else asdict(manifest.search),
        "rule": None if manifest.rule is None else asdict(manifest.rule),
    }


def _unpacked(folder: Path, content: dict[str, Any], recorded: bool) -> Manifest:
    variants, named = {}, content["variants"]
    for name, found in named.items():
        about = {"data": found["data"], "task": found["task"]} if recorded else None
        variants[name] = run_of(found["config"], about)
    first = next(iter(named.values()))
    parts = run_of(
        {**content["config"], "seed": 0}, {key: first[key] for key in ("data", "task")} if recorded else None
    )
    sources, costs = content["sources"], {name: cost_values(found["cost"]) for name, found in named.items()}
    runs = [
        Run(
            name,
            seed,
            replace(variants[name], seed=seed, model=replace(variants[name].model, checkpoint=weights[0])),
            fingerprint,
            folder / place,
            sources[name] | ({WEIGHTS: weights[1]} if weights[1] is not None else {}),
            chosen,
            costs[name],
        )
        for name, seed, fingerprint, chosen, place, weights in content["runs"]
    ]
    search = content["search"]
    return Manifest(
        folder,
        _config_of(content["config"], parts),
        variants,
        read_goal(content["goal"]),
        {name: _facts_of(found["facts"]) for name, found in named.items()},
        {name: Cost(**found["cost"]) for name, found in named.items() if found["cost"]},
        {name: Cost(**found["paper_cost"]) for name, found in named.items() if found["paper_cost"]},
        {name: found["measured_as"] for name, found in named.items() if found["measured_as"]},
        runs,
        None if search is None else SearchSpec(**search),
        content["begins_with"],
        None if content["rule"] is None else _rule_of(content["rule"]),
    )


def _rule_of(found: dict[str, Any]) -> Rule:
    return Rule(**found | {key: tuple(found[key]) for key in ("looks", "sizes")})


def _facts_of(found: dict[str, Any]) -> DataFacts:
    return DataFacts(tuple(found["class_names"]), found["identity"], tuple(found["notes"]))


def _config_of(found: dict[str, Any], parts: RunConfig) -> Config:
    groups = {key: getattr(parts, key) for key in ("model", "data", "task", "recipe", "launch")}
    kinds: dict[str, Any] = {
        "begin_with": BeginWithConfig,
        "paper": PaperConfig,
        "search": SearchConfig,
        "confirm": ConfirmConfig,
        "leave_one_out": LeaveOneOutConfig,
        "study": StudyConfig,
    }
    made = {key: None if found[key] is None else kind(**found[key]) for key, kind in kinds.items()}
    return Config(**found | groups | made)


def cost_values(cost: dict[str, int] | None) -> dict[str, float]:
    """What is kept of a cost with a run, to be compared and shown."""
    return {key: cost[key] for key in ("params", "macs", "macs_attention")} if cost else {}
