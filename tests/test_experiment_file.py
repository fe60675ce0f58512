"""An experiment's file: which names and forms its YAML may have, and what is refused in one line."""

import re
from pathlib import Path

import pytest

from shunted_lab.config.compose import compose
from shunted_lab.config.experiment_file import experiment_files, read_experiment
from shunted_lab.config.schema import ConfigError

NAMES = ["on", "no", "1", "1.0", "012", "1e3", "null", "true", "0x1", "2026-11-26", "1_000"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write an experiment of the user's own into ./experiments of an empty working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()

    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / "experiments" / name
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_is_called_as_it_is_written(own, name):
    path = own(
        f"baseline: {name}\nvariants: {{{name}: {{model.mlp: mlp}}, b: {{}}}}\npaper: {{rows: {{{name}: {{}}}}}}"
    )
    found = read_experiment(path).content
    assert (
        list(found["variants"]) == [name, "b"] and found["baseline"] == name and list(found["paper"]["rows"]) == [name]
    )


def test_such_names_go_through_the_whole_configuration(own):
    listed = ", ".join(f"{name}: {{}}" for name in NAMES)
    own(
        f"baseline: on\nvariants: {{{listed}}}\nacross: {{1.0: {{data.image_size: 32}}, no: {{data.image_size: 96}}}}\n"
    )
    found = compose(["experiment=mine", "baseline=1.0"])
    assert list(found.variants) == [f"{name}-{setting}" for setting in ("1.0", "no") for name in NAMES]
    assert found.config.baseline_of("on-no") == "1.0-no" and found.variants["null-no"].data.image_size == 96


def test_values_keep_their_types(own):
    text = "recipe: {lr: 1e-3, hflip: 0, dihedral: on, rand_augment: null}\nconfirm: {search: on}\nseeds: [0, 012]\n"
    found = read_experiment(own(text + "variants: {a: {recipe.lr: 1e-3, model.attn: {name: msa, 1: 2}}}\n")).content
    assert found["recipe"] == {"lr": 1e-3, "hflip": 0, "dihedral": True, "rand_augment": None}
    assert found["confirm"] == {"search": "on"} and found["seeds"] == [0, 10]  # YAML 1.1's octal number
    assert found["variants"]["a"] == {"recipe.lr": 1e-3, "model.attn": {"name": "msa", "1": 2}}


def test_anchors_and_merge_keys_work_and_an_override_in_them_is_not_a_duplicate(own):
    text = """
    baseline: b
    variants:
      a: &a {model.mlp: mlp, recipe.lr: 1e-3}
      b: &b {<<: *a, model.mlp: conv_glu}
      1: {<<: [*b], recipe.lr: 2e-3}
    across: {small: {data.image_size: 32}}
    """
    variants = compose_text(own, text)
    assert [(run.model.mlp, run.recipe.lr) for run in variants.values()] == [
        ("mlp", 1e-3),
        ("conv_glu", 1e-3),
        ("conv_glu", 2e-3),
    ]


def compose_text(own, text):
    own(text)
    return compose(["experiment=mine"]).variants


def test_a_variant_without_a_value_changes_nothing(own):
    variants = compose_text(own, "baseline: plain\nvariants:\n  plain:\n  other: {model.mlp: mlp}\n")
    assert variants["plain"] == compose(["experiment=train"]).variants["model"]


def test_what_is_nested_under_a_group_is_the_same_as_dotted_keys(own):
    nested = """
    baseline: a
    variants:
      a: {model: {drop_rate: 0.2, attn: {name: msa}}, recipe: {lr: 1e-3}}
      t: {model: shunted_t, model.drop_rate: 0.2}
    across: {small: {data: {image_size: 32}}}
    """
    dotted = """
    baseline: a
    variants:
      a: {model.drop_rate: 0.2, model.attn: {name: msa}, recipe.lr: 1e-3}
      t: {model: shunted_t, model.drop_rate: 0.2}
    across: {small: {data.image_size: 32}}
    """
    found = compose_text(own, nested)
    assert found == compose_text(own, dotted)
    assert found["a-small"].model.attn == {"name": "msa"} and found["t-small"].model.depths == [1, 2, 4, 1]


def test_a_group_of_the_file_is_a_presets_name_and_the_command_line_wins(own):
    rest = "baseline: a\nvariants: {a: {}}\n"
    own("model: shunted_t\nrecipe: paper\nlaunch: slurm\nmodel.drop_rate: 0.2\nmodel.attn.name: msa\n" + rest)
    config = compose(["experiment=mine"]).config
    assert (config.model.depths, config.model.drop_rate) == ([1, 2, 4, 1], 0.2)
    assert (config.recipe.epochs, config.launch.name, config.data.name) == (300, "slurm", "earth")
    assert config.model.attn == {"name": "msa"}
    found = compose(["experiment=mine", "model=shunted_lite", "model.drop_rate=0.1"]).config
    assert (found.model.depths, found.model.drop_rate) == ([1, 1, 2, 1], 0.1)
    own("data: cifar100\ndata.root: /d\n" + rest)
    assert compose(["experiment=mine"]).config.data.root == "/d"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model: shunted_lit",
            r"mine\.yaml: model: 'shunted_lit' is not known; did you mean 'shunted_lite'\? choices: ",
        ),
        ("launch: 3", r"mine\.yaml: launch: '3' is not known; choices: local, manual, ray, slurm"),
        ("data:", r"mine\.yaml: data: 'None' is not known"),
        ("recipe: {lr: 1}\nrecipe.lr: 2", r"mine\.yaml: recipe\.lr is given twice"),
        ("seeds.0: 2\nseeds: [1]", r"mine\.yaml: seeds\.0: seeds is '\[1\]', not a mapping"),
        ("recipe.epoch: 2", r"mine\.yaml: recipe\.epoch: no such key; did you mean recipe\.epochs\?"),
        ("epochs: 2", r"mine\.yaml: epochs: no such key; did you mean recipe\.epochs\?"),
        ("recipe: {epochs: many}", r"mine\.yaml: recipe\.epochs: Value 'many'"),
    ],
)
def test_a_mistake_in_a_group_of_the_file_is_one_line(own, text, message):
    own(f"{text}\nbaseline: a\nvariants: {{a: {{}}}}\n")
    with pytest.raises(ConfigError, match=message) as error:
        compose(["experiment=mine"])
    assert "\n" not in str(error.value)


def test_yml_is_found_and_two_files_of_one_name_are_refused(own):
    own("baseline: a\nvariants: {a: {}}", "mine.yml")
    assert experiment_files()["mine"] == Path("experiments/mine.yml") and compose(["experiment=mine"]).variants
    own("baseline: a\nvariants: {a: {}}", "ablate_embed.yml")  # of another folder than the shipped one
    assert list(compose(["experiment=ablate_embed"]).variants) == ["a"]
    own("baseline: b\nvariants: {b: {}}", "mine.yaml")
    with pytest.raises(
        ConfigError, match=r"experiments/mine\.yaml and experiments/mine\.yml are both 'mine'; remove or"
    ):
        compose(["experiment=mine"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("baseline: a\nvariants: {a: {}, a: {}}", r"cannot be read as YAML: found duplicate key a"),
        ("baseline: a\nvariants: {1: {}, '1': {}}", r"cannot be read as YAML: found duplicate key 1"),
        (
            "baseline: a\nvariants: [a, b]",
            r"variants: '\['a', 'b'\]' is not a mapping; write variants: \{NAME: \{dotted",
        ),
        ("baseline: a\nvariants: {a: 3}", r"variants\.a: '3' is not a mapping of changes; write variants: \{NAME"),
        ("baseline: a\nvariants: {a: [model.mlp]}", r"variants\.a: '\['model\.mlp'\]' is not a mapping of changes"),
        ("baseline: a\nvariants: {a: {}}\nacross: small", r"across: 'small' is not a mapping; write across: \{NAME"),
        (
            "baseline: a\nvariants: {a: {model: {drop_rate: 0.2}, model.drop_rate: 0.2}}",
            r"variants\.a: model\.drop_rate is given twice, as a dotted key and nested",
        ),
        (
            "baseline: a\nvariants: {a: {}}\nacross: {s: {data.image_size: 64, data: {image_size: 32}}}",
            r"across\.s: data\.image_size is given twice",
        ),
        (
            "baseline: a\nvariants: {a: {model: {drop: 0.2}}}",
            r"variants\.a: model\.drop: no such key; did you mean model\.drop_rate\?",
        ),
        (
            "baseline: a\nvariants: {a: {launch: {threads: 1}}}",
            r"variants\.a: 'launch' cannot vary; keys begin with one",
        ),
        ("baseline: a\nvariants: {a: {model: 3}}", r"variants\.a: model: '3' is not known; choices: pvt_v2_b0"),
        ("baseline: a\nvariants: {a: {model: [shunted_t]}}", r"variants\.a: model: '\['shunted_t'\]' is not known"),
        ("baseline: a\nvariants: {a: {model: null}}", r"variants\.a: model: 'None' is not known; choices: pvt"),
        ("baseline: ~\nvariants: {a: {}}", r"baseline: is missing; choices: a"),
        (
            "baseline: report\nvariants: {report: {}}",
            r"variants: 'report' is reserved, as are report, incomplete, jobs",
        ),
        ("baseline: a\nvariants: {a: {}}\ndescription: ${", r"mine\.yaml: description: no viable alternative at input"),
        ("baseline: a\nvariants: &v {a: *v}", r"an alias \(\*NAME\) refers to a node that contains it"),
        ("baseline: a\nvariants: {a: &x {model.mlp: [*x]}}", r"an alias \(\*NAME\) refers to a node that contains it"),
        ("? [a]\n: b", r"cannot be read as YAML: .*unhashable key"),
    ],
)
def test_what_is_refused_is_one_line_with_the_file(own, text, message):
    own(text)
    with pytest.raises(ConfigError, match=message) as caught:
        compose(["experiment=mine"])
    assert "\n" not in str(caught.value) and re.search(r"experiments/mine\.yaml: |^baseline: ", str(caught.value))


def test_a_file_that_is_not_utf_8_is_refused(own):
    own("").write_bytes("description: größe\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine\.yaml: cannot be read as YAML: 'utf-8' codec can't decode"):
        compose(["experiment=mine"])
