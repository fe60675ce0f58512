"""The command line as a user meets it, in processes of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RESULT = {"metrics": {"val/top1": 0.5, "test/top1": 0.4}, "headline": "test/top1", "device": "none", "sizes": None}


def run(*words: str, cwd: Path, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shunted_lab.run", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **kwargs)


HEAVY = {"torch", "lightning", "timm", "scipy", "matplotlib"}
ABLATIONS = ["aggregation", "attention", "components", "ffn", "local_enhancement", "rates"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains_its_variants(tmp_path, name):
    found = run(f"experiment=ablate_{name}", "smoke=true", "seeds=[0]", "launch.accelerator=cpu", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    results = list(tmp_path.glob("runs/*/*/seed0-*/result.json"))
    done = re.search(r"^\[(\d+)/\1\] ", found.stdout, re.M)
    assert done and len(results) == int(done[1]) >= 3


def test_help_lists_groups_choices_and_every_key(tmp_path):
    found = run("--help", cwd=tmp_path)
    assert found.returncode == 0 and found.stderr == ""
    assert re.search(
        r"^  model +shunted_t, shunted_s, shunted_b, shunted_lite, shunted_mini, pvt_v2_b0, ", found.stdout, re.M
    )
    data = "earth, earth32, scales, imagenet, inat2018, inat2019, folder, shards, ade20k, coco, segmentation_folder, "
    data += "cifar100"
    assert re.search(rf"^  data +{data}$", found.stdout, re.M)
    assert re.search(r"^  experiment .*ablate_embed", found.stdout, re.M)
    for line in (
        r"  seeds: list\[int\] \| \{look:, .*\} = \[0, 1, 2\]\n +one run per seed and variant",
        r"  recipe\.lr: float = 0\.0005\n +peak learning rate",
        r"  data\.root: str = \(needed\)\n +folder of the data set",
    ):
        assert re.search(f"^{line}", found.stdout, re.M), line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=ablate_embd"], r"error: experiment: 'ablate_embd' is not known; did you mean 'ablate_embed'\?"),
        (["experiment=ablate_embed", "model.rate=1"], r"error: model\.rate: no such key; did you mean 'rates'\?"),
        (["experiment=train", "data=folder", "data.root=/no/such"], r"error: data\.root: .*/no/such.*does not exist"),
        (["experiment=ablate_embed", "runs_dir=/dev/null/runs"], r"error: runs_dir: /dev/null/runs cannot be written"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_1(tmp_path, words, message):
    found = run(*words, cwd=tmp_path)
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert re.search(message, found.stderr) and found.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_plan_only_prints_the_plan_and_writes_nothing(tmp_path):
    found = run("experiment=ablate_embed", "plan_only=true", "seeds=[0,4]", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert re.search(r"conv_stem .*0\.\d{3} .*0\.00\d{3} .*missing .*missing", found.stdout)
    assert "0 of 6 runs done" in found.stdout and "seed 4" in found.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_smoke_trains_all_nine_runs_and_the_second_call_none(tmp_path):
    words = ("experiment=ablate_embed", "smoke=true", "seeds=[0,1,2]", "launch.accelerator=cpu")
    first = run(*words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert len(re.findall(r"^\[\d/9\] \w+, seed \d: val/top1 \d+\.\d\d %; \d+ s", first.stdout, re.M)) == 9
    epoch = r"^\w+, seed \d: epoch 1 of 1 done; loss \d\.\d{4}; val/top1 .* %; \d+ images/s"
    assert len(re.findall(epoch, first.stdout, re.M)) == 9
    plan = r"^9 runs on 1 worker with 1 thread \(1 core, .*\): .*, and up to [\d.]+ MB in runs/ablate_embed-smoke$"
    assert re.search(plan, first.stdout, re.M)
    folder = tmp_path / "runs" / "ablate_embed-smoke"
    table = (folder / "table.md").read_text()
    assert "SMOKE TEST" in table and len(re.findall(r"^\| \w+ \|.* \(3\) \|", table, re.M)) == 3
    assert len(list(folder.glob("*/seed*/result.json"))) == 9
    assert {path.name for path in folder.glob("table.*")} == {"table.md", "table.csv", "table.tex"}
    assert list(folder.glob("*/seed*/checkpoints")) == []  # a smoke test keeps no weights
    made = [*folder.glob("*.*"), *folder.glob("report/**/*.*")]
    times = {path: path.stat().st_mtime_ns for path in made if path.name != "study.db"}
    ends = first.stdout[first.stdout.index("ablate_embed: patch embedding") :]
    assert f"page: {(folder / 'report' / 'index.html').as_uri()}\n" in ends and "curves: tensorboard --logdir" in ends
    code = f"import sys, shunted_lab.run as run; run.main({list(words)}); print(sorted({HEAVY} & set(sys.modules)))"
    second = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert second.returncode == 0 and "9 of 9 runs done" in second.stdout
    assert second.stdout.endswith(ends + "[]\n")  # the same table; nothing heavy was imported, nothing written anew
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_command_goes_on(tmp_path, kill):
    words = ["experiment=train", "seeds=[0,1]", "recipe.epochs=8", "recipe.limit_batches=6"]
    words += ["launch.accelerator=cpu", "launch.measure=false", "launch.pictures=false"]
    process = subprocess.Popen(
        [sys.executable, "-m", "shunted_lab.run", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/train/model/seed1-*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(kill)
    _, errors = process.communicate(timeout=60)
    if kill == signal.SIGINT:
        assert process.returncode == 130 and "the same command resumes" in errors and "Traceback" not in errors
    finished = next(tmp_path.glob("runs/train/model/seed0-*/result.json")).read_text()
    again = run(*words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "1 of 2 runs done" in again.stdout and "interrupted" in again.stdout
    assert len(re.findall(r"^\[1/1\] model, seed 1", again.stdout, re.M)) == 1
    assert next(tmp_path.glob("runs/train/model/seed0-*/result.json")).read_text() == finished


@pytest.mark.slow
def test_a_failed_run_is_shown_with_its_traceback_and_status_1(tmp_path, monkeypatch, capsys):
    from shunted_lab import run as command
    from shunted_lab.study import slots, training

    def train(config, folder, link, progress):
        if config.model.patch_embed == "overlapping":
            raise RuntimeError("loss is nan")
        return dict(RESULT)

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(slots, "CONTEXT", "fork")
    monkeypatch.chdir(tmp_path)
    words = ["experiment=ablate_embed", "seeds=[0]", "launch.max_attempts=2", "launch.measure=false"]
    assert command.main(words) == 1
    out = capsys.readouterr().out
    assert "INCOMPLETE: 1 of 3 runs not done: overlapping seed 0 failed (RuntimeError: loss is nan)" in " ".join(
        out.split()
    )
    shown = re.search(r"failed: overlapping, seed 0, 1 of 2 attempts; (\S+); the same command retries it", out)
    assert shown and "RuntimeError: loss is nan" in Path(shown[1]).read_text()
    assert command.main(words) == 1 and "rerun=failed retries it" in capsys.readouterr().out
    monkeypatch.setattr(training, "train", lambda *args: dict(RESULT))
    assert command.main([*words, "rerun=failed"]) == 0
    assert "INCOMPLETE" not in capsys.readouterr().out
