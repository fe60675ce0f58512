"""A real SLURM of two nodes on this machine, for trials: python tests/study/slurm_cluster.py COMMAND...

Needs root, and Debian's packages: apt-get install slurm-wlm munge. All state is in a temporary folder, everything
listens on loopback, and everything is stopped and removed at the end.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CONF = """
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
KillWait=30
MinJobAge=300
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 State=UNKNOWN
PartitionName=trial Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which sbatch, srun and squeue work."""
    for program in ("munged", "slurmctld", "slurmd", "sbatch"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not installed; apt-get install slurm-wlm munge")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    folder.chmod(0o755)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(_munge(folder))
        base = 30000 + os.getpid() % 20000
        conf = CONF.format(host=socket.gethostname(), folder=folder, port=base, first=base + 1, second=base + 2)
        (folder / "slurm.conf").write_text(conf)
        (folder / "state").mkdir()
        quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(["slurmctld", "-D"], **quiet))
        time.sleep(2)
        for node in ("n1", "n2"):
            (folder / f"spool-{node}").mkdir()
            started.append(subprocess.Popen(["slurmd", "-D", "-N", node], **quiet))
        _until_idle(environment)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _munge(folder: Path) -> subprocess.Popen[bytes]:
    """munged with a key of its own, as its own user."""
    own = folder / "munge"
    own.mkdir()
    (own / "key").write_bytes(os.urandom(1024))
    (own / "key").chmod(0o400)
    user = pwd.getpwnam("munge")
    for path in (own, own / "key"):
        os.chown(path, user.pw_uid, user.pw_gid)
    own.chmod(0o755)
    names = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
    options = [f"--{option}={own / name}" for option, name in names.items()]
    process = subprocess.Popen(["munged", "--foreground", *options], user="munge", stderr=subprocess.DEVNULL)
    time.sleep(1)
    return process


def _until_idle(environment: dict[str, str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = subprocess.run(["sinfo", "-h", "-o", "%D %T"], env=environment, capture_output=True, text=True).stdout
        if found.split() == ["2", "idle"]:
            return
        time.sleep(1)
    raise RuntimeError(f"the nodes are not idle after {seconds:g} s: {found}")


if __name__ == "__main__":
    with cluster() as found:
        sys.exit(subprocess.run(sys.argv[1:], env=found).returncode)
