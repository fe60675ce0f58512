"""What a job of SLURM runs: a worker on its first node, which is stopped with checkpoints before its time is up."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

from shunted_lab.study.engines import Work, worker_command

GRACE = 60  # seconds that a job has to write its checkpoints before its time is up; SLURM warns 90 s before
ENDS = (0, 1, 130)  # statuses of a worker: all done, a run has failed, stopped


class Job:
    """What a job runs, on its first node: a worker."""

    def __init__(self, work: Work):
        self.command = worker_command(work)
        hidden = {} if work.launch.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        self.environment = work.environment | hidden
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        if int(os.environ.get("SLURM_NODEID", 0)):
            return 0  # this node is asked when a run begins (`study.ranks`)
        task = ["index=" + str(1000 * int(os.environ.get("SLURM_ARRAY_TASK_ID", 0)))]  # workers propose other points
        self._process = subprocess.Popen(
            self.command + task, env=os.environ | self.environment, preexec_fn=_ignore_warning
        )
        status = self._process.wait()
        if status not in ENDS:
            raise RuntimeError(f"exit status {status} of {' '.join(self.command)}")
        return status

    def checkpoint(self) -> Any:
        """Called by submitit before the job is preempted or out of time: stop with checkpoints, and queue again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            if not _ends(self._process.pid, GRACE):
                self._process.kill()
        self._process = None  # the job is pickled
        return DelayedSubmission(self)


def _ignore_warning() -> None:
    """SLURM sends its warning to every process of a job, and it would end those that do not expect it."""
    signal.signal(getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"), signal.SIG_IGN)


def _ends(pid: int, seconds: float) -> bool:
    """Whether a child ends in time. `Popen.wait` cannot be asked: it is what the signal has interrupted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(0.2)
    return False
