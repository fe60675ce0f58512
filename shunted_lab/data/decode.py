"""The bytes of an image file as pixels. Reading the bytes is not done here, so that a disk's errors stay apart."""

from __future__ import annotations

import io

from PIL import Image


class Undecodable(ValueError):
    """These bytes are no whole image. The message is the decoder's."""


def decode(content: bytes) -> Image.Image:
    """RGB, with the pixels that torchvision's `default_loader` gives of a file.

    Raises:
        Undecodable: whatever Pillow has raised.
    """
    try:
        image = Image.open(io.BytesIO(content))
        if image.mode != "RGB":
            return image.convert("RGB")
        image.load()  # `convert` would copy it
        return image
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like
        said = " ".join(str(error).split()).partition(" <_io")[0]  # the address of a buffer tells nobody anything
        raise Undecodable(said or type(error).__name__) from None
