"""What the plan knows of the data: each data set is checked, and each only once."""

import dataclasses

import pytest
from conftest import experiment_of

from shunted_lab.config.data import DataConfig
from shunted_lab.config.groups import PRESETS
from shunted_lab.data import DataFacts
from shunted_lab.data.shards import ShardsConfig
from shunted_lab.study import plan

HOW_IMAGES_ARE_READ = {"image_size", "batch_size", "crop_pct", "interpolation", "resize", "max_corrupt"}
OTHER = {"interpolation": "bilinear", "resize": "exact", "category": "genus", "root": "elsewhere", "cache": "elsewhere"}


def checked(tmp_path, monkeypatch, *data: DataConfig) -> list[DataConfig]:
    """The data sets that are checked of an experiment whose variants have these."""
    seen: list[DataConfig] = []
    monkeypatch.setattr(plan, "check_data", lambda one: seen.append(one) or DataFacts(("a", "b")))
    experiment = experiment_of(tmp_path)
    run = next(iter(experiment.variants.values()))
    variants = {str(number): dataclasses.replace(run, data=one) for number, one in enumerate(data)}
    assert plan.data_facts(dataclasses.replace(experiment, variants=variants)).keys() == variants.keys()
    return seen


def changed(data: DataConfig, name: str) -> DataConfig:
    value = getattr(data, name)
    if name in OTHER:
        return dataclasses.replace(data, **{name: OTHER[name]})
    return dataclasses.replace(
        data, **{name: 7 if value is None else value / 2 if isinstance(value, float) else value + 32}
    )


@pytest.mark.parametrize("preset", ["folder", "imagenet", "inat2018", "shards"])
def test_every_key_that_can_change_the_answer_is_a_check_of_its_own(tmp_path, monkeypatch, preset):
    base = dataclasses.replace(PRESETS["data"][preset], root="here")
    for field in dataclasses.fields(base):
        if field.name == "name":
            continue
        seen = checked(tmp_path, monkeypatch, base, changed(base, field.name), base)
        assert len(seen) == (1 if field.name in HOW_IMAGES_ARE_READ else 2), field.name


def test_a_cache_that_is_too_small_for_one_variant_is_seen(tmp_path, monkeypatch):
    """Both keys are only of shards: the first variant's answer does not hold for the second."""
    base = ShardsConfig(root="memory://here", cache_gb=50.0, mix_shards=2)
    small = dataclasses.replace(base, cache_gb=0.1)
    assert checked(tmp_path, monkeypatch, base, small) == [base, small]
