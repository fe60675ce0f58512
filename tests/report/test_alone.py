"""A report needs the study's folder alone: no data set, no experiment file, no code of the user's."""

import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shunted_lab import run as command
from shunted_lab.report import __main__ as report
from shunted_lab.report.collect import curves, image_evidence, load_study
from shunted_lab.study.folder import FORMAT
from shunted_lab.study.manifest import STUDY

TOY = Path(__file__).parents[1] / "plugins" / "toy.py"
SMALL = ["launch.accelerator=cpu", "launch.measure=false", "recipe.epochs=1", "recipe.limit_batches=1"]
FILE = """
baseline: plain
seeds: [0, 1]
data: toy.Patches
task: toy.Brightness
variants: {plain: {}, other: {model.mlp_ratios: [2, 2, 2, 2]}}
"""


def texts(folder):
    return {path.name: path.read_bytes() for path in folder.glob("table.*")}


def test_a_copy_of_the_folder_is_reported_without_its_database(make, tmp_path):
    made = make()
    made.data()
    assert report.main([str(made.folder)]) == 0
    copy = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(made.folder, copy, ignore=shutil.ignore_patterns("table.*", "report", "study.db*"))
    assert report.main([str(copy)]) == 0
    assert texts(copy) == texts(made.folder) and (copy / "report" / "index.html").exists()


def test_a_renamed_variant_keeps_its_curves_and_its_evidence(make, tmp_path, monkeypatch):
    made = make()
    (tmp_path / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "experiments" / "ablate_embed.yaml").read_text()
    renamed = text.replace("conv_stem:", "my_stem:").replace("  conv_stem", "  my_stem")
    (tmp_path / "experiments" / "ablate_embed.yaml").write_text(renamed)
    small = ["model=shunted_lite", "data=earth", "recipe=lite", "seeds=[0,1,2]"]  # as `make` has it
    words = ["experiment=ablate_embed", "launch.measure=false", f"runs_dir={tmp_path}/runs"]
    assert command.main([*words, *small]) == 0
    data = load_study(made.folder)
    assert list(data.variants) == ["non_overlapping", "overlapping", "my_stem"] and data.table.complete
    assert [len(line) for line in curves(data, "val/top1")["my_stem"]] == [4, 4, 4]
    assert {found.variant for found in image_evidence(data)} == {"overlapping", "my_stem"}
    assert all("conv_stem" in str(run.state.run.folder) for run in data.of("my_stem"))


def test_reports_may_be_written_at_once(make):
    made = make()
    made.data()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=lambda: sys.exit(report.main([str(made.folder)]))) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    before = texts(made.folder)
    assert report.main([str(made.folder)]) == 0 and texts(made.folder) == before and len(before) == 3
    assert not list(made.folder.rglob("*.tmp"))


def test_a_manifest_of_another_version_is_one_line(make, capsys):
    made = make()
    path = made.folder / STUDY
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    assert report.main([str(made.folder)]) == 1
    error = capsys.readouterr().err
    assert "study.json: format 99, written by shunted_lab" in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_task_and_a_data_set_of_the_user_s_are_reported_without_their_code(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(FILE)
    shutil.copy(TOY, tmp_path / "toy.py")

    def run(*words):
        command = [sys.executable, "-m", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    trained = run("shunted_lab.run", "experiment=mine", *SMALL)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    folder, before = tmp_path / "runs" / "mine", texts(tmp_path / "runs" / "mine")
    (tmp_path / "toy.py").unlink()
    (tmp_path / "experiments" / "mine.yaml").unlink()
    for path in [*folder.glob("table.*"), *folder.glob("report/*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = run("shunted_lab.report", "runs/mine")
    assert found.returncode == 0, found.stderr
    assert texts(folder) == before
    page = (folder / "report" / "index.html").read_text()
    assert "Error (grey values)" in page and "figure-mae_macs" in page
