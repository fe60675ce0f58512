"""`plan_only=true` says what the same call does without it, writes nothing, and refuses what that refuses."""

import pytest
from conftest import command, experiment_of, opened, states_of

from shunted_lab import run as main_command
from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.variants import chosen
from shunted_lab.study.engines import engine_of
from shunted_lab.study.preview import preview, to_train


def plan_of(tmp_path, *words):
    """The runs that a call with these words would train, and the lines that say so."""
    experiment = experiment_of(tmp_path, *words)
    study, states = opened(experiment), states_of(tmp_path, *words)
    chosen = {(s.run.variant, s.run.seed) for s in to_train(experiment.config, states, study)}
    return chosen, list(preview(experiment.config, states, study))


@pytest.mark.parametrize("rerun", ["null", "failed", "stale", "all"])
def test_it_names_the_runs_that_the_call_trains(tmp_path, trained, rerun):
    trained.script = {("overlapping", 0): "fail"}
    command(tmp_path, "seeds=[0]", "launch.max_attempts=1")  # one failed for good, two done
    words = ["seeds=[0,1]", "launch.max_attempts=1", f"rerun={rerun}"]
    if rerun == "stale":
        words.append("recipe.lr=1e-4")  # two stale, four missing
    trained.script = {}
    trained.clear()
    chosen, lines = plan_of(tmp_path, *words)
    command(tmp_path, *words)
    assert chosen == set(trained.all()) and len(chosen) == len(trained.all())
    text = " ".join(lines)
    assert f"would train {len(chosen)} of 6 runs: " in text
    assert ("overlapping (seed 0); rerun=failed does" in text) == (rerun == "null")


def test_a_rerun_of_all_that_was_stopped_is_resumed(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    trained.script = {("conv_stem", 0): "fail"}
    words = ["seeds=[0]", "rerun=all", "launch.max_attempts=1"]
    command(tmp_path, *words)
    chosen, lines = plan_of(tmp_path, *words)
    assert chosen == {("conv_stem", 0)} and lines == ["would train 1 of 3 runs: conv_stem (seed 0)"]
    trained.clear()
    command(tmp_path, *words)
    assert set(trained.all()) == chosen


def test_a_finished_study_would_train_nothing(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    assert plan_of(tmp_path, "seeds=[0]") == (set(), ["would train nothing"])


def test_only_the_chosen_rows_are_trained_and_the_table_has_all(tmp_path, trained, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["experiment=pretrain_earth", "seeds=[0]", "launch.accelerator=cpu", "launch.measure=false"]
    chosen, lines = plan_of(tmp_path, "seeds=[0]", "only=[conv_stem,overlapping]")
    assert chosen == {("overlapping", 0), ("conv_stem", 0)}
    assert lines[1] == "would not train, because of only=overlapping,conv_stem: non_overlapping (seed 0)"
    assert main_command.main([*words, "only=conv_stem"]) == 0  # what was asked for is done
    assert trained.all() == [("conv_stem", 0)]
    out = " ".join(capsys.readouterr().out.split())
    assert "INCOMPLETE: 2 of 3 runs not done: non_overlapping seed 0 missing; overlapping seed 0 missing" in out
    table = (tmp_path / "runs" / "pretrain_earth" / "table.md").read_text()
    assert "| overlapping | " in table and "(0 of 1: 1 missing)" in table
    assert main_command.main([*words, "only=conv_stem", "rerun=all"]) == 0  # of the chosen row only
    assert trained.all() == [("conv_stem", 0)] * 2
    assert main_command.main([*words, "only=[conv_stm]"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: only: 'conv_stm' is not known; did you mean 'conv_stem'? choices: ")
    assert main_command.main(["experiment=search_rates", "only=paper"]) == 1
    assert capsys.readouterr().err.startswith("error: only: paper is not supported for a search")


def test_a_variant_is_chosen_in_one_setting_or_in_all():
    def of(only):
        return chosen(compose(["experiment=scale_study", f"only={only}"]).config)

    assert of("ssa") == ["ssa-ratio1", "ssa-ratio4", "ssa-ratio16"]
    assert of("[ssa-ratio4,msa]") == ["msa-ratio1", "msa-ratio4", "ssa-ratio4", "msa-ratio16"]
    for wrong in ("[]", "[[a]]", "{a: b}"):
        with pytest.raises(ConfigError, match=r"^only: .* is neither a variant's name nor a list of names"):
            of(wrong)


SLURM = ["launch=slurm", "launch.nodes=4", "launch.gpus=2", "launch.memory=64", "launch.nodes_per_run=2"]


def test_the_jobs_are_listed_with_their_resources(tmp_path):
    launch = experiment_of(tmp_path, *SLURM).config.launch
    assert engine_of(launch).describe(launch, 9) == (
        "would submit 2 jobs to slurm, each of 2 nodes, 2 GPUs, 8 CPU cores, 64 GB of memory, 1,440 minutes, the "
        "default partition; each queued again up to 3 times"
    )
    assert engine_of(launch).describe(launch, 1).startswith("would submit 1 job to slurm, each of 2 nodes")
    assert engine_of(experiment_of(tmp_path).config.launch).describe(launch, 9) == ""


def test_a_plan_refuses_what_the_call_refuses_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["experiment=pretrain_earth", "seeds=[0]", "plan_only=true"]
    assert main_command.main([*words, *SLURM]) == 1
    found = capsys.readouterr()
    assert "would submit 2 jobs" in found.out and "would train 3 of 3 runs" in found.out
    assert found.err == (
        "error: launch.nodes: 2 jobs need a database that they share; study.storage=postgresql+psycopg://user@host/db\n"
    )
    assert main_command.main([*words, "runs_dir=/dev/null/x"]) == 1
    assert capsys.readouterr().err.startswith("error: runs_dir: /dev/null/x cannot be written")
    pytest.importorskip("submitit", reason="pip install 'shunted_lab[cluster]'")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main_command.main([*words, "launch=slurm"]) == 1
    assert capsys.readouterr().err.startswith('error: launch.executor: Could not detect "srun"')
    words = ["experiment=search_rates", "plan_only=true", "launch=slurm", "launch.executor=local"]
    assert main_command.main(words) == 0
    out = capsys.readouterr().out
    assert "would train up to 30 more assignments" in out and "would submit 1 job to local" in out
    assert list(tmp_path.iterdir()) == []
