"""Every notebook runs on a small real study; none is committed with outputs."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SMALL = ["recipe.limit_batches=3", "recipe.epochs=2", "launch.accelerator=cpu", "launch.devices=2"]
SMALL += ["launch.measure=false", "launch.pictures=false"]
TWO = ["only=[one_rate,ssa]"]
SCENES = ["data.train_images=64", "data.val_images=32", "data.test_images=32"]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The folder of an ablation, a search, a segmentation, a detection and a study of scenes, cut down to seconds."""
    folder = tmp_path_factory.mktemp("studies")
    words = {
        "ablation": ["experiment=ablate_embed", "seeds=[0,1]", *SMALL],
        "search": ["experiment=search_rates", "search.trials=4", *SMALL],
        "segmentation": ["experiment=segment_earth", "begin_with=null", "seeds=[0,1]", *SMALL],
        "detection": ["experiment=detect_scales", f"data.cache={folder}/cache", "seeds=[0]", *SMALL, *SCENES, *TWO],
        "scales": ["experiment=train", "data=scales", "seeds=[0]", f"data.cache={folder}/cache", *SMALL, *SCENES],
    }
    for given in words.values():
        given.append(f"runs_dir={folder}/runs")
        command = [sys.executable, "-m", "shunted_lab.run", *given]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_outputs(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, studies, tmp_path):
    papermill = pytest.importorskip("papermill")
    folder = studies
    parameters = {
        "01_ablation_tables": {"STUDY": f"{folder}/runs/ablate_embed"},
        "02_rate_search": {"STUDY": f"{folder}/runs/search_rates"},
        "03_attention_scales": {"RUNS": f"{folder}/runs/train", "SCENES": 2},
        "04_own_component": {"RUNS": f"{tmp_path}/runs", "EPOCHS": 1, "BATCHES": 3},
        "05_segmentation": {"STUDY": f"{folder}/runs/segment_earth"},
        "06_detection": {"STUDY": f"{folder}/runs/detect_scales"},
    }[path.stem]
    out = tmp_path / path.name
    papermill.execute_notebook(path, out, parameters, kernel_name="python3", cwd=tmp_path, progress_bar=False)
    book = nbformat.read(out, as_version=4)
    shown = [output.data for cell in book.cells for output in cell.get("outputs", []) if "data" in output]
    wanted = "text/markdown" if path.stem == "04_own_component" else "image/png"
    assert any(wanted in data for data in shown)
