"""A worker takes runs from a study, trains them, and writes what came out into the run's folder and the study."""

from __future__ import annotations

import errno
import math
import platform
import subprocess
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.study import Study
from optuna.trial import Trial, TrialState

import shunted_lab
from shunted_lab.config import ConfigError
from shunted_lab.nn import Cost
from shunted_lab.study import store
from shunted_lab.study.plan import TRACEBACK, Run
from shunted_lab.tasks.train import train

LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "optuna", "numpy")


def work(
    study: Study,
    todo: dict[str, Run],
    costs: dict[str, Cost],
    tell: Callable[[Run, dict[str, Any] | None], None],
    progress: bool = False,
) -> None:
    """Train what is queued, until nothing of `todo` (fingerprint -> run) is left.

    A run that raises is a failed trial that keeps its traceback; the others go on.

    Args:
        study: its queue holds a trial for each run of `todo`.
        costs: by variant, stored with the result.
        tell: called after each run with its result, or None if it failed.
        progress: show a progress bar.

    Raises:
        ConfigError: if the disk is full.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the trial is ended as interrupted.
    """
    todo = dict(todo)
    while todo:
        trial = study.ask()
        run = todo.pop(trial.user_attrs.get("fingerprint", ""), None)
        if run is None:  # queued by an earlier command for a variant that is no longer in the plan
            study.tell(trial, state=TrialState.PRUNED)
            continue
        tell(run, _attempt(study, trial, run, costs[run.variant], progress))


def _attempt(study: Study, trial: Trial, run: Run, cost: Cost, progress: bool) -> dict[str, Any] | None:
    """Train a run for a trial. Returns the result, or None if the run has failed."""
    try:
        result = execute(run, cost, progress)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C and SIGTERM into SystemExit
        study.tell(trial, state=TrialState.FAIL)
        raise KeyboardInterrupt from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConfigError(
                f"{run.folder}: the disk is full; free some space, then the same command goes on"
            ) from None
        trial.set_user_attr("error", traceback.format_exc())
        (run.folder / TRACEBACK).write_text(traceback.format_exc())
        study.tell(trial, state=TrialState.FAIL)
        return None
    for key, value in result.items():
        trial.set_user_attr(key, value)
    study.tell(trial, store.objective(study, result))
    return result


def execute(run: Run, cost: Cost, progress: bool = False) -> dict[str, Any]:
    """Train a run in its folder; `result.json` is written last, and only when everything has gone well."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(run.config)))
    origin = {
        "format": store.FORMAT,
        "version": shunted_lab.__version__,
        "fingerprint": run.fingerprint,
        "variant": run.variant,
        "seed": run.seed,
        "git": git_revision(),
        "versions": library_versions(),
    }
    store.write_json(run.folder / "run.json", origin)
    start = time.perf_counter()
    result = train(run.config, run.folder, progress)
    bad = [f"{key} is {value}" for key, value in result["metrics"].items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(", ".join(bad))  # a run that diverged has failed; its NaN is no result
    result["seconds"] = round(time.perf_counter() - start, 2)
    result["costs"] = {"params": cost.params, "macs": cost.macs, "macs_attention": cost.macs_attention}
    result |= {"git": origin["git"], "versions": origin["versions"]}
    store.write_json(run.folder / "result.json", result)
    return result


def git_revision() -> str | None:
    """The revision of the source tree that is imported, with `+` if it has changes; None outside a repository."""
    where = Path(shunted_lab.__file__).parent
    try:
        command = ["git", "-C", str(where), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        tracked = subprocess.run(["git", "-C", str(where), "ls-files", "run.py"], capture_output=True, text=True)
        if not tracked.stdout.strip():
            return None  # installed into an environment that happens to lie inside another repository
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result."""
    found = {"python": platform.python_version(), "shunted_lab": shunted_lab.__version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
