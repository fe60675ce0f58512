"""Lightning's loggers of a run: begun with it, resumed with it, and ended as it ends."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from shunted_lab.config.run import RunConfig
from shunted_lab.output.files import write_json
from shunted_lab.tasks.callbacks import Pruned, Stopped
from shunted_lab.tasks.loggers import RunNames

IDS = "loggers.json"  # in a run's folder: logger -> the id of the run there
TRACKING_URI = "MLFLOW_TRACKING_URI"
EXIT_CODES = {"FINISHED": 0, "FAILED": 1, "KILLED": 255}  # MLflow's status of a run -> what W&B takes for the same


@contextmanager
def logging_to(trainer: L.Trainer, config: RunConfig, folder: Path, names: RunNames) -> Iterator[None]:
    """Give a trainer the loggers of `launch.loggers` for as long as the block lasts, then end what they have begun.

    Only the first rank logs: a logger makes files and connections as soon as it exists.
    """
    with ExitStack() as stack:
        chosen = [make for name, make in MAKERS.items() if name in config.launch.loggers]
        if trainer.is_global_zero:
            trainer.loggers = [stack.enter_context(make(config, folder, names)) for make in chosen]
        yield


class TensorBoard(TensorBoardLogger):
    """Lightning's, without a chart of the epoch, and with the names and options of the run in `hparams.yaml`.

    Args:
        folder: the run's.
        shown: what TensorBoard's table of hyper-parameters has, in this order.
    """

    def __init__(self, folder: Path, shown: Mapping[str, Any]):
        super().__init__(folder, name="", version="")
        self.shown = dict(shown)
        self.hparams.update(self.shown)  # written with the first metric

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


def log_final(trainer: L.Trainer, metrics: Mapping[str, float]) -> None:
    """Write a finished run's options with its final metrics for TensorBoard's table of hyper-parameters.

    Other loggers have had the options from the start, and show the last value of each metric.
    """
    final = {f"final/{key}": value for key, value in metrics.items() if key.startswith(("val/", "test/"))}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            logger.log_hyperparams(logger.shown, final, trainer.global_step)
            logger.save()


def shows_pictures(trainer: L.Trainer) -> bool:
    """Whether a logger of this process takes pictures."""
    return any(isinstance(logger, TensorBoardLogger | WandbLogger) for logger in trainer.loggers)


def log_picture(trainer: L.Trainer, name: str, picture: np.ndarray, step: int) -> None:
    """Write a picture (H, W, 3) uint8 where pictures can be seen."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step)


def options(config: RunConfig) -> dict[str, Any]:
    """The run's configuration as dotted keys with plain values: the hyper-parameters of every logger."""
    found: dict[str, Any] = {"seed": config.seed}
    for group in ("model", "data", "task", "recipe"):
        for key, value in asdict(getattr(config, group)).items():
            found[f"{group}.{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


@contextmanager
def _tensorboard(config: RunConfig, folder: Path, names: RunNames) -> Iterator[Logger]:
    yield TensorBoard(folder, {"variant": names.variant, "seed": names.seed} | options(config))


@contextmanager
def _csv(config: RunConfig, folder: Path, names: RunNames) -> Iterator[Logger]:
    """A resumed run gets the next `csv/version_N`: Lightning deletes what is in a folder that it logs to again."""
    logger = CSVLogger(folder, name="csv")
    logger.log_hyperparams(options(config))
    yield logger


@contextmanager
def _wandb(config: RunConfig, folder: Path, names: RunNames) -> Iterator[Logger]:
    """The group of a run is its variant, so that W&B draws the mean over seeds and their range."""
    import wandb

    # Not of the fingerprint alone: colleagues with one project may train the same run, each in a study of their own.
    identity = _ids(folder).get("wandb") or re.sub(r"[^\w.-]", "-", f"{folder.name}-{uuid.uuid4().hex[:8]}")
    wandb.setup(wandb.Settings(silent=True))  # its messages would break the progress display
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or names.experiment,
        group=names.variant,
        name=names.run,
        tags=[names.experiment[:64], f"seed{names.seed}"],  # W&B refuses longer tags
        id=identity,
        resume="allow",
        dir=folder,
        config=asdict(names) | options(config),
    )
    _remember(folder, "wandb", identity)
    run.define_metric("trainer/global_step")  # the x-axis, as Lightning sets it where it makes the run
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    # A worker's next run would log to this one if it were not finished.
    with _ending(lambda status: run.finish(exit_code=EXIT_CODES[status])):
        yield WandbLogger(experiment=run, save_dir=folder)


@contextmanager
def _mlflow(config: RunConfig, folder: Path, names: RunNames) -> Iterator[Logger]:
    """MLflow gives a run its id. Where a stored one is unknown, at another server, a new run is begun."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # read at import; it tells about each new file
    chosen = os.environ.get(TRACKING_URI)
    uri = chosen or f"sqlite:///{folder.absolute() / 'mlflow.db'}"
    known = _resume_in_mlflow(uri, _ids(folder).get("mlflow"))
    if known is None:
        _prepare_mlflow(uri, names.experiment, None if chosen else (folder / "mlflow").absolute().as_uri())
    tags = {"variant": names.variant, "seed": str(names.seed)}
    logger = MLFlowLogger(names.experiment, names.run, uri, tags, run_id=known)
    try:
        if known is None:  # once: MLflow refuses to replace a value, e.g. that of a path
            logger.log_hyperparams(options(config))
            _remember(folder, "mlflow", str(logger.run_id))
        with _ending(lambda status: logger.experiment.set_terminated(str(logger.run_id), status)):
            yield logger
    finally:
        if chosen is None:  # MLflow has set the variable to this run's file; the worker's next run has its own
            os.environ.pop(TRACKING_URI, None)


MAKERS: dict[str, Callable[[RunConfig, Path, RunNames], AbstractContextManager[Logger]]] = {
    "tensorboard": _tensorboard,
    "csv": _csv,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


def _resume_in_mlflow(uri: str, run_id: str | None) -> str | None:
    """Set a run that was logged before to running again. Returns its id, or None where MLflow does not have it."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    client = MlflowClient(uri)
    try:
        if client.get_run(run_id).info.lifecycle_stage != "active":  # deleted by the user
            return None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    client.update_run(run_id, status="RUNNING")
    return run_id


def _prepare_mlflow(uri: str, experiment: str, artifacts: str | None) -> None:
    """Create an experiment that MLflow does not have yet; of workers that do so at the same time one succeeds."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(uri)
    if client.get_experiment_by_name(experiment) is None:
        with suppress(MlflowException):  # another error is met again by the logger
            client.create_experiment(experiment, artifacts)


@contextmanager
def _ending(end: Callable[[str], Any]) -> Iterator[None]:
    """Tell `end` how the block has ended, as MLflow calls it. A run that is stopped or pruned has not failed."""
    try:
        yield
    except (Stopped, Pruned, SystemExit, KeyboardInterrupt):
        end("KILLED")
        raise
    except BaseException:
        end("FAILED")
        raise
    else:
        end("FINISHED")


def _ids(folder: Path) -> dict[str, str]:
    path = folder / IDS
    return json.loads(path.read_text()) if path.exists() else {}


def _remember(folder: Path, logger: str, identity: str) -> None:
    write_json(folder / IDS, _ids(folder) | {logger: identity})
