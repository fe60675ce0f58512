"""Workers of this machine: a process for each slot, replaced when it dies, and a screen that shows what they do."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

from shunted_lab.config.schema import ConfigError
from shunted_lab.study.engines import Work
from shunted_lab.study.slots import Slot, plan_slots, worker_context
from shunted_lab.study.watch import Watch
from shunted_lab.study.worker import POLL, Signals, cause_of_death, serve

RESTARTS = 3  # of a worker in a row that has died without taking a run


class Process:
    """A worker of one slot."""

    def __init__(self, work: Work, slot: Slot):
        self.work = work
        self.slot = slot
        self.died = 0  # in a row, before it took a run
        self.training = False
        self.start()

    def start(self) -> None:
        context = worker_context()
        self.connection, theirs = context.Pipe(duplex=False)
        arguments = (theirs, self.work.folder, self.work.plan, self.slot, self.slot.index, self.work.environment)
        self.process: Any = context.Process(target=serve, args=arguments, name=f"worker {self.slot.index}")
        self.process.start()
        theirs.close()
        self.speaks = True


class Local:
    """Starts a worker for each slot of this machine."""

    here = True

    def check(self, launch: Any, storage: str | None) -> None:
        plan_slots(launch)

    def describe(self, launch: Any, todo: int) -> str:
        return ""

    def run(self, work: Work, say: Callable[[str], None]) -> bool:
        """Train until nothing is left.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, when all workers have stopped with checkpoints; after a second
                one at once.
            ConfigError: what a worker was refused; the others are stopped before.
        """
        signals = Signals()
        with signals.listening(interrupt=True):
            workers = [Process(work, slot) for slot in work.slots[: max(1, work.todo)]]
            try:
                refused = _follow(workers, work.watch, signals)
            finally:
                for worker in workers:
                    worker.process.kill()
                    worker.process.join()
        if refused:
            raise ConfigError(refused)
        if signals.count:
            raise KeyboardInterrupt
        return True


def _follow(workers: list[Process], watch: Watch, signals: Signals) -> str:
    """Hear what the workers say until all have ended; why one of them was refused, empty for none."""
    refused, told = "", 0
    alive = list(workers)
    while alive and signals.count < 3:
        parts = [part for w in alive for part in (w.process.sentinel, *([w.connection] if w.speaks else []))]
        ready = wait(parts, timeout=POLL)
        for worker in list(alive):
            if worker.connection in ready:
                refused = _listen(worker, watch) or refused
            has_ended = worker.process.exitcode is not None and not worker.speaks
            if has_ended and not _is_replaced(worker, watch, stopping=bool(signals.count or refused)):
                alive.remove(worker)
        if told < max(signals.count, bool(refused)):
            told += 1
            for worker in alive:
                worker.process.terminate()
        watch.refresh()
    return refused


def _listen(worker: Process, watch: Watch) -> str:
    """Take one message of a worker; why it was refused, if it was."""
    try:
        message = worker.connection.recv()
    except (EOFError, OSError):
        worker.speaks = False  # it has ended, and all that it said is heard
        return ""
    kind, *values = message
    if kind == "refused":
        return str(values[0])
    if kind in ("started", "ended"):
        worker.training, worker.died = kind == "started", 0
    getattr(watch, kind)(*values)
    return ""


def _is_replaced(worker: Process, watch: Watch, stopping: bool) -> bool:
    """Start a worker again that has died by itself; the study knows what became of its run."""
    status = worker.process.exitcode
    worker.connection.close()
    if worker.training:
        watch.ended(worker.slot.index, "stopped" if stopping else "died", None, cause_of_death(status))
        worker.training = False
    worker.died += 1
    if status == 0 or stopping:
        return False
    if worker.died > RESTARTS:
        raise RuntimeError(f"a worker has died {worker.died} times before it took a run ({cause_of_death(status)})")
    worker.start()
    return True
