"""The one decoder: torchvision's pixels, whole ranges of 16 bits, stated limits, and what is refused."""

import importlib
import io
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import default_loader

import shunted_lab
from shunted_lab.config.recipe import LITE_RECIPE
from shunted_lab.data import decode as module
from shunted_lab.data import make_datamodule
from shunted_lab.data.decode import Undecodable, decode
from shunted_lab.data.earth.tiles import load_picture
from shunted_lab.data.folder import FolderConfig

RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)  # a grey ramp over all of 16 bits
EIGHT = np.round(RAMP / 257).astype(np.uint8)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A piece of a photograph."""
    return Image.fromarray(load_picture()[900:961, 2700:2790])


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def as_loaded_by_torchvision(content: bytes, folder: Path) -> np.ndarray:
    (folder / "image").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of palettes
        return np.asarray(default_loader(str(folder / "image")))


def tiff(values: bytes, bits: int, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A grey TIFF of 64 x 64 pixels in one strip."""
    rows = [(256, 3, 64), (257, 3, 64), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, 1)]
    rows += [(278, 3, 64), (279, 4, len(values)), (339, 3, sample_format)]
    tags = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in rows)
    return b"II*\0" + struct.pack("<I", 8 + len(values)) + values + struct.pack("<H", len(rows)) + tags + bytes(4)


# --- as torchvision --------------------------------------------------------------------------------------------------


def files(image: Image.Image) -> dict[str, bytes]:
    clear = image.quantize(8)
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = np.random.default_rng(0).integers(0, 65536, (16, 16, 3), np.uint16)
    return {
        "rgb.jpg": saved(image, "JPEG", quality=90),
        "444.jpg": saved(image, "JPEG", quality=95, subsampling=0),
        "progressive.jpg": saved(image, "JPEG", progressive=True),
        "grey.jpg": saved(image.convert("L"), "JPEG"),
        "cmyk.jpg": saved(image.convert("CMYK"), "JPEG"),
        "exif.jpg": saved(image, "JPEG", exif=turned),
        "rgb.png": saved(image, "PNG"),
        "alpha.png": saved(image.convert("RGBA"), "PNG"),
        "grey_alpha.png": saved(image.convert("LA"), "PNG"),
        "palette.png": saved(clear, "PNG", transparency=bytes(range(0, 256, 36))),
        "bits.png": saved(image.convert("1"), "PNG"),
        "rgb_16.png": png(deep, colour=2),
        "grey_alpha_16.png": png(deep[..., :2], colour=4),
        "rgb_16.ppm": b"P6 16 16 65535\n" + deep.astype(">u2").tobytes(),
        "lab.tif": saved(Image.fromarray(np.asarray(image), "LAB"), "TIFF"),
        "grey.pgm": saved(image.convert("L"), "PPM"),
        "rgb.bmp": saved(image, "BMP"),
        "rgb.webp": saved(image, "WEBP"),
        "two.gif": saved(image, "GIF", save_all=True, append_images=[image]),
    }


def png(values: np.ndarray, colour: int) -> bytes:
    """A PNG of several channels of 16 bits, which Pillow reads but does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_every_format_has_the_pixels_that_torchvision_loads(tmp_path, picture):
    for name, content in files(picture).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.array_equal(np.asarray(decode(content)), as_loaded_by_torchvision(content, tmp_path)), name


@pytest.mark.parametrize("name", ["rgb.jpg", "progressive.jpg", "grey.jpg", "rgb.png"])
def test_half_files_are_refused_in_one_line(picture, name):
    content = files(picture)[name]
    for length in (0, 10, len(content) // 2, len(content) * 3 // 4):
        with pytest.raises(Undecodable, match=r"(?i)truncated|^cannot identify image file$|^broken") as error:
            decode(content[:length])
        assert str(error.value) and "\n" not in str(error.value) and "0x" not in str(error.value)


# --- 16 bits ---------------------------------------------------------------------------------------------------------

GREY = {
    "png": saved(Image.fromarray(RAMP), "PNG"),
    "tiff": saved(Image.fromarray(RAMP), "TIFF"),
    "tiff, big-endian": saved(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
    "tiff, white is 0": tiff((65535 - RAMP).astype("<u2").tobytes(), 16, photometric=0),
    "jpeg 2000": saved(Image.fromarray(RAMP), "JPEG2000"),
    "pgm": b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes(),
    "pgm, text": b"P2 64 64 65535\n" + " ".join(map(str, RAMP.flat)).encode(),
}


@pytest.mark.parametrize("name", GREY)
def test_the_whole_range_of_16_bits_is_scaled(name):
    pixels = np.asarray(decode(GREY[name]))
    assert pixels.shape == (64, 64, 3) and np.array_equal(pixels, np.stack([EIGHT] * 3, 2))
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_fewer_bits_than_16_have_their_own_range():
    values = np.arange(4096).reshape(-1, 2)
    first, second = values[:, 0], values[:, 1]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    expected = np.round(np.arange(4096) * 255 / 4095).reshape(64, 64)
    assert np.array_equal(np.asarray(decode(tiff(packed, 12)))[..., 0], expected)
    pgm = b"P5 64 64 4095\n" + np.arange(4096).astype(">u2").tobytes()
    assert np.abs(np.asarray(decode(pgm))[..., 0] - expected).max() <= 1  # Pillow rounds to 16 bits first


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), r"signed or 32-bit integers \(Pillow's mode I\)"),
        (tiff(RAMP.astype("<i2").tobytes(), 16, sample_format=2), r"signed or 32-bit integers"),
        (saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), r"floating point numbers \(Pillow's mode F\)"),
        (b"Pf 64 64 -1.0\n" + RAMP.astype("<f4").tobytes(), r"floating point numbers"),
    ],
)
def test_what_has_no_range_is_refused_with_what_to_do(content, kind):
    message = rf"^its pixels are {kind}.*, which have no defined range; save it as unsigned integers of 8 or 16 bits$"
    with pytest.raises(Undecodable, match=message):
        decode(content)


def test_classes_that_differ_in_brightness_differ_whether_they_have_8_or_16_bits(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, low in (("dark", 5000), ("bright", 40000)):
            for number in range(2):
                grey = rng.integers(low, low + 20000, (40, 40), np.uint16)
                for bits, pixels in (("8", np.round(grey / 257).astype(np.uint8)), ("16", grey)):
                    folder = tmp_path / bits / split / name
                    folder.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(folder / f"{number}.png")
    eight, sixteen = (
        make_datamodule(FolderConfig(root=str(tmp_path / bits), image_size=32), LITE_RECIPE, 0).splits.test
        for bits in ("8", "16")
    )
    assert all(torch.equal(eight[i][0], sixteen[i][0]) for i in range(4))
    assert all(sixteen[0][0].mean() - sixteen[i][0].mean() > 1 for i in (2, 3))  # bright before dark


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_images_of_up_to_500_megapixels_are_decoded_without_a_warning(monkeypatch):
    assert Image.MAX_IMAGE_PIXELS == 500_000_000
    content = saved(Image.new("L", (100, 100)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(content).size == (100, 100)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [125, 1250])  # Pillow warns of the first, and does not open the second
def test_larger_images_are_refused_with_their_size(monkeypatch, side):
    content = saved(Image.new("L", (side, 1000)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(Undecodable, match=rf"^has {side / 1000:g} megapixels; at most 0\.1 are decoded$"):
        decode(content)


@pytest.mark.parametrize("limit", [None, 10**10])
def test_a_higher_limit_of_the_user_is_kept(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    try:
        importlib.reload(module)
        assert Image.MAX_IMAGE_PIXELS == limit
        assert module.decode(saved(Image.new("L", (10, 10)), "PNG")).size == (10, 10)
    finally:
        monkeypatch.undo()
        module.Undecodable, module.decode = Undecodable, decode  # others hold these


def test_nobody_else_opens_image_files_of_users():
    opens = re.compile(r"\bImage\.open\(|\.convert\(\"RGB\"\)|default_loader|ImageFolder\(")
    package = Path(shunted_lab.__file__).parent
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if opens.search(path.read_text())}
    own = {"data/earth/tiles.py", "data/earth/build.py"}  # the labels that ship, and what they were made of
    assert found - own == {"data/decode.py"}
