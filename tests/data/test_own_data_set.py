"""A data set in a user's own module is chosen by its dotted path and goes through everything that ours do."""

import sys
from dataclasses import replace

import pytest
import torch

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import DataFacts, check_data, make_datamodule
from shunted_lab.study.folder import load_run, write_note
from shunted_lab.study.plan import data_facts, plan_runs

TOY = '''
"""Images of one colour, whose brightness is the class."""

from dataclasses import dataclass

from shunted_lab.config.data import DataConfig, DataFacts
from shunted_lab.config.schema import at_least, option

@dataclass
class ToyData(DataConfig):
    image_size: int = option(32, "pixels on each side")
    batch_size: int = option(4, "images in a training batch")
    brightness: int = option(1, "brightness of the second class")

    def __post_init__(self):
        super().__post_init__()
        at_least(1, "data", self, "brightness")

    @property
    def stats(self):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def check(self, tested_only=False):
        return DataFacts(("dark", "bright"), "toy-1")

    def make_splits(self, recipe, seed):
        import torch
        from torch.utils.data import Dataset

        from shunted_lab.data.module import Splits

        class Colours(Dataset):
            def __len__(part):
                return 8

            def __getitem__(part, key):
                label = (key if isinstance(key, int) else key[1]) % 2
                return torch.full((3, self.image_size, self.image_size), float(self.brightness * label)), label

        return Splits(Colours(), Colours(), Colours(), ["dark", "bright"])


@dataclass
class HalfData(DataConfig):
    """It lacks what a data set must implement."""
'''
OVERRIDES = ["experiment=train", "data=toy_module.ToyData", "seeds=[0]"]


@pytest.fixture(autouse=True)
def toy_module(tmp_path, monkeypatch):
    (tmp_path / "toy_module.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("toy_module", None)


def toy_run(*more):
    return compose([*OVERRIDES, *more]).variants["model"]


def test_it_is_composed_with_its_own_keys():
    data = toy_run("data.brightness=3").data
    assert (data.name, data.brightness, data.batch_size) == ("toy_module.ToyData", 3, 4)
    assert type(data).__module__ == "toy_module" and toy_run().data.brightness == 1
    assert data.description == "toy_module.ToyData" and data.preparation == "32 x 32" and not data.is_remote
    assert replace(data, batch_size=2) == data.smoke(2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.brigthness=3", r"^data\.brigthness: no such key; did you mean 'brightness'\?"),
        (
            "data.size_ratio=4",
            r"^data\.size_ratio: no such key for data=toy_module\.ToyData; it belongs to data=scales$",
        ),
        ("data.brightness=0", r"data\.brightness: 0 is too small: at least 1$"),
        ("data.brightness=very", r"^data\.brightness: 'very' is not a whole number$"),
        ("data=toy_module.Toy", r"^data: 'toy_module\.Toy' cannot be imported: toy_module has no 'Toy'$"),
        ("data=toy_modul.ToyData", r"^data: 'toy_modul\.ToyData' cannot be imported: there is no module 'toy_modul'$"),
        ("data=toy_module.DataFacts", r"^data: 'toy_module\.DataFacts' is not a subclass of .*DataConfig$"),
    ],
)
def test_mistakes_are_answered_in_one_line(override, message):
    with pytest.raises(ConfigError, match=message) as error:
        toy_run(override)
    assert "\n" not in str(error.value)


def test_a_class_that_lacks_a_method_names_it():
    with pytest.raises(TypeError, match=r"HalfData.*abstract methods '?check'?, '?make_splits'?, '?stats'?"):
        toy_run("data=toy_module.HalfData")


def test_it_is_checked_loaded_and_planned():
    data = toy_run("data.brightness=3").data
    assert check_data(data) == DataFacts(("dark", "bright"), "toy-1")
    module = make_datamodule(data, toy_run().recipe, 0)
    assert module.sizes == {"train": 8, "val": 8, "test": 8} and module.class_names == ["dark", "bright"]
    images, labels = next(iter(module.test_dataloader()))
    assert images.shape == (4, 3, 32, 32) and labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(images[:, 0, 0, 0], torch.tensor([0.0, 3.0, 0.0, 3.0]))
    images, labels = next(iter(module.train_dataloader()))
    assert torch.equal(images[:, 0, 0, 0], 3.0 * labels)


def test_a_run_of_it_is_written_and_read_back(tmp_path):
    prints = set()
    for brightness in (2, 3):
        experiment = compose([*OVERRIDES, f"data.brightness={brightness}", f"runs_dir={tmp_path}/runs"])
        (run,) = plan_runs(experiment, data_facts(experiment))
        write_note(run)
        assert load_run(run.folder) == run and load_run(run.folder).config.data.brightness == brightness
        prints.add(run.fingerprint)
    assert len(prints) == 2
