"""data=coco: what is trained and evaluated, augmentation of images with their objects, and what is refused."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

pytest.importorskip("pycocotools")

import torch
from coco_folder import annotated, annotation, categories, rectangle, write
from PIL import Image
from pycocotools import mask as coco_mask

from shunted_lab.config.compose import compose, compose_as
from shunted_lab.config.experiment import Config
from shunted_lab.config.recipe import COCO_MASK_RCNN_1X_RECIPE, COCO_MASK_RCNN_3X_RECIPE
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import make_datamodule
from shunted_lab.data.coco import CocoConfig, CocoInstances
from shunted_lab.data.coco.annotations import parsed
from shunted_lab.data.coco.datasets import AspectOrder, Prepared, cropped, draw_crop, resized, turned
from shunted_lab.data.corrupt import CorruptImages
from shunted_lab.data.objects import boxes_of, to_rle
from shunted_lab.tasks.evidence import read_evidence
from shunted_lab.tasks.train import train

SMALL = {"image_size": 64, "long_side": 128, "batch_size": 2, "val_fraction": 0.2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write(tmp_path_factory.mktemp("coco"))


def configured(root, kind=CocoInstances, **options) -> CocoConfig:
    return kind("coco", root=str(root), **SMALL | options)


def splits(root, recipe=COCO_MASK_RCNN_1X_RECIPE, **options):
    return configured(root, **options).make_splits(recipe, 0)


def test_classes_are_the_categories_by_number_and_gaps_are_closed(root):
    facts = configured(root).check()
    assert facts.class_names == ("person", "dog", "toothbrush")
    assert facts.notes == ("coco: 6 of 7 training images have objects; others are left out",)
    annotations = configured(root).annotations("train")
    assert annotations.categories == [[1, "person"], [18, "dog"], [90, "toothbrush"]]
    assert annotations.label[:6].tolist() == [0, 0, 1, 0, 2, 0]


def test_validation_is_held_out_of_train_and_val_is_the_test(root):
    found = splits(root)
    kept, held, test = (set(part.images.names) for part in (found.train, found.val, found.test))
    assert (len(kept), len(held), len(test)) == (6, 2, 4)
    assert not kept & held and not (kept | held) & test and test == {f"{n:06d}.jpg" for n in range(101, 105)}
    assert "000104.jpg" in test, "an image without objects is evaluated"
    other = configured(root).make_splits(COCO_MASK_RCNN_3X_RECIPE, 1)
    assert set(other.val.images.names) == held, "the split has no seed"


def test_what_cannot_be_trained_is_dropped_and_evaluation_keeps_everything(tmp_path):
    cases = {
        1: annotation(1, 1, 1, [4.0, 4.0, 20.0, 20.0]),
        2: annotation(2, 1, 1, [0.0, 0.0, 30.0, 30.0], iscrowd=1),
        3: annotation(3, 1, 1, [4.0, 4.0, 20.0, 20.0], ignore=1),
        4: annotation(4, 1, 1, [4.0, 4.0, 20.0, 20.0], area=0),
        5: annotation(5, 1, 1, [4.0, 4.0, 0.5, 20.0]),
        6: annotation(6, 1, 1, [70.0, 4.0, 20.0, 20.0]),  # outside of an image of 64 pixels
        7: annotation(7, 1, 18, [50.0, 30.0, 40.0, 40.0]),  # clipped
        8: annotation(8, 1, 90, [10.0, 10.0, 8.0, 8.0], segmentation=[[1.0, 1.0, 2.0, 2.0]]),  # no polygon
    }
    train = annotated(1, 3) | {"annotations": [*cases.values(), annotation(20, 2, 1, [4.0, 6.0, 20.0, 16.0])]}
    val = annotated(101, 2) | {"annotations": [each | {"image_id": 101} for each in cases.values()]}
    found = splits(write(tmp_path, train, val), val_fraction=0.1)
    image = found.train.images.names.index("000001.jpg") if "000001.jpg" in found.train.images.names else None
    source = found.train if image is not None else found.val
    known = source.images.known(source.images.names.index("000001.jpg"))
    assert known.labels.tolist() == [0, 1, 2]
    assert known.boxes.tolist() == [[4, 4, 24, 24], [50, 30, 64, 48], [10, 10, 18, 18]]
    prepared = source.original(source.images.names.index("000001.jpg"))
    assert prepared.has_mask.tolist() == [True, True, False] and not prepared.masks[2].any()
    truth = found.test.truth(0)
    assert len(truth.labels) == 8 and truth.crowd.tolist() == [False, True, *[False] * 6]
    assert truth.boxes[6].tolist() == [50, 30, 90, 70] and truth.areas[3] == 0
    assert coco_mask.decode(to_rle(truth.segments[7], truth.size)).sum() == 0


def test_segmentations_of_all_kinds_are_the_masks_of_pycocotools(tmp_path):
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 5:40] = 1
    packed = coco_mask.encode(np.asfortranarray(mask))
    flat, counts, value = mask.T.ravel(), [], 0
    while len(flat):
        run = int(np.argmax(flat != value)) if (flat != value).any() else len(flat)
        counts.append(run)
        flat, value = flat[run:], 1 - value
    two = [rectangle(1.3, 2.7, 10.1, 9.9), rectangle(30.0, 20.0, 12.0, 6.0)]
    kinds = [
        two,
        {"size": [48, 64], "counts": counts},
        {"size": [48, 64], "counts": packed["counts"].decode()},
    ]
    objects = [annotation(i + 1, 1, 1, [1.0, 1.0, 40.0, 30.0], segmentation=kind) for i, kind in enumerate(kinds)]
    train = annotated(1, 3) | {"annotations": [*objects, annotation(9, 2, 1, [4.0, 6.0, 20.0, 16.0])]}
    annotations = configured(write(tmp_path, train)).annotations("train")
    found = [coco_mask.decode(to_rle(annotations.segment(i), (48, 64))) for i in range(3)]
    polygons = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(two, 48, 64)))
    assert np.array_equal(found[0], polygons) and np.array_equal(found[1], mask) and np.array_equal(found[2], mask)


def test_annotations_are_parsed_once_and_shared(root, tmp_path, monkeypatch):
    file = root / "annotations" / "instances_train2017.json"
    first = parsed(file, "data.train_json", tmp_path)
    monkeypatch.setattr(json, "load", lambda *_: pytest.fail("parsed again"))
    second = parsed(file, "data.train_json", tmp_path)
    assert first.folder == second.folder and isinstance(second.numbers, np.memmap)
    assert len(pickle.dumps(second)) < 300, "nothing is copied to a worker that is spawned"
    assert pickle.loads(pickle.dumps(second)).label.tolist() == first.label.tolist()
    assert len(pickle.dumps(configured(root).make_splits(COCO_MASK_RCNN_1X_RECIPE, 0).test.images)) < 1000


def test_another_file_has_another_identity_and_a_moved_folder_the_same(tmp_path):
    one, other = write(tmp_path / "a"), write(tmp_path / "b")
    assert configured(one).check().identity == configured(other).check().identity
    changed = annotated(101, 4)
    changed["annotations"][0]["bbox"] = [4.0, 6.0, 21.0, 16.0]
    assert configured(write(tmp_path / "c", None, changed)).check().identity != configured(one).check().identity


def test_own_names_of_files_and_folders(tmp_path):
    own = tmp_path / "own"
    write(own)
    (own / "annotations" / "instances_train2017.json").rename(own / "train.json")
    (own / "annotations" / "instances_val2017.json").rename(tmp_path / "val.json")
    (own / "train2017").rename(own / "pictures")
    options = {"train_json": "train.json", "val_json": str(tmp_path / "val.json"), "train_images": "pictures"}
    assert configured(own, **options).check().num_classes == 3


def batch(split, keys):
    images, objects = split.__getitems__(keys)
    return images, objects


def test_a_batch_is_padded_to_multiples_of_32_and_its_boxes_fit_the_masks(root):
    train = splits(root).train
    images, objects = batch(train, [(0, i, 0) for i in range(4)])
    assert images.shape[2] % 32 == images.shape[3] % 32 == 0
    assert images.is_contiguous(memory_format=torch.channels_last)
    for i, (height, width) in enumerate(objects.sizes):
        assert min(height, width) == 64 or max(height, width) == 128
        assert not images[i, :, height:].any() and not images[i, :, :, width:].any()
        assert objects.masks[i].shape == (2, *images.shape[2:])
        for box, mask in zip(objects.boxes[i], objects.masks[i], strict=True):
            drawn = torch.from_numpy(boxes_of(mask[None].numpy()))[0]
            assert torch.allclose(box, drawn, atol=2.0), "masks are resized to the nearest pixel"
    assert objects.truths == [] and len(set(objects.seeds)) == 4


def test_an_image_of_an_epoch_is_the_same_whoever_loads_it(root):
    train, again = (splits(root, COCO_MASK_RCNN_3X_RECIPE, long_side=1333).train for _ in range(2))
    keys = [(0, 3, 0), (1, 3, 0), (0, 5, 0)]
    _, together = batch(train, keys)
    for i, key in enumerate(keys):
        alone, objects = batch(again, [key])
        height, width = objects.sizes[0]
        assert together.sizes[i] == (height, width) and together.seeds[i] == objects.seeds[0]
        assert torch.equal(together.boxes[i], objects.boxes[0])
        assert torch.equal(alone[0], batch(train, [key])[0][0])
    assert together.sizes[0] != together.sizes[1] or not torch.equal(together.boxes[0], together.boxes[1])


def test_evaluation_has_the_whole_image_and_the_truth_at_its_original_size(root):
    test = splits(root).test
    images, objects = batch(test, [1])
    assert objects.sizes[0] == (85, 64) and images.shape[2:] == (96, 64)
    assert objects.truths[0].size == (64, 48) and objects.truths[0].boxes[0].tolist() == [4, 6, 24, 22]
    assert objects.boxes[0][0].tolist() == pytest.approx([4 * 64 / 48, 6 * 85 / 64, 24 * 64 / 48, 22 * 85 / 64])
    _, empty = batch(test, [3])
    assert empty.boxes[0].shape == (0, 4) and empty.masks[0].shape[0] == 0 and len(empty.truths[0].labels) == 0


def painted() -> Prepared:
    image = np.zeros((40, 60, 3), np.uint8)
    masks = np.zeros((2, 40, 60), np.uint8)
    masks[0, 5:15, 10:40], masks[1, 30:38, 50:58] = 1, 1
    image[masks[0] > 0] = 200
    return Prepared(image, boxes_of(masks).astype(np.float64), np.array([0, 1]), masks, np.array([True, True]))


@pytest.mark.parametrize("which", range(8))
def test_boxes_are_turned_with_their_masks(which):
    found = turned(painted(), which)
    assert np.array_equal(found.boxes, boxes_of(found.masks))
    assert (found.image[found.masks[0] > 0] == 200).all() and (found.image > 0).sum() == 3 * 300


def test_a_crop_leaves_out_what_is_outside_and_masks_that_are_gone():
    found = cropped(painted(), (0, 20, 30, 30))
    assert found.labels.tolist() == [0] and found.boxes.tolist() == [[0, 5, 20, 15]]
    assert np.array_equal(found.boxes, boxes_of(found.masks)) and found.has_mask.tolist() == [True]
    masks = np.zeros((1, 40, 60), np.uint8)
    masks[0, 5:7, 10:12] = 1  # a corner of its box
    box, some = np.array([[10.0, 5, 40, 30]]), np.array([True])
    known = Prepared(np.zeros((40, 60, 3), np.uint8), box, np.array([0]), masks, some)
    gone = cropped(known, (10, 20, 30, 40))
    assert gone.boxes.tolist() == [[0, 0, 20, 20]] and gone.has_mask.tolist() == [False]
    assert cropped(painted(), (20, 0, 5, 5)).boxes.shape == (0, 4)


def test_crops_have_sides_of_384_to_600_drawn_apart():
    rng = np.random.default_rng(0)
    crops = [draw_crop((640, 900), rng) for _ in range(300)]
    heights, widths = ({crop[i] for crop in crops} for i in (2, 3))
    assert min(heights | widths) >= 384 and max(heights | widths) == 600 and len(heights) > 100
    assert all(top + height <= 640 and left + width <= 900 for top, left, height, width in crops)
    assert draw_crop((200, 300), rng) == (0, 0, 200, 300)


def test_the_3x_recipe_draws_short_sides_and_crops_half_of_the_images(tmp_path):
    train = annotated(1, 3)
    for image in train["images"]:
        image |= {"height": 480, "width": 640}
    found = splits(write(tmp_path, train), COCO_MASK_RCNN_3X_RECIPE, image_size=800, long_side=1333, val_fraction=0.1)
    sizes = [batch(found.train, [(epoch, 0, 0)])[1].sizes[0] for epoch in range(40)]
    short = {min(size) for size in sizes}
    assert len(short) > 6 and min(short) >= 400 and max(short) == 800
    plain = [size for size in sizes if round(max(size) / min(size), 2) == 1.33]
    assert 10 <= len(plain) <= 30, "the others are cropped, and have another aspect"


def test_masks_are_resized_nearest_and_images_bilinear():
    found = resized(painted(), (80, 120))
    assert found.boxes.tolist() == (painted().boxes * 2).tolist()
    assert np.array_equal(boxes_of(found.masks), found.boxes) and set(np.unique(found.masks)) == {0, 1}


def test_batches_have_one_aspect_whatever_the_devices():
    wide = np.array([True] * 21 + [False] * 14)
    order = AspectOrder(wide, 4)
    first, second = (order(np.random.default_rng(seed)) for seed in (0, 1))
    assert sorted(first.tolist()) == list(range(35)) and not np.array_equal(first, second)
    batches = first[:32].reshape(8, 4)
    assert all(len(set(wide[each])) == 1 for each in batches)
    kinds = [bool(wide[each[0]]) for each in batches]
    assert kinds != sorted(kinds, reverse=True), "the batches are mixed"


def test_the_loader_takes_the_order_of_whole_batches(root):
    data = configured(root, batch_size=4)
    one = make_datamodule(data, COCO_MASK_RCNN_1X_RECIPE, 0)
    shared = make_datamodule(data, COCO_MASK_RCNN_1X_RECIPE, 0, batch_size=2)
    assert list(one.sampler) == list(shared.sampler), "as each of two devices has it"
    assert one.splits.evaluated_in == 1


def test_grey_and_rotated_images_are_read_as_they_are_stored(root, tmp_path):
    write(tmp_path)
    file = tmp_path / "val2017" / "000101.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(file, exif=exif)
    image = splits(tmp_path).test.images.decode(0)
    assert image.size == (64, 48) and image.mode == "RGB"


def test_an_image_of_another_size_than_annotated_is_refused_by_name(tmp_path):
    write(tmp_path)
    Image.new("RGB", (30, 30)).save(tmp_path / "val2017" / "000102.jpg")
    with pytest.raises(CorruptImages, match=r"000102\.jpg cannot be decoded \(is 30 x 30 pixels, and 48 x 64 in the"):
        splits(tmp_path).test.__getitems__([1])
    with pytest.raises(ConfigError, match=r"1 of 6 images of val and test cannot be decoded: .*000102"):
        data = configured(tmp_path)
        data.check_evaluated(data.check().identity, lambda line: None)


def test_corrupt_training_images_are_replaced_up_to_a_number(tmp_path):
    write(tmp_path)
    found = splits(tmp_path, max_corrupt=1)
    names = found.train.images.names
    for name in names[:2]:
        (tmp_path / "train2017" / name).write_bytes(b"no image")
    with pytest.warns(UserWarning, match=f"{names[1]} cannot be read"):
        batch(found.train, [(0, 1, 0)])
    assert found.train.corrupt.found == [1]
    with pytest.raises(CorruptImages, match="1 may be replaced, and 2 of 6 training images"):
        batch(found.train, [(0, 0, 0)])


def changed(**parts):
    content = annotated(1, 3)
    for name, change in parts.items():
        change(content[name])
    return content


BAD = {
    "duplicate image": (
        changed(images=lambda images: images.append(images[0] | {"id": 77})),
        "has an image with the file_name '000001.jpg' twice",
    ),
    "duplicate image id": (
        changed(images=lambda images: images.append(images[0] | {"file_name": "x.jpg"})),
        "has an image with the id 1 twice",
    ),
    "no size": (changed(images=lambda images: images[0].update(height=0)), r"image '000001.jpg' has no size"),
    "duplicate id": (
        changed(annotations=lambda found: found[1].update(id=found[0]["id"])),
        "has an annotation with the id 10 twice",
    ),
    "id zero": (changed(annotations=lambda found: found[0].update(id=0)), "has an annotation with the id 0; ids begin"),
    "unknown image": (
        changed(annotations=lambda found: found[0].update(image_id=999)),
        "annotation 10 has the image_id 999, which is not known",
    ),
    "unknown category": (
        changed(annotations=lambda found: found[0].update(category_id=2)),
        "annotation 10 has the category_id 2, which is not known",
    ),
    "nan": (changed(annotations=lambda found: found[0]["bbox"].__setitem__(0, float("nan"))), r"10 has the box \[nan"),
    "negative": (changed(annotations=lambda found: found[0]["bbox"].__setitem__(2, -3.0)), r"10 has the box .*-3\.0"),
    "three numbers": (changed(annotations=lambda found: found[0]["bbox"].pop()), "10 has a box of 3 numbers, not 4"),
    "odd polygon": (
        changed(annotations=lambda found: found[0]["segmentation"][0].append(1.0)),
        "annotation 10 has a polygon of 9 numbers, which is odd",
    ),
    "other run lengths": (
        changed(annotations=lambda found: found[0].update(segmentation={"size": [9, 9], "counts": [81]})),
        r"annotation 10 has run lengths of \[9, 9\], and its image \[48, 64\] pixels",
    ),
    "same category twice": (
        changed(categories=lambda found: found.append({"id": 5, "name": "dog"})),
        "has the category name 'dog' twice",
    ),
    "no categories": (changed(categories=lambda found: found.clear()), "has no categories"),
    "no file name": (changed(images=lambda images: images[0].pop("file_name")), "an entry lacks 'file_name'"),
    "not a box": (changed(annotations=lambda found: found[0].update(bbox=None)), "a value of a wrong type"),
    "no object": (changed(annotations=lambda found: found.clear()), "has no segmentation"),
    "nothing to train": (
        changed(annotations=lambda found: [each.update(iscrowd=1) for each in found]),
        "has no image with an object to train",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_broken_annotation_is_refused_in_one_line(case, tmp_path):
    content, message = BAD[case]
    (tmp_path / "annotations").mkdir()
    write(tmp_path)
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message) as caught:
        configured(tmp_path).check()
    assert str(caught.value).startswith("data.train_json: ") and "\n" not in str(caught.value)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"data.root: '.*none' does not exist; data=coco expects annotations/"):
        configured(tmp_path / "none").check()
    root = write(tmp_path)
    (root / "val2017" / "000102.jpg").unlink()
    with pytest.raises(ConfigError, match=r"data.val_images: .*val2017 lacks 1 of 4 images of .*, first '000102.jpg'"):
        configured(root).check()
    json_file = root / "annotations" / "instances_val2017.json"
    json_file.write_text(json_file.read_text()[:200])
    with pytest.raises(ConfigError, match=r"data.val_json: .* is not JSON, or is cut off"):
        configured(root).check()
    json_file.write_text("[]")
    with pytest.raises(ConfigError, match=r"is not in COCO's format: it needs lists of images, annotations and"):
        configured(root).check()
    json_file.unlink()
    with pytest.raises(ConfigError, match=r"data.val_json: .*instances_val2017.json does not exist"):
        configured(root).check()


def test_the_splits_must_have_the_same_categories(tmp_path):
    val = annotated(101, 4) | {"categories": [*categories(), {"id": 91, "name": "lamp"}]}
    with pytest.raises(ConfigError, match=r"data.val_json: its categories differ .*\['lamp'\]"):
        configured(write(tmp_path, None, val)).check()


def test_boxes_without_segmentations_train_a_detector_of_boxes_only(tmp_path):
    def bare(content):
        for each in content["annotations"]:
            each.pop("segmentation")
        return content

    root = write(tmp_path, bare(annotated(1, 9)), bare(annotated(101, 4)))
    with pytest.raises(ConfigError, match="has no segmentation: it can train task=retinanet, but no masks"):
        configured(root).check()
    assert configured(root, CocoConfig).check().num_classes == 3
    _, objects = batch(splits(root, kind=CocoConfig).train, [(0, 0, 0)])
    assert objects.masks == [] and objects.has_mask[0].tolist() == [False, False]


def test_test_only_needs_no_training_images(tmp_path):
    root = write(tmp_path)
    (root / "annotations" / "instances_train2017.json").unlink()
    assert configured(root).check(tested_only=True).num_classes == 3
    assert len(splits(root).test) == 4


def test_the_task_chooses_what_is_read(root):
    def data(*overrides):
        return compose_as(Config, ["data=coco", f"data.root={root}", "recipe=coco_mask_rcnn_1x", *overrides]).data

    assert not data("task=retinanet").has_masks
    for override, message in (
        ("data.long_side=100", "data.long_side: 100 is below data.image_size"),
        ("data.val_fraction=1", "data.val_fraction: 1.* is not between 0 and 1"),
        ("data.image_size=16", "is too small"),
    ):
        with pytest.raises(ConfigError, match=message):
            data("task=retinanet", override)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["mask_rcnn_lite", "retinanet_lite"])
def test_a_detector_is_trained_on_images_of_many_sizes(root, tmp_path, task):
    words = ["experiment=coco_attention", "begin_with=null", f"data.root={root}", "model=shunted_lite", f"task={task}"]
    words += ["recipe=coco_mask_rcnn_3x", "recipe.epochs=2", "recipe.milestones=[1]", "recipe.warmup_steps=1"]
    words += [f"data.{name}={value}" for name, value in SMALL.items()] + ["recipe.short_sides=[48,64]"]
    run = compose([*words, "launch.accelerator=cpu", "launch.pictures=false"]).variants["ssa"]
    found = train(run, tmp_path / "run")
    assert found["sizes"] == {"train": 6, "val": 2, "test": 4} and found["corrupt_images"] == []
    metrics = found["metrics"]
    assert np.isfinite(metrics["test/loss"]) and 0 <= metrics["test/box_ap"] <= 1
    assert "test/box_ap_large" not in metrics, "no object is larger than 96 x 96 pixels: a dash in the table"
    assert 0 <= metrics["test/box_ap_small"] <= 1
    marks = read_evidence(tmp_path / "run").marks
    assert marks.objects[:, :, 0].sum() == 6 and marks.class_names == ("person", "dog", "toothbrush")
    assert (tmp_path / "run" / "examples.png").stat().st_size > 1000
