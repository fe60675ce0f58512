"""Light on a dimmed image: how attention is drawn, in figures and in the pictures of loggers."""

from __future__ import annotations

import numpy as np

COLOURS = "inferno"  # a perceptual map of matplotlib


def dimmed(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> the same in dark grey, in [0, 1]: a background on which light stands out."""
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    return np.repeat((0.04 + 0.36 * grey)[..., None], 3, axis=2)


def lit(background: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Light (H, W) in [0, 1] on a background (H, W, 3) in [0, 1] -> (H, W, 3) uint8, in the colours of the scale."""
    from matplotlib import colormaps

    strength = np.clip(np.asarray(light, dtype=np.float32), 0, 1)
    colour = colormaps[COLOURS](strength, bytes=True)[..., :3]
    share = np.minimum(1, 1.5 * strength)[..., None]
    mixed: np.ndarray = 255 * background * (1 - share) + colour * share
    return mixed.round().astype(np.uint8)
