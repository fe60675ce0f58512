"""Jobs of a cluster: the script word by word, what each job runs, and submitit's local executor for real."""

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import experiment_of, planned

from shunted_lab.config.compose import compose
from shunted_lab.config.launch import LaunchConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.study.engines import Work, slurm, slurm_job, slurm_jobs
from shunted_lab.study.folder import write_note
from shunted_lab.study.ranks import train_on_ranks
from shunted_lab.study.session import plan_experiment
from shunted_lab.study.slots import plan_slots
from shunted_lab.study.training import train_run
from shunted_lab.tasks.callbacks import Stopped
from shunted_lab.tasks.listener import RunListener

submitit = pytest.importorskip("submitit", reason="pip install 'shunted_lab[cluster]'")

WORDS = [
    "experiment=pretrain_earth",
    "launch=slurm",
    "launch.partition=gpu",
    "launch.nodes=3",
    "launch.gpus=4",
    "launch.cpus=32",
    "launch.memory=128",
    "launch.minutes=90",
    "launch.requeue=5",
    "launch.setup=['module load cuda','export A=1']",
    "launch.sbatch={account: vision, constraint: a100}",
    "launch.wait=false",
    "launch.num_workers=8",
    "launch.devices_per_run=2",
    "study.storage=postgresql+psycopg://lab@db/studies",
    "seeds=[0,1]",
]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A `srun`, and an `sbatch` that submits nothing, and keeps the name of the script and the URL of the database."""
    folder = tmp_path / "bin"
    folder.mkdir()
    submit = f'echo "$1" > {tmp_path}/script; echo "$SHUNTED_LAB_STORAGE" > {tmp_path}/url; echo Submitted batch job 42'
    for name, text in (("srun", ""), ("sbatch", submit)):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755 | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def work_of(folder, launch, todo=1):
    return Work(folder, "1a2b", launch, todo, {"SHUNTED_LAB_STORAGE": "postgresql+psycopg://lab:secret@db/studies"})


def test_the_script_asks_for_what_was_configured_word_by_word(cluster):
    said = []
    work = work_of(cluster / "runs" / "pretrain_earth", compose(WORDS).config.launch, todo=9)
    assert not slurm.Slurm().run(work, said.append)  # launch.wait=false
    assert said == [f"jobs 42_0, 42_1, 42_2; {cluster}/runs/pretrain_earth/jobs"]
    script = (cluster / "script").read_text().strip()
    logs = f"{cluster}/runs/pretrain_earth/jobs/%A_%a_"
    with open(script) as file:
        lines = file.read().splitlines()
    assert lines[:-1] == [
        "#!/bin/bash",
        "",
        "# Parameters",
        "#SBATCH --account=vision",
        "#SBATCH --array=0-2%3",
        "#SBATCH --constraint=a100",
        "#SBATCH --cpus-per-task=32",
        f"#SBATCH --error={logs}0_log.err",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --job-name=pretrain_earth",
        "#SBATCH --mem=128GB",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={logs}0_log.out",
        "#SBATCH --partition=gpu",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@90",
        "#SBATCH --time=90",
        "#SBATCH --wckey=submitit",
        "",
        "# setup",
        "module load cuda",
        "export A=1",
        "",
        "# command",
        "export SUBMITIT_EXECUTOR=slurm",
    ]
    step = "--nodes=1 --ntasks=1 --cpus-per-task=32 --overlap "
    command = f"srun --unbuffered --output {logs}%t_log.out --error {logs}%t_log.err {step}"
    assert lines[-1].startswith(command) and " -m submitit.core._submit " in lines[-1]
    (pickled,) = (cluster / "runs" / "pretrain_earth" / "jobs").glob("42_0_submitted.pkl")
    submission = submitit.core.utils.DelayedSubmission.load(pickled)
    assert submission.function.command[1:] == ["-m", "shunted_lab.worker", str(work.folder), "plan=1a2b"]
    assert submission._timeout_countdown == 5 and submission._timeout_min == 90
    assert (cluster / "url").read_text() == "postgresql+psycopg://lab:secret@db/studies\n"
    files = [path for path in (cluster / "runs").rglob("*") if path.is_file()]
    assert files and not any(b"secret" in path.read_bytes() for path in files), "a password is in no file"


def test_there_are_no_more_jobs_than_runs_that_are_missing():
    def jobs(todo, *words):
        return slurm.jobs_for(compose([*WORDS, *words]).config.launch, todo)

    assert [jobs(todo) for todo in (0, 1, 2, 3, 4, 5, 9)] == [0, 1, 1, 2, 2, 3, 3]  # two workers of two GPUs each
    assert jobs(9, "launch.gpus=0", "launch.devices=4", "launch.nodes=9") == 5
    assert jobs(9, "launch.nodes=4", "launch.nodes_per_run=2") == 2


def test_a_job_without_gpus_sees_none():
    work = work_of(Path("runs"), compose(["experiment=train", "launch=slurm", "launch.gpus=0"]).config.launch)
    assert slurm_job.Job(work).environment == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launch.nodes=2"], r"launch\.nodes: 2 jobs need a database that they share; study\.storage=postgresql"),
        (["launch.devices_per_run=2"], r"launch\.devices_per_run: 2 are more than launch\.gpus=1"),
        ([], r"launch\.executor: Could not detect \"srun\", are you indeed on a slurm cluster"),
    ],
)
def test_what_cannot_be_submitted_is_refused(tmp_path, monkeypatch, words, message):
    monkeypatch.setenv("PATH", str(tmp_path))  # no cluster, also on one
    with pytest.raises(ConfigError, match=message):
        slurm.Slurm().check(experiment_of(tmp_path, "launch=slurm", *words).config.launch, None)


def test_an_unknown_executor_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"launch\.executor: 'pbs' is not known; choices: local, slurm"):
        experiment_of(tmp_path, "launch=slurm", "launch.executor=pbs")


def test_what_slurm_refuses_is_one_line(cluster):
    (cluster / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid account' >&2\nexit 1\n")
    work = work_of(cluster / "runs", compose(WORDS).config.launch)
    with pytest.raises(ConfigError, match=r"^launch: SLURM refuses the jobs: invalid account$"):
        slurm.Slurm().check(work.launch, "postgresql+psycopg://lab@db/studies")
    with pytest.raises(ConfigError, match=r"launch: SLURM refuses the jobs: .*invalid account"):
        slurm.Slurm().run(work, print)


def test_nodes_that_are_down_are_no_refusal(cluster):
    said = "sbatch: error: allocation failure: Requested node configuration is not available"
    (cluster / "bin" / "sbatch").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    slurm.Slurm().check(compose(WORDS).config.launch, "postgresql+psycopg://lab@db/studies")


class Ended:
    """A job that has ended, and left a result or none."""

    def __init__(self, folder, number, result):
        self.job_id = f"42_{number}"
        self.paths = SimpleNamespace(result_pickle=folder / f"{number}.pkl", stderr=folder / f"{number}.err")
        if result is not None:
            submitit.core.utils.cloudpickle_dump(result, self.paths.result_pickle)


def test_jobs_that_failed_are_told_without_accounting(cluster, monkeypatch):
    """`squeue` forgets jobs that have ended; a job that was killed leaves no result."""
    squeue = cluster / "bin" / "squeue"
    squeue.write_text(
        "#!/bin/sh\necho 42_0 COMPLETED; echo 42_1 FAILED; "
        f"[ -e {cluster}/later ] && echo 42_2 OUT_OF_MEMORY || echo 42_2 RUNNING; touch {cluster}/later\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setattr(slurm_jobs, "POLL", 0)
    monkeypatch.setattr(slurm_jobs, "LATE", 0)
    results = [("success", 0), ("error", "Traceback\nRuntimeError: exit status 1"), None]
    jobs = [Ended(cluster, number, result) for number, result in enumerate(results)]
    found = {job.job_id: reason for job, reason in slurm_jobs.what_failed(jobs, on_cluster=True)}
    assert found == {"42_1": "RuntimeError: exit status 1", "42_2": "it left no result; state OUT_OF_MEMORY"}


@pytest.mark.parametrize(("state", "again"), [("RUNNING", True), ("CANCELLED", False)])
def test_a_worker_that_was_stopped_queues_its_job_again_unless_it_was_cancelled(cluster, monkeypatch, state, again):
    """A preemption with GraceTime sends SIGTERM to every process, and no warning."""
    for name, text in (("squeue", f"echo {state}"), ("scontrol", f'echo "$@" > {cluster}/again')):
        (cluster / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (cluster / "bin" / name).chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    job = slurm_job.Job(work_of(Path("runs"), compose(WORDS).config.launch))
    job.command = ["sh", "-c", "exit 130"]
    with pytest.raises(SystemExit, match="130"):
        job()
    assert (cluster / "again").exists() == again
    assert not again or (cluster / "again").read_text() == "requeue 42\n"


def test_a_run_that_has_failed_fails_the_job():
    job = slurm_job.Job(work_of(Path("runs"), compose(WORDS).config.launch))
    job.command = ["sh", "-c", "exit 1"]
    with pytest.raises(RuntimeError, match=r"exit status 1 of sh"):
        job()


def test_a_job_that_is_out_of_time_stops_its_worker_and_is_queued_again():
    job = slurm_job.Job(work_of(Path("runs"), compose(WORDS).config.launch))
    process = job._process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    again = job.checkpoint()
    assert process.wait(10) == -15
    assert isinstance(again.function, slurm_job.Job) and again.function.command == job.command


SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys, time
words = sys.argv[1:]
count = next(i for i, word in enumerate(words) if not word.startswith("-"))
options, command = words[:count], words[count:]
with open(os.environ["SRUN_WORDS"], "w") as file:
    file.write(" ".join(options))
(nodes,) = [int(word.partition("=")[2]) for word in options if word.startswith("--nodes=")]
started = [subprocess.Popen(command, env=os.environ | {{"SLURM_NODEID": str(i)}}) for i in range(nodes)]
if "SRUN_WARNS" in os.environ:  # as SLURM, in the middle of the run
    time.sleep(8)
    for process in started:
        process.send_signal(signal.SIGUSR2)
sys.exit(max(process.wait() for process in started))
"""


@pytest.fixture
def two_nodes(tmp_path, monkeypatch):
    """A job of two nodes, by a `srun` that takes this machine for both."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SRUN_WORDS", str(tmp_path / "words"))
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "words"


NODES = ["seeds=[0]", "recipe.epochs=2", "recipe.limit_batches=3", "data.batch_size=16", "launch.accelerator=cpu"]


class Follows(RunListener):
    """A link that hears of epochs, and asks to stop after `until` of them."""

    def __init__(self, until=100):
        self.heard, self.until = [], until

    def stopping(self):
        return len(self.heard) >= self.until

    def epoch(self, epoch, metrics):
        self.heard.append(epoch)
        return False


def run_of(folder, *words):
    run = planned(experiment_of(folder, *NODES, *words))[1]  # overlapping: no BatchNorm
    write_note(run)
    return run


@pytest.mark.slow
def test_a_run_over_two_nodes_measures_what_one_process_does(tmp_path, two_nodes, monkeypatch):
    monkeypatch.setenv("SRUN_WARNS", "1")
    link = Follows()
    two = train_on_ranks(run_of(tmp_path / "two", "launch.nodes_per_run=2"), link)
    words = "--nodes=2 --ntasks=2 --ntasks-per-node=1 --overlap --cpu-bind=none --kill-on-bad-exit=1 --cpus-per-task=3"
    assert two_nodes.read_text() == words and link.heard == [0, 1]
    one = train_run(run_of(tmp_path / "one"))
    assert (one["devices"], two["devices"]) == (1, 2)
    for name in ("val/loss", "test/loss"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-3), name


@pytest.mark.slow
def test_a_run_over_two_nodes_stops_with_a_checkpoint_and_goes_on(tmp_path, two_nodes):
    run = run_of(tmp_path, "launch.nodes_per_run=2", "recipe.epochs=3")
    with pytest.raises(Stopped):
        train_on_ranks(run, Follows(until=1))
    assert (run.folder / "checkpoints" / "last.ckpt").exists() and not (run.folder / "result.json").exists()
    link = Follows()
    assert train_on_ranks(run, link)["devices"] == 2
    assert link.heard[-1] == 2 and 0 not in link.heard


def test_jobs_have_the_nodes_of_a_run():
    config = compose([*WORDS, "launch.nodes=4", "launch.nodes_per_run=2"]).config
    found = slurm_jobs.parameters(config.launch, "name", 2)
    assert found["slurm_additional_parameters"]["nodes"] == 2 and found["slurm_array_parallelism"] == 2
    assert found["nodes"] == found["tasks_per_node"] == 1, "submitit starts the worker on the first node only"


def test_options_of_sbatch_take_the_place_of_our_own():
    words = ["launch.sbatch={requeue: false, cpus-per-task: 3, exclude: [n1, n2]}"]
    found = slurm_jobs.parameters(compose([*WORDS, *words]).config.launch, "name", 1)
    assert found["slurm_additional_parameters"]["requeue"] is False
    assert found["slurm_additional_parameters"]["exclude"] == "n1,n2"
    assert "--cpus-per-task=3" in found["slurm_srun_args"]


def test_batch_norm_over_cpus_is_refused(tmp_path):
    """Torch has no SyncBatchNorm for the CPU, and its error would come when the job has begun."""
    words = ["launch=slurm", "launch.gpus=0", "launch.nodes=2", "launch.nodes_per_run=2"]
    with pytest.raises(ConfigError, match=r"recipe\.sync_bn: BatchNorm over 2 devices \(variant conv_stem\)"):
        plan_experiment(experiment_of(tmp_path, *words))
    plan_experiment(experiment_of(tmp_path, *words, "recipe.sync_bn=false"))


def test_nodes_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    with pytest.raises(
        ConfigError, match=r"launch\.nodes_per_run: 2 are more than the 1 of this job; launch=slurm asks"
    ):
        plan_slots(LaunchConfig(nodes_per_run=2))
    with pytest.raises(ConfigError, match=r"launch\.nodes: 3 is not a multiple of launch\.nodes_per_run=2"):
        compose([*WORDS, "launch.nodes_per_run=2"])
    with pytest.raises(ConfigError, match=r"data\.batch_size: 16 is not divisible by launch\.nodes_per_run=3$"):
        run_of("runs", "launch.nodes_per_run=3")


WARNED = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
print("ready", flush=True)
time.sleep(600)
"""


def test_the_warning_of_a_cluster_reaches_every_process_and_ends_none(tmp_path, monkeypatch):
    """As SLURM does it: the signal goes to the whole job, and interrupts the wait for the command."""
    script = f"""
import os, signal, subprocess, sys
from pathlib import Path

from shunted_lab.config.launch import SlurmConfig
from shunted_lab.study.engines import Work, slurm_job

slurm_job.GRACE = 20
job = slurm_job.Job(Work(Path("runs"), "1a2b", SlurmConfig(), 1))
job.command = ["worker"]
real = subprocess.Popen

def popen(words, **options):
    return real([sys.executable, "-c", {WARNED!r}], **options)

subprocess.Popen = popen

def warned(*_):
    again = job.checkpoint()
    print("again", again.function.command, flush=True)

signal.signal(signal.SIGUSR2, warned)
try:
    job()
except SystemExit as error:
    print("status", error, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path
    )
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGUSR2)
    said = process.communicate(timeout=60)[0]
    assert said.splitlines() == ["again ['worker']", "status 130"]


@pytest.mark.slow
def test_jobs_of_the_local_executor_share_a_study(tmp_path):
    words = ["experiment=pretrain_earth", "smoke=true", "seeds=[0]", "launch=slurm", "launch.executor=local"]
    words += ["launch.gpus=0", "launch.nodes=2", "launch.threads=1", f"runs_dir={tmp_path}/runs"]
    command = [sys.executable, "-m", "shunted_lab.run", *words]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert len(list(tmp_path.glob("runs/*/*/seed0-*/result.json"))) == 3
    logs = "".join(path.read_text() for path in tmp_path.glob("runs/pretrain_earth-smoke/jobs/*_log.out"))
    assert (
        len(re.findall(r"\[\d/\d\] \w+, seed 0: val/top1 ", logs)) == 3
        and "(1)" in found.stdout
        and "INCOMPLETE" not in found.stdout
    )
