"""`begin_with`: runs that begin where the runs of another experiment ended."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from conftest import command, experiment_of, manifest_of

from shunted_lab import Study
from shunted_lab import run as run_command
from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.study import plan
from shunted_lab.study.chain import find_chain
from shunted_lab.study.folder import load_run
from shunted_lab.study.manifest import read_manifest
from shunted_lab.study.session import plan_experiment

SEGMENT = """\
description: a chain
model: shunted_lite
data: earth
task: segmentation
task.head: semantic_fpn_lite
recipe: segment_lite
begin_with: {experiment: pretrain_earth}
seeds: [0, 1]
baseline: non_overlapping
variants:
  non_overlapping: {model.patch_embed: non_overlapping}
  overlapping: {model.patch_embed: overlapping}
  conv_stem: {model.patch_embed: conv_stem1}
"""


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)


def chain_of(tmp_path, *words, text=SEGMENT):
    (tmp_path / "experiments" / "chain.yaml").write_text(text)
    return compose(["experiment=chain", f"runs_dir={tmp_path}/runs", "launch.measure=false", *words])


def keep_weights(config, folder, listener):
    """What a run leaves: a checkpoint, whose content follows from its seed and its folder."""
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {"seed": torch.tensor(config.seed)}, "of": str(folder)}, folder / "checkpoints/last.ckpt")


@pytest.fixture
def sources(tmp_path, trained):
    """A finished `pretrain_earth` with two seeds."""
    for name in ("non_overlapping", "overlapping", "conv_stem"):
        for seed in range(4):
            trained.script[name, seed] = keep_weights
    command(tmp_path, "seeds=[0,1]")
    trained.clear()
    return tmp_path / "runs" / "pretrain_earth"


def runs_of(experiment):
    facts = plan.data_facts(experiment)
    return plan.plan_runs(experiment, facts, chain=find_chain(experiment))


def test_each_run_begins_with_the_run_of_its_variant_and_seed(tmp_path, sources):
    runs = runs_of(chain_of(tmp_path))
    assert len(runs) == 6 and len({run.fingerprint for run in runs}) == 6
    for run in runs:
        source = load_run(next((sources / run.variant).glob(f"seed{run.seed}-*")))
        assert run.config.model.checkpoint == str(source.folder / "checkpoints" / "last.ckpt")
        assert source.seed == run.seed and source.config.model.patch_embed == run.config.model.patch_embed
        assert len(run.sources["model.checkpoint"]) == 16
    assert "the run of pretrain_earth of the same variant and seed (data=earth, 4 epochs; Top-1 40.00 %)" == (
        find_chain(chain_of(tmp_path)).about
    )


def test_a_plan_on_disk_knows_the_weights_of_each_seed(tmp_path, sources, trained):
    experiment = chain_of(tmp_path)
    manifest = replace(manifest_of(experiment), runs=runs_of(experiment), begins_with="x")
    from shunted_lab.study.manifest import make_home

    plan_id = manifest.write(make_home(manifest.folder, None))
    read = read_manifest(manifest.folder, plan_id)
    assert read.begins_with == "x" and read.config.begin_with.experiment == "pretrain_earth"
    for before, after in zip(manifest.runs, read.runs, strict=True):
        assert after.config.model.checkpoint == before.config.model.checkpoint
        assert after.sources == before.sources


def test_a_source_that_is_trained_again_makes_the_chain_stale(tmp_path, sources):
    before = runs_of(chain_of(tmp_path))
    file = next((sources / "overlapping").glob("seed1-*")) / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": {"seed": torch.tensor(7)}}, file)
    after = runs_of(chain_of(tmp_path))
    changed = [(a.variant, a.seed) for a, b in zip(before, after, strict=True) if a.fingerprint != b.fingerprint]
    assert changed == [("overlapping", 1)]
    same = [a.configuration == b.configuration for a, b in zip(before, after, strict=True)]
    assert all(same), "the same choice with other weights: stale, not another run"


def test_what_the_other_experiment_lacks_is_planned_first(tmp_path, sources):
    chain = find_chain(chain_of(tmp_path, "seeds=[0,2]"))
    assert chain.missing == (("non_overlapping", 2), ("overlapping", 2), ("conv_stem", 2))
    assert chain.source.config.seeds == [0, 1, 2], "the table of the other experiment keeps its seeds"
    one = plan_experiment(chain_of(tmp_path, "seeds=[0,2]", "only=conv_stem"))
    assert one.before.names == ["conv_stem"] and one.before.todo[0].seed == 2 and len(one.todo) == 2
    planned = plan_experiment(chain_of(tmp_path, "seeds=[0,2]"))
    assert len(planned.before.todo) == 3 and len(planned.todo) == 6
    assert find_chain(chain_of(tmp_path)).source is None


def test_settings_of_across_and_other_names_lead_to_the_same_variant(tmp_path, sources):
    text = SEGMENT.replace("  conv_stem:", "  stem:").replace(
        "begin_with: {experiment: pretrain_earth}",
        "begin_with: {experiment: pretrain_earth, variants: {stem: conv_stem}}\nacross: {small: {recipe.lr: 1.0e-3}}",
    )
    for run in runs_of(chain_of(tmp_path, text=text)):
        assert run.variant.endswith("-small")
        name = run.variant.removesuffix("-small").replace("stem", "conv_stem")
        assert f"/pretrain_earth/{name}/seed{run.seed}-" in run.config.model.checkpoint


def test_weights_freeze_the_statistics_where_the_recipe_leaves_it_open(tmp_path, sources):
    assert all(run.config.freezes_bn for run in runs_of(chain_of(tmp_path, "recipe.freeze_bn=null")))
    assert not any(run.config.freezes_bn for run in runs_of(chain_of(tmp_path)))


def fails(message, *args, **kwargs):
    with pytest.raises(ConfigError, match=message):
        runs_of(chain_of(*args, **kwargs))


def test_bad_chains_are_refused_in_one_line(tmp_path, sources):
    fails(
        "begin_with: variants.non_overlapping: model.mlp_ratios is .* in the run of experiment=pretrain_earth",
        tmp_path,
        "model.mlp_ratios=[2,2,2,2]",
    )
    other = SEGMENT.replace("conv_stem:", "stem:")
    fails("begin_with: experiment=pretrain_earth has no variant: 'stem'", tmp_path, text=other)
    fails("experiment: 'ablate_embd' is not known", tmp_path, "begin_with.experiment=ablate_embd")
    fails("model.checkpoint: .* cannot be combined with begin_with", tmp_path, "model.checkpoint=x.pth")
    fails("begin_with.experiment: chain is this experiment itself", tmp_path, "begin_with.experiment=chain")
    for path in sources.glob("*/seed0-*/checkpoints"):
        for file in path.iterdir():
            file.unlink()
    fails(r"begin_with: .*last.ckpt does not exist; .* launch.keep=weights rerun=all trains it again", tmp_path)


@pytest.mark.parametrize("finished", [False, True])
def test_weights_that_have_seen_test_images_are_refused(tmp_path, trained, finished):
    if finished:
        trained.script = dict.fromkeys(
            [(name, 0) for name in ("non_overlapping", "overlapping", "conv_stem")], keep_weights
        )
        command(tmp_path, "seeds=[0]", "data=earth32")
    message = (
        "begin_with: variants.non_overlapping: data=earth splits the same pictures otherwise than data=earth32 of "
        "experiment={}, so its weights have seen test images; give both the same data"
    )
    source = "pretrain_earth" if finished else "ablate_embed"
    fails(message.format(source), tmp_path, "seeds=[0]", text=SEGMENT.replace("pretrain_earth", source))
    text = SEGMENT.replace("pretrain_earth", source).replace("data: earth", "data: scales\ndata.image_size: 64")
    fails("data=scales splits the same pictures otherwise", tmp_path, "seeds=[0]", text=text)


def test_frozen_statistics_need_weights(tmp_path):
    with pytest.raises(ConfigError, match=r"recipe.freeze_bn: True needs weights to begin with"):
        experiment = experiment_of(tmp_path, "recipe.freeze_bn=true")
        plan.plan_runs(experiment, plan.data_facts(experiment))


def test_an_experiment_that_was_trained_with_other_words_is_not_mixed(tmp_path, trained):
    names = ("non_overlapping", "overlapping", "conv_stem")
    trained.script = dict.fromkeys([(name, 0) for name in names], keep_weights)
    command(tmp_path, "seeds=[0]", "recipe.epochs=2")
    assert len(runs_of(chain_of(tmp_path, "seeds=[0]"))) == 3, "whatever words it was trained with"
    fails("was trained with another recipe.epochs than its file says, and lacks runs", tmp_path)


@pytest.mark.slow
def test_a_chain_in_python(tmp_path):
    few = ["recipe.epochs=1", "recipe.warmup_epochs=0", "recipe.limit_batches=2", "launch.measure=false"]
    (tmp_path / "experiments" / "pretrain_earth.yaml").write_text(
        "data: earth\nrecipe: lite\nrecipe.epochs: 1\nrecipe.warmup_epochs: 0\nrecipe.limit_batches: 2\n"
        "baseline: non_overlapping\nvariants: {non_overlapping: {model.patch_embed: non_overlapping}, overlapping: "
        "{model.patch_embed: overlapping}, conv_stem: {model.patch_embed: conv_stem1}}\n"
    )
    (tmp_path / "experiments" / "chain.yaml").write_text(SEGMENT)
    study = Study.plan(["experiment=chain", "only=conv_stem", "seeds=[0]", f"runs_dir={tmp_path}/runs", *few])
    assert study.todo == ["conv_stem"]
    study.execute()
    assert Study(tmp_path / "runs" / "chain").runs.set_index("variant").state["conv_stem"] == "done"
    assert [path.parent.name for path in tmp_path.glob("runs/pretrain_earth/*/seed0-*")] == ["conv_stem"]


@pytest.mark.slow
def test_one_command_trains_the_chain_and_again_nothing(tmp_path, capsys):
    words = ["experiment=segment_earth", "runs_dir=runs", "smoke=true", "seeds=[0]"]
    assert run_command.main([*words, "plan_only=true"]) == 0
    planned = capsys.readouterr().out
    assert "begins with pretrain_earth: 3 runs of pretrain_earth, then 3 of segment_earth" in planned
    assert not (tmp_path / "runs").exists()
    assert run_command.main(words) == 0
    said = capsys.readouterr().out
    assert "begins with the run of pretrain_earth of the same variant and seed (data=earth, 1 epoch; Top-1" in said
    result = json.loads(next((tmp_path / "runs/segment_earth-smoke").glob("conv_stem/seed0-*/result.json")).read_text())
    assert result["initial_weights"]["head"] == "the file is of another task, and its backbone is taken"
    table = (tmp_path / "runs/segment_earth-smoke/table.md").read_text()
    assert "Begins with" in table and "mIoU" in table
    capsys.readouterr()
    assert run_command.main(words) == 0
    assert "epoch 1 of 1" not in capsys.readouterr().out
