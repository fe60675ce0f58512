"""When a latency is known: rounds in turns, until the two best agree. The rounds are given, nothing is timed."""

import itertools
import math
import os
from dataclasses import replace
from unittest import mock

import pytest
import torch
from conftest import RESULT, command, experiment_of, manifest_of, planned, trials

from shunted_lab.command import run_command
from shunted_lab.nn import Speed, device_name
from shunted_lab.study import training
from shunted_lab.study.costs import measure
from shunted_lab.study.folder import write_note


@pytest.mark.parametrize(
    ("medians", "spread", "stable"),
    [
        ([], math.inf, False),
        ([10.0], math.inf, False),
        ([10.0, 10.4], 0.04, True),
        ([10.0, 10.6], 0.06, False),
        ([990.0, 9.8, 82.9, 9.9], 0.1 / 9.8, True),
        ([9.7, 82.9, 13.0], 3.3 / 9.7, False),
    ],
)
def test_two_best_rounds_within_five_percent_are_stable(medians, spread, stable):
    assert measure.spread_of(medians) == pytest.approx(spread) and measure.are_stable(medians) == stable


@pytest.mark.parametrize(
    ("rounds", "seconds", "over"),
    [
        ([[], []], 0, False),
        ([[10.0, 10.0], [20.0, 20.0]], 1, False),  # a busy moment may last for two rounds
        ([[10.0, 10.0, 10.0], [20.0, 30.0, 20.0]], 1, True),
        ([[10.0, 10.0, 10.0], [20.0, 30.0, 40.0]], 1, False),
        ([[10.0] * 20, [1.2**i for i in range(20)]], 1, True),
        ([[10.0] * 19, [1.2**i for i in range(19)]], 59, False),
        ([[10.0] * 19, [1.2**i for i in range(19)]], 60, True),
        ([[10.0]], 300, False),
        ([[10.0, 10.0]], 300, True),
    ],
)
def test_measuring_ends_when_all_are_stable_or_after_twenty_rounds_or_a_minute(rounds, seconds, over):
    assert measure.is_over(rounds, seconds) == over


def rounds_of(monkeypatch, **medians):
    """Measured rounds by variant, in turn; afterwards the last one again. Returns what was measured, in order."""
    seen = []
    left = {name: itertools.chain(values, itertools.repeat(values[-1])) for name, values in medians.items()}

    def once(run, classes, device, memory):
        name = {"non_overlapping": "a", "overlapping": "b", "conv_stem": "c"}[run.model.patch_embed.rstrip("01")]
        seen.append(name)
        return Speed(next(left[name]), 1.0, 1000 if memory else None, device_name(device))

    monkeypatch.setattr(measure, "_measure", once)
    return seen


@pytest.fixture
def study(tmp_path):
    """The plan of an experiment, and the names of its variants."""
    manifest = manifest_of(experiment_of(tmp_path, "seeds=[0]"))
    manifest.folder.mkdir(parents=True)
    return manifest, list(manifest.variants)


def measured(manifest):
    """Variant -> what is known after measuring on this machine's CPU."""
    classes = {name: facts.num_classes for name, facts in manifest.facts.items()}
    measure.measure_variants(manifest.folder, manifest.variants, classes, manifest.measured_as)
    found = measure.read_measured(manifest.folder, manifest.measured_as)
    return {name: of[device_name(torch.device("cpu"))] for name, of in found.items()}


def test_variants_take_turns_and_keep_their_best_round(study, monkeypatch):
    manifest, names = study
    seen = rounds_of(monkeypatch, a=[0.5, 0.01, 0.0101, 0.02], b=[0.01], c=[0.03])
    found = measured(manifest)
    assert seen == ["a", "b", "c"] * 3
    assert [found[name].latency for name in names] == [0.01, 0.01, 0.03]
    assert [found[name].memory for name in names] == [1000.0] * 3
    assert measure.is_measured(manifest.folder, manifest.measured_as)
    assert measured(manifest) == found and len(seen) == 9, "it is not measured again"


def test_a_variant_that_is_not_stable_has_no_number_and_is_tried_again(study, monkeypatch):
    manifest, names = study
    unstable = [0.01 * 1.34**i for i in range(20)][::-1]
    seen = rounds_of(monkeypatch, a=[0.01], b=unstable, c=[0.03])
    found = measured(manifest)
    assert [found[name].latency for name in names] == [0.01, None, 0.03] and len(seen) == 60
    b = found[names[1]]
    assert (b.rounds, round(b.spread, 2), b.memory) == (20, 0.34, 1000.0)
    assert not measure.is_measured(manifest.folder, manifest.measured_as)
    seen = rounds_of(monkeypatch, a=unstable, b=[0.02], c=[0.04])
    found = measured(manifest)
    assert len(seen) == 60 and [found[name].latency for name in names] == [0.01, 0.02, 0.04], "a keeps what it had"


def test_another_device_adds_its_numbers_and_overwrites_none(study, monkeypatch):
    manifest, names = study
    rounds_of(monkeypatch, a=[0.01], b=[0.01], c=[0.01])
    first = measured(manifest)
    monkeypatch.setattr("shunted_lab.nn.device_name", lambda device: "another CPU")
    rounds_of(monkeypatch, a=[0.5], b=[0.5], c=[0.5])
    classes = {name: facts.num_classes for name, facts in manifest.facts.items()}
    measure.measure_variants(manifest.folder, manifest.variants, classes, manifest.measured_as)
    found = measure.read_measured(manifest.folder, manifest.measured_as)[names[0]]
    assert found["another CPU"].latency == 0.5
    assert found[device_name(torch.device("cpu"))] == first[names[0]]


def test_workers_measure_when_nothing_trains_any_more_and_a_smoke_test_does_not(tmp_path, trained, monkeypatch):
    alone = []

    def variants(folder, variants, classes, measured_as, tell):
        alone.append(not [trial for trial in trials(tmp_path, "seeds=[0]") if trial.state.name == "RUNNING"])
        (tmp_path / f"measured{os.getpid()}").write_text(f"{alone} {list(variants)}")

    monkeypatch.setattr("shunted_lab.study.worker.measure_variants", variants)
    command(tmp_path, "seeds=[0]", "smoke=true", "launch.measure=true")
    assert not list(tmp_path.glob("measured*"))
    command(tmp_path, "seeds=[0]", "launch.measure=true", slots=2)
    assert {path.read_text() for path in tmp_path.glob("measured*")} == {
        "[True] ['non_overlapping', 'overlapping', 'conv_stem']"
    }


@pytest.mark.parametrize(
    ("medians", "noted"), [([0.02, 0.01, 0.0101], False), ([0.01 * 1.5**i for i in range(20)], True)]
)
def test_a_trial_takes_its_best_round_and_notes_that_it_was_not_stable(tmp_path, monkeypatch, medians, noted):
    run = planned(experiment_of(tmp_path, "seeds=[0]"))[0]
    rounds_of(monkeypatch, a=medians)
    monkeypatch.setattr(training, "train", lambda *args: RESULT | {})
    write_note(run)
    costs = training.train_run(replace(run, measure=True))["costs"]
    assert costs["latency"] == 0.01 and costs["memory"] == 1000.0
    assert costs.get("latency_spread") == (pytest.approx(0.5) if noted else None)


def test_memory_is_measured_in_the_first_round_only(study, monkeypatch):
    manifest, names = study
    asked = []

    def once(*args, memory, **kwargs):
        asked.append(memory)
        return Speed(1.0, 1.0, 7, "a CPU")

    monkeypatch.setattr("shunted_lab.nn.measure", once)
    measure.time_run(manifest.variants[names[0]], manifest.facts[names[0]].num_classes, torch.device("cpu"))
    assert asked == [True, False, False]


def test_threads_of_a_command_wait_without_spinning():
    with mock.patch.dict(os.environ):
        os.environ.pop("OMP_WAIT_POLICY", None)
        seen = []
        assert run_command([], str, lambda words: seen.append(os.environ["OMP_WAIT_POLICY"]) or 0) == 0
        os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
        run_command([], str, lambda words: seen.append(os.environ["OMP_WAIT_POLICY"]) or 0)
    assert seen == ["PASSIVE", "ACTIVE"]
