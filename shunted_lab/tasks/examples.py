"""Examples of what a finished run predicts, as one picture in its folder, for the page and for loggers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from shunted_lab.config.data import Stats
from shunted_lab.data.module import ImageData
from shunted_lab.output.files import atomic
from shunted_lab.tasks.drawing import with_legend
from shunted_lab.tasks.evidence import EXAMPLES
from shunted_lab.tasks.pictures import sheet, to_pixels

SHOWN = 4  # images


def draw_examples(module: Any, data: ImageData, tested: int, stats: Stats) -> np.ndarray | None:
    """The picture of a network after its test, (H, W, 3) uint8; None for a task that draws none.

    Args:
        module: the `TaskModule`.
        tested: images of the test split that were tested.
    """
    if not module.task.example_side or not tested:
        return None
    test: Any = data.splits.test
    rows, seen = [], set()
    was_training = module.training
    module.eval()
    for index in torch.linspace(0, tested - 1, min(SHOWN, tested)).int().tolist():
        images, targets = module.transfer_batch_to_device(test.__getitems__([index]), module.device, 0)
        with torch.no_grad():
            outputs = module.task.for_evaluation(module(*module.task.inputs(images, targets)), targets)
        example = module.task.example(to_pixels(images, stats)[0], outputs, targets, module.class_names)
        rows.append(example.row)
        seen |= example.classes
    module.train(was_training)
    return with_legend(sheet(rows, module.task.example_side), module.class_names, sorted(seen))


def write_examples(picture: np.ndarray, folder: Path) -> None:
    """Write the picture into a run's folder."""
    with atomic(folder / EXAMPLES) as file:
        Image.fromarray(picture).save(file, "PNG")
