"""Trains one run, in a process of its own. Whatever the run breaks goes with the process.

Importing this imports what trains: workers do it once, and their processes are forks.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from shunted_lab.config.schema import ConfigError
from shunted_lab.data.corrupt import CorruptImages
from shunted_lab.output.files import locked, write_json, write_text
from shunted_lab.output.streams import forgive
from shunted_lab.study.costs.measure import are_stable, spread_of, time_run
from shunted_lab.study.costs.pace import threads_of
from shunted_lab.study.folder import (
    RESULT,
    TRACEBACK,
    Run,
    add_origin,
    copy_twin,
    find_twin,
    load_run,
    missing_metrics,
    read_result,
)
from shunted_lab.study.identity import WEIGHTS, sources_of
from shunted_lab.study.ranks import train_on_ranks
from shunted_lab.study.slots import Slot, origin, take
from shunted_lab.tasks.callbacks import Pruned, Stopped
from shunted_lab.tasks.device import find_device
from shunted_lab.tasks.listener import RunListener, Status
from shunted_lab.tasks.resume import keep_weights, newest
from shunted_lab.tasks.train import train

TRAINING = ".training"  # in runs_dir: a lock for each run that is trained
IDLE = 0.5  # seconds between two looks at the worker, by a process that has no run yet


class PipeListener(RunListener):
    """Passes on to the worker what a run says. A worker that is gone stops the run, which leaves a checkpoint."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.worker = os.getppid()
        self._stop = False

    def folder(self) -> Path | None:
        """The folder of the run that is to be trained; None when the worker is gone."""
        while not self.connection.poll(IDLE):
            if not self._worker_lives():
                return None
        with suppress(EOFError, OSError):
            return Path(self.connection.recv())
        return None

    def stopping(self) -> bool:
        self._stop = self._stop or not self._worker_lives()
        while not self._stop and self.connection.poll():
            self._receive()
        return self._stop

    def step(self, status: Status) -> None:
        with suppress(OSError):  # the worker is gone: the next batch notices
            self.connection.send(("step", status))

    def epoch(self, epoch: int, metrics: dict[str, float]) -> bool:
        """Waits for the answer: whether to prune."""
        try:
            self.connection.send(("epoch", epoch, metrics))
        except OSError:
            self._stop = True
        answer = None
        while answer is None and not self._stop:
            if self.connection.poll(1):
                answer = self._receive()
            else:
                self._stop = not self._worker_lives()
        return bool(answer)

    def _receive(self) -> bool | None:
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            message = "stop"
        if message == "stop":
            self._stop = True
            return None
        return bool(message)

    def _worker_lives(self) -> bool:
        """The pipe does not tell: forks hold its other end open, too."""
        return os.getppid() == self.worker


def train_in_child(connection: Connection, slot: Slot) -> None:
    """Wait for the folder of a run and train that run; to be called in a process of its own, which then ends.

    Messages to the worker: `("step", status)`; `("epoch", epoch, metrics)`, answered by whether to prune; and at the
    end one of `("done", result)`, `("failed", error)`, `("refused", message)`, `("pruned",)` and `("stopped",)`.
    """
    forgive()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the worker says what to do
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning's takes its place
    listener = PipeListener(connection)
    if (folder := listener.folder()) is None:
        return
    message = _attempt(folder, listener, slot)
    with suppress(OSError):
        connection.send(message)


def _attempt(folder: Path, listener: RunListener, slot: Slot) -> tuple[Any, ...]:
    """Train a run; what is to be said of it."""
    try:
        take(slot)
        run = load_run(folder)
        use_threads(run, slot.threads or torch.get_num_threads())
        return ("done", _train_once(run, listener))
    except Stopped:
        return ("stopped",)
    except Pruned:
        return ("pruned",)
    except SystemExit:  # Lightning's answer to SIGTERM
        return ("stopped",)
    except BlockingIOError:  # asked to stop while another process had the run's folder
        return ("stopped",)
    except CorruptImages as error:  # a traceback would tell no more
        write_text(folder / TRACEBACK, f"{error}\n")
        return ("failed", str(error))
    except ConfigError as error:
        return ("refused", str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return ("refused", f"{folder}: the disk is full; free some space, then the same command resumes")
        write_text(folder / TRACEBACK, traceback.format_exc())
        return ("failed", traceback.format_exc())


def _train_once(run: Run, listener: RunListener) -> dict[str, Any]:
    """Train a run. Where another experiment in `runs_dir` trains the same one, wait for it and take its result.

    Raises:
        What `train_run` does; BlockingIOError if it was asked to stop meanwhile.
    """
    runs_dir = run.folder.parents[2]
    lock = runs_dir / TRAINING / run.fingerprint
    lock.parent.mkdir(exist_ok=True)
    had_to_wait = False

    def waiting() -> bool:
        nonlocal had_to_wait
        had_to_wait = True
        return not listener.stopping()

    with locked(lock, waiting):
        try:
            if had_to_wait and (twin := find_twin(run, runs_dir)) is not None:
                copy_twin(run, twin)
            return train_run(run, listener)
        finally:
            lock.unlink(missing_ok=True)


def use_threads(run: Run, share: int | None = None) -> None:
    """Take as many threads as a run on the CPU has, whoever trains it; `share` is that of a worker, None all."""
    config = run.config
    if find_device(config.launch.accelerator, "launch.accelerator") == "cpu" and "macs" in run.costs:
        take(Slot(0, threads=threads_of(config, run.costs["macs"], share)))


def train_run(run: Run, listener: RunListener | None = None, progress: bool = False) -> dict[str, Any]:
    """Train a run in its folder; `result.json` is written last, and only when everything has gone well.

    A result that another process has written meanwhile is returned as it is.

    Raises:
        Stopped, Pruned: as `listener` has decided.
        FloatingPointError: if the run diverged.
        RuntimeError: if a metric is missing, by which runs are compared.
    """
    # A process of a worker that was killed may still be here; it leaves at its next batch.
    with locked(run.folder / "lock", lambda: listener is not None and not listener.stopping()):
        done = read_result(run)
        if done is not None:
            return done
        origins = add_origin(run, origin())
        _check_weights(run)
        start = time.perf_counter()
        if run.config.launch.ranks > 1:
            result = train_on_ranks(run, listener or RunListener())
        else:
            result = train(run.config, run.folder, listener, progress)
        _check_result(run, result)
        result["seconds"] = round(time.perf_counter() - start, 2)
        result["costs"] = _measured(run, result["classes"]) if run.measure else {}
        write_json(run.folder / RESULT, result | {"origins": origins})
        keep_weights(run.folder / "checkpoints", run.config.recipe.select, run.config.launch.kept)
        return result | {"origins": origins}


def _check_result(run: Run, result: dict[str, Any]) -> None:
    """Raise for a result that cannot stand in a table."""
    bad = [f"{key} is {value}" for key, value in result["metrics"].items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(", ".join(bad))  # a run that diverged has failed; its NaN is not a result
    if missing := missing_metrics(run, result):
        raise RuntimeError(f"{' and '.join(missing)}: not measured, since the split gave no batch")


def _check_weights(run: Run) -> None:
    """Raise ConfigError for weights to begin with that are not those of the plan; later they are not needed."""
    file = run.config.model.checkpoint
    if file is None or newest(run.folder / "checkpoints", run.config.recipe.select) is not None:
        return
    if not Path(file).exists() or sources_of(run.config)[WEIGHTS] != run.sources[WEIGHTS]:
        raise ConfigError(f"{WEIGHTS}: {file} is gone or has changed since the plan; the same command plans again")


def _measured(run: Run, classes: int) -> dict[str, float]:
    """Latency [s] of one image and peak memory [bytes] of a forward pass, on the device that the run was trained on.

    Where no two rounds agree, the latency is that of the best one, and `latency_spread` is the share by which the two
    best differ: a trial needs a value, and other runs may be training beside it.
    """
    timing = time_run(run.config, classes, find_device(run.config.launch.accelerator, "launch.accelerator"))
    found = {"latency": timing.best}
    if timing.memory is not None:
        found["memory"] = timing.memory
    if not are_stable(timing.medians):
        found["latency_spread"] = spread_of(timing.medians)
    return found
