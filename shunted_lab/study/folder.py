"""The folder of a run: what it is (`run.json`, `config.yaml`), what came out (`result.json`), and who works in it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from shunted_lab.config.groups import PRESETS
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.recipe import RecipeConfig as Recipe
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import write_json, write_text

Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast
FORMAT = 3  # of run folders and of the study's attributes; a folder of another format is refused
TRACEBACK = "traceback.txt"  # in the folder of a run that failed


@dataclass(frozen=True)
class Run:
    """One training: a variant with a seed. `sources` are the hashes of its components (`nn.source`)."""

    variant: str
    seed: int
    config: RunConfig
    fingerprint: str
    folder: Path
    sources: dict[str, str] = field(default_factory=dict)


def describe(run: Run, origin: dict[str, Any]) -> None:
    """Make a run's folder and say in it what the run is; `origin` is the git revision and the libraries' versions."""
    from shunted_lab import __version__

    run.folder.mkdir(parents=True, exist_ok=True)
    config = dataclasses.asdict(run.config)
    note = {
        "format": FORMAT,
        "version": __version__,
        "fingerprint": run.fingerprint,
        "variant": run.variant,
        "seed": run.seed,
        "sources": run.sources,
        "config": config,
    }
    write_json(run.folder / "run.json", note | origin)
    write_text(run.folder / "config.yaml", yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def load_run(folder: Path) -> Run:
    """The run that a folder was made for.

    Raises:
        ConfigError: if it is not a folder of a run, or one of another format.
    """
    note = _note(folder)
    config = note["config"]
    data, task, launch = (type(PRESETS[key][config[key]["name"]]) for key in ("data", "task", "launch"))
    model, recipe = ModelConfig(**config["model"]), Recipe(**config["recipe"])
    parts = data(**config["data"]), task(**config["task"]), recipe, launch(**config["launch"])
    run = RunConfig(model, *parts, config["seed"])
    return Run(note["variant"], note["seed"], run, note["fingerprint"], folder, note["sources"])


def find_checkpoint(checkpoint: str) -> tuple[Run | None, Path]:
    """The run and the file that `checkpoint=` means; no run for a file of weights.

    Args:
        checkpoint: a run's folder (then the file of the epoch that the run was tested with), a `.ckpt` in one, or a
            file of weights. `~` is not expanded: `compose` has done it.

    Raises:
        ConfigError: for what does not exist, a folder that is not a run's, or a run that has not finished an epoch.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise ConfigError(f"checkpoint: '{checkpoint}' does not exist; give a run's folder or a file of weights")
    if path.is_dir():
        run = load_run(path)
        file = path / "checkpoints" / ("best.ckpt" if run.config.recipe.select == "best" else "last.ckpt")
        if not file.exists():
            gone = (path / "result.json").exists()
            why = "the run has kept none (launch.keep=weights does)" if gone else "the run has not finished an epoch"
            raise ConfigError(f"checkpoint: {file} does not exist; {why}")
        return run, file
    folder = path.absolute().parent.parent  # RUN_FOLDER/checkpoints/last.ckpt
    own = path.suffix == ".ckpt" and (folder / "run.json").exists()
    return (load_run(folder) if own else None), path


def _note(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        note = json.loads(path.read_text())
        written, _ = note["format"], note["fingerprint"]
    except FileNotFoundError:
        raise ConfigError(f"{folder}: is not a run's folder: it has no run.json") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: is not a run of this version; move the folder away, or set runs_dir=...") from None
    if written != FORMAT:
        raise ConfigError(
            f"{path}: format {written}, written by shunted_lab {note.get('version')}; this version reads format "
            f"{FORMAT}; move the folder away, or set runs_dir=..."
        )
    return note


def read_result(run: Run) -> dict[str, Any] | None:
    """The result in a run's folder, or None if the run is not done there; a result that lacks a metric is not one.

    Raises:
        ConfigError: for a folder that another version has written, or that holds another configuration.
    """
    result = _result(run)
    return None if result is None or missing_metrics(run, result) else result


def problem_of(run: Run) -> str | None:
    """Why the result in a run's folder is not taken; None if it is, or if there is none."""
    result = _result(run)
    missing = [] if result is None else missing_metrics(run, result)
    return f"its result lacks {' and '.join(missing)}" if missing else None


def missing_metrics(run: Run, result: dict[str, Any]) -> list[str]:
    """What a result must have and has not: the metric of checkpoints and of the study, and that of the table."""
    goal = run.config.task.goal(run.config.data)
    return [name for name in (goal.monitor, goal.headline) if name not in result["metrics"]]


def _result(run: Run) -> dict[str, Any] | None:
    if not (run.folder / "run.json").exists():
        return None
    found = _note(run.folder)["fingerprint"]
    if found != run.fingerprint:
        raise ConfigError(f"{run.folder}: fingerprint {found} is not {run.fingerprint}; move the folder away")
    result = run.folder / "result.json"
    return json.loads(result.read_text()) if result.exists() else None
