"""Pictures for loggers: test images with what was predicted, and what the model looks at. Drawn by PIL."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as L
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from shunted_lab.config.data import Stats
from shunted_lab.config.task import Evidence
from shunted_lab.data.module import ImageData
from shunted_lab.nn import ComponentError, Pyramid
from shunted_lab.nn.maps import attention_of, rollout
from shunted_lab.output.light import dimmed, lit
from shunted_lab.tasks.base import TaskModule
from shunted_lab.tasks.tracking import log_picture, shows_pictures

SHOWN = 8  # test images with their predictions
SIDE, TEXT = 128, 28  # pixels of an image on the sheet, and of two lines of text


def to_pixels(images: Tensor, stats: Stats) -> np.ndarray:
    """Normalised (B, 3, H, W) -> (B, H, W, 3) uint8."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in stats)
    pixels = (images.float().cpu() * std + mean).clamp(0, 1) * 255
    return pixels.round().byte().permute(0, 2, 3, 1).numpy()


def sheet(rows: Sequence[Sequence[tuple[np.ndarray, str]]], side: int = SIDE) -> np.ndarray:
    """Images (H, W, 3) uint8 with up to two lines of text below each, row by row -> (H', W', 3) uint8.

    Args:
        side: pixels that the longer side of each image gets.
    """
    width, height = side * max(len(row) for row in rows), (side + TEXT) * len(rows)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for i, row in enumerate(rows):
        for j, (image, text) in enumerate(row):
            x, y = j * side, i * (side + TEXT)
            canvas.paste(ImageOps.contain(Image.fromarray(image), (side, side)), (x, y))
            lines = "\n".join(line[: side // 6] for line in text.split("\n"))
            draw.multiline_text((x + 2, y + side), lines, fill="black", font_size=10, spacing=1)
    return np.asarray(canvas)


def predicted_sheet(images: Tensor, stats: Stats, captions: Sequence[str]) -> np.ndarray:
    """Images with what was predicted for each, four in a row."""
    pictures = list(zip(to_pixels(images, stats), captions, strict=True))
    return sheet([pictures[i : i + 4] for i in range(0, len(pictures), 4)])


def attention_sheet(model: Pyramid, images: Tensor, stats: Stats) -> np.ndarray | None:
    """A row an image: itself, the rollout, and where its centre looks in each stage at each rate. What is lit has more
    weight than uniform attention.

    None for a model with an attention or an embedding of which this is not known (see `nn.maps`).
    """
    rows = []
    for i, picture in enumerate(to_pixels(images, stats)):
        image = images[i : i + 1]
        size = (image.shape[2], image.shape[3])
        try:
            maps = attention_of(model, image, (0.5, 0.5))
            rolled = rollout(model, image)
            seen = [(picture, "image"), (highlighted(picture, rolled * rolled.numel()), "rollout")]
        except ComponentError:
            return None
        for m in maps:
            text = f"stage {m.stage + 1}, block {m.block + 1}\n{m.heads_text}, rate {m.rate}"
            seen.append((highlighted(picture, m.over_uniform(size)), text))
        rows.append(seen)
    return sheet(rows)


def highlighted(picture: np.ndarray, weights: Tensor) -> np.ndarray:
    """The picture (H, W, 3) in grey, lit where `weights` (H, W) are more than 1, on a logarithmic scale up to 32."""
    return lit(dimmed(picture), (weights.clamp(min=1).log2() / 5).cpu().numpy())


def log_pictures(
    trainer: L.Trainer,
    module: TaskModule,
    data: ImageData,
    evidence: Evidence,
    stats: Stats,
    examples: np.ndarray | None = None,
) -> None:
    """Log pictures of a finished run: predictions, and where the network attends. Without a logger none is drawn.

    Args:
        examples: the picture of the predictions, where the task draws one; None draws images with captions.
    """
    if not shows_pictures(trainer):
        return
    count = len(evidence.scores)
    chosen = [int(i) for i in torch.linspace(0, count - 1, min(SHOWN, count))]  # all over the split: it may be sorted
    images = data.test_images(chosen)
    captioned = predicted_sheet(images, stats, evidence.captions(chosen)) if examples is None else examples
    pictures: dict[str, np.ndarray | None] = {"test/predicted": captioned}
    backbone = next((part for part in module.net.modules() if isinstance(part, Pyramid)), None)
    if backbone is not None:
        pictures["test/attention"] = attention_sheet(backbone.to("cpu"), images[:4], stats)
    for name, picture in pictures.items():
        if picture is not None:
            log_picture(trainer, name, picture, module.global_step)
