"""Examples of what a finished run predicts, as one picture in its folder, for the page and for loggers."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from shunted_lab.config.data import Stats
from shunted_lab.data.label_maps import IGNORED, LabelMaps
from shunted_lab.data.module import ImageData
from shunted_lab.output.files import atomic
from shunted_lab.output.light import dimmed
from shunted_lab.tasks.evidence import EXAMPLES
from shunted_lab.tasks.pictures import sheet, to_pixels

SHOWN = 4  # images
LINE, SWATCH = 14, 10  # pixels of a line of the legend, and of its coloured square
PER_LINE = 4  # classes in a line of the legend
WRONG, UNCOUNTED = (230, 30, 40), (255, 255, 255)


def draw_examples(module: Any, data: ImageData, tested: int, stats: Stats) -> np.ndarray | None:
    """The picture of a network after its test, (H, W, 3) uint8; None for a task that draws none.

    Args:
        module: the `TaskModule`.
        tested: images of the test split that were tested.
    """
    if not module.task.draws_examples or not tested:
        return None
    test: Any = data.splits.test
    rows, seen = [], set()
    was_training = module.training
    module.eval()
    for index in torch.linspace(0, tested - 1, min(SHOWN, tested)).int().tolist():
        images, targets = test.__getitems__([index])
        with torch.no_grad():
            outputs = module.task.for_evaluation(module(images.to(module.device)), _moved(targets, module.device))
        predicted = outputs.logits.argmax(1)[0].cpu().numpy()
        row, classes = segmentation_row(to_pixels(images, stats)[0], targets.classes[0].numpy(), predicted)
        rows.append(row)
        seen |= classes
    module.train(was_training)
    return with_legend(sheet(rows), module.class_names, sorted(seen))


def write_examples(picture: np.ndarray, folder: Path) -> None:
    """Write the picture into a run's folder."""
    with atomic(folder / EXAMPLES) as file:
        Image.fromarray(picture).save(file, "PNG")


def segmentation_row(
    image: np.ndarray, true: np.ndarray, predicted: np.ndarray
) -> tuple[list[tuple[np.ndarray, str]], set[int]]:
    """Image, true classes, predicted ones, and where they differ; and the classes that occur.

    Args:
        image: (h, w, 3) uint8.
        true, predicted: (H, W) classes.
    """
    counted = true != IGNORED
    wrong = counted & (true != predicted)
    if image.shape[:2] != true.shape:
        image = np.asarray(Image.fromarray(image).resize(true.shape[::-1]))
    difference = (255 * dimmed(image)).astype(np.uint8)
    difference[wrong], difference[~counted] = WRONG, UNCOUNTED
    share = (counted & ~wrong).sum() / max(1, counted.sum())
    shown = [
        (image, "image"),
        (coloured(true), "truth\n(white: not counted)"),
        (coloured(predicted), f"prediction\n{100 * share:.0f} % of pixels right"),
        (difference, "red: wrong\nwhite: not counted"),
    ]
    return shown, set(np.unique(true[counted]).tolist()) | set(np.unique(predicted[counted]).tolist())


def coloured(classes: np.ndarray) -> np.ndarray:
    """(H, W) classes -> (H, W, 3) uint8; white where a pixel does not count."""
    colours = np.array([colour_of(k) for k in range(IGNORED)] + [UNCOUNTED], np.uint8)
    return colours[classes]


def colour_of(number: int) -> tuple[int, int, int]:
    """The colour of a class: neighbours in the list are far apart in hue, and each round is darker."""
    hue, value, saturation = 0.61 + 0.618034 * number, (0.95, 0.7, 0.5)[number // 7 % 3], (0.75, 0.5)[number // 21 % 2]
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return red, green, blue


def with_legend(picture: np.ndarray, names: Sequence[str], shown: Sequence[int]) -> np.ndarray:
    """The picture with the colours of the classes that occur in it below."""
    lines = -(-len(shown) // PER_LINE)
    canvas = Image.new("RGB", (picture.shape[1], picture.shape[0] + LINE * lines + 4), "white")
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    width = picture.shape[1] // PER_LINE
    for place, number in enumerate(shown):
        x, y = place % PER_LINE * width + 2, picture.shape[0] + place // PER_LINE * LINE
        draw.rectangle((x, y, x + SWATCH, y + SWATCH), fill=colour_of(number))
        draw.text((x + SWATCH + 4, y - 1), names[number][: (width - SWATCH) // 6], fill="black", font_size=10)
    return np.asarray(canvas)


def _moved(targets: LabelMaps, device: torch.device) -> LabelMaps:
    sizes = None if targets.sizes is None else targets.sizes.to(device)
    return targets._replace(classes=targets.classes.to(device), sizes=sizes)
