"""How work grows: a report of a thousand runs against one of a hundred, and scenes of data=scales against decoding.

python tests/benchmarks/scaling.py

Processor time, each part alternately with what it is compared with; the ratio is the median of five rounds.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from conftest import Made  # studies whose runs were never trained
from PIL import Image

from shunted_lab.data.scales.scene import draw_scene
from shunted_lab.nn import device_name
from shunted_lab.report.collect import load_study
from shunted_lab.report.write import write_report

ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    """Processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def report(folder: Path, seeds: int) -> Callable[[], object]:
    """Writes the report of a study of three variants."""
    words = ["experiment=ablate_embed", f"runs_dir={folder}", f"seeds=[{','.join(map(str, range(seeds)))}]"]
    made = Made(words, lambda variant, seed: 0.7 + 0.0001 * (seed % 17))
    return lambda: write_report(load_study(made.folder))


def decode(content: bytes) -> None:
    """100 images as PyTorch's loaders decode them."""
    for _ in range(100):
        Image.open(io.BytesIO(content)).convert("RGB").load()


def draw() -> None:
    """100 scenes."""
    for index in range(100):
        draw_scene(0, "train", index, 128, 4.0)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        few, many = report(Path(folder) / "few", 34), report(Path(folder) / "many", 334)
        pairs = [(seconds(few), seconds(many)) for _ in range(ROUNDS)]
    ratio = statistics.median(many / few for few, many in pairs)
    print(f"report of 1,002 runs: {ratio:.1f} times that of 102 ({statistics.median(m for _, m in pairs):.1f} s)")
    jpeg = io.BytesIO()
    Image.fromarray(draw_scene(0, "train", 0, 128, 4.0).image).resize((500, 375)).save(jpeg, "JPEG")
    pairs = [(seconds(lambda: decode(jpeg.getvalue())), seconds(draw)) for _ in range(ROUNDS)]
    ratio = statistics.median(drawn / decoded for decoded, drawn in pairs)
    print(f"a scene at 128 x 128: {ratio:.1f} times a JPEG of 500 x 375 that Pillow decodes")
    print(device_name("cpu"))


if __name__ == "__main__":
    main()
