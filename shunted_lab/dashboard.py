"""All studies under a folder in the Optuna dashboard: python -m shunted_lab.dashboard [runs_dir=runs] [port=8080]

It shows copies that are made anew every few seconds: whatever is clicked there, no study is touched.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shunted_lab.command import run_command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.experiment_file import experiment_files
from shunted_lab.config.help import help_text
from shunted_lab.config.schema import ConfigError, option, path_option, require

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

HOST = "127.0.0.1"  # there is no login
HIDDEN = ("config", "sources", "versions", "launcher", "result")  # attributes that are long, and in the run's folder
ARTIFACTS = ("table.md", "table.csv", "table.tex", "search.md", "search.csv")

HELP = """\
usage: python -m shunted_lab.dashboard [runs_dir=runs] [port=8080]

Shows all studies in runs_dir in the Optuna dashboard: curves, tables, attributes. It shows copies; studies are not
changed.
"""


@dataclass
class DashboardConfig:
    """The configuration of `python -m shunted_lab.dashboard`."""

    runs_dir: str = path_option("runs", "folder of all results")
    storage: str | None = option(None, "SQLAlchemy URL of further studies, as in study.storage")
    port: int = option(8080, "port on this machine; other machines cannot connect, since there is no login")
    refresh: float = option(5.0, "seconds between copies")

    def __post_init__(self) -> None:
        require(0 < self.port < 65536, "port", self.port, "is not between 1 and 65535")
        require(self.refresh > 0, "refresh", self.refresh, "is not above 0")


def main(overrides: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 for a user's mistake."""
    return run_command(overrides, lambda: help_text(HELP, DashboardConfig), _act)


def _act(overrides: list[str]) -> None:
    with suppress(KeyboardInterrupt):
        serve(compose_as(DashboardConfig, overrides))


def serve(config: DashboardConfig) -> None:
    """Open the dashboard on this machine and keep its copies fresh until it is interrupted.

    Raises:
        ConfigError: if there is no study, no dashboard installed, or the port is taken.
    """
    try:
        import optuna_dashboard
    except ImportError:
        raise ConfigError("optuna-dashboard is not installed; pip install 'shunted_lab[dashboard]'") from None
    import tempfile

    import optuna
    from optuna.artifacts import FileSystemArtifactStore

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    with tempfile.TemporaryDirectory() as folder:
        mirror = Mirror(Path(config.runs_dir), config.storage, Path(folder))
        mirror.refresh()
        if not mirror.copied:
            raise ConfigError(f"runs_dir: no study was found in {config.runs_dir}")
        threading.Thread(target=_keep_fresh, args=(mirror, config.refresh), daemon=True).start()
        print(f"http://{HOST}:{config.port}/ shows {', '.join(sorted(mirror.copied))}; Ctrl-C ends it", flush=True)
        try:
            store = FileSystemArtifactStore(base_path=folder)
            optuna_dashboard.run_server(mirror.storage, host=HOST, port=config.port, artifact_store=store)
        except OSError as error:
            raise ConfigError(f"port: {config.port} cannot be opened ({error.strerror})") from None


def _keep_fresh(mirror: Mirror, seconds: float) -> None:
    while True:
        time.sleep(seconds)
        try:
            mirror.refresh()
        except ConfigError as error:  # the database of `storage=`; it may answer the next time
            print(error, file=sys.stderr)


class Mirror:
    """An in-memory storage of Optuna that copies studies, trial by trial, from databases it only reads.

    Args:
        runs_dir: its subfolders with a `study.db` are studies.
        url: a storage that holds further ones.
        artifacts: a folder for copies of the reports.
    """

    def __init__(self, runs_dir: Path, url: str | None, artifacts: Path):
        import optuna

        self.runs_dir = runs_dir
        self.url = url
        self.artifacts = artifacts
        self.storage = optuna.storages.InMemoryStorage()
        self.copied: set[str] = set()
        self._trials: dict[tuple[str, int], int] = {}  # study, number -> the copy's id
        self._finished: set[tuple[str, int]] = set()
        self._variants: dict[str, list[str]] = {}
        self._reports: dict[Path, float] = {}

    def refresh(self) -> None:
        """Copy what is new. A database that cannot be read now is read the next time."""
        from shunted_lab.study.storage import ERRORS, FILE, reading

        for path in sorted(self.runs_dir.glob(f"*/{FILE}")):
            try:
                with reading(path) as storage:
                    if storage is not None:
                        self._copy(storage, path.parent.name, path.parent)
            except (*ERRORS, OSError, KeyError) as error:
                print(f"{path} cannot be read now: {str(error).splitlines()[0]}", file=sys.stderr)
        if self.url is not None:
            self._copy_all(self.url)

    def _copy_all(self, url: str) -> None:
        import optuna

        from shunted_lab.study.storage import ERRORS, reading

        try:
            with reading(url) as storage:
                for name in optuna.get_all_study_names(storage) if storage is not None else ():
                    self._copy(storage, name, self.runs_dir / name)
        except ERRORS as error:
            raise ConfigError(f"storage: cannot be read ({str(error).splitlines()[0]})") from None

    def _copy(self, storage: Any, name: str, folder: Path) -> None:
        import optuna

        source = optuna.load_study(study_name=name, storage=storage)
        trials = source.get_trials(deepcopy=False)
        variants = sorted({t.user_attrs["variant"] for t in trials if "variant" in t.user_attrs and not t.params})
        if name in self.copied and variants != self._variants[name]:
            self._forget(name)  # a categorical parameter cannot grow
        self._variants[name] = variants
        if name not in self.copied:
            copy = optuna.create_study(study_name=name, storage=self.storage, directions=source.directions)
            if source.metric_names:
                copy.set_metric_names(source.metric_names)
            self.copied.add(name)
        copy = optuna.load_study(study_name=name, storage=self.storage)
        for trial in trials:
            self._copy_trial(copy, trial)
        self._describe(copy, folder)

    def _forget(self, name: str) -> None:
        import optuna

        optuna.delete_study(study_name=name, storage=self.storage)
        self.copied.discard(name)
        self._trials = {key: number for key, number in self._trials.items() if key[0] != name}
        self._finished = {key for key in self._finished if key[0] != name}
        self._reports.clear()

    def _copy_trial(self, copy: Study, trial: FrozenTrial) -> None:
        key = (copy.study_name, trial.number)
        if key in self._finished:
            return
        if key not in self._trials:
            self._trials[key] = self.storage.create_new_trial(
                copy._study_id, template_trial=self._readable(copy, trial)
            )
        else:
            self._update(copy, self._trials[key], trial)
        if trial.state.is_finished():
            self._finished.add(key)

    def _readable(self, copy: Study, trial: FrozenTrial) -> FrozenTrial:
        """A trial with a name, and its variant and seed as parameters where it has none, so that plots have axes."""
        from optuna.distributions import CategoricalDistribution, IntDistribution
        from optuna.trial import create_trial

        attrs = dict(trial.user_attrs)
        params, distributions = dict(trial.params), dict(trial.distributions)
        if "variant" in attrs and not params:
            params = {"variant": attrs["variant"], "seed": attrs["seed"]}
            distributions = {
                "variant": CategoricalDistribution(self._variants[copy.study_name]),
                "seed": IntDistribution(0, max(1000, attrs["seed"])),
            }
        name = attrs.get("name") or (f"{attrs['variant']}, seed {attrs['seed']}" if "variant" in attrs else "")
        shown = {"name": name} | {
            k: v for k, v in attrs.items() if k not in ("config", "sources", "versions", "launcher", "result")
        }
        result = attrs.get("result", {})
        shown |= {key: value for key, value in result.items() if key not in ("metrics", *HIDDEN)}
        shown |= {key: round(value, 5) for key, value in result.get("metrics", {}).items()}
        copied = create_trial(
            state=trial.state,
            values=trial.values,
            params=params,
            distributions=distributions,
            user_attrs=shown,
            system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values,
        )
        copied.datetime_start, copied.datetime_complete = trial.datetime_start, trial.datetime_complete
        return copied

    def _update(self, copy: Study, number: int, trial: FrozenTrial) -> None:
        """Bring the copy of a trial that was not finished up to date."""
        known = self.storage.get_trial(number)
        fresh = self._readable(copy, trial)
        for attr, value in fresh.user_attrs.items():
            if known.user_attrs.get(attr) != value:
                self.storage.set_trial_user_attr(number, attr, value)
        for key, value in fresh.params.items():
            if key not in known.params:
                distribution = fresh.distributions[key]
                self.storage.set_trial_param(number, key, distribution.to_internal_repr(value), distribution)
        for step, value in trial.intermediate_values.items():
            if step not in known.intermediate_values:
                self.storage.set_trial_intermediate_value(number, step, value)
        if known.state != trial.state:
            self.storage.set_trial_state_values(number, trial.state, trial.values)

    def _describe(self, copy: Study, folder: Path) -> None:
        """The note of a study: its question, and its table; the reports as files beside it."""
        from optuna.artifacts import FileSystemArtifactStore, upload_artifact
        from optuna_dashboard import save_note

        parts = [_question(folder.name.removesuffix("-smoke"))]
        for path in (folder / name for name in ARTIFACTS):
            if not path.exists():
                continue
            changed = path.stat().st_mtime
            if self._reports.get(path) != changed:
                self._reports[path] = changed
                store = FileSystemArtifactStore(base_path=self.artifacts)
                upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=copy)
            if path.suffix == ".md":
                parts.append(path.read_text(encoding="utf-8"))
        save_note(copy, "\n\n".join(part for part in parts if part))


def _question(name: str) -> str:
    """The first line of an experiment's file: what it asks, and its command."""
    path = experiment_files().get(name)
    if path is None:
        return ""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return f"**{first.lstrip('# ')}**" if first.startswith("#") else ""


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
