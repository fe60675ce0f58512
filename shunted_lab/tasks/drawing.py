"""Predictions drawn on images, (H, W, 3) uint8: classes of pixels, and objects with their boxes and masks."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from shunted_lab.data.label_maps import IGNORED
from shunted_lab.output.light import dimmed

LINE, SWATCH = 14, 10  # pixels of a line of the legend, and of its coloured square
PER_LINE = 4  # classes in a line of the legend
WRONG, UNCOUNTED = (230, 30, 40), (255, 255, 255)
OPACITY = 0.45  # of a mask, or of classes, over the image
LARGE = 256  # pixels of the longer side from which on text on an image can be read


def colour_of(number: int) -> tuple[int, int, int]:
    """The colour of a class: neighbours in the list are far apart in hue, and each round is darker."""
    hue, value, saturation = 0.61 + 0.618034 * number, (0.95, 0.7, 0.5)[number // 7 % 3], (0.75, 0.5)[number // 21 % 2]
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return red, green, blue


def coloured(classes: np.ndarray) -> np.ndarray:
    """(H, W) classes -> (H, W, 3) uint8; white where a pixel does not count."""
    colours = np.array([colour_of(k) for k in range(IGNORED)] + [UNCOUNTED], np.uint8)
    return colours[classes]


def over(image: np.ndarray, colours: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Colours, (H, W, 3) or one of them, translucent over an image, at the pixels of (H, W) booleans."""
    mixed = np.round((1 - OPACITY) * image + OPACITY * np.asarray(colours)).astype(np.uint8)
    return mixed if where is None else np.where(where[..., None], mixed, image)


def differences(image: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The image in grey, red where the class of a pixel is wrong, white where it does not count."""
    counted = true != IGNORED
    found = (255 * dimmed(image)).astype(np.uint8)
    found[counted & (true != predicted)], found[~counted] = WRONG, UNCOUNTED
    return found


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    masks: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Boxes with their class and score over an image, which is enlarged until they can be read; masks translucent.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in pixels of the image.
        masks: (H, W) booleans of each object, or none.
    """
    for label, mask in zip(labels, masks, strict=False):
        image = over(image, np.array(colour_of(label)), mask)
    scale = max(1, round(LARGE / max(image.shape[:2])))
    size = image.shape[1] * scale, image.shape[0] * scale
    canvas = Image.fromarray(image).resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    # The largest first, so that small ones are not covered.
    for i in sorted(range(len(boxes)), key=lambda i: -float(np.prod(boxes[i][2:] - boxes[i][:2]))):
        x0, y0, x1, y1 = (float(value) * scale for value in boxes[i])
        colour = colour_of(labels[i])
        draw.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=colour, width=2)
        text = names[labels[i]] + ("" if scores is None else f" {scores[i]:.2f}")
        _label(draw, (x0, y0), text, colour, size)
    return np.asarray(canvas)


def _label(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """Text above a corner, or below it at the upper border, on the colour of its class."""
    font = ImageFont.load_default(11)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), max(size[0] - width, 0))
    y = corner[1] - height if corner[1] >= height else corner[1]
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
    draw.text((x + 2 - left, y + 2 - top), text, fill="white" if dark else "black", font=font)


def with_legend(picture: np.ndarray, names: Sequence[str], shown: Sequence[int]) -> np.ndarray:
    """The picture with the colours of some classes below."""
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


def with_text(picture: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """The picture, enlarged until text beside it can be read, with lines of text below."""
    scale = max(1, round(LARGE / max(picture.shape[:2])))
    large = ImageOps.scale(Image.fromarray(picture), scale, Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (large.width, large.height + LINE * len(lines) + 4), "white")
    canvas.paste(large, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        draw.text((2, large.height + 2 + LINE * i), line, fill="black", font_size=11)
    return np.asarray(canvas)
