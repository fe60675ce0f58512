"""Which runs are trained, which are skipped, and what becomes of what is kept."""

import json
import re
from contextlib import ExitStack

import pytest
from conftest import command, complete_once, experiment_of, names, planned, queue_of, states_of, study_of, trials
from optuna.trial import TrialState

from shunted_lab import RESULTS_VERSION
from shunted_lab.config.compose import compose
from shunted_lab.output.files import locked
from shunted_lab.study import plan
from shunted_lab.study.folder import load_run
from shunted_lab.study.queue import Queue
from shunted_lab.study.states import other_runs, read_states


def test_runs_go_seed_by_seed_so_that_pairs_are_complete_early():
    runs = planned(compose(["experiment=pretrain_earth", "seeds=[3,1]"]))
    assert [(run.seed, run.variant) for run in runs[:4]] == [
        (3, "non_overlapping"),
        (3, "overlapping"),
        (3, "conv_stem"),
        (1, "non_overlapping"),
    ]
    assert len({run.fingerprint for run in runs}) == len({run.folder for run in runs}) == 6


def test_finished_runs_are_skipped_and_a_new_seed_runs_only_itself(tmp_path, trained):
    assert names(command(tmp_path, "seeds=[0,1]")) == ["done"] * 6
    assert trained.all() == [(variant, seed) for seed in (0, 1) for variant in compose_variants()]
    assert names(command(tmp_path, "seeds=[0,1]")) == ["done"] * 6
    assert len(trained.all()) == 6
    assert names(command(tmp_path, "seeds=[1,2]")) == ["done"] * 6
    assert trained.all()[6:] == [("non_overlapping", 2), ("overlapping", 2), ("conv_stem", 2)]


def compose_variants():
    return list(compose(["experiment=pretrain_earth"]).variants)


def test_what_cannot_change_the_result_does_not_run_it_again(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    command(tmp_path, "seeds=[0]", "launch.num_workers=1", "launch.accelerator=cpu", "model.name=mine")
    assert len(trained.all()) == 3


def test_another_configuration_is_trained_and_the_old_results_are_kept(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    assert names(states_of(tmp_path, "seeds=[0]", "recipe.lr=1e-4")) == ["missing"] * 3
    assert names(command(tmp_path, "seeds=[0]", "recipe.lr=1e-4")) == ["done"] * 3
    assert len(trained.all()) == 6 and len(list(tmp_path.glob("runs/*/*/seed0-*/result.json"))) == 6
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3 and len(trained.all()) == 6
    runs = planned(experiment_of(tmp_path, "seeds=[0]"))
    assert other_runs(study_of(tmp_path), runs) == 3


OWN = """
seeds: [0]
baseline: ssa
variants:
  ssa: {}
  mine: {model.attn: stale_blocks.Mine}
  option: {model.attn: {name: ssa, aggregation: stale_blocks.Pool}}
"""
BLOCKS = """
from shunted_lab.nn.aggregation import ConvAggregation as Pool
from shunted_lab.nn.attention import SSA as Mine
"""


def test_an_edit_of_a_user_s_file_makes_stale_the_runs_that_use_it(tmp_path, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "own.yaml").write_text(OWN)
    (tmp_path / "stale_blocks.py").write_text(BLOCKS)

    def run(*words):
        overrides = ["experiment=own", f"runs_dir={tmp_path}/runs", "launch.measure=false", *words]
        return command(tmp_path, experiment=compose(overrides))

    assert names(run()) == names(run()) == ["done"] * 3
    (tmp_path / "stale_blocks.py").write_text(BLOCKS + "# a comment\n")
    found = run()
    assert names(found) == ["done", "stale", "stale"]
    assert found[1].error == "the source of attn: stale_blocks.Mine has changed"
    assert found[2].error == "the source of attn: stale_blocks.Pool has changed"
    assert names(run("rerun=stale")) == ["done"] * 3
    assert trained.all()[3:] == [("mine", 0), ("option", 0)] and len(list(tmp_path.glob("runs/*/mine/*"))) == 2
    (tmp_path / "stale_blocks.py").write_text(BLOCKS)
    assert names(run()) == ["done"] * 3 and len(trained.all()) == 5  # the old results are kept


def test_rerun_all_trains_everything_again_and_keeps_what_was_there(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    before = {path: path.read_text() for path in tmp_path.glob("runs/*/*/seed0-*/result.json")}
    assert names(command(tmp_path, "seeds=[0]", "rerun=all")) == ["done"] * 3
    assert len(trained.all()) == 6
    for path, text in before.items():
        kept = path.parent.with_name(path.parent.name + ".1") / "result.json"
        assert kept.read_text() == text and path.exists()
    assert names(command(tmp_path, "seeds=[0]", "rerun=all")) == ["done"] * 3
    assert len(trained.all()) == 9 and len(list(tmp_path.glob("runs/*/*/seed0-*.2"))) == 3
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3 and len(trained.all()) == 9


def test_a_rerun_that_was_interrupted_goes_on_and_does_not_begin_again(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    trained.script = {("overlapping", 0): "fail"}
    assert names(command(tmp_path, "seeds=[0]", "rerun=all")) == ["done", "failed", "done"]
    trained.script = {}
    trained.clear()
    assert names(command(tmp_path, "seeds=[0]", "rerun=all")) == ["done"] * 3
    assert trained.all() == [("overlapping", 0)]


def test_smoke_runs_have_a_study_of_their_own(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    experiment = experiment_of(tmp_path, "seeds=[0]", "smoke=true")
    assert plan.study_folder(experiment.config).name == "pretrain_earth-smoke"
    assert names(read_states(planned(experiment), None)) == ["missing"] * 3


def test_a_trial_holds_configuration_metrics_costs_origin_and_folder(tmp_path, trained):
    command(tmp_path, "seeds=[4]")
    trial = trials(tmp_path)[0]
    attrs = trial.user_attrs
    assert trial.value == 0.5  # the validation split, never the test split
    assert (attrs["variant"], attrs["seed"]) == ("non_overlapping", 4)
    assert attrs["costs"] == {"params": 1_000_000, "macs": 3, "macs_attention": 1}
    result, folder = attrs["result"], tmp_path / "runs" / "pretrain_earth" / attrs["folder"]
    assert result["metrics"]["test/top1"] == 0.4
    (origin,) = result["origins"]
    assert {"torch", "lightning", "optuna", "python"} <= origin["versions"].keys()
    assert origin["git"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", origin["git"])
    assert json.loads((folder / "result.json").read_text()) == result
    run = load_run(folder)
    assert run.config.model.patch_embed == "non_overlapping" and run.sources == {
        "results version": str(RESULTS_VERSION)
    }


def test_a_failed_run_is_tried_again_a_bounded_number_of_times(tmp_path, trained):
    trained.script = {("overlapping", 0): "fail"}
    for _ in range(4):
        found = command(tmp_path, "seeds=[0]", "launch.max_attempts=2")
    assert trained.all().count(("overlapping", 0)) == found[1].attempts == 2
    command(tmp_path, "seeds=[0]", "launch.max_attempts=2", "rerun=failed")
    assert trained.all().count(("overlapping", 0)) == 3
    trained.script = {}
    assert names(command(tmp_path, "seeds=[0]", "launch.max_attempts=2", "rerun=failed")) == ["done"] * 3


def _queue(tmp_path, *words):
    """A queue of a plan, as a command that was killed before it started workers has left it, and its runs."""
    queue = queue_of(experiment_of(tmp_path, *words))
    return queue, list(queue.runs.values())


def test_runs_that_another_plan_has_queued_are_left_to_it(tmp_path, trained):
    queue, runs = _queue(tmp_path, "seeds=[7]")
    queue.enqueue(runs)
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3
    assert {seed for _, seed in trained.all()} == {0}
    assert [t.state for t in trials(tmp_path)].count(TrialState.WAITING) == 3
    assert names(command(tmp_path, "seeds=[7]")) == ["done"] * 3 and len(trials(tmp_path)) == 6


def test_a_run_that_was_queued_twice_is_trained_once(tmp_path, trained):
    queue, runs = _queue(tmp_path, "seeds=[0]")
    for run in [*runs, *runs]:
        queue._enqueue(run)
    assert names(command(tmp_path, "seeds=[0]", slots=2)) == ["done"] * 3
    assert sorted(trained.all()) == sorted((variant, 0) for variant in compose_variants())
    assert len(complete_once(trials(tmp_path))) == 3


def test_of_several_trials_of_a_run_the_first_counts_whoever_claims_first(tmp_path):
    """Two commands on two machines have enqueued a run at once; a worker claims the second trial before the first."""
    queue, (run, *_) = _queue(tmp_path, "seeds=[0]")
    for _ in range(2):
        queue._enqueue(run)
    queue._refill()
    first, second = (t for t in queue._waiting if t.user_attrs["fingerprint"] == run.fingerprint)
    other = Queue(queue.study, queue.folder, queue.runs)
    other._refill()
    assert other._claim(second) is None
    job = queue._claim(first)
    assert job is not None and job.number == 0
    assert [t.state.name for t in queue.study.trials][:2] == ["RUNNING", "PRUNED"]
    assert queue.study.trials[1].user_attrs["given_back"] == "another trial has its run"


def test_many_workers_find_a_run_without_trying_all_that_others_have(tmp_path):
    """Each claim is a call of the database: with 20 workers and 2,000 runs most of the time went into those in vain."""
    experiment = experiment_of(tmp_path, f"seeds={list(range(40))}")
    queue_of(experiment).enqueue(planned(experiment))
    queues, tries, found = [queue_of(experiment) for _ in range(10)], [], []
    for queue in queues:
        begin = queue._begin
        queue._begin = lambda trial, begin=begin: tries.append(trial) or begin(trial)
    with ExitStack() as living:
        for queue in queues:
            living.enter_context(locked(queue.lock))
        while taken := [job for queue in queues if (job := queue.take()) is not None]:
            found += [job.number for job in taken]
    assert sorted(found) == list(range(120))
    assert len(tries) < 4 * 120, "one worker after another would try 10 times as many as there are"


def test_a_lost_database_is_filled_again_from_the_folders_of_the_plan(tmp_path, trained):
    command(tmp_path, "seeds=[0]")
    for file in (tmp_path / "runs" / "pretrain_earth").glob("study.db*"):
        file.unlink()
    assert names(command(tmp_path, "seeds=[0]")) == ["done"] * 3
    assert len(trained.all()) == 3 and len(trials(tmp_path)) == 3


@pytest.mark.parametrize("smoke", ["true", "false"])
def test_an_impossible_variant_fails_in_the_plan(smoke):
    from shunted_lab.config.schema import ConfigError

    experiment = compose(["experiment=pretrain_earth", "model.mlp=my_package.Mlp", f"smoke={smoke}"])
    with pytest.raises(ConfigError, match=r"model\.mlp: .* module 'my_package' is neither"):
        planned(experiment)
