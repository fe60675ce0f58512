"""Overrides of the command line: paths as they are written, and what is said of a value that cannot be read."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest

from shunted_lab.attention import AttentionConfig
from shunted_lab.config import paths
from shunted_lab.config.compose import compose, compose_as, value_of
from shunted_lab.config.experiment import Config
from shunted_lab.config.overrides import keys_of, parse
from shunted_lab.config.schema import ConfigError
from shunted_lab.convert import ConvertConfig
from shunted_lab.dashboard import DashboardConfig
from shunted_lab.data.folder import FolderConfig
from shunted_lab.evaluate import EvaluateConfig, compose_evaluate

# What YAML refuses, or reads as something else.
ODD = [
    "epoch=2-step=27.ckpt",
    "my data (v2), final",
    "größe/ä.pth",
    "it's",
    'a "b"',
    "a b ",
    "[1]",
    "{a: 1}",
    "1e3",
    "012",
    "true",
    "x:y",
    "back\\slash\\",
    "a'b'",
    "'a'b'",
    "#1",
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder and another working directory, with an experiment `tiny` of one variant."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work" / "experiments").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")

    def write(text: str) -> list[str]:
        Path("experiments/tiny.yaml").write_text("seeds: [0]\nbaseline: a\nvariants: {a: {}}\n" + text)
        return ["experiment=tiny"]

    return write


# --- literal values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ODD)
def test_a_path_is_taken_as_it_is_written(value):
    given = [f"checkpoint={value}", f"data.root=/d/{value}", "data=folder"]
    assert value_of("checkpoint", given, EvaluateConfig) == value
    config = compose_evaluate(given)
    assert (config.checkpoint, config.data.root) == (value, str(Path("/d") / value))
    assert compose_as(AttentionConfig, [f"checkpoint={value}", f"image={value}"]).image == value


def test_the_name_of_an_experiment_is_taken_as_it_is_written(home):
    home("")
    for name in ("größe (2), b", "1", "null", "true"):
        Path("experiments/tiny.yaml").rename(f"experiments/{name}.yaml")
        assert compose([f"experiment={name}", "baseline=a"]).config.name == name
        Path(f"experiments/{name}.yaml").rename("experiments/tiny.yaml")


def test_quotes_null_and_interpolations_keep_their_meaning(monkeypatch):
    monkeypatch.setenv("WHERE", "/a b")
    quoted = ["checkpoint='a=b, c'", 'out="it\'s.json"', "data.root=${oc.env:WHERE}/x, y", "data=folder"]
    config = compose_evaluate(quoted)
    assert (config.checkpoint, config.out, config.data.root) == ("a=b, c", "it's.json", "/a b/x, y")
    assert compose_evaluate(["checkpoint=x", "out=null", "data=earth"]).out is None
    assert compose_evaluate(["checkpoint=null", "data=earth"]).checkpoint == "null"  # a file: the key has no null


@pytest.mark.parametrize("value", [*ODD, "a, b", "f(x)", "naïve", "[x, y]", "a=b", "on", ""])
def test_a_text_is_taken_as_it_is_written(value):
    assert parse([f"description={value}"], Config) == {"description": value}


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("model.attn=msa", "msa"),
        ("model.attn=on", "on"),  # true in YAML 1.1
        ("model.attn=[ssa,sra,my_file.Mine,msa]", ["ssa", "sra", "my_file.Mine", "msa"]),
        ("model.attn={name: msa, scale: 1e-3}", {"name": "msa", "scale": 1e-3}),
        ("recipe.lr=1e-3", 1e-3),
        ("recipe.lr=.5", 0.5),
        ("recipe.ema=null", None),
        ("recipe.rand_augment=null", None),
        ("recipe.rand_augment=rand-m9", "rand-m9"),
        ("launch.devices=2", 2),
        ("launch.devices='2'", "2"),
        ("only=a", "a"),
        ("only=[a,b]", ["a", "b"]),
        ("smoke=True", True),
        ("seeds=[]", []),
        ("seeds=${oc.decode:[1]}", "${oc.decode:[1]}"),
        ("study.storage=a://b,c", "a://b,c"),
        ("variants.a={model.mlp: mlp}", {"model.mlp": "mlp"}),
    ],
)
def test_a_value_is_read_by_the_type_of_its_key(given, value):
    assert parse([given], Config) == {given.partition("=")[0]: value}


def test_of_a_key_that_is_given_twice_the_last_value_counts():
    assert parse(["seeds=[0]", "seeds=[1]"], Config) == {"seeds": [1]}


def test_every_path_of_every_command_is_text_and_expanded():
    for schema in (Config, EvaluateConfig, AttentionConfig, ConvertConfig, DashboardConfig):
        names = {name for name, key in keys_of(schema).items() if key.resolve is not str}
        assert names == {name for name in keys_of(schema) if name.rpartition(".")[2] in PATHS}
        assert all(keys_of(schema)[name].is_text for name in names)


PATHS = {"runs_dir", "root", "cache", "checkpoint", "compare", "image", "mask", "out"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("seeds=0,1,2", "seeds: '0,1,2' is not a list; in a shell: 'seeds=[0,1,2]'"),
        ("model.attn=ssa,sra,sra,sra", "model.attn: 'ssa,sra,sra,sra' is not a list; in a shell: 'model.attn=[ssa"),
        ("model.attn={name:msa}", "model.attn: '{name:msa}' has no space after a colon; in a shell: 'model.attn={name"),
        ("recipe.lr=1e-3,2e-3", "recipe.lr: '1e-3,2e-3' has several values; vary recipe.lr in the experiment's"),
        ("model=shunted_t,shunted_s", "model: 'shunted_t,shunted_s' has several values; vary model in the"),
        ("seeds=[0,", "seeds: '[0,' cannot be read as a value ("),
    ],
)
def test_a_value_that_cannot_be_read_is_shown_as_it_must_be_written(given, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        parse([given], Config)
    shown = str(caught.value)
    assert "\n" not in shown
    if "in a shell: " in shown:  # what is shown is read as it was meant
        (override,) = shlex.split(shown.partition("in a shell: ")[2])
        assert parse([override], Config)


# --- paths -----------------------------------------------------------------------------------------------------------


def test_the_home_folder_is_expanded_in_every_key_of_every_command(home, tmp_path):
    there = str(tmp_path / "home")
    found = compose(home("runs_dir: ~/x\ndata: folder\ndata.root: ~/d")).config
    assert (found.runs_dir, found.data.root) == (f"{there}/x", f"{there}/d")
    found = compose([*home(""), "runs_dir=~/x", "data=shards", "data.root=~/d", "data.cache=~/c", "model.checkpoint=~"])
    run = found.variants["a"]
    assert (found.config.runs_dir, run.data.root, run.data.cache) == (f"{there}/x", f"{there}/d", f"{there}/c")
    assert run.model.checkpoint == there
    for config in (
        compose_evaluate(["checkpoint=~/w", "out=~/o.json", "data=earth"]),
        compose_as(AttentionConfig, ["checkpoint=~/w", "compare=~/v", "image=~/i", "mask=~/m", "out=~/o.png"]),
        compose_as(ConvertConfig, ["data.root=~/d", "out=~/o"]),
        compose_as(DashboardConfig, ["runs_dir=~/x"]),
    ):
        given = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name in PATHS}
        assert given and all(value.startswith(f"{there}/") for value in given.values())
    assert value_of("checkpoint", ["checkpoint=~/w"], EvaluateConfig) == f"{there}/w"


def test_variants_and_choices_of_a_search_are_expanded_alike(home, tmp_path):
    text = "seeds: [0]\nbaseline: a\nvariants: {a: {model.checkpoint: ~/w.pth}, b: {model: {checkpoint: v.pth}}}\n"
    text += "search: {space: {model.checkpoint: [~/w.pth, v.pth, null], model.mlp: [mlp, conv_glu]}}\n"
    home("")
    Path("experiments/tiny.yaml").write_text(text)
    found = compose(["experiment=tiny"])
    weights = [run.model.checkpoint for run in found.variants.values()]
    assert weights == [f"{tmp_path}/home/w.pth", f"{tmp_path}/work/v.pth"]
    assert found.config.search.space["model.checkpoint"] == [*weights, None]
    assert found.change({"model.checkpoint": "~/w.pth"}).model.checkpoint == weights[0]


def test_paths_of_data_and_weights_are_absolute_and_others_as_they_were_given(home, tmp_path):
    given = ["data=folder", "data.root=../d", "model.checkpoint=w.pth", "runs_dir=some/runs"]
    found = compose([*home(""), *given])
    run = found.variants["a"]
    assert (run.data.root, run.model.checkpoint) == (f"{tmp_path}/work/../d", f"{tmp_path}/work/w.pth")
    assert found.config.runs_dir == "some/runs"
    config = compose_as(ConvertConfig, ["data.root=d", "out=o"])
    assert (config.data.root, config.out) == (f"{tmp_path}/work/d", "o")


@pytest.mark.parametrize("url", ["s3://bucket/~/x", "file:///slow/x", "zip::s3://bucket/x.zip", "memory://a,b"])
def test_urls_are_left_alone(url):
    config = compose_as(ConvertConfig, ["data=folder", "data.root=/d", f"out={url}"])
    assert config.out == url and paths.resolve(url) == url


def test_a_tilde_that_is_meant_literally_becomes_absolute(tmp_path, monkeypatch):
    """Lightning expands the `~` of every path that it is given."""
    monkeypatch.chdir(tmp_path)
    assert paths.expand("./~/runs") == f"{tmp_path}/~/runs"
    assert paths.expand("~no_such_user/runs") == f"{tmp_path}/~no_such_user/runs"
    assert paths.expand("runs/~x") == "runs/~x"


@pytest.mark.parametrize("command", ["worker", "report.__main__"])
def test_a_folder_that_stands_alone_is_expanded(home, tmp_path, capsys, command):
    module = importlib.import_module(f"shunted_lab.{command}")
    assert module.main(["~/runs/none"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/home/runs/none: ")


def test_data_that_are_absent_are_named_by_their_full_path(home, tmp_path):
    from shunted_lab.study.plan import data_facts

    with pytest.raises(ConfigError, match=f"data.root: '{tmp_path}/work/flowers' does not exist"):
        data_facts(compose([*home(""), "data=folder", "data.root=flowers"]))
    assert isinstance(compose([*home(""), "data=folder", "data.root=x"]).config.data, FolderConfig)
