"""What a kill or a full disk leaves of a checkpoint that was being written."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from shunted_lab.config.compose import compose
from shunted_lab.tasks.atomic import AtomicCheckpoints
from shunted_lab.tasks.train import train

WRITE = """
import sys, torch
from shunted_lab.tasks.atomic import AtomicCheckpoints
io = AtomicCheckpoints()
for value in range(10**6):
    io.save_checkpoint({"value": value, "weights": torch.full((2_000_000,), float(value))}, sys.argv[1])
    print(value, flush=True)
"""


@pytest.mark.parametrize("wait", [0.0, 0.003, 0.006, 0.011, 0.017])
def test_a_checkpoint_that_is_being_written_when_killed_leaves_the_one_before(tmp_path, wait):
    path = tmp_path / "last.ckpt"
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while (said := process.stdout.readline().strip()) != "2":
        assert said, "it has died"
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = torch.load(path, weights_only=True)
    assert found["value"] >= 2 and (found["weights"] == found["value"]).all()
    AtomicCheckpoints().save_checkpoint({"value": -1}, path)
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_full_disk_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"value": 1}, path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            AtomicCheckpoints().save_checkpoint({"value": 2}, path)
    assert torch.load(path, weights_only=True) == {"value": 1} and os.listdir(path.parent) == ["last.ckpt"]


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_bit_for_bit_where_an_undisturbed_one_does(tmp_path):
    words = ["experiment=train", "launch.accelerator=cpu", "launch.threads=1", "data.batch_size=16"]
    words += ["seeds=[0]", "recipe.epochs=10", "recipe.limit_batches=3", "model.drop_path_rate=0.3", "recipe.ema=0.9"]
    words += ["launch.keep=all", "launch.measure=false", "launch.pictures=false"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = train(compose(words).variants["model"], tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)
    for epoch in (1, 3):  # killed somewhere in the epochs after those, long before the last one
        process = subprocess.Popen(
            [sys.executable, "-m", "shunted_lab.run", *words],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 200
        while _epochs(tmp_path) < epoch:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)  # the command and its workers
        process.wait()
    assert not list(tmp_path.glob("runs/train/model/*/result.json"))
    subprocess.run([sys.executable, "-m", "shunted_lab.run", *words], cwd=tmp_path, check=True, timeout=200)
    (folder,) = tmp_path.glob("runs/train/model/seed0-*")
    first, second = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (tmp_path / "whole", folder)
    )
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, second[key][name]) for name, value in first[key].items())
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert metrics["test/loss"] == whole["metrics"]["test/loss"]


def _epochs(folder) -> int:
    """Epochs in the last checkpoint."""
    for path in folder.glob("runs/train/model/seed0-*/checkpoints/last.ckpt"):
        return torch.load(path, weights_only=True)["epoch"] + 1
    return 0
