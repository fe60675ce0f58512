"""The launcher of one machine: a worker per slot, each given a run as soon as it is free, and replaced when it dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from shunted_lab.config.launch import LaunchConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import locked
from shunted_lab.study.assignment import CONTEXT, Assignment, Slot, origin
from shunted_lab.study.machine import count_cores, free_memory
from shunted_lab.study.process import start
from shunted_lab.study.queue import Job, Queue
from shunted_lab.tasks.device import find_device
from shunted_lab.tasks.listener import Status

POLL = 0.2  # seconds between looks at Ctrl-C and at the screen


class Progress(Protocol):
    """Hears what happens; `report` has one for the terminal."""

    def started(self, slot: int, job: Job) -> None: ...
    def step(self, slot: int, job: Job, status: Status) -> None: ...
    def epoch(self, slot: int, job: Job, epoch: int, metrics: dict[str, float]) -> None: ...
    def ended(self, slot: int, job: Job, outcome: str, result: dict[str, Any] | None) -> None: ...
    def refresh(self) -> None: ...


@dataclass(frozen=True)
class Load:
    """What the workers of a CPU will have to do, where their number is left to this package.

    Args:
        runs: to be trained.
        small: whether one thread is enough for each (`pace.is_small`).
        memory: bytes that a worker needs at most.
    """

    runs: int
    small: bool
    memory: int = 10**9


def plan_slots(config: LaunchConfig, load: Load | None = None) -> list[Slot]:
    """The workers of this machine.

    On a CPU, small runs get one thread each, however many workers there are, so that their numbers do not depend on it.

    Args:
        load: None refuses what cannot be, before more is known.

    Raises:
        ConfigError: for a device that this machine does not have, and for more of them than it has.
    """
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", 1))
    if config.nodes_per_run > nodes:
        raise ConfigError(
            f"launch.nodes_per_run: {config.nodes_per_run} are more than the {nodes} of this job; launch=slurm asks "
            "for as many"
        )
    device = find_device(config.accelerator, "launch.accelerator")
    return _gpu_slots(config) if device == "cuda" else _cpu_slots(config, device, load)


def _cpu_slots(config: LaunchConfig, device: str, load: Load | None) -> list[Slot]:
    wanted, each = config.devices, config.devices_per_run
    if device == "mps" and each > 1:
        raise ConfigError(f"launch.devices_per_run: {each} are more than the 1 of this machine")
    cores = count_cores()
    small = load is not None and load.small and device == "cpu"
    count = wanted
    if wanted == "auto":
        count = each
        if small and load is not None:
            count *= max(1, min(load.runs, cores // each, free_memory() // (load.memory * each)))
    _divides(count, each)
    if device == "mps" and count > 1:
        raise ConfigError(f"launch.devices: {count} are more than the 1 of this machine")
    threads = config.threads
    if threads == "auto":
        threads = 1 if small else max(1, cores // count) if count > 1 else None
    return [Slot(i, (), threads) for i in range(count // each)]


def _gpu_slots(config: LaunchConfig) -> list[Slot]:
    import torch

    wanted, each = config.devices, config.devices_per_run
    there = visible_gpus(torch.cuda.device_count())
    count = len(there) if wanted == "auto" else wanted
    if count > len(there):
        raise ConfigError(f"launch.devices: {count} are more than the {len(there)} of this machine")
    if each > count:
        raise ConfigError(f"launch.devices_per_run: {each} are more than launch.devices={count}")
    count -= count % each if wanted == "auto" else 0
    _divides(count, each)
    threads = None if config.threads == "auto" else config.threads
    return [Slot(i, tuple(there[i * each : (i + 1) * each]), threads) for i in range(count // each)]


def _divides(count: int, each: int) -> None:
    if each > count:
        raise ConfigError(f"launch.devices_per_run: {each} are more than launch.devices={count}")
    if count % each:
        raise ConfigError(f"launch.devices_per_run: {each} does not divide launch.devices={count}")


def visible_gpus(count: int) -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(i) for i in range(count)]


def warm_up() -> None:
    """Begin to import what trains, in the process that workers are forked from, and return at once."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which measures memory, greets on stderr
    if CONTEXT == "forkserver":
        forkserver.set_forkserver_preload(["shunted_lab.study.worker"])
        forkserver.ensure_running()


class Worker:
    """A slot with its process, and the job that it has."""

    def __init__(self, slot: Slot):
        self.slot = slot
        self.job: Job | None = None
        self.process: Any = None
        self.connection: Connection

    def start(self) -> None:
        context: Any = multiprocessing.get_context(CONTEXT)
        warm_up()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=start, args=(theirs, self.slot), name=f"worker {self.slot.index}")
        self.process.start()
        theirs.close()

    def give(self, job: Job, origin: dict[str, Any]) -> None:
        self.job = job
        self.send(Assignment(job.run, job.costs, origin, job.measure))

    def send(self, message: Any) -> None:
        with suppress(OSError):  # it is dying: its sentinel tells
            self.connection.send(message)

    def close(self) -> None:
        self.connection.close()
        self.process.join()


class Launcher:
    """Keeps the workers of one machine busy with the runs of a queue.

    Args:
        queue: gives the runs and hears what became of them.
        slots: one worker each.
        progress: hears what happens.
    """

    def __init__(self, queue: Queue, slots: list[Slot], progress: Progress):
        self.queue = queue
        self.progress = progress
        self.workers = [Worker(slot) for slot in slots]
        self.origin = origin()
        self._signals = 0
        self._results: list[tuple[Job, dict[str, Any]]] = []

    def run(self) -> None:
        """Train until the queue has nothing left.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, when all workers have written a checkpoint and stopped; after a
                second one at once.
            ConfigError: if the disk is full; all runs are stopped before.
        """
        with locked(self.queue.lock), self._interrupts():
            try:
                self._loop()
            finally:
                self._leave()
                Path(self.queue.lock).unlink(missing_ok=True)
        if self._signals:
            raise KeyboardInterrupt

    def _loop(self) -> None:
        told = False
        while True:
            if self._signals > 1:
                return
            if self._signals and not told:
                self._stop()
                told = True
            if not self._signals:
                self._fill()
            if not self._turn():
                return
            self.queue.beat([worker.job for worker in self.workers if worker.job is not None])
            self.progress.refresh()

    def _turn(self) -> bool:
        """Wait a moment for the workers and hear what they say; False if none has a run."""
        busy = [worker for worker in self.workers if worker.job is not None]
        ready = wait([part for w in busy for part in (w.connection, w.process.sentinel)], timeout=POLL) if busy else ()
        for worker in busy:
            if worker.connection in ready or worker.process.sentinel in ready:
                self._listen(worker)
        self._keep()
        if busy and not ready and not self._signals:
            self.queue.enqueue_ahead()
        return bool(busy)

    def _keep(self) -> None:
        """Write results into the study."""
        while self._results:
            self.queue.done(*self._results.pop(0))

    def _fill(self) -> None:
        """Give each free worker a run."""
        for worker in self.workers:
            if worker.job is None and not self._next(worker):
                return

    def _next(self, worker: Worker) -> bool:
        """Give a worker its next run; False if there is none."""
        job = None if self._signals else self.queue.take()
        if job is None:
            return False
        if worker.process is None or not worker.process.is_alive():
            worker.start()
        worker.give(job, self.origin)
        self.progress.started(worker.slot.index, job)
        return True

    def _listen(self, worker: Worker) -> None:
        """Take one message of a worker, or notice its death."""
        try:
            message = worker.connection.recv() if worker.connection.poll() else None
        except (EOFError, OSError):
            message = None
        if message is not None:
            self._hear(worker, message)
        elif not worker.process.is_alive():
            self._bury(worker)

    def _hear(self, worker: Worker, message: tuple[Any, ...]) -> None:
        kind, job = message[0], worker.job
        assert job is not None
        if kind == "step":
            return self.progress.step(worker.slot.index, job, message[1])
        if kind == "epoch":
            _, epoch, metrics = message
            worker.send(self.queue.epoch(job, epoch, metrics))
            self.progress.epoch(worker.slot.index, job, epoch, metrics)
            return
        worker.job = None
        if kind != "done":
            worker.close()  # it has ended itself
        if kind == "refused":
            self.queue.stopped(job)
            self._stop()
            while self._turn():
                pass
            raise ConfigError(message[1])
        self.progress.ended(worker.slot.index, job, kind, message[1] if kind == "done" else None)
        if kind == "done" and not self.queue.learns:
            self._next(worker)  # the result is in its folder: the worker need not wait for the database
            self._results.append((job, message[1]))
        else:
            getattr(self.queue, kind)(job, *message[1:])

    def _bury(self, worker: Worker) -> None:
        """A worker has died with a run."""
        job, worker.job = worker.job, None
        assert job is not None
        worker.close()
        if self._signals:
            return self.queue.stopped(job)
        how = cause_of_death(worker.process.exitcode)
        self.queue.died(job, how)
        self.progress.ended(worker.slot.index, job, how, None)

    def _stop(self) -> None:
        """Ask the workers to write a checkpoint and stop."""
        for worker in self.workers:
            if worker.job is not None:
                worker.send("stop")

    def _leave(self) -> None:
        """End all workers; whatever still trains is killed, and goes on from its checkpoint in the next call."""
        self._keep()
        for worker in self.workers:
            if worker.process is None:
                continue
            if worker.job is not None:
                worker.process.kill()
                worker.close()
                self.queue.stopped(worker.job)
            elif worker.process.is_alive():
                worker.send("stop")
                worker.close()

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        def count(number: int, frame: FrameType | None) -> None:
            self._signals += 1

        old = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def cause_of_death(status: int | None) -> str:
    """An exit status in words, e.g. `killed by SIGSEGV`."""
    if status is None or status >= 0:
        return f"its process ended with status {status}"
    name = signal.Signals(-status).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
