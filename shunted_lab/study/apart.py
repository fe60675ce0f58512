"""A run over several devices: it is trained in a process of its own, from which Lightning starts the others."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

from shunted_lab.config.schema import ConfigError
from shunted_lab.study.assignment import Assignment
from shunted_lab.study.folder import describe, read_result
from shunted_lab.study.slurm import across_nodes
from shunted_lab.tasks.callbacks import Pruned, Stopped
from shunted_lab.tasks.listener import RunListener, Status

PARENT_ADDRESS = "SHUNTED_LAB_LINK"  # environment of a run in a process of its own: where its worker listens


class PipeListener(RunListener):
    """Passes on to the launcher, over a connection, what a run says. A launcher that is gone stops the run."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self._stop = False

    def stopping(self) -> bool:
        self._stop = self._stop or not launcher_lives()
        while not self._stop and self.connection.poll():
            self._receive()
        return self._stop

    def step(self, status: Status) -> None:
        with suppress(OSError):  # the launcher is gone: the next batch notices
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
                self._stop = not launcher_lives()
        return bool(answer)

    def end(self, status: int) -> None:
        """Say that this process ends, and with which status."""
        with suppress(OSError):
            self.connection.send(("end", status))

    def _receive(self) -> bool | None:
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            message = "stop"
        if message == "stop":
            self._stop = True
            return None
        return message


def launcher_lives() -> bool:
    """Whether the process that started this one lives. Its pipe does not tell: forks hold the other end open too."""
    launcher = multiprocessing.parent_process()
    return launcher is None or launcher.is_alive()


def execute_apart(assignment: Assignment, listener: RunListener) -> dict[str, Any]:
    """Train a run over several devices: in a process of its own, so that Lightning can start the others from it. Over
    several nodes it is one on each.

    Raises:
        Stopped, Pruned: as `listener` has decided.
        RuntimeError: with the process's last words, if it failed.
    """
    run = assignment.run
    describe(run, assignment.origin | {"costs": assignment.costs, "measure": assignment.measure})
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "stderr", "w+") as errors:
        key = os.urandom(16)
        with Listener(str(Path(folder) / "listener"), "AF_UNIX", authkey=key) as server:
            command = [sys.executable, "-m", "shunted_lab.study.worker", str(run.folder.absolute())]
            environment = os.environ | {PARENT_ADDRESS: f"{server.address}:{key.hex()}"}
            if (nodes := run.config.launch.nodes_per_run) > 1:
                command, meeting = across_nodes(command, nodes)
                environment |= meeting
            process = subprocess.Popen(command, env=environment, stderr=errors, stdout=subprocess.DEVNULL)
            try:
                said_last = _relay(server, process, listener)
            finally:
                _end(process)
            status = said_last if said_last is not None else process.returncode
            result = read_result(run)
            if result is not None:
                return result
            errors.seek(0)
            said = errors.read()
    if status == STATUS[Stopped]:
        raise Stopped
    if status == STATUS[Pruned]:
        raise Pruned
    raise RuntimeError(f"exit status {status} of the run's own process:\n{said[-20000:]}")


STATUS = {Stopped: 75, Pruned: 76}  # of a run's own process; 75 is EX_TEMPFAIL
ENDING = 10  # seconds that a run's own process has to end when its worker does


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a run's own process; `srun` ends those on other nodes if it is asked to."""
    process.terminate()
    try:
        process.wait(ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _relay(server: Listener, process: subprocess.Popen[bytes], listener: RunListener) -> int | None:
    """Pass on what the run's first rank says, until its process ends. Returns the status that it has said it ends with:
    that of `srun` may be of another rank.
    """
    server._listener._socket.settimeout(0.2)  # type: ignore[attr-defined]
    connection: Connection | None = None
    told, ending = False, None
    while process.poll() is None:
        if connection is None:
            with suppress(TimeoutError):
                connection = server.accept()
        elif wait([connection], timeout=0.2):
            try:
                message = connection.recv()
                if message[0] == "end":
                    ending = message[1]
                elif message[0] == "step":
                    listener.step(message[1])
                else:
                    connection.send(listener.epoch(*message[1:]))
            except (EOFError, OSError):
                process.wait()
        if connection is not None and not told and listener.stopping():
            connection.send("stop")
            told = True
    return ending


def join_nodes(nodes: int) -> None:
    """Say to Lightning which of several nodes this is.

    Raises:
        ConfigError: if nobody has said it to us.
    """
    if nodes > 1 and "NODE_RANK" not in os.environ:
        if "SLURM_NODEID" not in os.environ:
            raise ConfigError(
                f"launch.nodes_per_run: {nodes} nodes each need NODE_RANK, MASTER_ADDR and MASTER_PORT in their "
                "environment"
            )
        os.environ["NODE_RANK"] = os.environ["SLURM_NODEID"]


def is_first() -> bool:
    """Whether this process is the first of its run: the one that writes results and speaks to the worker."""
    return not int(os.environ.get("LOCAL_RANK", 0)) and not int(os.environ.get("NODE_RANK", 0))


def listener_of_parent() -> RunListener | None:
    """Tells the worker that has started this process; None where a user has started it."""
    address, _, key = os.environ.get(PARENT_ADDRESS, "").rpartition(":")
    if not address:
        return None
    if not is_first():
        return RunListener()
    return PipeListener(Client(address, "AF_UNIX", authkey=bytes.fromhex(key)))
