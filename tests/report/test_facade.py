"""A study in Python: `from shunted_lab import Study, load_run`."""

import pandas as pd
import pytest
import torch
from PIL import Image

import shunted_lab
from shunted_lab import Study, load_run
from shunted_lab.config.schema import ConfigError
from shunted_lab.evaluate import show

SMALL = ["recipe.epochs=1", "recipe.limit_batches=2", "data.batch_size=16", "launch.accelerator=cpu"]
SMALL += ["launch.measure=false", "launch.pictures=false", "launch.devices=1"]


def test_a_study_is_read_from_its_folder(make):
    made = make()
    made.data()
    study = Study(made.folder)
    assert len(study.runs) == 9 and set(study.runs.state) == {"done"}
    row = study.runs.set_index(["variant", "seed"]).loc[("conv_stem", 1)]
    assert row["test/top1"] == pytest.approx(0.7 + 0.02 + 0.001 * len("conv_stem")) and row.macs > 1e6
    assert "| conv_stem |" in str(study.table) and study.table._repr_markdown_() == str(study.table)
    assert {"top1_macs", "differences", "classes"} <= study.figures.keys()
    assert study.predictions("conv_stem", 1).class_names == ("water", "forest", "snow")
    assert study.evidence("conv_stem", 1).is_binary and len(study.evidence("conv_stem", 1).scores) == 200
    assert [path.name for path in study.report()][-1] == "index.html"


def test_what_is_not_there_is_one_line(make, tmp_path):
    with pytest.raises(ConfigError, match=r"is not a study's folder: it has no study.json"):
        Study(tmp_path).table  # noqa: B018
    made = make()
    with pytest.raises(ConfigError, match=r"run: 'conv_stem, seed 7' is not known; did you mean 'conv_stem, seed"):
        Study(made.folder).predictions("conv_stem", 7)
    with pytest.raises(ConfigError, match=r"was opened to read; Study\.plan"):
        Study(made.folder).execute()
    with pytest.raises(AttributeError, match=r"module 'shunted_lab' has no attribute 'Studdy'"):
        shunted_lab.Studdy  # noqa: B018


@pytest.mark.slow
def test_a_study_is_planned_trained_and_reported(tmp_path):
    overrides = ["experiment=train", "seeds=[0,1]", f"runs_dir={tmp_path}/runs", *SMALL]
    study = Study.plan(overrides)
    assert study.todo == ["model"] * 2 and not (tmp_path / "runs").exists()
    assert study.execute() is study and list(study.runs.state) == ["done"] * 2
    assert Study.plan(overrides).todo == []
    assert {path.name for path in study.report()} >= {"table.md", "runs.csv", "index.html"}
    assert isinstance(Study(tmp_path / "runs" / "train").runs, pd.DataFrame)


@pytest.mark.slow
def test_a_run_gives_its_model_with_its_transform(tmp_path):
    study = Study.plan(["experiment=train", "seeds=[0]", f"runs_dir={tmp_path}/runs", *SMALL]).execute()
    folder = study.run_folder("model", 0)
    run = load_run(folder)
    assert not run.model.training and len(run.class_names) == 9 and run.config.seed == 0
    image = run.transform(Image.new("RGB", (100, 80), (30, 60, 90)))
    assert image.shape == (3, 64, 64) and image.dtype == torch.float32
    with torch.no_grad():
        assert run.model(image[None]).shape == (1, 9)
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(run.model.state_dict()["head.weight"], weights["net.head.weight"])
    assert show([f"checkpoint={folder}", "device=cpu", "limit_batches=1"])["images"] > 0
    with pytest.raises(ConfigError, match=r"is not a run's folder: it has no run.json"):
        load_run(folder / "none")
