"""Jobs of a cluster: the script word by word, what each job runs, and submitit's local executor for real."""

import os
import stat
import subprocess
import sys
import time

import pytest
from conftest import experiment_of

from shunted_lab.compose import compose
from shunted_lab.config import ConfigError
from shunted_lab.study import slurm

pytest.importorskip("submitit", reason="pip install 'shunted_lab[cluster]'")

WORDS = [
    "experiment=ablate_embed",
    "launch=slurm",
    "launch.partition=gpu",
    "launch.nodes=3",
    "launch.gpus=4",
    "launch.cpus=32",
    "launch.memory=128",
    "launch.minutes=90",
    "launch.requeue=5",
    "launch.setup=['module load cuda','export A=1']",
    "launch.num_workers=8",
    "launch.devices_per_run=2",
    "study.storage=postgresql+psycopg://lab@db/studies",
    "seeds=[0,1]",
]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A `srun` and an `sbatch` that submits nothing, and keeps the name of the script that it was given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", ""), ("sbatch", f'echo "$1" > {tmp_path}/script; echo Submitted batch job 42')):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755 | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def test_the_script_asks_for_what_was_configured_word_by_word(cluster):
    experiment = compose([*WORDS, f"runs_dir={cluster}/runs"])
    jobs = slurm.submit(WORDS, experiment.config)
    assert [job.job_id for job in jobs] == ["42_0", "42_1", "42_2"]
    script = (cluster / "script").read_text().strip()
    logs = f"{cluster}/runs/ablate_embed/jobs/%A_%a_"
    with open(script) as file:
        lines = file.read().splitlines()
    assert lines[:-1] == [
        "#!/bin/bash",
        "",
        "# Parameters",
        "#SBATCH --array=0-2%3",
        "#SBATCH --cpus-per-task=32",
        f"#SBATCH --error={logs}0_log.err",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --job-name=ablate_embed",
        "#SBATCH --mem=128GB",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={logs}0_log.out",
        "#SBATCH --partition=gpu",
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
    command = f"srun --unbuffered --output {logs}%t_log.out --error {logs}%t_log.err "
    assert lines[-1].startswith(command) and " -m submitit.core._submit " in lines[-1]
    submission = jobs[0].submission()
    assert submission.function.words == slurm.job_words(WORDS, experiment.config.launch)
    assert submission._timeout_countdown == 5 and submission._timeout_min == 90


def test_a_job_runs_the_same_command_on_its_node():
    assert slurm.job_words(WORDS, compose(WORDS).config.launch) == [
        "experiment=ablate_embed",
        "launch.num_workers=8",
        "launch.devices_per_run=2",
        "study.storage=postgresql+psycopg://lab@db/studies",
        "seeds=[0,1]",
        "launch=local",
        "launch.accelerator=gpu",
    ]
    words = ["experiment=train", "launch=slurm", "launch.gpus=0", "launch.devices=4"]
    found = slurm.job_words(words, compose(words).config.launch)
    assert found == ["experiment=train", "launch.devices=4", "launch=local", "launch.accelerator=cpu"]
    assert compose(found).config.launch.devices == 4


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
        slurm.submit([], experiment_of(tmp_path, "launch=slurm", *words).config)


def test_an_unknown_executor_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"launch\.executor: 'pbs' is not known; choices: local, slurm"):
        experiment_of(tmp_path, "launch=slurm", "launch.executor=pbs")


def test_a_job_that_is_out_of_time_stops_its_command_and_is_queued_again():
    begin = time.monotonic()
    command = slurm.Command(["experiment=train"])
    command._process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    again = command.checkpoint()
    assert command._process.wait(10) == -15
    assert time.monotonic() - begin < 20
    assert isinstance(again.function, slurm.Command) and again.function.words == ["experiment=train"]


@pytest.mark.slow
def test_jobs_of_the_local_executor_share_a_study(tmp_path):
    words = ["experiment=ablate_embed", "smoke=true", "seeds=[0]", "launch=slurm", "launch.executor=local"]
    words += ["launch.gpus=0", "launch.nodes=2", "launch.threads=1", f"runs_dir={tmp_path}/runs"]
    command = [sys.executable, "-m", "shunted_lab.run", *words]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert len(list(tmp_path.glob("runs/*/*/seed0-*/result.json"))) == 3
    logs = "".join(path.read_text() for path in tmp_path.glob("runs/ablate_embed-smoke/jobs/*_log.out"))
    assert logs.count("val/top1 0.") == 3 and "(1)" in found.stdout and "INCOMPLETE" not in found.stdout
