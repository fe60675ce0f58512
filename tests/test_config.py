"""Configuration: what users type, what is refused and how, and what a fingerprint covers."""

import dataclasses
import textwrap
from pathlib import Path

import pytest

from shunted_lab.config.compose import compose
from shunted_lab.config.experiment_file import experiment_files
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.model import COMPONENTS
from shunted_lab.config.recipe import OF_DATA
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError, affecting_result

ROOT = Path(__file__).parents[1]
BASE = ["experiment=pretrain_earth"]
# What they need that cannot be trained on ImageNet
DENSE = {"segment_earth": [], "segment_scales": [], "ade20k_attention": ["data.root=/data"]}
DENSE |= {"detect_scales": [], "coco_attention": ["data.root=/data"]}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write an experiment of the user's own into ./experiments of an empty working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()

    def write(text: str, name: str = "mine") -> list[str]:
        (tmp_path / "experiments" / f"{name}.yaml").write_text(text)
        return [f"experiment={name}"]

    return write


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_composes_and_says_its_command(path):
    experiment = compose([f"experiment={path.stem}", *DENSE.get(path.stem, [])])
    assert all(experiment.config.baseline_of(name) in experiment.variants for name in experiment.variants)
    text = path.read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert f"python -m shunted_lab.run experiment={path.stem}" in header and "Cost" in header


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_builds_on_embedded_data_and_at_paper_scale(path):
    from shunted_lab.data import DataFacts
    from shunted_lab.study.plan import count_costs, count_paper_costs

    experiment = compose([f"experiment={path.stem}", *DENSE.get(path.stem, [])])
    facts = {name: DataFacts(tuple("abcdefghi")) for name in experiment.variants}
    costs = count_costs(experiment, facts)
    assert all(cost.macs > 0 for cost in costs.values())
    if experiment.config.paper is not None:
        paper = count_paper_costs(experiment)
        assert list(paper) == list(costs)
        changed = [name for name in paper if paper[name] != paper[experiment.config.baseline]]
        assert len(changed) == len(paper) - 1  # each variant costs something else
    if experiment.config.across or path.stem in DENSE:  # of scenes whose sizes are a knob; of label maps
        return
    words = ["model=shunted_s", "data=imagenet", "data.root=/data", "recipe=paper"]
    big = compose([f"experiment={path.stem}", *words]).variants
    assert all((run.data.image_size, run.recipe.epochs) == (224, 300) for run in big.values())


def test_command_line_wins_over_the_experiment_and_the_experiment_over_presets():
    experiment = compose([*BASE, "recipe=paper", "recipe.epochs=7", "seeds=[5]", "data.batch_size=32"])
    run = experiment.variants["conv_stem"]
    assert (run.recipe.name, run.recipe.epochs, run.recipe.lr) == ("paper", 7, 5e-4)
    assert (run.seed, run.data.batch_size) == (5, 32)
    assert run.model == PRESETS["model"]["shunted_lite"]


def test_variants_differ_in_what_they_name_and_in_nothing_else():
    variants = compose(BASE).variants
    embeds = {name: run.model.patch_embed for name, run in variants.items()}
    assert embeds == {"non_overlapping": "non_overlapping", "overlapping": "overlapping", "conv_stem": "conv_stem1"}
    for run in variants.values():
        same = dataclasses.replace(run, model=dataclasses.replace(run.model, patch_embed="conv_stem1"))
        assert same == variants["conv_stem"]


def test_paper_scale_ignores_the_command_line_but_keeps_the_variants():
    paper = compose(["experiment=ablate_embed", "model.depths=[1,1,1,1]"]).paper
    assert paper["overlapping"].model.depths == [2, 4, 12, 1]
    assert paper["overlapping"].model.patch_embed == "overlapping"


def test_a_variant_can_choose_a_preset(own):
    words = own("baseline: t\nvariants:\n  t: {model: shunted_t}\n  lite: {model: shunted_lite, recipe.lr: 1e-3}")
    variants = compose(words).variants
    assert variants["t"].model.depths == [1, 2, 4, 1]
    assert variants["lite"].recipe.lr == 1e-3  # YAML 1.1 reads a string there


def test_a_file_in_the_working_directory_wins(own):
    own("baseline: a\nvariants: {a: {}}", name="ablate_embed")
    assert list(compose(["experiment=ablate_embed"]).variants) == ["a"]
    assert "train" in experiment_files()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.patch_embd=overlapping", r"model\.patch_embd: no such key; did you mean 'patch_embed'\?"),
        ("modle=shunted_t", r"modle: no such key; did you mean 'model'\?"),
        ("model=shunted_x", r"model: 'shunted_x' is not known; did you mean 'shunted_\w+'\? choices: pvt_v2_b0, "),
        ("model.attn=sssa", r"model\.attn: 'sssa' is not known; did you mean 'ssa'\? choices: linear_sra, msa"),
        ("model.downsample=overlaping", r"model\.downsample: 'overlaping'.*did you mean 'overlapping'"),
        (
            "model.rates=[[8,0],[4,2],[2,1],[1]]",
            r"model\.rates\[0\]: \[8, 0\] has a rate that is not a positive integer",
        ),
        ("model.rates=[[8,2.5],[4,2],[2,1],[1]]", r"model\.rates\[0\]\[1\]: Value '2\.5'.*Integer"),
        ("model.rates=[[8,4],[4,2,1],[2,1],[1]]", r"model\.rates\[1\]: \[4, 2, 1\] has 3 rates for 4 heads"),
        ("model.rates=[[8,4,2,1],[4,2],[2,1],[1]]", r"model\.rates\[0\]: .* has 4 rates for 2 heads"),
        ("model.rates=[[8,4],[4,2]]", r"model\.rates: .* has 2 entries for 4 stages"),
        ("model.num_heads=[5,4,8,16]", r"model\.embed_dims\[0\]: 24 is not divisible by its 5 heads"),
        ("model.embed_dims=[a,b]", r"model\.embed_dims\[0\]: Value 'a'.*Integer"),
        ("data.image_size=16", r"data\.image_size: 16 is too small for four stages: at least 32"),
        ("data.root=/x", r"data\.root: no such key for data=earth; it belongs to data=imagenet"),
        ("data=imagenet", r"data\.root: has no value; give it as data\.root=\.\.\."),
        ("recipe.epochs=0", r"recipe\.epochs: 0 is too small: at least 1"),
        ("recipe.lr=fast", r"recipe\.lr: 'fast' is not a number"),
        ("recipe.epochs=2.5", r"recipe\.epochs: '2\.5' is not a whole number"),
        ("recipe.epochs=true", r"recipe\.epochs: 'true' is not a whole number"),
        ("smoke=1", r"smoke: '1' is not true or false"),
        ("recipe.rand_augment=auto", r"recipe\.rand_augment: 'auto' is not of timm's form, e\.g\. rand-m9"),
        ("recipe.hflip=0.5", r"recipe\.hflip: 0\.5 has no effect with recipe\.dihedral"),
        ("recipe.select=first", r"recipe\.select: 'first' is not known; .*choices: best, last"),
        ("seeds=3", r"seeds: '3' is not a list; in a shell: 'seeds=\[3\]', or for 3 seeds: 'seeds=\[0,1,2\]'$"),
        ("seeds=[]", r"seeds: \[\] is empty"),
        ("seeds=[1,1]", r"seeds: \[1, 1\] has a seed twice"),
        ("seeds=[0,", r"seeds: '\[0,' cannot be read as a value"),
        ("smoke", r"'smoke' is not of the form key=value"),
        ("+model.x=1", r"keys cannot be added or deleted"),
        ("baseline=conv_stm", r"baseline: 'conv_stm' is not known; did you mean 'conv_stem'\?"),
        ("model.patch_embed=overlapping", r"variant 'non_overlapping' of .* varies model\.patch_embed; edit it there"),
        ("launch.accelerator=tpuu", r"launch\.accelerator: 'tpuu' is not known"),
    ],
)
def test_a_mistake_in_a_word_is_one_line_with_key_value_and_choices(word, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose([*BASE, word])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: {a: {}}", r"mine\.yaml: baseline: is missing; choices: a"),
        ("baseline: a", r"mine\.yaml: variants: is empty"),
        ("baseline: b\nvariants: {a: {}}", r"baseline: 'b' is not known; .*choices: a"),
        ("baseline: a\nvariants:\n  a: {}\n  a: {}", r"mine\.yaml: cannot be read as YAML: .*duplicate key a"),
        (
            "baseline: a\nvariants: {a: {model.patch_embd: x}}",
            r"mine\.yaml: variants\.a: model\.patch_embd: no such key",
        ),
        ("baseline: a\nvariants: {a: {model.mlp: mpl}}", r"variants\.a: model\.mlp: 'mpl'.*did you mean 'mlp'"),
        ("baseline: a\nvariants: {a: {model: shunted}}", r"variants\.a: model: 'shunted' is not known"),
        ("baseline: a\nvariants: {a: {launch.num_workers: 1}}", r"variants\.a: 'launch\.num_workers' cannot vary"),
        ("baseline: a/b\nvariants: {a/b: {}}", r"'a/b' is not a name for a folder; use letters, digits"),
        ("base_line: a\nvariants: {a: {}}", r"mine\.yaml: base_line: no such key; did you mean 'baseline'"),
        ("- a", r"an experiment is a mapping"),
        ("baseline: a\nvariants: {a: {}}\npaper: {rows: {a: {top1: 1}}}", r"paper\.source: is missing"),
        ("baseline: a\nvariants: {a: {}}\npaper: {source: x, rows: {b: {top1: 1}}}", r"paper\.rows: 'b' is not known"),
        (
            "baseline: a\nvariants: {a: {}}\npaper: {source: x, rows: {a: {top1: x}}}",
            r"rows\.a\.top1: 'x' is not a number",
        ),
    ],
)
def test_a_mistake_in_an_experiment_file_names_the_file(own, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose(own(text))
    assert "\n" not in str(caught.value)


def test_no_experiment_lists_them():
    with pytest.raises(ConfigError, match=r"experiment: is missing; write experiment=NAME; choices: .*ablate_embed"):
        compose([])
    with pytest.raises(ConfigError, match=r"experiment: 'ablate_embe' is not known; did you mean 'ablate_embed'\?"):
        compose(["experiment=ablate_embe"])


def test_names_of_components_are_those_of_the_registries():
    from shunted_lab.nn import registry

    registries = {
        "patch_embed": registry.PATCH_EMBED,
        "downsample": registry.DOWNSAMPLE,
        "attn": registry.ATTENTION,
        "aggregation": registry.AGGREGATION,
        "mlp": registry.MLP,
    }
    assert {slot: tuple(sorted(found.names())) for slot, found in registries.items()} == COMPONENTS


def _changed(run: RunConfig, group: str, name: str) -> RunConfig:
    config = getattr(run, group)
    value = getattr(config, name)
    other = {
        int: lambda: 2 * value or 32,  # a batch can still be shared by twice as many devices
        float: lambda: value / 2 + 0.01,
        bool: lambda: not value,
        str: lambda: value + "x",
    }
    if isinstance(value, list):
        new = [[1], [1], [1], [2]] if name == "rates" else [v * 2 for v in value] or ["other"]
    else:
        new = other[type(value)]() if value is not None else 1
    copy = object.__new__(type(config))  # past the checks: here only the fingerprint matters
    copy.__dict__.update(config.__dict__ | {name: new})
    return dataclasses.replace(run, **{group: copy})


SOURCES = {"attn: ssa": "1"}


def test_a_fingerprint_covers_all_that_can_change_a_result_and_nothing_else():
    run = compose([*BASE, "data=folder", "data.root=/a"]).variants["conv_stem"]
    base = run.fingerprint("id", SOURCES)
    assert base != run.fingerprint("id", {"attn: ssa": "2"})
    assert base != run.fingerprint("other images", SOURCES)
    assert base != dataclasses.replace(run, seed=9).fingerprint("id", SOURCES)
    free = {("model", "name"), ("model", "checkpoint"), ("data", "root"), ("data", "max_corrupt")}
    free |= {("recipe", "name"), ("recipe", "sync_bn")}  # of the latter the batch layout knows
    for group in ("model", "data", "task", "recipe", "launch"):
        for item in dataclasses.fields(getattr(run, group)):
            if item.name in (*OF_DATA, "head_lr"):  # refused for these data, and for this task
                continue
            same = _changed(run, group, item.name).fingerprint("id", SOURCES) == base
            assert same == (group == "launch" or (group, item.name) in free), f"{group}.{item.name}"


def test_a_fingerprint_does_not_cover_what_a_class_says_of_itself():
    run = compose([*BASE]).variants["conv_stem"]
    assert affecting_result(run.task) == ["name"]  # no captions
    assert not {"targets", "synthetic"} & set(affecting_result(run.data))


def test_a_fingerprint_covers_the_augmentation_of_label_maps_and_the_head():
    words = ["experiment=ade20k_attention", "data.root=/a", "begin_with=null"]
    base = compose(words).variants["ssa"].fingerprint("id", {})
    changes = ["recipe.resize_ratio=[0.5,1.0]", "recipe.cat_max_ratio=0.5", "recipe.photometric_distortion=false"]
    changes += ["task.head=upernet", "data.align=1", "data.long_ratio=2.0"]
    changes += ["recipe.head_lr=10", "recipe.freeze_bn=false"]
    for change in changes:
        assert compose([*words, change]).variants["ssa"].fingerprint("id", {}) != base, change
    assert compose([*words, "data.root=/b"]).variants["ssa"].fingerprint("id", {}) == base


def test_a_fingerprint_covers_the_augmentation_of_boxes_and_the_detector():
    words = ["experiment=coco_attention", "data.root=/a", "begin_with=null"]
    base = compose(words).variants["ssa"].fingerprint("id", {})
    changes = ["recipe.short_sides=[480,800]", "recipe.random_crop=true", "task.head=mask_rcnn_lite"]
    changes += ["task.loss_images=4", "data.long_side=1000", "data.val_fraction=0.02"]
    for change in changes:
        assert compose([*words, change]).variants["ssa"].fingerprint("id", {}) != base, change
    same = ["data.root=/b", "data.cache=/c", "data.train_json=x.json"]  # the identity of the data covers the content
    assert compose([*words, *same]).variants["ssa"].fingerprint("id", {}) == base


def test_a_fingerprint_is_the_same_in_every_process():
    # A stored value: a change here makes every finished run of every user stale.
    assert compose([*BASE, "recipe=paper"]).variants["conv_stem"].fingerprint("", {}) == "ca5439e68f68328c"


def test_across_makes_every_variant_in_every_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    text = """
    baseline: a
    variants: {a: {}, b: {model.mlp: mlp}}
    across: {small: {data.image_size: 32}, large: {data.image_size: 96}}
    """
    path = tmp_path / "experiments" / "grid.yaml"
    path.write_text(textwrap.dedent(text))
    found = compose(["experiment=grid"])
    assert list(found.variants) == ["a-small", "b-small", "a-large", "b-large"]
    assert found.variants["b-large"].data.image_size == 96 and found.variants["b-large"].model.mlp == "mlp"
    assert [found.config.baseline_of(name) for name in found.variants] == ["a-small", "a-small", "a-large", "a-large"]
    path.write_text(textwrap.dedent(text).replace("model.mlp: mlp", "data.image_size: 64"))
    with pytest.raises(ConfigError, match=r"across\.small: data\.image_size is varied by variant 'b' already"):
        compose(["experiment=grid"])
    path.write_text(textwrap.dedent(text).replace("data.image_size: 32", "seeds: 3"))
    with pytest.raises(ConfigError, match=r"across\.small: 'seeds' cannot vary"):
        compose(["experiment=grid"])
    path.write_text(textwrap.dedent(text))
    with pytest.raises(ConfigError, match=r"data\.image_size=64: .*'small'.* varies data\.image_size"):
        compose(["experiment=grid", "data.image_size=64"])
