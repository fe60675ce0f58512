"""A worker: takes runs from a study and trains them until nothing is left, on any machine that sees its folder.

python -m shunted_lab.worker runs/ablate_embed
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shunted_lab.command import make_console, run_command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.help import help_text
from shunted_lab.config.schema import ConfigError, at_least, option, path_option

HELP = """\
usage: python -m shunted_lab.worker STUDY_FOLDER [key=value ...]
       python -m shunted_lab.worker storage=URL name=STUDY
       python -m shunted_lab.worker RUN_FOLDER

Trains runs of a study that an experiment's command has planned, one after another, until nothing is left. Start as many
workers as you like, on any machine that sees the folder: each run is trained once. Ctrl-C and SIGTERM stop it with a
checkpoint. The folder of a run trains that run by hand: an unfinished one is resumed, a finished one is repeated in a
folder inside of its own.

  python -m shunted_lab.worker runs/ablate_embed
  python -m shunted_lab.worker runs/ablate_embed devices=4
  python -m shunted_lab.worker runs/ablate_embed/overlapping/seed0-1a2b3c4d
"""


@dataclass
class WorkerConfig:
    """The configuration of `python -m shunted_lab.worker`."""

    study: str | None = path_option(None, "the folder of a study, or of one run")
    storage: str | None = option(None, "instead of the folder: the URL of the study's database")
    name: str | None = option(None, "with storage: the name of the study there, as the dashboard shows it")
    plan: str | None = option(None, "the ID of a plan of the study; null is the latest")
    devices: Any = option(
        None, "GPUs or CPU workers of this machine; null as the study was planned", type="int | auto | null"
    )
    index: int = option(0, "the number of the first worker among all of a search: workers propose different points")

    def __post_init__(self) -> None:
        at_least(0, "", self, "index")
        if self.study is None and (self.storage is None or self.name is None):
            raise ConfigError("study: is missing; give the folder of a study or a run, or storage=URL with name=STUDY")


def main(overrides: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, 1 for a mistake or a failed run, 130 if it was asked to stop."""
    try:
        return run_command(overrides, lambda: help_text(HELP, WorkerConfig), _act, positional="study")
    except KeyboardInterrupt:
        print("\nstopped; finished runs are kept, and the next worker resumes", file=sys.stderr)
        return 130


def _act(overrides: list[str]) -> int:
    config = compose_as(WorkerConfig, overrides)
    folder = _folder_of(config)
    if (folder / "run.json").exists():
        return train_by_hand(folder)
    return train_study(folder, config)


def _folder_of(config: WorkerConfig) -> Path:
    """The folder of a study; a study in a database says where it is.

    Raises:
        ConfigError: for a database that cannot be reached, or has no such study.
    """
    if config.study is not None:
        return Path(config.study)
    import os

    from shunted_lab.study.manifest import STORAGE
    from shunted_lab.study.storage import open_study

    assert config.storage is not None and config.name is not None
    os.environ.setdefault(STORAGE, config.storage)
    study = open_study(config.storage, config.name)
    if study is None:
        raise ConfigError(f"name: there is no study '{config.name}' in this database")
    return Path(study.user_attrs["folder"])


def train_study(folder: Path, config: WorkerConfig) -> int:
    """Take runs of a study until nothing is left."""
    from dataclasses import replace

    from shunted_lab.report.progress import Progress
    from shunted_lab.study.engines import work_of
    from shunted_lab.study.engines.local import Local
    from shunted_lab.study.manifest import read_home, read_manifest
    from shunted_lab.study.prepare import read_study
    from shunted_lab.study.slots import Load, plan_slots, warm_up
    from shunted_lab.study.states import read_states

    home, manifest = read_home(folder), read_manifest(folder, config.plan)
    assert home is not None
    warm_up()
    launch = (
        manifest.config.launch if config.devices is None else replace(manifest.config.launch, devices=config.devices)
    )
    if getattr(launch, "gpus", 0):
        launch = replace(launch, accelerator="gpu")  # that were asked for: a job without them must not train on its CPU
    states = read_states(list(manifest.trained.values()), read_study(home, manifest))
    names = [state.run.variant for state in states if state.state != "done"]
    todo = manifest.search.trials if manifest.search else len(names)
    slots = [replace(slot, index=slot.index + config.index) for slot in plan_slots(launch, Load(todo, small=False))]
    with Progress(make_console(), names, len(slots), manifest.goal) as progress:
        work = work_of(home, config.plan or str(home.plan), launch, len(slots), slots, progress)
        Local().run(work, print)
        return 1 if progress.counts["failed"] else 0


def train_by_hand(folder: Path) -> int:
    """Train the run of a folder, and print its metrics; a finished one is trained again, in a folder inside of its
    own.
    """
    from dataclasses import replace

    from shunted_lab.study.folder import load_run, read_result, write_note
    from shunted_lab.study.training import train_run, use_threads

    run = load_run(folder)
    if read_result(run) is not None:
        count = 1 + len(list(folder.glob("repeat*")))
        run = replace(run, folder=folder / f"repeat{count}")
        write_note(run)
    use_threads(run)
    try:
        result = train_run(run, progress=sys.stdout.isatty())
    except BlockingIOError as error:
        raise ConfigError(f"{error}: another worker trains this run") from None
    print(json.dumps({"folder": str(run.folder), "metrics": result["metrics"]}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
