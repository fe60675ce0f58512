"""Images with label maps in files: ADE20K and folders; the augmentation, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import check_data, make_datamodule
from shunted_lab.data.ade20k import ADE20KConfig
from shunted_lab.data.geometry import aligned, distort, draw_crop, fitted, resize_image, resize_labels
from shunted_lab.data.label_maps import IGNORED
from shunted_lab.data.labelled import to_classes
from shunted_lab.data.segmentation_folder import SegmentationFolderConfig

SIZES = [(48, 64), (64, 40), (33, 70)]


def ade(root, train=6, val=3):
    """A folder like ADE20K's with random images; the label of a pixel follows from its colour."""
    rng = np.random.default_rng(0)
    for split, count in (("training", train), ("validation", val)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            size = SIZES[i % 3]
            image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            labels = (image[..., 0].astype(int) * 151 // 256).astype(np.uint8)  # 0 to 150
            Image.fromarray(image).save(root / "images" / split / f"ADE_{split}_{i:08}.png")
            Image.fromarray(labels).save(root / "annotations" / split / f"ADE_{split}_{i:08}.png")
    return root


def words(root, *more):
    base = ["experiment=segment_earth", "begin_with=null", "data=ade20k", f"data.root={root}", "data.image_size=32"]
    return [*base, "recipe=ade20k_semantic_fpn", "data.batch_size=2", *more]


def module_of(root, *more, seed=0):
    run = compose(words(root, *more)).variants["conv_stem"]
    return make_datamodule(run.data, run.recipe, seed)


def test_ade20k_is_read_as_mmseg_does(tmp_path):
    root = ade(tmp_path)
    facts = check_data(ADE20KConfig(root=str(root)))
    assert (len(facts.class_names), facts.class_names[0], facts.class_names[149]) == (150, "wall", "flag")
    assert facts.notes == ("data=ade20k: 9 images; the benchmark has 22,210",)
    data = module_of(root)
    assert data.sizes == {"train": 5, "val": 1, "test": 3}
    test = data.splits.test
    for i, (height, width) in enumerate(SIZES):
        images, targets = test.__getitems__([i])
        raw = np.asarray(Image.open(root / "annotations/validation" / f"ADE_validation_{i:08}.png"))
        expected = np.where(raw == 0, 255, raw - 1)  # label 0 is no class
        assert np.array_equal(targets.classes[0].numpy(), expected), "evaluated at the original size"
        scale = min(128 / max(height, width), 32 / min(height, width))
        small = [-(-int(side * scale + 0.5) // 32) * 32 for side in (height, width)]
        assert list(images.shape[2:]) == small and min(small) == 32


def test_a_test_image_is_resized_and_normalized_as_torch_does(tmp_path):
    images, _ = module_of(ade(tmp_path)).splits.test.__getitems__([0])
    raw = np.asarray(Image.open(tmp_path / "images/validation/ADE_validation_00000000.png"))
    pixels = torch.from_numpy(raw.copy()).permute(2, 0, 1)[None]
    expected = F.interpolate(pixels.float(), (32, 64), mode="bilinear", align_corners=False)  # 43 stretched to 64
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert (images - (expected / 255 - mean) / std).abs().max() < 0.03  # rounded to 8 bits


def test_an_image_by_itself_is_prepared_as_in_the_test_split(tmp_path):
    from shunted_lab.data import eval_transform

    run = compose(words(ade(tmp_path))).variants["conv_stem"]
    images, _ = make_datamodule(run.data, run.recipe, 0).splits.test.__getitems__([1])
    image = Image.open(tmp_path / "images/validation/ADE_validation_00000001.png")
    assert torch.equal(eval_transform(run.data)(image), images[0])


def test_a_crop_follows_from_its_key_and_labels_follow_the_image(tmp_path):
    root = ade(tmp_path)
    plain = ["recipe.photometric_distortion=false", "recipe.resize_ratio=[1.0,1.0]"]
    train = module_of(root, *plain, "data.image_size=48").splits.train
    images, targets = train.__getitems__([(0, 0, 0), (0, 1, 0), (1, 0, 0), (7, 0, 0)])
    assert images.shape == (4, 3, 48, 48) and targets.classes.shape == (4, 48, 48)
    alone, labels = train.__getitems__([(1, 0, 0)])
    assert torch.equal(alone[0], images[2]) and torch.equal(labels.classes[0], targets.classes[2])
    assert not torch.equal(images[0], images[2])
    red = (images[:, 0] * 0.229 + 0.485) * 255  # the label of a pixel that was not resized follows from its colour
    expected = (red.round() * 151 / 256).floor() - 1
    known = (targets.classes != IGNORED) & (expected >= 0)
    assert (targets.classes[0].float() == expected[0])[known[0]].all(), "of 48 x 64 pixels, cropped and flipped only"
    other = module_of(root, *plain, "data.image_size=48", seed=1).splits.train.__getitems__([(1, 0, 0)])[0]
    assert not torch.equal(other[0], images[2])


def test_smaller_images_are_padded_after_normalization(tmp_path):
    shrunk = module_of(ade(tmp_path), "recipe.resize_ratio=[0.5,0.5]", "recipe.photometric_distortion=false")
    images, targets = shrunk.splits.train.__getitems__([(0, 0, 0)])
    empty = targets.classes[0] == IGNORED
    rows = empty.all(1)
    assert rows.sum() == 16 and not images[0][:, rows].any()


def test_an_epoch_is_so_many_steps_of_an_endless_stream(tmp_path):
    data = module_of(ade(tmp_path))
    sampler = data.sampler
    sampler.length = 4  # of 5 images
    keys = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        assert len(sampler) == 4
        keys += list(sampler)
    for number in range(4):
        permutation = keys[5 * number : 5 * number + 5]
        assert {key[0] for key in permutation} == {number} and sorted(key[1] for key in permutation) == list(range(5))
    sampler.set_epoch(2)
    sampler.skip = 3
    assert list(sampler) == keys[11:12]


@pytest.mark.parametrize(
    ("size", "short", "long", "expected"),
    [
        ((480, 640), 512, 2048, (512, 683)),  # mmcv: int(640 * 512 / 480 + 0.5)
        ((256, 2048), 512, 2048, (256, 2048)),  # the long side decides
        ((683, 512), 256, 1024, (342, 256)),
    ],
)
def test_sizes_are_rounded_as_in_mmcv(size, short, long, expected):
    assert fitted(size, short, long) == expected


def test_aligned_sizes_are_the_next_multiples():
    assert aligned((512, 683), 32) == (512, 704) and aligned((512, 683), 1) == (512, 683)


def test_resizing_is_torch_s():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (31, 47, 3), dtype=np.uint8)
    labels = rng.integers(0, 9, (31, 47), dtype=np.uint8)
    for size in ((62, 94), (17, 23), (40, 30)):
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        expected = F.interpolate(tensor, size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        assert np.abs(resize_image(image, size) - expected.numpy()).max() < 1.01
        nearest = F.interpolate(torch.from_numpy(labels)[None, None], size, mode="nearest")[0, 0]
        assert np.array_equal(resize_labels(labels, size), nearest.numpy())


def test_a_crop_that_one_class_covers_is_drawn_again():
    labels = np.zeros((20, 100), np.uint8)
    labels[:, 80:] = 1
    crops = [draw_crop(labels, 20, 0.75, np.random.default_rng(i))[1].start for i in range(300)]
    free = [draw_crop(labels, 20, 1.0, np.random.default_rng(i))[1].start for i in range(300)]
    few, many = (np.mean([65 < start < 75 for start in starts]) for starts in (free, crops))
    assert few < 0.2 and many > 0.6  # 9 of 81 places, with up to ten tries 69 %
    small = draw_crop(np.zeros((10, 12), np.uint8), 20, 0.75, np.random.default_rng(0))
    assert np.zeros((10, 12))[small].shape == (10, 12)


def test_colours_are_distorted_by_the_published_amounts():
    grey = np.full((4, 4, 3), 100, np.uint8)
    values = np.array([distort(grey, np.random.default_rng(i)).reshape(-1, 3) for i in range(2000)])
    assert values.min() >= 34 and values.max() <= 199  # (100 - 32) x 0.5, (100 + 32) x 1.5
    assert (values == 100).all((1, 2)).mean() == pytest.approx(0.25, abs=0.06)  # neither brightness nor contrast
    assert (values.max(2) - values.min(2)).max() <= 1, "grey has neither saturation nor hue"
    red = np.full((2, 2, 3), (200, 40, 40), np.uint8)
    drawn = np.array([distort(red, np.random.default_rng(i))[0, 0] for i in range(400)]).astype(int)
    assert (drawn[:, 0] >= drawn[:, 1:].max(1) - 1).all(), "the hue moves by a tenth of the circle at most"
    assert len(np.unique(drawn, axis=0)) > 200


@pytest.mark.parametrize(
    ("values", "zero", "classes", "expected"),
    [([0, 1, 150], True, 150, [255, 0, 149]), ([255, 3], True, 150, [255, 2]), ([0, 8, 255], False, 9, [0, 8, 255])],
)
def test_labels_are_renumbered_once(values, zero, classes, expected):
    assert to_classes(np.array(values, np.uint8), classes, zero, "x").tolist() == expected


def spoil(root, what):
    labels = root / "annotations" / "training" / "ADE_training_00000001.png"
    tested = root / "annotations" / "validation" / "ADE_validation_00000001.png"
    if what == "no label":
        labels.unlink()
    elif what == "no image":
        (root / "images" / "validation" / "ADE_validation_00000002.png").unlink()
    elif what == "no folder":
        (root / "annotations" / "validation").rename(root / "elsewhere")
    elif what == "empty":
        for path in (root / "images" / "training").iterdir():
            path.unlink()
    elif what == "full":
        (root / "index_ade20k.pkl").write_bytes(b"")
    elif what == "rgb":
        Image.open(tested).convert("RGB").save(tested)
    elif what == "size":
        Image.open(labels).resize((10, 12)).save(labels)
    elif what == "value":
        values = np.asarray(Image.open(tested)).copy()
        values[3, 3] = 151
        Image.fromarray(values).save(tested)
    elif what == "truncated":
        tested.write_bytes(tested.read_bytes()[:200])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no label", r"ADE_training_00000001.png has no label map of its name in .*annotations/training"),
        ("no image", r"annotations/validation/ADE_validation_00000002.png has no image of its name in .*images"),
        (
            "no folder",
            r"annotations/validation is absent; data=ade20k expects images/training, .* ADEChallenge",
        ),
        ("empty", "images/training has no images"),
        ("full", "index_ade20k.pkl belongs to the full ADE20K, whose labels are not the 150 classes"),
    ],
)
def test_missing_files_are_named_before_training(tmp_path, what, message):
    root = ade(tmp_path)
    spoil(root, what)
    with pytest.raises(ConfigError, match=message):
        check_data(ADE20KConfig(root=str(root)))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("rgb", "ADE_validation_00000001.png is of Pillow's mode RGB, not 8-bit class numbers"),
        ("size", "ADE_training_00000001.png is 12 x 10, and the image 64 x 40 pixels"),
        ("value", "ADE_validation_00000001.png has the label 151; there are 1 to 150"),
        ("truncated", "1 of 11 label maps and images of val and test cannot be decoded: .*00000001.png"),
    ],
)
def test_label_maps_are_read_once_before_training(tmp_path, monkeypatch, what, message):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = ade(tmp_path / "data", train=7, val=4)
    data = ADE20KConfig(root=str(root), val_fraction=0.2)
    spoil(root, what)
    with pytest.raises(ConfigError, match=message):
        data.check_evaluated(data.check().identity, print)


def test_what_cannot_be_read_in_training_is_replaced_as_images_of_other_data_are(tmp_path):
    root = ade(tmp_path)
    spoil(root, "size")
    train = module_of(root).splits.train
    broken = next(i for i, (image, _) in enumerate(train.files.pairs) if "00000001" in image)
    with pytest.warns(UserWarning, match="cannot be read .*it is replaced by the next image"):
        images, _ = train.__getitems__([(0, broken, 0)])
    assert images.shape == (1, 3, 32, 32) and train.corrupt.found == [broken]


def folder(root):
    ade(root / "ade")
    for new, old in (("train", "training"), ("val", "validation")):
        for mine, theirs in (("images", "images"), ("labels", "annotations")):
            (root / mine).mkdir(exist_ok=True)
            (root / "ade" / theirs / old).rename(root / mine / new)
    (root / "classes.txt").write_text("\n".join(f"c{i}" for i in range(151)) + "\n")
    return root


def test_a_folder_of_one_s_own(tmp_path):
    root = folder(tmp_path)
    data = SegmentationFolderConfig(root=str(root))
    facts = check_data(data)
    assert (facts.num_classes, facts.class_names[150], facts.notes) == (151, "c150", ())
    raw = np.asarray(Image.open(root / "labels" / "val" / "ADE_validation_00000000.png"))
    _, targets = make_datamodule(data, compose(words(root)).variants["conv_stem"].recipe, 0).splits.test.__getitems__(
        [0]
    )
    assert np.array_equal(targets.classes[0].numpy(), raw), "labels are the lines of classes.txt, from 0"
    before = facts.identity
    Image.fromarray(np.where(raw == 3, 4, raw).astype(np.uint8)).save(root / "labels/val/ADE_validation_00000000.png")
    assert check_data(data).identity != before
    names = (root / "classes.txt").read_text()
    before = check_data(data).identity
    (root / "classes.txt").write_text(names + "one more\n")
    assert check_data(data).identity != before, "another number of classes is another network"
    for split in ("images", "labels"):
        (root / split / "test").symlink_to(root / split / "val")
    assert data.folders()["test"] == ("images/test", "labels/test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "classes.txt cannot be read .* one class name a line"),
        ("a\n", "classes.txt has 1 lines, or an empty one"),
        ("a\n\nb\n", "classes.txt has 3 lines, or an empty one"),
        ("a\nb\na\n", "classes.txt has 'a' twice"),
        ("\n".join(map(str, range(256))), "has 256 classes; 8-bit labels have at most 255"),
    ],
)
def test_a_bad_file_of_classes_is_refused(tmp_path, text, message):
    root = folder(tmp_path)
    if text is None:
        (root / "classes.txt").unlink()
    else:
        (root / "classes.txt").write_text(text)
    with pytest.raises(ConfigError, match=message):
        check_data(SegmentationFolderConfig(root=str(root)))


def test_costs_are_those_of_the_largest_image_that_is_evaluated():
    run = compose(words("/data", "data.image_size=512")).variants["conv_stem"]
    assert run.task.input_size(run.data) == (512, 2048)
    assert run.data.preparation == "shorter side 512, at most 2048 long, evaluated at the original size"
