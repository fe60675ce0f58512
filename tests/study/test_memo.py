"""What is remembered on disk is what would be computed again, and nothing else."""

import pytest

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.study import plan
from shunted_lab.study.costs import memo
from shunted_lab.study.costs.memo import remember


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_value_is_computed_once_for_all_that_it_depends_on(monkeypatch):
    calls = []

    def of(value):
        return remember("kind", [value], lambda: calls.append(value) or {"value": value})

    assert of(1) == of(1) == {"value": 1} and of(2) == {"value": 2} and calls == [1, 2]
    monkeypatch.setattr(memo, "code_version", lambda: "other code")
    assert of(1) == {"value": 1} and calls == [1, 2, 1]


def test_an_exception_is_not_kept():
    def fail():
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        remember("kind", 1, fail)
    assert remember("kind", 1, lambda: 2) == 2


def test_what_cannot_be_read_is_computed_again_and_what_cannot_be_written_costs_time_only(tmp_path, monkeypatch):
    assert remember("kind", 1, lambda: 1) == 1
    (path,) = tmp_path.rglob("*.json")
    path.write_text("{")
    assert remember("kind", 1, lambda: 2) == 2
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert remember("kind", 1, lambda: 3) == 3


def test_costs_and_sources_are_those_that_are_computed(monkeypatch):
    experiment = compose(["experiment=pretrain_earth"])
    facts = plan.data_facts(experiment)
    first = plan.count_costs(experiment, facts), plan.plan_runs(experiment, facts)
    monkeypatch.setattr("shunted_lab.nn.count.count_cost", None)  # cannot be called
    monkeypatch.setattr("shunted_lab.tasks.model.model_sources", None)
    assert first == (plan.count_costs(experiment, facts), plan.plan_runs(experiment, facts))


@pytest.mark.parametrize(
    "change", ["data.image_size=32", "model.mlp_ratios=[2,2,2,2]", "model.patch_embed=overlapping"]
)
def test_another_model_or_size_is_counted_anew(change):
    def macs(*words):
        experiment = compose(["experiment=train", *words])
        return plan.count_costs(experiment, plan.data_facts(experiment))["model"].macs

    assert macs() != macs(change)


def test_components_of_a_user_are_looked_at_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "memo_blocks.py"
    module.write_text("from shunted_lab.nn.ffn import Mlp\n\nclass Mine(Mlp):\n    pass\n")
    experiment = compose(["experiment=train", "model.mlp=memo_blocks.Mine"])
    model = experiment.variants["model"].model
    assert model.has_own_components
    plan.count_costs(experiment, plan.data_facts(experiment))
    assert not list(tmp_path.rglob("memo/*/*.json"))
