"""The folder of a run: what it is (`run.json`, `config.yaml`), what came out (`result.json`), and who works in it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from shunted_lab.config import PRESETS, ConfigError, ModelConfig, RunConfig
from shunted_lab.config import RecipeConfig as Recipe

Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast
FORMAT = 2  # of run folders and of the study's attributes; a folder of another format is refused
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
    (run.folder / "config.yaml").write_text(yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def load_run(folder: Path) -> Run:
    """The run that a folder was made for.

    Raises:
        ConfigError: if it is no run's folder, or one of another format.
    """
    note = _note(folder)
    config = note["config"]
    data, launch = (type(PRESETS[key][config[key]["name"]]) for key in ("data", "launch"))
    model, recipe = ModelConfig(**config["model"]), Recipe(**config["recipe"])
    run = RunConfig(model, data(**config["data"]), recipe, launch(**config["launch"]), config["seed"])
    return Run(note["variant"], note["seed"], run, note["fingerprint"], folder, note["sources"])


def find_checkpoint(checkpoint: str) -> tuple[Run | None, Path]:
    """The run and the file that `checkpoint=` means; no run for a file of weights.

    Args:
        checkpoint: a run's folder (then the file of the epoch that the run was tested with), a `.ckpt` in one, or a
            file of weights.

    Raises:
        ConfigError: for what does not exist, a folder of no run, or a run that has not finished an epoch.
    """
    path = Path(checkpoint).expanduser()
    if not path.exists():
        raise ConfigError(f"checkpoint: '{checkpoint}' does not exist; give a run's folder or a file of weights")
    if path.is_dir():
        run = load_run(path)
        file = path / "checkpoints" / ("best.ckpt" if run.config.recipe.select == "best" else "last.ckpt")
        if not file.exists():
            raise ConfigError(f"checkpoint: {file} does not exist; the run has not finished an epoch")
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
        raise ConfigError(f"{folder}: is no folder of a run; there is no run.json") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: is no run of this version; move the folder away, or set runs_dir=...") from None
    if written != FORMAT:
        raise ConfigError(
            f"{path}: format {written}, written by shunted_lab {note.get('version')}; this version reads format "
            f"{FORMAT}; move the folder away, or set runs_dir=..."
        )
    return note


def read_result(run: Run) -> dict[str, Any] | None:
    """The result in a run's folder, or None if the run is not done there.

    Raises:
        ConfigError: for a folder that another version has written, or that holds another configuration.
    """
    if not (run.folder / "run.json").exists():
        return None
    found = _note(run.folder)["fingerprint"]
    if found != run.fingerprint:
        raise ConfigError(f"{run.folder}: fingerprint {found} is not {run.fingerprint}; move the folder away")
    result = run.folder / "result.json"
    return json.loads(result.read_text()) if result.exists() else None


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all, also when the power fails."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def locked(path: Path, waiting: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a lock file for this process; the lock goes with the process, however it ends.

    A POSIX record lock: processes that are forked do not hold it on, and NFS knows it. Within one process it does not
    exclude, and opening the file again there and closing it lets the lock go.

    Args:
        path: the file; made if it is not there.
        waiting: asked while another process holds the lock; False gives up.

    Raises:
        BlockingIOError: if another process holds the lock and `waiting` has given up.
    """
    with open(path, "a+") as file:
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if not waiting():
                    raise BlockingIOError(f"{path} is held by another process") from None
                time.sleep(0.1)
        yield


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock."""
    try:
        with open(path, "r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):
        return True
    return False
