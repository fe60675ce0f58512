"""How runs are launched: workers on this machine or jobs of a cluster, and where their study is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from shunted_lab.config.schema import at_least, one_of, option, require

KEPT = ("auto", "weights", "all", "none")
LOGGERS = ("tensorboard", "csv", "wandb", "mlflow")


@dataclass
class LaunchConfig:
    """Where runs are trained, one worker per slot on this machine.

    None of it is in the fingerprint of a run but the layout of its batch: how many devices share it, and in how many
    parts it is trained (`tasks.model.batch_layout`).
    """

    name: str = "local"
    accelerator: str = option("auto", "auto, cpu, gpu, mps")
    devices: Any = option(
        "auto",
        "GPUs to keep busy, or workers on a CPU; auto: all GPUs, or one worker",
        type="int | auto",
    )
    devices_per_run: int = option(1, "devices that share the batches of one run (DDP)")
    nodes_per_run: int = option(1, "nodes that share the batches of one run, each with devices_per_run")
    accumulate: int = option(
        1,
        "gradient accumulation: parts of a batch that are computed one after another, the same batch on fewer devices",
    )
    compile: bool = option(False, "torch.compile for the model: faster steps, after minutes of compiling")
    threads: Any = option("auto", "CPU threads of a worker; auto: its share of the cores", type="int | auto")
    num_workers: int = option(0, "processes that load images, per worker")
    keep: str = option(
        "auto",
        "checkpoints of a finished run: weights (without the optimizer's state), all, none; auto: weights, and none of "
        "a smoke test",
    )
    measure: bool = option(
        True, "measure latency and memory of the variants when all are trained, which takes up to a minute"
    )
    loggers: list[str] = option(
        ["tensorboard"],
        f"where the curves of a run are logged, any of {', '.join(LOGGERS)}; [] for none. wandb and mlflow are extras "
        "of this package",
    )
    pictures: bool = option(
        True,
        "pictures of predictions and attention maps for TensorBoard and W&B, of each finished run but of smoke tests",
    )
    max_attempts: int = option(3, "attempts for a run that fails or crashes, over all calls")

    def __post_init__(self) -> None:
        at_least(0, "launch", self, "num_workers")
        at_least(1, "launch", self, "max_attempts", "devices_per_run", "nodes_per_run", "accumulate")
        choices = ("auto", "cpu", "gpu", "mps")
        one_of("launch.accelerator", self.accelerator, choices)
        one_of("launch.keep", self.keep, KEPT)
        for name in self.loggers:
            one_of("launch.loggers", name, LOGGERS)
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
    """Jobs of a SLURM cluster, each with workers on one study; needs a folder that all nodes see.

    `accelerator`, `devices` and `threads` are those of a job.
    """

    name: str = "slurm"
    nodes: int = option(1, "nodes, in jobs of nodes_per_run; each job takes runs until none is left")
    gpus: int = option(1, "GPUs of a job; 0 trains on its CPU")
    cpus: int = option(8, "CPU cores of a job")
    memory: int | None = option(None, "GB of memory of a job; null: the cluster's default")
    minutes: int = option(60 * 24, "time limit of a job in minutes; it is queued again to resume (launch.requeue)")
    partition: str | None = option(None, "partition; null is the cluster's default")
    sbatch: dict[str, Any] = option({}, "any other options of sbatch, e.g. {account: vision, qos: high}")
    requeue: int = option(3, "how often a job that ran out of time or was preempted is queued again")
    setup: list[str] = option([], "lines of shell before the command, e.g. module load cuda")
    executor: str = option("slurm", "slurm, or local to try it on this machine")
    wait: bool = option(True, "wait for the jobs, then report; false only submits")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "launch", self, "nodes", "cpus", "minutes")
        at_least(0, "launch", self, "gpus", "requeue")
        shared = self.nodes % self.nodes_per_run == 0
        require(shared, "launch.nodes", self.nodes, f"is not a multiple of launch.nodes_per_run={self.nodes_per_run}")
        require(self.memory is None or self.memory >= 1, "launch.memory", self.memory, "is too small: at least 1 GB")
        one_of("launch.executor", self.executor, ("slurm", "local"))


@dataclass
class RayConfig(LaunchConfig):
    """Tasks of a Ray cluster, each a worker on one study; needs a folder that all nodes see."""

    name: str = "ray"
    address: str = option(
        "auto", "of the cluster: auto is the one that this machine belongs to; HOST:6379, ray://HOST:10001"
    )
    workers: Any = option("auto", "workers; auto: as many as the cluster has room for", type="int | auto")
    gpus: int = option(1, "GPUs of a worker; 0 trains on a CPU")
    cpus: int = option(1, "CPU cores of a worker")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, "launch", self, "gpus")
        at_least(1, "launch", self, "cpus")
        known = re.fullmatch(r"auto|(ray://)?[^/]+:\d+", self.address) is not None
        require(known, "launch.address", f"'{self.address}'", "is neither 'auto', HOST:PORT nor ray://HOST:PORT")
        gpus = self.accelerator != "gpu" or self.gpus > 0
        require(gpus, "launch.gpus", self.gpus, "gives no GPU to launch.accelerator=gpu: at least 1")
        require(self.nodes_per_run == 1, "launch.nodes_per_run", self.nodes_per_run, "needs launch=slurm")
        fits = not self.gpus or self.devices_per_run <= self.gpus
        require(fits, "launch.devices_per_run", self.devices_per_run, f"are more than launch.gpus={self.gpus}")
        good = self.workers == "auto" or (type(self.workers) is int and self.workers >= 1)
        require(good, "launch.workers", self.workers, "is neither 'auto' nor a positive number")


@dataclass
class ManualConfig(LaunchConfig):
    """Enqueues runs, and leaves it to the user to start workers (`python -m shunted_lab.worker`)."""

    name: str = "manual"


@dataclass
class StudyConfig:
    """Where the study is kept."""

    storage: str | None = option(
        None,
        "SQLAlchemy URL, e.g. postgresql+psycopg://user@host/db; journal: Optuna's journal file, where SQLite's locks "
        "do not work, as in some network folders; null: a SQLite file in the study's folder",
    )
    heartbeat: int = option(60, "seconds between heartbeats; after two missed ones another worker takes the run")

    def __post_init__(self) -> None:
        at_least(1, "study", self, "heartbeat")
        ok = self.storage in (None, "journal") or "://" in str(self.storage)
        require(
            ok, "study.storage", self.storage, "is neither journal nor a URL, e.g. postgresql+psycopg://user@host/db"
        )
