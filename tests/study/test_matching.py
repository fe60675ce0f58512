"""Variants of equal cost: what is scaled, how exactly, what is refused, and that the runs are others."""

import pytest
from conftest import planned

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.nn import count_cost
from shunted_lab.report.table import build_table
from shunted_lab.study.matching import match_costs
from shunted_lab.study.plan import count_costs, data_facts, plan_runs
from shunted_lab.study.session import plan_experiment


def experiment(*words, name="ablate_embed_matched"):
    return compose([f"experiment={name}", "launch.accelerator=cpu", *words])


def matched(found):
    facts = data_facts(found)
    changed, lines = match_costs(found, facts)
    return changed, lines, count_costs(changed, facts)


@pytest.mark.parametrize("kind", ["params", "macs"])
@pytest.mark.parametrize("knob", ["mlp_ratios", "embed_dims"])
def test_every_variant_costs_what_the_baseline_does(kind, knob):
    found = experiment(f"match={kind}", f"match_by=model.{knob}")
    changed, lines, costs = matched(found)
    target = getattr(costs["conv_stem"], kind)
    assert all(abs(getattr(cost, kind) / target - 1) <= 0.01 for cost in costs.values())
    assert changed.variants["conv_stem"] == found.variants["conv_stem"]
    own = changed.variants["non_overlapping"].model
    if kind == "macs":  # 0.012 GMACs before, 0.022 after; parameters differ by less than 1 %
        assert getattr(own, knob) != getattr(found.variants["non_overlapping"].model, knob) and len(lines) == 2
        assert lines[0].startswith(f"matched: non_overlapping, model.{knob} ")
        assert lines[0].endswith(" G (conv_stem: 0.0215 G)")
    if knob == "embed_dims":
        assert all(dim % heads == 0 for dim, heads in zip(own.embed_dims, own.num_heads, strict=True))
    # counted anew, without what was remembered
    run = changed.variants["non_overlapping"]
    size = run.task.input_size(run.data)
    classes = len(data_facts(found)["non_overlapping"].class_names)
    again = count_cost(lambda: run.task.build(run.model, classes), size, call=run.task.call)
    assert getattr(again, kind) == getattr(costs["non_overlapping"], kind)


def test_it_is_the_same_each_time_and_another_run_than_the_unmatched_one():
    first, _, _ = matched(experiment())
    assert first.variants == matched(experiment())[0].variants
    facts = data_facts(first)
    mine = {run.variant: run.fingerprint for run in plan_runs(first, facts)}
    plain = {run.variant: run.fingerprint for run in planned(experiment("match=null"))}
    assert mine["conv_stem"] == plain["conv_stem"] and mine["overlapping"] != plain["overlapping"]


def test_a_variant_that_sets_the_knob_is_scaled_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(
        "model: shunted_lite\nbaseline: a\nmatch: macs\nvariants: {a: {}, b: {model.mlp_ratios: [2, 4, 4, 8]}}\n"
    )
    changed, _, _ = matched(experiment(name="mine"))
    ratios = changed.variants["b"].model.mlp_ratios
    assert [ratio / ratios[0] for ratio in ratios] == pytest.approx([1, 2, 2, 4], abs=1e-3)


def test_each_setting_is_matched_to_its_own_baseline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(
        "model: shunted_lite\nbaseline: a\nmatch: macs\nvariants: {a: {}, b: {model.patch_embed: overlapping}}\n"
        "across: {small: {data.image_size: 64}, large: {data.image_size: 96}}\n"
    )
    _, _, costs = matched(experiment(name="mine"))
    for setting in ("small", "large"):
        assert costs[f"b-{setting}"].macs == pytest.approx(costs[f"a-{setting}"].macs, rel=0.01)
    assert costs["a-large"].macs > 2 * costs["a-small"].macs


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("ablate_embed_matched", ["match=flops"], r"match: 'flops' is not known; .*choices: macs, params"),
        (
            "ablate_embed_matched",
            ["match_by=model.rates"],
            r"match_by: 'model\.rates' is not known; .*mlp_ratios",
        ),
        ("ablate_embed", ["match=macs"], r"match: macs cannot be combined with paper"),
        ("search_rates", ["match=macs"], r"match: macs needs variants, and is not supported for search and confirm"),
    ],
)
def test_what_cannot_be_asked_for(name, words, message):
    with pytest.raises(ConfigError, match=message):
        experiment(*words, name=name)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        (
            "ablate_attention_matched",
            ["match=macs"],
            r"^match: variant 'linear_sra' cannot have its baseline's 0\.0205 G within 1 % by model\.mlp_ratios; "
            r"nearest: 0\.\d+,.*, [\d.]+ % off; other choices of match_by: model\.embed_dims, model\.depths$",
        ),
        (
            "ablate_embed_matched",
            ["match_by=model.depths"],
            r"match: variant '\w+' .* by model\.depths; nearest: 2,2,4,2, ",
        ),
    ],
)
def test_a_variant_that_cannot_be_matched(name, words, message):
    found = experiment(*words, name=name)
    with pytest.raises(ConfigError, match=message):
        match_costs(found, data_facts(found))


def test_plan_and_table_say_what_was_scaled(tmp_path):
    found = plan_experiment(experiment(f"runs_dir={tmp_path}/runs", "seeds=[0]"))
    assert len(found.matched) == 2 and found.costs["overlapping"].macs == pytest.approx(
        found.costs["conv_stem"].macs, 0.01
    )
    assert found.manifest.variants["overlapping"].model.mlp_ratios[0] > 4
    made = build_table(found.config, found.manifest.variants, found.states, found.costs, {})
    (text,) = (fact.text for fact in made.facts if fact.label == "Matched")
    assert text.startswith(
        "MACs of each variant are within 1 % of its baseline's, by model.mlp_ratios: non_overlapping 9.8"
    )
    assert text.endswith("conv_stem 4,4,4,4")
