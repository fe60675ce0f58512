"""A run over several devices: torchrun starts a process on each, over several nodes by `srun` within their job.

The first rank says how far it is on standard output, which torchrun and srun pass on, a line of JSON each. The worker
answers by a file in the run's folder, which all nodes see.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shunted_lab.output.files import write_json
from shunted_lab.study.folder import Run, load_run
from shunted_lab.tasks.callbacks import Pruned, Stopped
from shunted_lab.tasks.listener import RunListener, Status
from shunted_lab.tasks.train import train

ANSWER = ".answer.json"  # in the run's folder: what the worker says to the first rank
LOG = "ranks.log"  # in the run's folder: what the ranks print on standard error
MARK = "shunted_lab:"  # how a line of the first rank begins
LOOK = 0.5  # seconds between two looks at the answer
WAIT = 60.0  # seconds that the first rank waits for an answer: a shared folder shows files late
ENDING = 30  # seconds that torchrun has to end its ranks


def train_on_ranks(run: Run, listener: RunListener) -> dict[str, Any]:
    """Train a run on its devices, from this process. Returns what `tasks.train` does.

    Raises:
        Stopped, Pruned: as `listener` has decided.
        RuntimeError: with the ranks' last words, if they failed.
    """
    answer = run.folder / ANSWER
    answer.unlink(missing_ok=True)
    with open(run.folder / LOG, "ab+") as log:
        begin = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(_command(run), stdout=subprocess.PIPE, stderr=log)
        try:
            end = _relay(process, answer, listener)
        finally:
            _end(process)
            answer.unlink(missing_ok=True)
        log.seek(begin)
        said = log.read().decode(errors="replace")
    if end is None:
        raise RuntimeError(f"exit status {process.returncode} of torchrun:\n{said[-20000:]}")
    if end["kind"] == "failed":
        raise RuntimeError(end["error"])
    if end["kind"] == "stopped":
        raise Stopped
    if end["kind"] == "pruned":
        raise Pruned
    return dict(end["result"])


def _command(run: Run) -> list[str]:
    launch = run.config.launch
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={launch.devices_per_run}"]
    if (nodes := launch.nodes_per_run) == 1:
        command += ["--standalone"]
    else:
        meeting = f"{socket.gethostname()}:{_free_port()}"
        command += [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={meeting}"]
        command += [f"--rdzv-id={run.fingerprint}"]
    command += ["--module", "shunted_lab.study.ranks", str(run.folder.absolute())]
    return command if nodes == 1 else [*_on_nodes(nodes), *command]


def _on_nodes(nodes: int) -> list[str]:
    """Starts a command on so many nodes of this job, beside what runs there."""
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")  # of the job; a step does not take it over by itself
    options = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--overlap", "--cpu-bind=none"]
    options += ["--kill-on-bad-exit=1", *([] if cpus is None else [f"--cpus-per-task={cpus}"])]
    warning = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")  # goes to every process of a job, and would end it
    return ["srun", *options, "sh", "-c", f"trap '' {warning}; exec \"$@\"", "sh"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def _relay(process: subprocess.Popen[bytes], answer: Path, listener: RunListener) -> dict[str, Any] | None:
    """Pass on what the first rank says, until the ranks have ended; its last message, None if it gave none."""
    told, end = False, None
    for message in _messages(process):
        if not told and listener.stopping():
            write_json(answer, {"stop": True})
            told = True
        if message is None:
            continue
        if message["kind"] == "step":
            listener.step(Status(**message["status"]))
        elif message["kind"] == "epoch":
            prune = listener.epoch(message["epoch"], message["metrics"])
            if not told:
                write_json(answer, {"epoch": message["epoch"], "prune": prune})
        else:
            end = message
    return end


def _messages(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any] | None]:
    """The messages of the first rank; None from time to time where there is none. Other lines are not ours."""
    assert process.stdout is not None
    number, text = process.stdout.fileno(), b""
    while True:
        ready = select.select([number], [], [], LOOK)[0]
        if not ready:
            yield None
            continue
        piece = os.read(number, 65536)
        if not piece:
            return
        *lines, text = (text + piece).split(b"\n")
        for line in lines:
            if line.startswith(MARK.encode()):
                yield json.loads(line[len(MARK) :])
        yield None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the ranks; torchrun and srun end theirs if they are asked to."""
    if process.stdout is not None:
        process.stdout.close()
    process.terminate()
    try:
        process.wait(ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class FirstRank(RunListener):
    """Says how far the run is, and reads the worker's answers."""

    def __init__(self, folder: Path):
        self.answer = folder / ANSWER
        self._looked = 0.0
        self._stop = False

    def stopping(self) -> bool:
        if not self._stop and time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            self._stop = bool(self._read().get("stop"))
        return self._stop

    def step(self, status: Status) -> None:
        say(kind="step", status=asdict(status))

    def epoch(self, epoch: int, metrics: dict[str, float]) -> bool:
        say(kind="epoch", epoch=epoch, metrics=metrics)
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            found = self._read()
            self._stop = self._stop or bool(found.get("stop"))
            if self._stop or found.get("epoch") == epoch:
                return bool(found.get("prune"))
            time.sleep(0.02)
        return False

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            return dict(json.loads(self.answer.read_text()))
        return {}


def say(**message: Any) -> None:
    """Say something to the worker."""
    print(MARK + json.dumps(message), flush=True)


def main(folder: Path) -> None:
    """Train as one of the ranks that torchrun has started. All end with status 0 where the run was asked to stop."""
    run = load_run(folder)
    first = os.environ["RANK"] == "0"
    try:
        result = train(run.config, folder, FirstRank(folder) if first else RunListener())
        end = {"kind": "done", "result": result}
    except Stopped:
        end = {"kind": "stopped"}
    except Pruned:
        end = {"kind": "pruned"}
    except Exception:
        if first:  # torchrun and srun say little of why, after it
            say(kind="failed", error=traceback.format_exc())
        raise
    if first:
        say(**end)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
