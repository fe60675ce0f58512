"""Recall by size: among as many of the highest scores as there are objects."""

import torch

from shunted_lab.tasks.recall import ObjectRecall, highest_scores


def test_as_many_classes_are_found_as_there_are_objects():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    sizes = torch.tensor([[0.5, 0.0, 0.1, 0.0], [0.0, 0.0, 0.0, 0.2]])
    assert highest_scores(logits, sizes).tolist() == [[True, True, False, False], [False, False, False, True]]


def test_recall_counts_objects_of_its_sizes():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]])
    sizes = torch.tensor([[0.5, 0.1, 0.0, 0.0], [0.5, 0.0, 0.0, 0.1]])
    values = {}
    for name, edges in {"all": (0.0, 2.0), "small": (0.0, 0.3), "large": (0.3, 1.0)}.items():
        metric = ObjectRecall(*edges)
        metric.update(logits[:1], sizes[:1])
        metric.update(logits[1:], sizes[1:])
        values[name] = float(metric.compute())
    assert values == {"all": 0.75, "small": 0.5, "large": 1.0}
