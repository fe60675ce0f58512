"""Every engine keeps the contract: it refuses in one line what cannot be started, starts workers, waits for them."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import experiment_of, names, opened, prepared, trials
from optuna.trial import TrialState

from shunted_lab.config.groups import PRESETS
from shunted_lab.study.engines import ENGINES, engine_of, work_of
from shunted_lab.study.slots import Slot
from shunted_lab.study.states import read_states

SMOKE = ["seeds=[0]", "smoke=true", "launch.threads=1"]
OPTIONS = {
    "local": ["launch=local", "launch.accelerator=cpu"],
    "slurm": ["launch=slurm", "launch.executor=local", "launch.gpus=0"],
    "ray": ["launch=ray", "launch.gpus=0"],
    "manual": ["launch=manual"],
}


def test_every_engine_is_tested_and_has_a_preset():
    assert ENGINES.keys() == OPTIONS.keys() == PRESETS["launch"].keys()


class TestEngine:
    """The contract, for every engine."""

    @pytest.fixture(params=list(ENGINES))
    def words(self, request):
        pytest.importorskip({"slurm": "submitit", "ray": "ray"}.get(request.param, "optuna"))
        options = list(OPTIONS[request.param])
        if request.param == "ray" and "run" in request.node.name:
            options.append(f"launch.address={request.getfixturevalue('ray_cluster').address}")
        return [*SMOKE, *options]

    def test_it_has_a_file_of_little_more_than_100_lines(self, words, tmp_path):
        engine = engine_of(experiment_of(tmp_path, *words).config.launch)
        file = Path(sys.modules[type(engine).__module__].__file__)
        assert len(file.read_text().splitlines()) <= 125

    def test_nothing_is_described_for_a_finished_study(self, words, tmp_path):
        launch = experiment_of(tmp_path, *words).config.launch
        engine = engine_of(launch)
        assert engine.describe(launch, 0) == ""
        assert engine.here or engine.describe(launch, 3).startswith("would ")

    @pytest.mark.slow
    def test_run_trains_what_is_missing_and_waits(self, words, tmp_path):
        if "launch=manual" in words:
            pytest.skip("it starts nothing")
        experiment = experiment_of(tmp_path, *words)
        home, plan, left, manifest = prepared(experiment)
        launch, said = experiment.config.launch, []
        engine = engine_of(launch)
        engine.check(launch, None)
        work = work_of(home, plan, launch, left, [Slot(0, threads=1)], None or _quiet())
        assert left == 3 and engine.run(work, said.append)
        assert names(read_states(manifest.runs, opened(experiment))) == ["done"] * 3, said
        assert [t.state for t in trials(tmp_path, *words)] == [TrialState.COMPLETE] * 3


@pytest.mark.slow
def test_runs_that_were_enqueued_are_trained_by_a_worker_that_knows_the_folder_alone(tmp_path):
    """From another working directory, without the experiment's file: the plan is frozen when it is made."""
    (tmp_path / "experiments").mkdir()
    file = tmp_path / "experiments" / "mine.yaml"
    file.write_text("baseline: a\nseeds: [0]\nvariants: {a: {}, b: {model.drop_rate: 0.1}}\n")

    def run(where, *words):
        command = [sys.executable, "-m", *words]
        return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=200)

    words = ["shunted_lab.run", "experiment=mine", "smoke=true", "launch.accelerator=cpu"]
    queued = run(tmp_path, *words, "launch=manual")
    folder = tmp_path / "runs" / "mine-smoke"
    assert queued.returncode == 0, queued.stderr
    assert "2 runs enqueued; each worker: python -m shunted_lab.worker" in queued.stdout
    file.write_text("broken: [")
    worker = run("/", "shunted_lab.worker", str(folder), "devices=1")
    assert worker.returncode == 0, worker.stdout + worker.stderr
    assert "[2/2] b, seed 0: val/top1" in worker.stdout
    assert run("/", "shunted_lab.report", str(folder)).returncode == 0
    assert (folder / "table.md").exists() and len(list(folder.glob("*/seed0-*/result.json"))) == 2


def _quiet():
    from shunted_lab.study.watch import Quiet

    return Quiet()
