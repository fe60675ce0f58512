"""Jobs on a real SLURM cluster of two nodes, where its programs are installed (see `slurm_cluster`)."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from slurm_cluster import cluster


@pytest.fixture
def slurm():
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    context = cluster(folder / "cluster")
    try:
        found = context.__enter__()
    except RuntimeError as error:
        shutil.rmtree(folder)
        pytest.skip(str(error))
    yield os.environ | found
    context.__exit__(None, None, None)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_jobs_train_a_study_once_and_a_finished_one_submits_none(tmp_path, slurm, postgres):
    pytest.importorskip("submitit", reason="pip install 'shunted_lab[cluster]'")
    words = ["experiment=pretrain_earth", "smoke=true", "seeds=[0]", "launch=slurm", "launch.nodes=2", "launch.gpus=0"]
    words += ["launch.threads=1", f"study.storage={postgres}", f"runs_dir={tmp_path}/runs"]

    def command(*more):
        call = [sys.executable, "-m", "shunted_lab.run", *words, *more]
        return subprocess.run(call, capture_output=True, text=True, timeout=200, env=slurm)

    refused = command("launch.sbatch={constraint: none_such}")
    assert refused.returncode == 1 and not list(tmp_path.glob("runs/*/jobs"))
    assert refused.stderr.startswith("error: launch: SLURM refuses the jobs: ") and refused.stderr.count("\n") == 1
    first = command()
    assert first.returncode == 0, first.stdout + first.stderr
    assert len(list(tmp_path.glob("runs/*/*/seed0-*/result.json"))) == 3 and "INCOMPLETE" not in first.stdout
    logs = [path.read_text() for path in tmp_path.glob("runs/*/jobs/*_0_log.out")]
    assert len(logs) == 2 and sum(text.count("seed 0: val/top1") for text in logs) == 3
    again = command()
    assert again.returncode == 0 and "jobs " not in again.stdout
    assert len(list(tmp_path.glob("runs/*/jobs/*_0_log.out"))) == 2
