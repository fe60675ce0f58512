"""Stored predictions: what is read is what was predicted, small enough to be kept for every run."""

import numpy as np
import pytest

from shunted_lab.config.schema import ConfigError
from shunted_lab.tasks.predictions import FILE, Predictions, read_predictions


def test_one_label_an_image(tmp_path):
    rng = np.random.default_rng(0)
    targets, predicted = rng.integers(0, 9, (2, 500))
    kept = Predictions(targets, predicted, rng.random(500), tuple("abcdefghi"))
    kept.write(tmp_path)
    read = read_predictions(tmp_path)
    assert np.array_equal(read.targets, targets) and np.array_equal(read.predicted, predicted)
    assert np.abs(read.confidence - kept.confidence).max() <= 0.5 / 255 + 1e-9 and read.class_names == kept.class_names
    assert read.scores.mean() == (targets == predicted).mean()
    expected = [(predicted[targets == k] == k).mean() for k in range(9)]
    assert read.per_class() == pytest.approx(expected)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("targets_first", [True, False])
@pytest.mark.parametrize("highest", [255, 256, 259, 65_535, 65_536])
def test_classes_read_back_as_they_were_whatever_the_highest(tmp_path, highest, targets_first):
    pair = np.array([3, 0]), np.array([highest, 0])
    targets, predicted = pair if targets_first else pair[::-1]
    Predictions(targets, predicted).write(tmp_path)
    read = read_predictions(tmp_path)
    assert np.array_equal(read.targets, targets) and np.array_equal(read.predicted, predicted)
    assert read.scores.tolist() == [0.0, 1.0]


def test_several_labels_an_image(tmp_path):
    targets = np.array([[1, 1, 0], [0, 1, 1]], bool)
    predicted = np.array([[1, 0, 1], [0, 1, 1]], bool)
    Predictions(targets, predicted, class_names=("a", "b", "c")).write(tmp_path)
    read = read_predictions(tmp_path)
    assert np.array_equal(read.targets, targets) and np.array_equal(read.predicted, predicted)
    assert read.scores.tolist() == [0.5, 1.0] and read.per_class().tolist() == [1.0, 0.5, 1.0]


def test_predictions_of_imagenet_take_less_than_two_megabytes(tmp_path):
    rng = np.random.default_rng(0)  # random labels: nothing to compress
    targets, predicted = rng.integers(0, 1000, (2, 50_000))
    path = Predictions(targets, predicted, rng.random(50_000), tuple(f"n{k:08}" for k in range(1000))).write(tmp_path)
    assert path.stat().st_size < 0.3e6
    assert read_predictions(tmp_path).targets.max() == 999


def test_a_class_without_images_has_no_accuracy():
    assert np.isnan(Predictions(np.array([0]), np.array([0]), None, ("a", "b")).per_class()[1])


def test_what_is_not_there_is_none_and_what_is_broken_is_said(tmp_path):
    assert read_predictions(tmp_path) is None
    for content in (b"", b"PK\x03\x04 half a file", b"something else"):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ConfigError, match=r"predictions\.npz: cannot be read"):
            read_predictions(tmp_path)
