"""The bytes of an image file as pixels: the one decoder of users' images.

Reading the bytes is not done here, so that an error of the disk is not taken for a corrupt image.
"""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image

MEGAPIXELS = 500  # decoded at most; Pillow alone warns from 89 on and refuses 179. Pixels take 4 bytes in memory
BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value

if Image.MAX_IMAGE_PIXELS is not None:  # None, or a higher limit, is what the user has set
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MEGAPIXELS * 10**6)


class Undecodable(ValueError):
    """These bytes are not a whole image, or one whose pixels have no defined range. The message says what is wrong."""


def decode(content: bytes) -> Image.Image:
    """RGB, with the pixels that torchvision's `default_loader` gives of a file, but for grey images of 16 bits: their
    whole range is scaled to 8 bits, where Pillow's own conversion clips it at 255.

    Raises:
        Undecodable: for what Pillow cannot decode, for more than `Image.MAX_IMAGE_PIXELS` pixels (`MEGAPIXELS`, unless
            the user has set more), and for integers of 32 bits and floating point numbers, which have no range.
    """
    try:
        image = Image.open(io.BytesIO(content))
        _check_size(image.width * image.height)
        return _rgb(image)
    except (MemoryError, Undecodable):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow does not open it
        raise _too_large(int(re.findall(r"\d+", str(error))[0])) from None
    except Exception as error:  # Pillow's decoders raise what they like
        said = " ".join(str(error).split()).partition(" <_io")[0]  # the address of a buffer tells nobody anything
        raise Undecodable(said or type(error).__name__) from None


def decode_labels(content: bytes) -> np.ndarray:
    """A label map: (H, W) uint8, the numbers as they stand in the file, also of a palette.

    Raises:
        Undecodable: for what Pillow cannot decode, and for anything but one channel of 8 bits.
    """
    try:
        image = Image.open(io.BytesIO(content))
        values = np.asarray(image)
    except Exception as error:  # Pillow's decoders raise what they like
        raise Undecodable(f"is not an image ({' '.join(str(error).split())[:200]})") from None
    if values.ndim != 2 or values.dtype.kind not in "ub" or values.dtype.itemsize > 1:
        raise Undecodable(f"is of Pillow's mode {image.mode}, not 8-bit class numbers")
    return values.astype(np.uint8)


def size_of(content: bytes) -> tuple[int, int]:
    """Height and width of an image, from its header.

    Raises:
        Undecodable: for what Pillow cannot open.
    """
    try:
        image = Image.open(io.BytesIO(content))
    except Exception as error:  # Pillow's decoders raise what they like
        raise Undecodable(" ".join(str(error).split()).partition(" <_io")[0]) from None
    return image.height, image.width


def _check_size(pixels: int) -> None:
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise _too_large(pixels)


def _too_large(pixels: int) -> Undecodable:
    assert Image.MAX_IMAGE_PIXELS is not None
    return Undecodable(f"has {pixels / 1e6:,.6g} megapixels; at most {Image.MAX_IMAGE_PIXELS / 1e6:,.6g} are decoded")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        image.load()  # `convert` would copy it
        return image
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        return _scaled(image).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "signed or 32-bit integers" if image.mode == "I" else "floating point numbers"
        raise Undecodable(
            f"its pixels are {kind} (Pillow's mode {image.mode}), which have no defined range; save it as unsigned "
            "integers of 8 or 16 bits"
        )
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Grey of up to 16 bits -> grey of 8 bits; 0 is black and the highest value of the format is white, rounded.

    Pillow has stretched the values of PGM and JPEG 2000 to 16 bits; those of TIFF are as they stand in the file.
    """
    top, inverted = 65535, False
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        top, inverted = 2 ** tags[BITS][0] - 1, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    values = (np.asarray(image).astype(np.uint32) * 255 + top // 2) // top
    grey = values.astype(np.uint8)
    return Image.fromarray(255 - grey if inverted else grey)
