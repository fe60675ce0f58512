"""A worker: takes one run after another from a study, and trains each in a process of its own, until nothing is left.

It needs nothing but the study's folder: the manifest names the runs, and the folder of each says what it is. What
becomes of a run is in `study.queue`. The worker itself uses no device and starts no thread: it watches its process,
beats, and reports. An engine (`study.engines`) starts workers, here or elsewhere, and does nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import locked
from shunted_lab.study.costs.measure import measure_variants
from shunted_lab.study.folder import TRACEBACK
from shunted_lab.study.manifest import Manifest, read_home, read_manifest
from shunted_lab.study.prepare import write_study
from shunted_lab.study.queue import Job, Queue
from shunted_lab.study.search.queue import SearchQueue
from shunted_lab.study.search.sampler import make_pruner, make_sampler
from shunted_lab.study.search.search import search_of
from shunted_lab.study.slots import Slot, origin, take
from shunted_lab.study.states import is_last
from shunted_lab.study.watch import PipeWatch, Watch, title_of

FORK = "spawn" if sys.platform == "darwin" else "fork"  # how a worker makes the process of a run
POLL = 0.2  # seconds between two looks at the signals


class Signals:
    """Ctrl-C and SIGTERM: the first asks the run to stop with a checkpoint, the second ends at once.

    Args:
        supervised: whether this process must not outlive the one that has started it.
    """

    def __init__(self, supervised: bool = False):
        self.count = 0
        self.supervised = supervised

    def stopping(self) -> bool:
        """Whether the worker is to stop."""
        supervisor = (
            multiprocessing.parent_process() if self.supervised else None
        )  # not the server of which it is a fork
        return self.count > 0 or (supervisor is not None and not supervisor.is_alive())

    @contextmanager
    def listening(self, interrupt: bool) -> Iterator[None]:
        """Count signals; without `interrupt` Ctrl-C is left to the process that has started this one."""

        def count(number: int, frame: FrameType | None) -> None:
            self.count += 1

        handlers: dict[int, Any] = {signal.SIGTERM: count, signal.SIGINT: count if interrupt else signal.SIG_IGN}
        old = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


class Child:
    """A process that waits for the folder of a run, and trains it. It is made while the run before is trained, since a
    fork of a process with torch takes longer than all else that a worker does for a run.
    """

    def __init__(self, slot: Slot):
        from shunted_lab.study.training import train_in_child

        context: Any = multiprocessing.get_context(FORK)
        self.connection, theirs = context.Pipe()
        self.process: Any = context.Process(target=train_in_child, args=(theirs, slot), name=f"run of {slot.index}")
        self.process.start()
        theirs.close()

    def end(self, kill: bool) -> None:
        """Wait until it has ended."""
        if kill:
            self.process.kill()
        self.process.join()
        self.connection.close()


class Worker:
    """Trains the runs of a queue on one slot.

    Args:
        queue: gives runs and hears what became of them.
        slot: this worker's share of the machine.
        watch: hears what happens.
        signals: say when to stop.
    """

    def __init__(self, queue: Queue, slot: Slot, watch: Watch, signals: Signals):
        self.queue = queue
        self.slot = slot
        self.watch = watch
        self.signals = signals
        self._next: Child | None = None  # waits for a run
        self._last: Child | None = None  # has said what became of its run, and ends

    def run(self) -> None:
        """Train until nothing is left.

        Raises:
            ConfigError: for what keeps every run from being trained, e.g. a full disk.
            KeyboardInterrupt: if it was asked to stop; its run has a checkpoint then.
        """
        import shunted_lab.study.training  # noqa: F401  # once: the processes of the runs are forks

        origin()

        with locked(self.queue.lock):
            try:
                while not self.signals.stopping():
                    job = self.queue.take()
                    if job is None:
                        return
                    self._train(job)
            finally:
                for child in (self._last, self._next):
                    if child is not None:
                        child.end(kill=child is self._next)
                self.queue.lock.unlink(missing_ok=True)
        raise KeyboardInterrupt

    def _train(self, job: Job) -> None:
        """Train a run in a process of its own, and report what became of it."""
        child, before = self._waiting_child(), self._last
        self._next = self._last = None
        self.watch.started(self.slot.index, title_of(job.run))
        if before is not None and self.slot.gpus:
            before.end(kill=False)  # the memory of its GPU is free then
        _send(child.connection, job.run.folder)
        try:
            self._next = Child(self.slot)
            if before is not None and not self.slot.gpus:
                before.end(kill=False)
            message = self._follow(job, child.process, child.connection)
        except BaseException:
            child.end(kill=True)
            raise
        self._last = child
        self._end(job, message or ("died", cause_of_death(child.process.exitcode)))

    def _waiting_child(self) -> Child:
        """The process that waits; another one where it was killed meanwhile: that does not count as an attempt."""
        if self._next is not None and not self._next.process.is_alive():
            self._next.end(kill=False)
            self._next = None
        return self._next or Child(self.slot)

    def _follow(self, job: Job, process: Any, connection: Any) -> tuple[Any, ...] | None:
        """Hear what a run's process says until it ends; its last message, None if it died without one."""
        told = False
        while True:
            try:
                message = connection.recv() if connection.poll(POLL) else None
            except (EOFError, OSError):  # the process has ended; its last message was read before
                process.join()
                return None
            if message is None:
                if not process.is_alive() and not connection.poll():
                    return None
            elif message[0] == "step":
                self.watch.step(self.slot.index, message[1])
            elif message[0] == "epoch":
                connection.send(self.queue.epoch(job, *message[1:]))
                self.watch.epoch(self.slot.index, *message[1:])
            else:
                return message
            if self.signals.stopping() and not told:
                _send(connection, "stop")
                told = True
            if self.signals.count > 1:
                process.kill()
            self.queue.beat(job)
            self.watch.refresh()

    def _end(self, job: Job, message: tuple[Any, ...]) -> None:
        """Tell the study and whoever watches what became of a run."""
        kind, slot = message[0], self.slot.index
        if kind == "died" and self.signals.stopping():
            kind = "stopped"  # killed on purpose
        if kind == "done":
            self.queue.complete(job, message[1])
            self.watch.ended(slot, "done", message[1])
        elif kind == "failed":
            self.queue.fail(job, message[1])
            last = message[1].strip().splitlines()[-1]
            self.watch.ended(slot, "failed", None, f"{last} ({job.run.folder / TRACEBACK})")
        elif kind == "died":
            self.queue.die(job, message[1])
            self.watch.ended(slot, "died", None, message[1])
        elif kind == "pruned":
            self.queue.prune(job)
            self.watch.ended(slot, "pruned", None)
        else:
            self.queue.stop(job)
            self.watch.ended(slot, "stopped", None)
        if kind == "refused":
            raise ConfigError(message[1])


def _send(connection: Any, message: Any) -> None:
    with suppress(OSError):  # it is dying: that is noticed
        connection.send(message)


def work(folder: Path, plan: str | None, slot: Slot, watch: Watch, signals: Signals, index: int = 0) -> None:
    """Train what a plan has left, as one worker, and measure the variants if it was the last one.

    Args:
        folder: the study's.
        plan: the ID of the manifest; None is the latest.
        index: the worker's number among all workers of the study, for the seed of its sampler.

    Raises:
        ConfigError, KeyboardInterrupt: as `Worker.run` does.
    """
    queue, manifest = open_queue(folder, plan, index, signals.stopping)
    Worker(queue, slot, watch, signals).run()
    if manifest.measures and is_last(queue.study):
        _measure(folder, plan, slot, watch)


def _measure(folder: Path, plan: str | None, slot: Slot, watch: Watch) -> None:
    """Measure the variants on this worker's device, alone, in a process of its own."""
    context: Any = multiprocessing.get_context(FORK)
    connection, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure_in_child, args=(theirs, folder, plan, slot), name="measuring")
    process.start()
    theirs.close()
    try:
        while True:
            watch.note(connection.recv())
    except EOFError:
        process.join()


def _measure_in_child(connection: Any, folder: Path, plan: str | None, slot: Slot) -> None:
    take(Slot(slot.index, slot.gpus))  # all cores: nothing else trains here
    manifest = read_manifest(folder, plan, recorded=False)
    classes = {name: facts.num_classes for name, facts in manifest.facts.items()}
    with suppress(BlockingIOError), locked(folder / ".measuring.lock"):  # another worker does
        measure_variants(folder, manifest.variants, classes, manifest.measured_as, connection.send)


def open_queue(
    folder: Path, plan: str | None, index: int = 0, stopping: Callable[[], bool] = lambda: False
) -> tuple[Queue, Manifest]:
    """The queue of a plan and its manifest.

    Raises:
        ConfigError: for a folder that is not a study's, and for a database that cannot be reached.
    """
    home = read_home(folder)
    is_search = read_manifest(folder, plan).search is not None
    manifest = read_manifest(folder, plan, recorded=not is_search)  # a search builds models
    assert home is not None
    config = manifest.config
    options: dict[str, Any] = {"heartbeat": config.study.heartbeat, "stopping": stopping}
    if manifest.search is None:
        study = write_study(home, manifest)
        return Queue(study, folder, manifest.trained, config.launch.max_attempts, **options), manifest
    assert config.search is not None
    study = write_study(home, manifest)
    count = len(study.get_trials(deepcopy=False))
    study.sampler = make_sampler(config.search, count, index)
    study.pruner = make_pruner(config.search, config.recipe.epochs)
    return SearchQueue(study, search_of(manifest), config.launch.max_attempts, **options), manifest


def serve(connection: Any, folder: Path, plan: str, slot: Slot, index: int, environment: Mapping[str, str]) -> None:
    """A worker in a process of its own, which tells another one what it does. Ends with status 1 if it was refused."""
    from shunted_lab.output.streams import forgive

    forgive()
    os.environ.update(environment)  # it is a fork of a process that was started before
    signals, watch = Signals(supervised=True), PipeWatch(connection)
    with signals.listening(interrupt=False):
        try:
            work(folder, plan, slot, watch, signals, index)
        except KeyboardInterrupt:
            return
        except ConfigError as error:
            watch.refused(str(error))
            sys.exit(1)


def cause_of_death(status: int | None) -> str:
    """An exit status in words, e.g. `killed by SIGSEGV`."""
    if status is None or status >= 0:
        return f"its process ended with status {status}"
    name = signal.Signals(-status).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
