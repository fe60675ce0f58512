"""A worker trains runs, one after another, on its own device(s), and says over a pipe what came out.

python -m shunted_lab.study.worker RUN_FOLDER trains one run by hand: an unfinished one is resumed, a finished one is
repeated in a folder inside it, and compared.
"""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

import torch

from shunted_lab.config.paths import expand
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.corrupt import CorruptImages
from shunted_lab.output.files import locked, write_json, write_text
from shunted_lab.output.streams import forgive
from shunted_lab.study.assignment import Assignment, Slot, origin, take
from shunted_lab.study.folder import TRACEBACK, Run, describe, load_run, missing_metrics, read_result
from shunted_lab.study.measure import are_stable, spread_of, time_run
from shunted_lab.study.pace import threads_of
from shunted_lab.study.plan import WEIGHTS, sources_of
from shunted_lab.study.slurm import across_nodes
from shunted_lab.tasks.callbacks import Pruned, Stopped
from shunted_lab.tasks.device import find_device
from shunted_lab.tasks.listener import RunListener, Status
from shunted_lab.tasks.resume import keep_weights, newest
from shunted_lab.tasks.train import train

PARENT_ADDRESS = "SHUNTED_LAB_LINK"  # environment of a run in a process of its own: where its worker listens


class PipeListener(RunListener):
    """Passes on to the launcher, over a connection, what a run says. A launcher that is gone stops the run."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self._stop = False

    def stopping(self) -> bool:
        self._stop = self._stop or not _launcher_lives()
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
                self._stop = not _launcher_lives()
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


def _launcher_lives() -> bool:
    """Whether the process that started this one lives. Its pipe does not tell: forks hold the other end open too."""
    launcher = multiprocessing.parent_process()
    return launcher is None or launcher.is_alive()


def serve(connection: Connection, slot: Slot) -> None:
    """Train what comes over the connection until it closes. To be called in a process of its own.

    Messages to the launcher: `("step", status)`; `("epoch", epoch, metrics)`, answered by whether to prune; and at the
    end of a run one of `("done", result)`, `("failed", traceback)`, `("refused", message)`, `("pruned",)` and
    `("stopped",)`. After a failure the process ends: whatever the run has broken goes with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the launcher says what to do
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    take(slot)
    all_threads = torch.get_num_threads()
    while True:
        try:
            while not connection.poll(1):
                if not _launcher_lives():
                    return
            assignment = connection.recv()
        except (EOFError, OSError):
            return
        if assignment == "stop":
            return
        _use_threads(assignment, slot.threads or all_threads)
        answer = _attempt(assignment, connection)
        try:
            connection.send(answer)
        except OSError:
            return
        if answer[0] != "done":
            return


def _use_threads(assignment: Assignment, share: int | None = None) -> None:
    """Take as many threads as a run on the CPU has, whoever trains it; `share` is that of a worker, None all."""
    config = assignment.run.config
    if find_device(config.launch.accelerator, "launch.accelerator") == "cpu" and "macs" in assignment.costs:
        take(Slot(0, threads=threads_of(config, assignment.costs["macs"], share)))


def _attempt(assignment: Assignment, connection: Connection) -> tuple[Any, ...]:
    """Train a run; what is to be said of it."""
    folder = assignment.run.folder
    try:
        listener = PipeListener(connection)
        apart = assignment.run.config.launch.ranks > 1
        return ("done", (execute_apart if apart else execute)(assignment, listener))
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


def execute(assignment: Assignment, listener: RunListener | None = None, progress: bool = False) -> dict[str, Any]:
    """Train a run in its folder; `result.json` is written last, and only when everything has gone well.

    A result that another process has written meanwhile is returned as it is. A run over several devices has one such
    process per device; the first of them writes.

    Raises:
        Stopped, Pruned: as `listener` has decided.
        FloatingPointError: if the run diverged.
        RuntimeError: if a metric is missing, by which runs are compared.
    """
    run = assignment.run
    if not _is_first():
        train(run.config, run.folder, listener)
        return {}
    run.folder.mkdir(parents=True, exist_ok=True)
    # The process of a launcher that was killed may still be here; it leaves at its next batch.
    with locked(run.folder / "lock", lambda: listener is not None and not listener.stopping()):
        done = read_result(run)
        if done is not None:
            return done
        describe(run, assignment.origin | {"costs": assignment.costs, "measure": assignment.measure})
        _check_weights(run)
        start = time.perf_counter()
        result = train(run.config, run.folder, listener, progress)
        bad = [f"{key} is {value}" for key, value in result["metrics"].items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(", ".join(bad))  # a run that diverged has failed; its NaN is not a result
        if missing := missing_metrics(run, result):
            raise RuntimeError(f"{' and '.join(missing)}: not measured, since the split gave no batch")
        result["seconds"] = round(time.perf_counter() - start, 2)
        result["costs"] = assignment.costs | (_measured(run, result["classes"]) if assignment.measure else {})
        result |= assignment.origin
        write_json(run.folder / "result.json", result)
        keep_weights(run.folder / "checkpoints", run.config.recipe.select, run.config.launch.kept)
        return result


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


def main(words: list[str] | None = None) -> int:
    """Train the run of one folder. Returns the exit status: 0, 1 for a mistake, 75 stopped, 76 pruned."""
    forgive()
    words = sys.argv[1:] if words is None else words
    if len(words) != 1 or words[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 0 if {"-h", "--help"} & set(words) else 1
    try:
        assignment = _assignment(Path(expand(words[0])))
        _use_threads(assignment)
        _join_nodes(assignment.run.config.launch.nodes_per_run)
        listener = _listener_of_parent()
        result = execute(assignment, listener, progress=listener is None and sys.stdout.isatty())
    except (Stopped, Pruned) as error:
        if not _is_first():
            return 0  # Lightning takes a rank that ends with another status for a crash, and kills the first
        if isinstance(listener, PipeListener):
            listener.end(STATUS[type(error)])
        return STATUS[type(error)]
    except (ConfigError, BlockingIOError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if result and listener is None:
        print(json.dumps({"folder": str(assignment.run.folder), "metrics": result["metrics"]}, indent=2))
    return 0


def _assignment(folder: Path) -> Assignment:
    """To train the run of a folder; a finished one is trained again, in a folder inside of its own."""
    run = load_run(folder)
    note = json.loads((folder / "run.json").read_text())
    if read_result(run) is not None and PARENT_ADDRESS not in os.environ:
        count = 1 + len(list(folder.glob("repeat*")))
        run = replace(run, folder=folder / f"repeat{count}")
    return Assignment(run, note.get("costs", {}), origin(), note.get("measure", False))


def _join_nodes(nodes: int) -> None:
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


def _is_first() -> bool:
    """Whether this process is the first of its run: the one that writes results and speaks to the worker."""
    return not int(os.environ.get("LOCAL_RANK", 0)) and not int(os.environ.get("NODE_RANK", 0))


def _listener_of_parent() -> RunListener | None:
    """Tells the worker that has started this process; None where a user has started it."""
    address, _, key = os.environ.get(PARENT_ADDRESS, "").rpartition(":")
    if not address:
        return None
    if not _is_first():
        return RunListener()
    return PipeListener(Client(address, "AF_UNIX", authkey=bytes.fromhex(key)))


if __name__ == "__main__":
    sys.exit(main())
