"""data=inat2018 and inat2019: the lists and images of iNaturalist, on tiny trees."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shunted_lab.config.compose import compose, compose_as
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.recipe import LITE_RECIPE, RecipeConfig
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.convert import ConvertConfig, convert
from shunted_lab.data import check_data, inat, make_datamodule
from shunted_lab.data.inat import INat2018Config, INat2019Config
from shunted_lab.data.shards import ShardsConfig
from shunted_lab.study.plan import data_facts
from shunted_lab.tasks.classification import Classification

LEVELS = ("kingdom", "phylum", "class", "order", "supercategory", "family", "genus", "name")
TAXA = [  # by category id; no category is named in the order of the alphabet, nor of the ids
    "Animalia Chordata Aves Anseriformes Birds Anatidae Anas Anas_crecca",
    "Plantae Tracheophyta Liliopsida Liliales Plants Liliaceae Lilium Lilium_martagon",
    "Animalia Chordata Aves Anseriformes Birds Anatidae Anas Anas_acuta",
    "Animalia Arthropoda Insecta Lepidoptera Insects Nymphalidae Vanessa Vanessa_atalanta",
    "Animalia Chordata Aves Passeriformes Birds Corvidae Corvus Corvus_corax",  # has no images
]
CATEGORIES = [{"id": i} | dict(zip(LEVELS, taxon.split(), strict=True)) for i, taxon in enumerate(TAXA)]
TRAIN = [0] * 6 + [3] * 4 + [1] * 3 + [2] * 1  # category of each image, in the order of the list
VAL = [1, 0, 2, 3, 0]
NAMED_FIRST = [2, 0, 3, 1]  # categories in the order in which the annotations of train name them


def photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (36, 40, 3), np.uint8)).save(path)


def made(root: Path, year: int = 2018, moved: bool = False) -> Path:
    """A data set as it is published, or with its images moved to where the official loader reads them."""
    count = 0
    for split, categories in (("train", TRAIN), ("val", VAL)):
        images, annotations = [], []
        for number, category in enumerate(categories, count):
            above = CATEGORIES[category]["supercategory"]
            name = f"train_val{year}/{above}/{category}/{number:032x}.jpg"
            photo(root / (name.replace(f"/{above}/", "/") if moved else name), number)
            images.append({"id": number, "file_name": name, "width": 40, "height": 36})
            annotations.append({"id": number, "image_id": number, "category_id": category})
        count += len(categories)
        annotations.sort(key=lambda row: NAMED_FIRST.index(row["category_id"]))
        write(root / f"{split}{year}.json", {"images": images, "annotations": annotations, "info": {}})
    write(root / "categories.json", CATEGORIES)
    return root


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def edit(path: Path, change: Any) -> None:
    """`change` gets the content of a list, and changes it."""
    content = json.loads(path.read_text())
    change(content)
    write(path, content)


def config_of(root: object, **options: Any) -> INat2018Config:
    return INat2018Config(root=str(root), **{"image_size": 32, "batch_size": 4, "val_fraction": 0.3, **options})


def refused(
    config: Any, message: str, tree: str = "expects train2018.json, val2018.json, categories.json and "
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        check_data(config)
    assert "\n" not in str(error.value) and str(error.value).startswith("data.root: ") and tree in str(error.value)


def official(root: Path, split: str, year: int, category: str) -> list[tuple[str, int]]:
    """(path, label) of each image as DeiT's and PVT's `INatDataset` finds them, step for step."""
    taxonomy = json.loads((root / "categories.json").read_text())
    numbers: dict[str, int] = {}
    for annotation in json.loads((root / f"train{year}.json").read_text())["annotations"]:
        value = taxonomy[int(annotation["category_id"])][category]
        if value not in numbers:
            numbers[value] = len(numbers)
    samples = []
    for image in json.loads((root / f"{split}{year}.json").read_text())["images"]:
        parts = image["file_name"].split("/")
        path = os.path.join(root, parts[0], parts[2], parts[3])
        samples.append((path, numbers[taxonomy[int(parts[2])][category]]))
    return samples


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("category", LEVELS)
@pytest.mark.parametrize(("schema", "year"), [(INat2018Config, 2018), (INat2019Config, 2019)])
def test_paths_and_labels_are_those_of_the_official_loader(tmp_path, schema, year, category):
    root = made(tmp_path, year, moved=True)
    config = schema(root=str(root), category=category)
    classes, splits = config.read_splits()
    assert list(splits) == ["train", "val"]
    for split, found in splits.items():
        assert list(zip(found.paths, found.labels, strict=True)) == official(root, split, year, category)
    assert check_data(config).num_classes == len(classes) == 1 + max(splits["train"].labels)


def test_classes_are_numbered_by_their_first_annotation(tmp_path):
    classes, splits = config_of(made(tmp_path)).read_splits()
    assert classes == ["Anas_acuta", "Anas_crecca", "Vanessa_atalanta", "Lilium_martagon"]
    assert splits["train"].labels == [1] * 6 + [2] * 4 + [3] * 3 + [0] and splits["val"].labels == [3, 1, 0, 2, 1]


def test_a_level_above_puts_categories_into_one_class(tmp_path):
    classes, splits = config_of(made(tmp_path), category="genus").read_splits()
    assert classes == ["Anas", "Vanessa", "Lilium"] and splits["val"].labels == [2, 0, 0, 1, 0]
    assert config_of(tmp_path, category="kingdom").read_splits()[0] == ["Animalia", "Plantae"]


@pytest.mark.parametrize("moved", [False, True])
def test_images_are_found_where_they_lie(tmp_path, moved):
    root = made(tmp_path, moved=moved)
    check_data(config_of(root))
    first = config_of(root).read_splits()[1]["train"].paths[0]
    assert first == f"{root}/train_val2018/{'' if moved else 'Birds/'}0/{0:032x}.jpg"


def test_both_layouts_hold_out_the_same_images_and_share_their_identity(tmp_path):
    configs = [config_of(made(tmp_path / name, moved=name == "moved")) for name in ("as_published", "moved")]
    one, other = (make_datamodule(config, LITE_RECIPE, 0).splits for config in configs)
    for split in ("train", "val", "test"):
        assert getattr(one, split).images.names == getattr(other, split).images.names
    assert torch.equal(one.val[0][0], other.val[0][0])
    assert check_data(configs[0]) == check_data(configs[1])


def test_the_validation_is_held_out_of_train_and_the_val_list_is_the_test(tmp_path):
    data = make_datamodule(config_of(made(tmp_path)), LITE_RECIPE, 0)
    assert data.sizes == {"train": 9, "val": 5, "test": 5} and data.num_classes == 4
    assert sorted(data.splits.val.labels) == [1, 1, 2, 2, 3]  # of six, four and three; a class of one image keeps it
    listed = json.loads((tmp_path / "val2018.json").read_text())["images"]
    assert data.splits.test.images.names == [row["file_name"] for row in listed]


def test_an_image_that_is_listed_twice_counts_twice_as_in_the_official_loader(tmp_path):
    root = made(tmp_path, moved=True)
    edit(root / "val2018.json", lambda found: found["images"].append(found["images"][0]))
    assert check_data(config_of(root)).num_classes == 4
    found = config_of(root).read_splits()[1]["val"]
    assert list(zip(found.paths, found.labels, strict=True)) == official(root, "val", 2018, "name")
    assert len(found.labels) == 6


def test_batches_have_images_and_labels(tmp_path):
    data = make_datamodule(config_of(made(tmp_path)), RecipeConfig(), 0)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32 and labels.dtype == torch.int64
    labels = torch.cat([labels for _, labels in data.test_dataloader()])
    assert labels.tolist() == [3, 1, 0, 2, 1]


def test_images_are_normalised_as_those_of_imagenet(tmp_path):
    root = made(tmp_path)
    name = json.loads((root / "val2018.json").read_text())["images"][0]["file_name"]
    Image.new("RGB", (40, 36), (90, 120, 30)).save(root / name, quality=100)
    with Image.open(root / name) as image:
        colour = torch.tensor(image.getpixel((20, 18)), dtype=torch.float32) / 255
    found = make_datamodule(config_of(root), LITE_RECIPE, 0).splits.test[0][0]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(found[:, 5, 5], (colour - mean) / std)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path) -> Path:
    return made(tmp_path)


@pytest.mark.parametrize("name", ["train2018.json", "val2018.json", "categories.json"])
def test_an_absent_or_damaged_list_is_refused(root, name):
    whole = (root / name).read_bytes()
    for content in (whole[:-5], b"", b"\xff\xfe\xfd", b"[" * 100_000):
        (root / name).write_bytes(content)
        refused(config_of(root), rf"/{name} is damaged \(not JSON\); unpack the archive again; data=inat2018")
    (root / name).write_text("3")
    refused(config_of(root), rf"/{name} is not (an object|a list) in JSON")
    (root / name).unlink()
    refused(config_of(root), rf"/{name} is absent; data=inat2018 expects")


def test_the_other_year_is_expected_in_its_own_files(root):
    refused(
        INat2019Config(root=str(root)), r"/train2019\.json is absent; data=inat2019", "train_val2019/SUPERCATEGORY/"
    )
    refused(config_of(root / "no"), r"^data\.root: '.*/no' does not exist; data=inat2018")
    for name in ("train", "val"):
        shutil.copy(root / f"{name}2018.json", root / f"{name}2019.json")
    message = r"/train2019\.json has no file_name train_val2019/SUPERCATEGORY/ID/FILE in images\[0\]: 'train_val2018/"
    refused(INat2019Config(root=str(root)), message, "train_val2019/")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("rows", [None, [], {"a": 1}])
def test_a_list_without_images_is_refused(root, split, rows):
    edit(root / f"{split}2018.json", lambda found: found.update(images=rows))
    refused(config_of(root), rf"/{split}2018\.json has no list of images; ")


@pytest.mark.parametrize("rows", [None, []])
def test_train_without_annotations_is_refused_and_val_needs_none(root, rows):
    edit(root / "val2018.json", lambda found: found.pop("annotations"))
    assert check_data(config_of(root)).num_classes == 4
    edit(root / "train2018.json", lambda found: found.update(annotations=rows))
    refused(config_of(root), r"/train2018\.json has no list of annotations; ")


@pytest.mark.parametrize(
    "name",
    [
        None,
        7,
        "",
        "train_val2018/0/x.jpg",
        "train_val2018/Birds/x/y.jpg",
        "train_val2018/Birds/-1/y.jpg",
        "train_val2018/../0/x.jpg",
        "train_val2018/Birds/0/..",
        "train_val2018/Birds/0/",
        "train_val2018/Birds/0/a/b.jpg",
        "/train_val2018/Birds/0/x.jpg",
        "train_val2018/Birds/0/x.jpg\n",
    ],
)
def test_a_file_name_of_another_form_is_refused(root, name):
    edit(root / "val2018.json", lambda found: found["images"][2].update(file_name=name))
    refused(config_of(root), r"/val2018\.json has no file_name train_val2018/SUPERCATEGORY/ID/FILE in images\[2\]: ")


@pytest.mark.parametrize("row", [{}, None, {"category_id": "1"}, {"category_id": True}, {"category_id": 1.5}])
def test_an_annotation_without_a_category_is_refused(root, row):
    edit(root / "train2018.json", lambda found: found["annotations"].insert(3, row))
    refused(config_of(root), r"/train2018\.json has no category_id in annotations\[3\]; ")


@pytest.mark.parametrize("category", [5, -1])
def test_an_annotation_of_a_category_that_is_not_there_is_refused(root, category):
    edit(root / "train2018.json", lambda found: found["annotations"].append({"category_id": category}))
    refused(config_of(root), rf"/train2018\.json has category {category}, and categories\.json ends with 4; ")


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_of_a_category_that_is_not_there_is_refused(root, split):
    name = "train_val2018/Birds/5/x.jpg"
    photo(root / name, 0)
    edit(root / f"{split}2018.json", lambda found: found["images"].append({"file_name": name}))
    refused(config_of(root), rf"/{split}2018\.json has category 5, and categories\.json ends with 4; ")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_category_that_no_annotation_of_train_has_is_refused(root, split):
    name = "train_val2018/Birds/4/x.jpg"
    photo(root / name, 0)
    edit(root / f"{split}2018.json", lambda found: found["images"].append({"file_name": name}))
    message = rf"/{split}2018\.json has category 4 \('Corvus_corax'\), which no annotation of train2018\.json has; "
    refused(config_of(root), message)
    assert check_data(config_of(root, category="class")).num_classes == 3  # Aves is known by other birds


@pytest.mark.parametrize("value", [None, "", 3])
def test_a_level_that_a_category_does_not_have_is_refused(root, value):
    edit(root / "categories.json", lambda found: found[4].update(family=value))
    refused(config_of(root, category="family"), r"/categories\.json has no family \(data\.category\) for category 4; ")
    edit(root / "categories.json", lambda found: found[4].pop("family"))
    refused(config_of(root, category="family"), r"/categories\.json has no family \(data\.category\) for category 4; ")
    assert check_data(config_of(root)).num_classes == 4  # and no other level is asked for
    edit(root / "categories.json", lambda found: found.__setitem__(1, "Lilium"))
    refused(config_of(root), r"/categories\.json has no name \(data\.category\) for category 1; ")


def test_the_first_absent_image_is_named(root):
    images = {split: found.paths for split, found in config_of(root).read_splits()[1].items()}
    for path in (images["val"][3], images["train"][9], images["train"][7], images["train"][0]):
        os.remove(path)
        refused(
            config_of(root), rf"^data\.root: {path} is absent; data=inat2018 .*/ID/\*\.jpg in it \(or train_val2018/ID"
        )
    os.mkdir(images["train"][0])  # a folder is not an image
    refused(config_of(root), rf"^data\.root: {images['train'][0]} is absent")


def test_a_folder_that_is_absent_is_refused_in_both_layouts(tmp_path):
    for moved, folder in ((False, "Plants/1"), (True, "1")):
        root = made(tmp_path / folder, moved=moved)
        shutil.rmtree(root / "train_val2018" / folder)
        refused(config_of(root), rf"/train_val2018/{folder}/[0-9a-f]*a\.jpg is absent")
        shutil.rmtree(root / "train_val2018")
        refused(config_of(root), r"/train_val2018/Birds/0/0{32}\.jpg is absent")  # as the archive would unpack it


def test_each_folder_is_listed_once(root, monkeypatch):
    listed = []
    files = inat._files
    monkeypatch.setattr(inat, "_files", lambda folder: (listed.append(folder), files(folder))[1])
    check_data(config_of(root))
    assert len(listed) == len(set(listed)) == 4


def test_a_wrong_level_and_a_wrong_number_of_classes_are_refused(root):
    with pytest.raises(
        ConfigError, match=r"^data\.category: 'genera' is not known; did you mean 'genus'\? choices: class,"
    ):
        config_of(root, category="genera")
    with pytest.raises(ConfigError, match=r"^data\.num_classes: 8142, but '.*' has 4 classes$"):
        check_data(config_of(root, num_classes=8142))


def test_one_class_or_an_image_a_class_is_refused(root):
    kept = (root / "categories.json").read_bytes()
    edit(root / "categories.json", lambda found: found[1].update(kingdom="Animalia"))
    message = r"has 1 class at the level kingdom \(data\.category\), 'Animalia'; a classifier needs at least 2$"
    refused(config_of(root, category="kingdom"), message, "")
    (root / "categories.json").write_bytes(kept)
    edit(root / "train2018.json", lambda found: found.update(images=found["images"][5:11:5]))
    with pytest.raises(
        ConfigError, match=r"^data\.val_fraction: 0\.3 .* has 2 of them in 2 classes, and each class keeps"
    ):
        check_data(config_of(root))


# --- identity and fingerprint ----------------------------------------------------------------------------------------


def test_identity_follows_classes_labels_and_images(root):
    base = check_data(config_of(root)).identity
    assert len(base) == 16 and check_data(config_of(root, category="genus")).identity != base
    lists = {path: path.read_bytes() for path in root.glob("*.json")}
    changes = {
        "categories.json": lambda found: found[0].update(name="Anas_querquedula"),
        "train2018.json": lambda found: found["annotations"].reverse(),
        "val2018.json": lambda found: found["images"].pop(),
    }
    found = {base}
    for name, change in changes.items():
        edit(root / name, change)
        found.add(check_data(config_of(root)).identity)
        (root / name).write_bytes(lists[root / name])
    path = config_of(root).read_splits()[1]["train"].paths[3]
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:-1])
    found.add(check_data(config_of(root)).identity)
    Path(path).write_bytes(content)
    assert len(found) == 5 and check_data(config_of(root)).identity == base
    assert check_data(INat2019Config(root=str(made(root / "other", 2019)))).identity != base


def test_level_and_fraction_are_in_the_fingerprint(root):
    def fingerprint(data: INat2018Config) -> str:
        run = RunConfig(
            PRESETS["model"]["shunted_lite"], data, Classification(), LITE_RECIPE, PRESETS["launch"]["local"], 0
        )
        return run.fingerprint("id", {})

    base = config_of(root)
    assert fingerprint(base) == fingerprint(replace(base, root="elsewhere"))
    others = [replace(base, category="genus"), replace(base, val_fraction=0.1)]
    assert len({fingerprint(data) for data in (base, *others)}) == 3


def test_variants_of_two_levels_have_their_own_facts(root, tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    levels = "variants: {name: {data.category: name}, genus: {data.category: genus}}"
    (tmp_path / "experiments" / "levels.yaml").write_text(f"seeds: [0]\nbaseline: name\n{levels}\n")
    monkeypatch.chdir(tmp_path)
    facts = data_facts(compose(["experiment=levels", "data=inat2018", f"data.root={root}"]))
    assert {name: found.num_classes for name, found in facts.items()} == {"name": 4, "genus": 3}
    assert facts["name"].identity != facts["genus"].identity


# --- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("category", ["name", "genus"])
@pytest.mark.parametrize("moved", [False, True])
def test_shards_give_the_same_splits_numbers_and_labels(tmp_path, moved, category):
    root, out = made(tmp_path / "in", moved=moved), tmp_path / "out"
    words = ["data=inat2018", f"data.category={category}", f"data.root={root}", f"out={out}", "shard_mb=0.01"]
    assert convert(compose_as(ConvertConfig, [*words, "data.val_fraction=0.3"])).startswith("19 images in ")
    plain = config_of(root, category=category)
    shared = {"image_size": 32, "batch_size": 4, "val_fraction": 0.3}
    packed = ShardsConfig(root=str(out), **shared)
    assert check_data(packed).num_classes == check_data(plain).num_classes
    one, other = (make_datamodule(config, RecipeConfig(), 5).splits for config in (plain, packed))
    assert one.class_names == other.class_names
    assert one.train.images.names == other.train.images.names and one.test.images.names == other.test.images.names
    assert list(one.train.labels) == list(other.train.labels) and list(one.test.labels) == list(other.test.labels)
    held = [dict(zip(part.val.images.names, part.val.labels, strict=True)) for part in (one, other)]
    assert held[0] == held[1] and len(held[0]) == len(one.val)  # an own shard; its order is that of the tar
    keys = [(3, i, 1) for i in range(len(one.train))]
    assert all(torch.equal(one.train[key][0], other.train[key][0]) for key in keys)
    assert all(torch.equal(one.test[i][0], other.test[i][0]) for i in range(len(one.test)))


def test_an_incomplete_data_set_is_not_converted(root, tmp_path):
    os.remove(config_of(root).read_splits()[1]["val"].paths[1])
    words = ["data=inat2018", f"data.root={root}", f"out={tmp_path / 'out'}"]
    with pytest.raises(ConfigError, match=r"^data\.root: .*\.jpg is absent; data=inat2018 expects"):
        convert(compose_as(ConvertConfig, words))
    assert not (tmp_path / "out").exists()
