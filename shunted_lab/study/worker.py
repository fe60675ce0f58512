"""A worker trains runs, one after another, on its own device(s), and says over a pipe what came out.

python -m shunted_lab.study.worker RUN_FOLDER trains one run by hand: an unfinished one is resumed, a finished one is
repeated in a folder inside it, and compared.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from shunted_lab.config.paths import expand
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.corrupt import CorruptImages
from shunted_lab.output.files import locked, write_json, write_text
from shunted_lab.output.streams import forgive
from shunted_lab.study.apart import (
    PARENT_ADDRESS,
    STATUS,
    PipeListener,
    execute_apart,
    is_first,
    join_nodes,
    launcher_lives,
    listener_of_parent,
)
from shunted_lab.study.assignment import Assignment, Slot, origin, take
from shunted_lab.study.folder import TRACEBACK, Run, describe, load_run, missing_metrics, read_result
from shunted_lab.study.measure import are_stable, spread_of, time_run
from shunted_lab.study.pace import threads_of
from shunted_lab.study.plan import WEIGHTS, sources_of
from shunted_lab.tasks.callbacks import Pruned, Stopped
from shunted_lab.tasks.device import find_device
from shunted_lab.tasks.listener import RunListener
from shunted_lab.tasks.resume import keep_weights, newest
from shunted_lab.tasks.train import train


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
                if not launcher_lives():
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
    if not is_first():
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


def main(arguments: list[str] | None = None) -> int:
    """Train the run of one folder. Returns the exit status: 0, 1 for a mistake, 75 stopped, 76 pruned."""
    forgive()
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 0 if {"-h", "--help"} & set(arguments) else 1
    try:
        assignment = _assignment(Path(expand(arguments[0])))
        _use_threads(assignment)
        join_nodes(assignment.run.config.launch.nodes_per_run)
        listener = listener_of_parent()
        result = execute(assignment, listener, progress=listener is None and sys.stdout.isatty())
    except (Stopped, Pruned) as error:
        if not is_first():
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


if __name__ == "__main__":
    sys.exit(main())
