"""A real SLURM cluster of two nodes, n1 and n2, that are this machine: for trials, and for tests that need one.

python tests/study/slurm_cluster.py [KEY=VALUE ...] -- COMMAND... runs a command within it; KEY=VALUE are lines of
slurm.conf that come last, e.g. KillWait=5.

It runs as root, on loopback, with all state in a folder that is removed at the end; it needs no service and no
configuration of the machine:

  apt-get install slurm-wlm munge

Nodes claim more cores and GPUs than there are, so that jobs which ask for them can be submitted; nothing confines a job
to what it has asked for. There is no accounting: `sacct` fails, and every account is accepted.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
START = 60.0  # seconds that daemons have to start
STOP = 40.0  # seconds that jobs and daemons have to end
NODES = ("n1", "n2")

# cred_expire: a job that is requeued starts again only when the credential of its last start has expired, by default
# after two minutes. The other seconds are also shorter than SLURM's own, but for KillWait: what a job can do between
# SIGTERM and SIGKILL is what trials are about.
CONFIGURATION = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,bf_interval=2,sched_min_interval=100000
GresTypes=gpu
MailProg=/bin/true
ReturnToService=2
MessageTimeout=10
KillWait=30
MinJobAge=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=16000 Gres=gpu:4 Feature=fast
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=16000 Gres=gpu:4 Feature=slow
PartitionName=usual Nodes=n[1-2] Default=YES PriorityTier=1 MaxTime=1-0 DefMemPerCPU=500 GraceTime=0
PartitionName=urgent Nodes=n[1-2] PriorityTier=9 MaxTime=1-0 DefMemPerCPU=500
"""


@contextmanager
def cluster(folder: Path, more: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """A cluster, until the context ends: jobs and daemons are stopped then, and the folder is removed.

    Args:
        folder: of its state; it is made.
        more: lines of slurm.conf that are added.

    Returns:
        Variables of the environment by which sbatch, srun and squeue find it: SLURM_CONF, and PATH with /usr/sbin.

    Raises:
        RuntimeError: if it cannot be started.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        raise RuntimeError(f"{', '.join(missing)}: not installed; apt-get install slurm-wlm munge")
    if os.geteuid():
        raise RuntimeError("slurmctld and slurmd of two nodes run as root")
    found = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")} | found
    with ExitStack() as ending:
        folder.mkdir(parents=True)
        ending.callback(shutil.rmtree, folder, ignore_errors=True)
        _write(folder, more)
        ending.enter_context(_munged(folder, environment))
        ending.enter_context(_daemon(["slurmctld", "-D"], environment))
        _until(lambda: " is UP" in _said(["scontrol", "ping"], environment), folder / "slurmctld.log")
        for node in NODES:
            ending.enter_context(_daemon(["slurmd", "-D", "-N", node], environment))
        ending.callback(_end_jobs, environment)
        idle = ["sinfo", "--noheader", "--partition=usual", "--states=idle", "--format=%D"]
        _until(lambda: _said(idle, environment).strip() == "2", folder / "slurmctld.log")
        yield found


def _write(folder: Path, more: Sequence[str]) -> None:
    """The configuration, with ports that are free, and the folders that it names."""
    for name in ("state", "munge", *NODES):
        (folder / name).mkdir()
    sockets = [socket.socket() for _ in range(3)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    text = CONFIGURATION.format(host=socket.gethostname().split(".")[0], ports=ports, folder=folder.absolute())
    (folder / "slurm.conf").write_text("\n".join([text, *more, ""]))
    for number in range(4):
        (folder / f"gpu{number}").touch()  # a GPU is counted where it has a file
    (folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={folder.absolute()}/gpu[0-3]\n")
    (folder / "plugstack.conf").touch()  # not the machine's


@contextmanager
def _munged(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Authentication, by a key of its own. As root: its usual user may not reach the folder, which --force allows."""
    own = folder / "munge"
    (own / "key").write_bytes(os.urandom(1024))
    (own / "key").chmod(0o600)
    names = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
    options = [f"--{option}={own / name}" for option, name in names.items()]
    with _daemon(["munged", "--foreground", "--force", *options], environment):
        _until((own / "socket").exists, own / "log")
        yield


@contextmanager
def _daemon(command: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP)
        process.kill()
        process.wait()


def _end_jobs(environment: Mapping[str, str]) -> None:
    """Kill all jobs, before the daemons that know of their processes."""
    with suppress(subprocess.TimeoutExpired, RuntimeError):
        _said(["scancel", "--user=root"], environment)
        _said(["scancel", "--user=root", "--signal=KILL", "--full"], environment)
        _until(lambda: not _said(["squeue", "--noheader"], environment).strip(), None, STOP)


def _said(command: list[str], environment: Mapping[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=STOP).stdout


def _until(condition: Callable[[], bool], log: Path | None, seconds: float = START) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            last = log.read_text().splitlines()[-5:] if log is not None and log.exists() else []
            raise RuntimeError("\n".join([f"nothing happened in {seconds:g} s", *last]))
        time.sleep(0.2)


def main(arguments: list[str]) -> int:
    """Run a command within a cluster. Returns its exit status."""
    if "--" not in arguments or arguments[-1] == "--":
        print(__doc__, file=sys.stderr)
        return 2
    at = arguments.index("--")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the cluster is stopped too
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with cluster(folder / "cluster", arguments[:at]) as found:
            return subprocess.run(arguments[at + 1 :], env=os.environ | found).returncode
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
