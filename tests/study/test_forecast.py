"""What a plan says of workers, time and disk before anything is trained."""

import re
import time
from dataclasses import replace

import pytest

from shunted_lab.config.compose import compose
from shunted_lab.config.launch import LaunchConfig
from shunted_lab.data import DataFacts
from shunted_lab.nn import Cost
from shunted_lab.study import plan
from shunted_lab.study import slots as slots_module
from shunted_lab.study.costs import forecast as module
from shunted_lab.study.costs import pace
from shunted_lab.study.costs.forecast import Forecast, can_be_measured, forecast, forecast_line, total_seconds
from shunted_lab.study.costs.pace import Pace, is_small, measure_paces
from shunted_lab.study.slots import Load, Slot, plan_slots
from shunted_lab.study.states import RunState

COST = Cost(1_000_000, 12_000_000, 12_000_000, 0)
PACE = Pace(step=0.1, image=0.01, steps=10, val=100, test=50, memory=10**9)


@pytest.fixture
def machine(monkeypatch):
    """A machine with 8 cores and 6 GB of free memory, and no GPU."""
    monkeypatch.setattr(slots_module, "find_device", lambda *args: "cpu")
    for where in (slots_module, module, pace):
        monkeypatch.setattr(where, "count_cores", lambda: 8)
    for where in (slots_module, module):
        monkeypatch.setattr(where, "free_memory", lambda: 6 * 10**9)


def slots(load, **options):
    return [(slot.threads) for slot in plan_slots(LaunchConfig(**options), load)]


def test_small_runs_get_a_thread_each_and_as_many_workers_as_cores_runs_and_memory_allow(machine):
    assert slots(Load(9, small=True)) == [1] * 6  # of 1 GB each
    assert slots(Load(9, small=True, memory=10**8)) == [1] * 8
    assert slots(Load(3, small=True)) == [1] * 3
    assert slots(Load(9, small=True, memory=10**11)) == [1]
    assert slots(Load(9, small=True), devices_per_run=2) == [1] * 3
    assert slots(Load(9, small=True), devices=2) == [1] * 2
    assert slots(Load(9, small=True), devices=2, threads=3) == [3] * 2


def test_large_runs_share_the_machine_as_they_are_told(machine):
    assert slots(Load(9, small=False)) == [None]  # all cores
    assert slots(Load(9, small=False), devices=4) == [2] * 4


def test_a_run_is_small_by_the_work_of_its_batch():
    run = compose(["experiment=pretrain_earth"]).variants["conv_stem"]  # 64 images at a time
    assert is_small(run, 22e6)
    assert not is_small(run, 2e9)  # Shunted-T at 224 x 224


@pytest.mark.parametrize(("macs", "share"), [(22e6, 1), (2e9, 4)])
def test_threads_follow_from_the_run_alone(macs, share):
    run = compose(["experiment=pretrain_earth"]).variants["conv_stem"]
    assert [pace.threads_of(run, macs, worker) for worker in (4, None)] == [share, None if share > 1 else 1]
    chosen = replace(run, launch=replace(run.launch, threads=3))
    assert pace.threads_of(chosen, macs, 8) == 3


@pytest.mark.parametrize(
    ("macs", "device", "images"), [(22e6, "cpu", 64), (2e9, "cpu", 5), (2e10, "cpu", 2), (2e9, "cuda", 64)]
)
def test_a_step_that_is_measured_takes_a_moment(macs, device, images):
    assert pace.images_of_step(compose(["experiment=train"]).variants["model"], macs, device) == images


def test_a_run_takes_what_its_steps_take():
    assert PACE.seconds(epochs=3) == pytest.approx(pace.STARTING + 3 * (10 * 0.1 + 100 * 0.01) + 150 * 0.01)


def test_an_epoch_of_one_batch_is_measured_with_that_batch():
    seen = []
    found = pace._seconds(iter([([0] * 54,)]), lambda batch: seen.append(len(batch[0])) or time.sleep(0.01), 0)
    assert seen == [54, 54] and found >= 0.01 / 54


def test_runs_in_their_order_go_to_the_worker_that_is_free_first(machine):
    found = Forecast([Slot(0), Slot(1)], {"a": 10.0, "b": 30.0})
    assert total_seconds(found, ["a", "a", "b", "a"]) == 40.0
    assert total_seconds(found, ["a", "c"]) is None
    many = Forecast([Slot(i) for i in range(16)], {"a": 10.0})
    assert total_seconds(many, ["a"] * 16) == 20.0  # on 8 cores


def test_times_of_finished_runs_are_taken_before_measuring(machine, monkeypatch):
    experiment = compose(["experiment=pretrain_earth", "seeds=[0]"])
    facts = plan.data_facts(experiment)
    runs = plan.plan_runs(experiment, facts)
    asked = []
    monkeypatch.setattr(module, "warm_up", lambda: None)
    monkeypatch.setattr(module, "measure_paces", lambda runs, *rest: asked.append([*runs]) or dict.fromkeys(runs, PACE))
    costs = dict.fromkeys(experiment.variants, COST)
    done = [RunState(runs[0], "done", {"seconds": 20.0}), RunState(runs[1], "missing")]
    found = forecast(LaunchConfig(), experiment.variants, costs, facts, [*experiment.variants], done)
    assert asked == [["overlapping", "conv_stem"]]
    four = PACE.seconds(4)
    assert found.seconds == {"non_overlapping": 20.0, "overlapping": four, "conv_stem": four}
    assert len(found.slots) == 3


def test_the_line_of_a_plan_names_workers_time_and_place(machine, tmp_path):
    experiment = compose(["experiment=pretrain_earth", f"runs_dir={tmp_path}"])
    runs = plan.plan_runs(experiment, plan.data_facts(experiment))
    costs = dict.fromkeys(experiment.variants, COST)
    found = Forecast([Slot(0, threads=1), Slot(1, threads=1)], dict.fromkeys(experiment.variants, 60.0))
    line = forecast_line(experiment.config, found, runs, costs)
    # 2 workers write checkpoints of 3 x 4 bytes a parameter twice; 9 runs keep 4 bytes each, and 2 MB beside
    assert line == (
        "9 runs on 2 workers with 1 thread each (8 cores, 6 GB of free memory; launch.devices=N for another number): "
        f"about 5 min, and up to 102 MB in {tmp_path}/pretrain_earth"
    )
    unknown = forecast_line(experiment.config, Forecast([Slot(0)]), runs[:1], costs)
    assert "1 run on 1 worker with all cores (" in unknown and "the time is known after the first steps" in unknown


@pytest.mark.parametrize(
    ("word", "measured"), [("recipe.epochs=9", True), ("recipe.limit_batches=3", False), ("launch.compile=true", False)]
)
def test_runs_of_few_steps_or_with_a_compiler_are_not_measured(word, measured):
    assert can_be_measured(compose(["experiment=train", word]).variants["model"]) == measured


@pytest.mark.slow
def test_a_few_steps_are_measured_in_a_process_of_their_own_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["experiment=train", "model.depths=[1,1,1,1]", "data.batch_size=512", "launch.accelerator=cpu"]
    experiment = compose(words)
    facts = plan.data_facts(experiment)
    found = measure_paces(experiment.variants, {"model": COST}, facts, [Slot(0, threads=1)])["model"]
    assert found.steps == 5484 // 512 and (found.val, found.test) == (868, 1550)
    assert 0 < found.step < 60 and 0 < found.image < 1 and 10**8 < found.memory < 10**10
    monkeypatch.setattr(pace, "_measure", lambda names, *rest: {} if not names else pytest.fail("measured again"))
    assert measure_paces(experiment.variants, {"model": COST}, facts, [Slot(0, threads=1)]) == {"model": found}


def test_variants_that_are_not_measured_have_the_pace_of_the_nearest_by_macs(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = compose(["experiment=train"]).variants["model"]
    runs = {str(i): replace(run, seed=i, model=replace(run.model, drop_rate=i / 100)) for i in range(12)}
    costs = {name: replace(COST, macs=10**6 * (1 + int(name))) for name in runs}
    asked = []
    monkeypatch.setattr(pace, "_measure", lambda names, *rest: asked.extend(names) or {n: PACE for n in names})
    facts = dict.fromkeys(runs, plan.check_data(run.data))
    found = measure_paces(runs, costs, facts, [Slot(0)])
    assert asked == ["0", "2", "4", "7", "9", "11"]
    assert found["2"] == PACE and found["3"].step == pytest.approx(PACE.step * 4 / 5)


@pytest.mark.slow
def test_a_run_that_cannot_be_measured_says_so_and_is_left_out(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    experiment = compose(["experiment=train", "data=folder", f"data.root={tmp_path}/gone"])
    facts = {"model": DataFacts(("a", "b"))}
    assert measure_paces(experiment.variants, {"model": COST}, facts, [Slot(0)]) == {}
    assert re.search(r"model: its time cannot be estimated: .*gone", caplog.text)
