"""The record of an experiment: one Optuna study, every run a trial, and the folders that back it up.

A trial's user attributes name its run and, when it is done, hold its result. A result is written into the run's folder
first, so that a kill between the two loses nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from shunted_lab.config.experiment import Config
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import is_locked, locked
from shunted_lab.study.folder import Run, problem_of, read_result
from shunted_lab.study.plan import LAYOUT, RESULTS, WEIGHTS, RunState, study_folder
from shunted_lab.study.storage import ERRORS, make_storage, place_of, read_storage

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=ExperimentalWarning)  # metric names, heartbeats
warnings.filterwarnings("ignore", ".*supposed to be used with .?Study.optimize.*")  # the launcher beats for its trials

R = TypeVar("R")
PLACES = (WEIGHTS, "data.root")  # keys that no result depends on, but what lies there
# The database does not answer, or has no driver; everything else says that it is another kind of database.
UNREACHABLE = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.ArgumentError, ImportError)


def patient(call: Callable[..., R]) -> Callable[..., R]:
    """Try again for a minute when the database does not answer; training goes on meanwhile."""

    @wraps(call)
    def again(*args: Any, **kwargs: Any) -> R:
        for wait in (1, 2, 4, 8, 15, 30):
            try:
                return call(*args, **kwargs)
            except (StorageInternalError, sqlalchemy.exc.OperationalError) as error:
                reason = str(error).splitlines()[0]
                logging.getLogger(__name__).warning("the study's database does not answer, %d s: %s", wait, reason)
                time.sleep(wait)
        return call(*args, **kwargs)

    return again


def open_study(config: Config) -> Study | None:
    """The experiment's study, only to read; None if there is none. Nothing is written.

    Raises:
        ConfigError: for a database that does not answer, or that another version of Optuna has made.
    """
    folder, place = study_folder(config), place_of(config)
    is_file = isinstance(place, Path)
    where = str(place) if is_file else f"study.storage: {_masked(str(place))}"
    try:
        found = read_storage(place)
        if found is None:
            return None
        study = optuna.load_study(study_name=folder.name, storage=found)
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if any("result" not in trial.user_attrs for trial in done):
            return _refuse(where, "its trials have no results")
        return study
    except KeyError:
        return None  # of a launcher that was killed before it had made the study, or of other experiments
    except UNREACHABLE as error:
        raise ConfigError(f"{where} cannot be {'read' if is_file else 'reached'} ({_reason(error)})") from None
    except ERRORS as error:
        return _refuse(where, _reason(error))


def create_study(config: Config, objectives: dict[str, str], sampler: Any = None, pruner: Any = None) -> Study:
    """The experiment's study; made if there is none.

    Args:
        config: names the study and its storage.
        objectives: metric -> `max` or `min`.
        sampler, pruner: of a search.
    """
    folder = study_folder(config)
    (folder / "launchers").mkdir(parents=True, exist_ok=True)
    # One after another: launchers that make Optuna's tables at once see them half made.
    with locked(folder / "launchers" / "create", lambda: True):
        for wait in (0.1, 0.3, 1, 3, None):  # launchers whose folders are not the same
            try:
                return _create_study(config, objectives, sampler, pruner)
            except (sqlalchemy.exc.DBAPIError, StorageInternalError):
                if wait is None:
                    raise
                time.sleep(wait)
    raise AssertionError("unreachable")


def _create_study(config: Config, objectives: dict[str, str], sampler: Any, pruner: Any) -> Study:
    open_study(config)  # refuses what is not a study's database
    study = optuna.create_study(
        study_name=study_folder(config).name,
        storage=make_storage(place_of(config), config.study.heartbeat, config.launch.max_attempts),
        directions=["maximize" if objectives[name] == "max" else "minimize" for name in objectives],
        sampler=sampler or optuna.samplers.RandomSampler(),
        pruner=pruner or optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    if study.metric_names is None:
        study.set_metric_names(list(objectives))
    return study


def _refuse(where: str, reason: str) -> Any:
    raise ConfigError(
        f"{where}: is not a study of this version ({reason}); move it away: finished runs are read from their folders"
    )


def _reason(error: Exception) -> str:
    """What the database said, without the statement that Optuna and SQLAlchemy add."""
    while isinstance(error.__cause__, sqlalchemy.exc.SQLAlchemyError):
        error = error.__cause__
    text = " ".join(str(getattr(error, "orig", None) or error).split())
    return text if len(text) < 300 else text[:300] + "..."


def _masked(url: str) -> str:
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


def beat(study: Study, trial: Trial) -> None:
    """A sign of life for a trial. Optuna gives them by a thread, and in `Study.optimize` only."""
    storage: Any = study._storage
    storage.record_heartbeat(trial._trial_id)


def by_fingerprint(trials: Iterable[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """Fingerprint -> its trials, in the order of their numbers."""
    found: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        found.setdefault(trial.user_attrs.get("fingerprint", ""), []).append(trial)
    return found


def set_aside(study: Study) -> dict[int, str]:
    """Numbers of the trials that a rerun has replaced -> the folder that their run was moved to."""
    return {int(number): folder for number, folder in study.user_attrs.get("set_aside", {}).items()}


def set_all_aside(study: Study, runs: Sequence[Run]) -> None:
    """Make room for all runs to be trained again: old results are kept, their folders renamed.

    A rerun that was not finished is resumed: only runs that it has not set aside yet are.
    """
    gone, begun = set_aside(study), begun_again(study, runs)
    known = by_fingerprint(t for t in study.get_trials(deepcopy=False) if t.number not in gone)
    planned = {run.fingerprint: run for run in runs}
    for fingerprint, run in planned.items():
        if fingerprint in begun:
            continue
        moved = _move_away(run.folder)
        numbers = {t.number: moved for t in known.get(fingerprint, []) if t.state.is_finished()}
        gone |= numbers
        begun.add(fingerprint)
        study.set_user_attr("set_aside", {str(number): folder for number, folder in gone.items()})
        study.set_user_attr("rerun", sorted(begun))


def begun_again(study: Study, runs: Sequence[Run]) -> set[str]:
    """Fingerprints of the runs that a rerun of all has set aside and not finished yet; none where the last is over."""
    gone, begun = set_aside(study), set(study.user_attrs.get("rerun", []))
    known = by_fingerprint(t for t in study.get_trials(deepcopy=False) if t.number not in gone)
    planned = {run.fingerprint for run in runs}
    complete = {f for f in planned if any(t.state == TrialState.COMPLETE for t in known.get(f, []))}
    return begun if (begun & planned) - complete else set()


def _move_away(folder: Path) -> str:
    """Rename a folder to the next of NAME.1, NAME.2, ...; its new name, or the old one if there is none."""
    if not folder.exists():
        return str(folder)
    count = 1
    while (target := folder.with_name(f"{folder.name}.{count}")).exists():
        count += 1
    return str(folder.rename(target))


def read_states(runs: Sequence[Run], study: Study | None) -> list[RunState]:
    """The state of every planned run, from the study and, where that does not know, from the run's folder.

    A trial that is RUNNING is `running` while its launcher lives, and `interrupted` otherwise.
    """
    gone = set_aside(study) if study else {}
    trials = [t for t in study.get_trials(deepcopy=False) if t.number not in gone] if study else []
    known = by_fingerprint(trials)
    finished: dict[tuple[str, int], list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE and "variant" in trial.user_attrs:
            finished.setdefault((trial.user_attrs["variant"], trial.user_attrs["seed"]), []).append(trial)
    return [_state(run, known.get(run.fingerprint, []), finished.get((run.variant, run.seed), [])) for run in runs]


def _state(run: Run, trials: list[FrozenTrial], others: list[FrozenTrial]) -> RunState:
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            return RunState(run, "done", trial.user_attrs["result"])
    result = read_result(run)
    if result is not None:
        return RunState(run, "done", result)
    attempts = count_attempts(trials)
    running = [t for t in trials if t.state == TrialState.RUNNING]
    if running:
        return RunState(run, "running" if any(is_alive(t) for t in running) else "interrupted", attempts=attempts)
    ended = [t for t in trials if t.state == TrialState.FAIL]
    last = ended[-1].user_attrs if ended else {}
    if error := last.get("error", last.get("died")):
        return RunState(run, "failed", error=error.strip().splitlines()[-1], attempts=attempts)
    if problem := problem_of(run):
        return RunState(run, "failed", error=problem, attempts=attempts)
    if ended or any(t.state == TrialState.WAITING for t in trials):
        return RunState(run, "interrupted" if ended else "missing", attempts=attempts)
    for other in reversed(others):
        if has_same_configuration(run, other):
            return RunState(run, "stale", error=difference(run, other))
    return RunState(run, "missing")


def count_attempts(trials: Iterable[FrozenTrial]) -> int:
    """How often a run has failed, or died with its worker."""
    return sum(t.state == TrialState.FAIL and bool({"error", "died"} & t.user_attrs.keys()) for t in trials)


def is_alive(trial: FrozenTrial) -> bool:
    """Whether the launcher of a RUNNING trial lives. That of another machine is taken to live until Optuna's grace
    period has passed."""
    import socket

    launcher = trial.user_attrs.get("launcher")
    if launcher is None:
        return False
    return launcher["host"] != socket.gethostname() or is_locked(Path(launcher["lock"]))


def has_same_configuration(run: Run, other: FrozenTrial) -> bool:
    """Whether a finished trial was trained with all that a user has chosen for `run`: the configuration as far as it
    changes a result, the layout of a batch, and which data and weights. Then only code or files have changed since.
    """
    old, new = flatten(other.user_attrs["config"]), flatten(dataclasses.asdict(run.config))
    if any(old.get(key) != new.get(key) for key in old.keys() | new.keys() if affects_result(key) or key in PLACES):
        return False
    return other.user_attrs.get("sources", {}).get(LAYOUT) == run.sources.get(LAYOUT)


def difference(run: Run, other: FrozenTrial) -> str:
    """What has changed since a stale run was trained, e.g. `the source of attn: ssa has changed`."""
    return ", ".join(_sources(other.user_attrs.get("sources", {}), run.sources)) or "the data have changed"


def _sources(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name), new.get(name)
        if before == now:
            continue
        if name == RESULTS:
            yield f"this version of shunted_lab gives different numbers (results version {before}, now {now})"
        elif name == WEIGHTS:
            yield f"the content of {name} has changed (it was {before})"
        else:
            yield f"the source of {name} has changed"


def affects_result(key: str) -> bool:
    """Whether what a dotted key says can change a result; it is in the fingerprint then."""
    return not key.startswith("launch.") and key not in _keys_without_effect()


@lru_cache
def _keys_without_effect() -> frozenset[str]:
    """The keys of model, data and recipe that change no result, of all presets."""
    presets = [(group, preset) for group in ("model", "data", "task", "recipe") for preset in PRESETS[group].values()]
    fields = [(group, item) for group, preset in presets for item in dataclasses.fields(preset)]
    return frozenset(f"{group}.{item.name}" for group, item in fields if not item.metadata.get("affects_result", True))


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def other_runs(study: Study | None, runs: Sequence[Run]) -> int:
    """How many finished runs the study holds that are not in the plan: other seeds, or another configuration."""
    planned = {run.fingerprint for run in runs}
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if study else []
    return sum(t.user_attrs.get("fingerprint") not in planned for t in trials)


def attributes(run: Run) -> dict[str, Any]:
    """What a trial says of its run."""
    return {
        "fingerprint": run.fingerprint,
        "variant": run.variant,
        "seed": run.seed,
        "folder": str(run.folder),
        "config": dataclasses.asdict(run.config),
        "sources": run.sources,
    }


def values(study: Study, result: dict[str, Any]) -> list[float]:
    """The values of a trial: the metrics or costs that the study is named after (`missing_values`)."""
    found = _measured(result)
    return [float(found[name]) for name in study.metric_names or []]


def missing_values(study: Study, result: dict[str, Any]) -> list[str]:
    """The metrics and costs that the study is named after and a result lacks, e.g. top-5 of five classes."""
    return [name for name in study.metric_names or [] if name not in _measured(result)]


def _measured(result: dict[str, Any]) -> dict[str, Any]:
    return result.get("costs", {}) | result["metrics"]


def adopt(study: Study, run: Run, result: dict[str, Any], **trial: Any) -> None:
    """Take a result into the study that stands in the run's folder only. `trial`: parameters of a search."""
    study.add_trial(
        create_trial(values=values(study, result), user_attrs=attributes(run) | {"result": result}, **trial)
    )
