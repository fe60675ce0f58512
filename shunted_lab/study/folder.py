"""The folder of a run: what it is (`run.json`), what came out (`result.json`), and where it lies in its study's folder.

A folder is named after the variant, the seed and the first digits of the fingerprint: `overlapping/seed0-1a2b3c4d`. It
keeps that name where the variant is renamed: a run is found by its fingerprint.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shunted_lab import __version__
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import write_json
from shunted_lab.study.recorded import run_of

WEIGHTS = "model.checkpoint"  # among the sources of a run: the content of that file
FORMAT = 5  # of run folders, studies and manifests; what has another format is refused
NOTE, RESULT = "run.json", "result.json"
TRACEBACK = "traceback.txt"  # in the folder of a run that failed
TRIALS = "trials"  # in the folder of a search: its runs
DIGITS = 8  # of a fingerprint in the name of a folder
ASIDE = "*.[0-9]*"  # folders of runs that a rerun has replaced


@dataclass(frozen=True)
class Run:
    """One training: a variant with a seed. The variant is a label; the fingerprint is the run.

    Args:
        sources: what its numbers depend on beside its configuration and data (`identity.sources_of`).
        configuration: what a user has chosen for it (`identity.configuration_of`).
        costs: params, macs and macs_attention of its model.
        measure: latency and memory after training, for a search that compares them.
        params: of a search's point.
    """

    variant: str
    seed: int
    config: RunConfig
    fingerprint: str
    folder: Path
    sources: dict[str, str] = field(default_factory=dict)
    configuration: str = ""
    costs: dict[str, float] = field(default_factory=dict)
    measure: bool = False
    params: dict[str, Any] = field(default_factory=dict)


class Folders:
    """The run folders of a study, by fingerprint. The disk is read once, when it is made."""

    def __init__(self, study: Path):
        self.study = study
        self._found: dict[str, Path] = {}
        for path in study.glob(f"*/seed*-{'?' * DIGITS}"):
            self._found.setdefault(path.name[-DIGITS:], path)

    def place(self, fingerprint: str, variant: str, seed: int) -> Path:
        """The folder of a run: where it lies, or where it will be made."""
        digits = fingerprint[:DIGITS]
        return self._found.get(digits) or self.study / variant / f"seed{seed}-{digits}"


def write_note(run: Run) -> None:
    """Make a run's folder and say in it what the run is; enough to train it, whoever does."""
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / NOTE
    origins = _note(run.folder)["origins"] if path.exists() else []
    note = {
        "format": FORMAT,
        "version": __version__,
        "fingerprint": run.fingerprint,
        "variant": run.variant,
        "seed": run.seed,
        "sources": run.sources,
        "configuration": run.configuration,
        "costs": run.costs,
        "measure": run.measure,
        "params": run.params,
        "origins": origins,
        "config": dataclasses.asdict(run.config),
    }
    write_json(path, note, sync=False)  # of 1,000 runs at once; what a power failure takes is planned again


def add_origin(run: Run, origin: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Note what a run is trained with now, if that is new, and return all that has taken part.

    An origin is the git revision, the versions of the libraries, and the machine.
    """
    note = _note(run.folder)
    if origin not in note["origins"]:
        note["origins"].append(dict(origin))
        write_json(run.folder / NOTE, note)
    return list(note["origins"])


def load_run(folder: Path) -> Run:
    """The run that a folder was made for.

    Raises:
        ConfigError: if it is not a folder of a run, or one of another format.
    """
    note = _note(folder)
    names = ("variant", "seed", "fingerprint", "sources", "configuration", "costs", "measure", "params")
    known = {key: note[key] for key in names}
    return Run(config=run_of(note["config"]), folder=folder, **known)


def find_checkpoint(checkpoint: str, key: str = "checkpoint") -> tuple[Run | None, Path]:
    """The run and the file that `checkpoint=` means; no run for a file of weights.

    Args:
        checkpoint: a run's folder (then the file of the epoch that the run was tested with), a `.ckpt` in one, or a
            file of weights. `~` is not expanded: `compose` has done it.
        key: the key that an error names.

    Raises:
        ConfigError: for what does not exist, a folder that is not a run's, or a run that has not finished an epoch.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise ConfigError(f"{key}: '{checkpoint}' does not exist; give a run's folder or a file of weights")
    if path.is_dir():
        run = load_run(path)
        file = path / "checkpoints" / ("best.ckpt" if run.config.recipe.select == "best" else "last.ckpt")
        if not file.exists():
            gone = (path / RESULT).exists()
            why = "the run has kept none (launch.keep=weights does)" if gone else "the run has not finished an epoch"
            raise ConfigError(f"{key}: {file} does not exist; {why}")
        return run, file
    folder = path.absolute().parent.parent  # RUN_FOLDER/checkpoints/last.ckpt
    own = path.suffix == ".ckpt" and (folder / NOTE).exists()
    return (load_run(folder) if own else None), path


def _note(folder: Path) -> dict[str, Any]:
    path = folder / NOTE
    try:
        note = json.loads(path.read_text())
        written, _ = note["format"], note["fingerprint"]
    except FileNotFoundError:
        raise ConfigError(f"{folder}: is not a run's folder: it has no {NOTE}") from None
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
    if not (run.folder / NOTE).exists():
        return None
    found = _note(run.folder)["fingerprint"]
    if found != run.fingerprint:
        raise ConfigError(f"{run.folder}: fingerprint {found} is not {run.fingerprint}; move the folder away")
    result = run.folder / RESULT
    return json.loads(result.read_text()) if result.exists() else None


def find_twin(run: Run, runs_dir: Path) -> Path | None:
    """The folder of an identical run that another study in `runs_dir` has finished; None if there is none."""
    for path in sorted(runs_dir.glob(f"*/*/seed*-{run.fingerprint[:DIGITS]}/{RESULT}")):
        try:
            if _note(path.parent)["fingerprint"] == run.fingerprint and path.parent != run.folder:
                return path.parent
        except ConfigError:
            continue  # of another version
    return None


def copy_twin(run: Run, twin: Path) -> None:
    """Make a finished run of another study one of this study too; its files are linked, where the disk can."""
    draft = run.folder.with_name(f".{run.folder.name}.{os.getpid()}")
    try:
        shutil.copytree(twin, draft, copy_function=_link, ignore=shutil.ignore_patterns("lock", "repeat*", ".*"))
        if run.folder.exists():  # begun and not finished: its own checkpoints are not needed any more
            shutil.rmtree(run.folder)
        draft.rename(run.folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    write_note(run)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
