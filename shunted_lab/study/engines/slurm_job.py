"""What a job of SLURM runs: a worker on its first node, which is stopped with checkpoints before its time is up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from shunted_lab.study.engines import Work, worker_command

GRACE = 60  # seconds that a job has to write its checkpoints before its time is up; SLURM warns 90 s before
STOPPED = 130  # status of a worker that was asked to stop


class Job:
    """What a job runs, on its first node: a worker."""

    def __init__(self, work: Work):
        self.command = worker_command(work)
        self.environment = {} if work.launch.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Ends without a result if the worker was stopped: the job is queued again, or was cancelled.

        Raises:
            RuntimeError: if a run has failed, or the worker itself.
        """
        task = ["index=" + str(1000 * int(os.environ.get("SLURM_ARRAY_TASK_ID", 0)))]  # workers propose other points
        environment = os.environ | self.environment
        process = subprocess.Popen(self.command + task, env=environment, preexec_fn=_ignore_warning)
        self._process = process
        status = process.wait()
        if status == STOPPED:
            if self._process is not None:  # not by `checkpoint`
                _queue_again()
            sys.exit(status)
        if status:
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


def _queue_again() -> None:
    """For a preemption with GraceTime: every process gets SIGTERM, and SLURM queues only jobs again that still run when
    that time is over. A job that was cancelled, or that SLURM has queued again, does not count as running.
    """
    job = os.environ.get("SLURM_JOB_ID")
    asked = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    if job and subprocess.run(asked, capture_output=True, text=True).stdout.strip() == "RUNNING":
        subprocess.run(["scontrol", "requeue", job])


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
