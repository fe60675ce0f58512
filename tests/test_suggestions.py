"""What is answered to keys that do not exist, and to overrides that the configuration library cannot apply."""

import pytest
from omegaconf import OmegaConf

from shunted_lab.attention import AttentionConfig
from shunted_lab.config.compose import compose, compose_as
from shunted_lab.config.experiment import Config
from shunted_lab.config.overrides import keys_of
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.suggestions import ANSWERS, ELSEWHERE
from shunted_lab.convert import ConvertConfig
from shunted_lab.cost import CostConfig
from shunted_lab.dashboard import DashboardConfig
from shunted_lab.evaluate import EvaluateConfig, compose_evaluate

SCHEMAS = (Config, AttentionConfig, ConvertConfig, CostConfig, DashboardConfig, EvaluateConfig)


def test_every_key_that_the_table_names_exists():
    known = {key for schema in SCHEMAS for key in keys_of(schema)}
    assert {key for keys in ELSEWHERE.values() for key in keys} <= known
    sections = {key.partition(".")[0] for key in known if "." in key}
    words = {word.strip(";,:") for answer in ANSWERS.values() for word in answer.split() if "." in word.strip(";,:.")}
    assert {word for word in words if word.partition(".")[0] in sections} <= known


def test_the_table_has_no_name_that_is_a_key_of_run():
    assert not (ELSEWHERE.keys() | ANSWERS.keys()) & {key for key in keys_of(Config) if "." not in key}
    assert not ELSEWHERE.keys() & ANSWERS.keys()


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("epochs=3", "recipe.epochs"),
        ("lr=0.1", "recipe.lr"),
        ("gpus=8", "launch.devices"),
        ("batch_size=8", "data.batch_size"),
        ("optimizer.lr=1", "recipe.lr"),
        ("trainer.max_epochs=1", "recipe.epochs"),
        ("recipe.batch_size=1", "data.batch_size"),
        ("seed=3", "seeds"),
        ("dataset=imagenet", "data"),
        ("output-dir=x", "runs_dir"),
        ("--epochs=3", "recipe.epochs"),
        ("epcohs=3", "recipe.epochs"),
        ("learning_rat=3", "recipe.lr"),
        ("ckpt=x", "model.checkpoint"),
        ("fast_dev_run=true", "smoke"),
        ("dry_run=true", "plan_only"),
    ],
)
def test_a_key_is_found_in_another_section_and_under_another_name(word, meant):
    with pytest.raises(ConfigError) as error:
        compose(["experiment=train", word])
    assert str(error.value) == f"{word.partition('=')[0]}: no such key; did you mean {meant}?"


def test_the_commands_name_the_keys_that_they_have():
    with pytest.raises(ConfigError, match=r"^gpus: no such key; did you mean device\?$"):
        compose_as(CostConfig, ["gpus=1"])
    with pytest.raises(ConfigError, match=r"^ckpt: no such key; did you mean checkpoint\?$"):
        compose_evaluate(["ckpt=x"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=true"], r"^resume: no such key; the same command resumes; it needs no key$"),
        (["wandb_project=x"], r"^wandb_project: no such key; the environment variable WANDB_PROJECT names it"),
        (
            ["recipe.epochs.a=1"],
            r"^recipe\.epochs\.a: no such key; recipe\.epochs is a single value, recipe\.epochs=\.\.\.$",
        ),
        (["model.atn.name=x"], r"^model\.atn\.name: no such key; did you mean 'attn'\? choices: aggregation"),
        (["data.root=/x"], r"^data\.root: no such key for data=earth; it belongs to data=imagenet, inat2018"),
        (["launch.nodes=2"], r"^launch\.nodes: no such key for launch=local; it belongs to launch=slurm$"),
        (["hydra.run.dir=x"], r"^hydra\.run\.dir: no such key; choices: across"),
        (
            ["variants.x.y=1"],
            r"^variants\.x: no such entry of variants; the experiment's file adds entries; choices: model",
        ),
        (["=3"], r"^'=3' is not of the form key=value"),
        (["="], r"^'=' is not of the form key=value"),
        (["recipe@data=lite"], r"^'recipe@data=lite' is not of the form key=value"),
        (
            ["search.trials=5"],
            r"^search\.trials: experiment=train has no section `search:` in its file; .*search_rates",
        ),
        (["search={trials: 5}"], r"^search: experiment=train has no section `search:`"),
        (["paper.model=shunted_s"], r"^paper\.model: experiment=train has no section `paper:`"),
    ],
)
def test_what_cannot_be_overridden_is_one_line(words, message):
    with pytest.raises(ConfigError, match=message) as error:
        compose(["experiment=train", *words])
    assert "\n" not in str(error.value)


def test_an_exception_of_the_configuration_library_is_one_line_and_others_keep_their_traceback(monkeypatch):
    from shunted_lab.config import compose as module

    def theirs(node):
        OmegaConf.select(OmegaConf.create({"a": "${b}"}), "a")

    monkeypatch.setattr(module.OmegaConf, "to_object", theirs)
    with pytest.raises(ConfigError) as error:
        compose(["experiment=train"])
    assert "\n" not in str(error.value)

    def ours(node):
        raise AssertionError("ours")

    monkeypatch.setattr(module.OmegaConf, "to_object", ours)
    with pytest.raises(AssertionError, match="ours"):
        compose(["experiment=train"])
