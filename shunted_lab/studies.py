"""How runs are launched, where their study is kept, and what a search may change: the study engine's schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shunted_lab.schema import ConfigError, at_least, option, require, unknown

KEPT = ("auto", "weights", "all", "none")
RERUNS = ("stale", "failed", "all")


# --- launch ----------------------------------------------------------------------------------------------------------


@dataclass
class LaunchConfig:
    """Where runs are trained, one worker per slot on this machine.

    Nothing here changes what a run computes, but for the layout of its batch: how many devices share it, and in how
    many parts it is trained (`tasks.model.batch_layout`).
    """

    name: str = "local"
    accelerator: str = option("auto", "auto, cpu, gpu, mps", result=False)
    devices: Any = option(
        "auto", "GPUs to keep busy, or workers on a CPU; auto: all GPUs, or one worker", result=False, type="int | auto"
    )
    devices_per_run: int = option(1, "devices that share the batches of one run (DDP)", result=False)
    nodes_per_run: int = option(1, "nodes that share the batches of one run, each with devices_per_run", result=False)
    accumulate: int = option(
        1,
        "gradient accumulation: parts of a batch that are computed one after another, the same batch on fewer devices",
        result=False,
    )
    compile: bool = option(False, "torch.compile for the model: faster steps, after minutes of compiling", result=False)
    threads: Any = option(
        "auto", "CPU threads of a worker; auto: its share of the cores", result=False, type="int | auto"
    )
    num_workers: int = option(0, "processes that load images, per worker", result=False)
    keep: str = option(
        "auto",
        "checkpoints of a finished run: weights (without the optimizer's state), all, none; auto: weights, and none of "
        "a smoke test",
        result=False,
    )
    max_attempts: int = option(3, "attempts for a run that fails or crashes, over all calls", result=False)

    def __post_init__(self) -> None:
        at_least(0, "launch", self, "num_workers")
        at_least(1, "launch", self, "max_attempts", "devices_per_run", "nodes_per_run", "accumulate")
        choices = ("auto", "cpu", "gpu", "mps")
        if self.accelerator not in choices:
            raise unknown("launch.accelerator", self.accelerator, choices)
        if self.keep not in KEPT:
            raise unknown("launch.keep", self.keep, KEPT)
        for name in ("devices", "threads"):
            value = getattr(self, name)
            good = value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)
            require(good, f"launch.{name}", value, "is neither 'auto' nor a positive number")

    @property
    def kept(self) -> str:
        """Which checkpoints are kept of a finished run that is not a smoke test's: weights, all or none."""
        return "weights" if self.keep == "auto" else self.keep

    @property
    def ranks(self) -> int:
        """Processes of one run, each with a device of its own."""
        return self.devices_per_run * self.nodes_per_run

    @property
    def parts(self) -> int:
        """Pieces that a batch is cut into: one for each device and each turn."""
        return self.ranks * self.accumulate


@dataclass
class SlurmConfig(LaunchConfig):
    """Jobs of a SLURM cluster, each with its own workers on one study; needs a folder that all nodes see."""

    name: str = "slurm"
    nodes: int = option(1, "nodes, in jobs of nodes_per_run; each job takes runs until none is left", result=False)
    gpus: int = option(1, "GPUs of a job; 0 trains on its CPU", result=False)
    cpus: int = option(8, "CPU cores of a job", result=False)
    memory: int | None = option(None, "GB of memory of a job; null: the cluster's default", result=False)
    minutes: int = option(
        60 * 24, "time limit of a job in minutes; it is queued again to resume (launch.requeue)", result=False
    )
    partition: str | None = option(None, "partition; null is the cluster's default", result=False)
    requeue: int = option(3, "how often a job that ran out of time or was preempted is queued again", result=False)
    setup: list[str] = option([], "lines of shell before the command, e.g. module load cuda", result=False)
    executor: str = option("slurm", "slurm, or local to try it on this machine", result=False)
    wait: bool = option(True, "wait for the jobs, then report; false only submits", result=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "launch", self, "nodes", "cpus", "minutes")
        at_least(0, "launch", self, "gpus", "requeue")
        shared = self.nodes % self.nodes_per_run == 0
        require(shared, "launch.nodes", self.nodes, f"is not a multiple of launch.nodes_per_run={self.nodes_per_run}")
        require(self.memory is None or self.memory >= 1, "launch.memory", self.memory, "is too small: at least 1 GB")
        if self.executor not in ("slurm", "local"):
            raise unknown("launch.executor", self.executor, ("slurm", "local"))


# --- study -----------------------------------------------------------------------------------------------------------


@dataclass
class StudyConfig:
    """Where the study is kept."""

    storage: str | None = option(
        None,
        "SQLAlchemy URL, e.g. postgresql+psycopg://user@host/db; null is a file in the study's folder",
        result=False,
    )
    heartbeat: int = option(
        60, "seconds between heartbeats; after two missed ones another worker takes the run", result=False
    )

    def __post_init__(self) -> None:
        at_least(1, "study", self, "heartbeat")
        ok = self.storage is None or "://" in self.storage
        require(ok, "study.storage", self.storage, "is not a URL, e.g. postgresql+psycopg://user@host/db")


SAMPLERS = ("tpe", "nsga2", "random", "brute_force", "grid")
PRUNERS = ("median", "hyperband")
MEASURED_LATER = ("latency", "memory")  # on the device, of a forward pass with one image
MEASURED = ("params", "macs", *MEASURED_LATER)


@dataclass
class SearchConfig:
    """A search: what may change, what is better, and what is allowed. The experiment's variants are tried first."""

    space: dict[str, Any] = option(
        {}, "DOTTED KEY: [choices] or {low:, high:, log:, step:}; rates: [8, 4, 2, 1], or one such list per stage"
    )
    objectives: Any = option(
        None,
        "METRIC: max|min, of the validation split, or params, macs, latency, memory; null is the metric that chooses "
        "the task's best epoch, e.g. {val/top1: max}",
        type="dict[str, str] | null",
    )
    constraints: dict[str, Any] = option({}, "params|macs: an upper bound, or 'baseline' for that of the baseline")
    trials: int = option(30, "number of different assignments to train")
    sampler: str = option("tpe", ", ".join(SAMPLERS))
    sampler_seed: int = option(0, "seed of the sampler")
    neighbours: bool = option(True, "after the variants, try the assignments that differ from the baseline by one step")
    pruner: str | None = option(None, f"stops unpromising trials early: {', '.join(PRUNERS)}; for one objective")

    def __post_init__(self) -> None:
        require(bool(self.space), "search.space", self.space, "is empty: name at least one key")
        at_least(1, "search", self, "trials")
        if self.sampler not in SAMPLERS:
            raise unknown("search.sampler", self.sampler, SAMPLERS)
        if self.pruner is not None and self.pruner not in PRUNERS:
            raise unknown("search.pruner", self.pruner, PRUNERS)
        if self.objectives is not None:  # else `study.search` takes the task's
            self._check_objectives(self.objectives)
        for name, bound in self.constraints.items():
            if name not in ("params", "macs"):
                raise unknown("search.constraints", name, ("params", "macs"))
            good = bound == "baseline" or (isinstance(bound, int | float) and bound > 0)
            require(good, f"search.constraints.{name}", bound, "is neither 'baseline' nor a number above 0")

    def _check_objectives(self, objectives: Any) -> None:
        if not isinstance(objectives, dict):
            raise ConfigError(
                f"search.objectives: {objectives} has no direction; write {{METRIC: max}} or {{METRIC: min}}"
            )
        require(bool(objectives), "search.objectives", objectives, "is empty: name at least one")
        for name, direction in objectives.items():
            if name not in MEASURED and not str(name).startswith("val/"):
                raise ConfigError(
                    f"search.objectives: '{name}' is not an objective; choices: val/METRIC, {', '.join(MEASURED)}"
                )
            if direction not in ("max", "min"):
                raise unknown(f"search.objectives.{name}", direction, ("max", "min"))
        if self.pruner is not None and len(objectives) > 1:
            raise ConfigError(
                f"search.pruner: '{self.pruner}' needs one objective, not {len(objectives)}; set it to null"
            )
        if self.pruner is not None and next(iter(objectives)) in MEASURED:
            raise ConfigError(f"search.pruner: '{self.pruner}' needs a metric of each epoch, e.g. val/top1")


@dataclass
class ConfirmConfig:
    """Which trials of a finished search become the variants of this experiment, beside its own."""

    search: str = option("", "the experiment that searched")
    best: int = option(3, "how many of its best assignments")

    def __post_init__(self) -> None:
        require(bool(self.search), "confirm.search", repr(self.search), "is empty; name an experiment with a search")
        at_least(1, "confirm", self, "best")
