"""Detection: memory of Shunted-S, the annotations of COCO's size, and the time of average precision.

    python tests/benchmarks/detection.py memory|annotations|precision

`memory`: inference of one image of 800 x 1344 with Mask R-CNN, with fused attention and with attention matrices
(torch's math backend), and a training step of two images, with and without checkpointing of the blocks; peaks are above
weights, buffers and the batch. `annotations`: a synthetic JSON of 118,000 images and 860,000 objects with polygons is
parsed, opened again, and read by a loader's worker. `precision`: AP and its bootstrap over 2,000 images of 80 classes.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from shunted_lab.config.groups import PRESETS
from shunted_lab.config.model import MODELS
from shunted_lab.data.objects import Objects
from shunted_lab.nn import build_seeded, device_name, measure
from shunted_lab.nn.speed import _peak_memory
from shunted_lab.report.image_statistics import bootstrap
from shunted_lab.tasks.average_precision import Marks, mean_ap, resampled, score

CPU = torch.device("cpu")
SIZE = (800, 1344)
IMAGES, OBJECTS, POINTS = 118_000, 860_000, 26


def network(training: bool) -> Any:
    """Shunted-S with Mask R-CNN for 80 classes."""
    task = PRESETS["task"]["mask_rcnn"]
    return build_seeded(lambda: task.build(MODELS["shunted_s"], 80), 0).train(training)


def inference(backends: list[SDPBackend]) -> int:
    """Peak memory of an image, in bytes."""
    with sdpa_kernel(backends):
        found = measure(network(False), SIZE, 1, repeats=1, memory=True, call=PRESETS["task"]["mask_rcnn"].call)
    assert found.peak_memory is not None
    return found.peak_memory


def training_step(checkpointing: bool) -> int:
    """Peak memory of a step of two images with 7 objects each, in bytes."""
    net, task = network(True), PRESETS["task"]["mask_rcnn"]
    net.set_grad_checkpointing(checkpointing)
    images = torch.randn(2, 3, *SIZE)
    corners = torch.rand(7, 2) * 500
    boxes = torch.cat([corners, corners + 20 + 200 * torch.rand(7, 2)], 1)
    masks = torch.ones(7, *SIZE, dtype=torch.uint8)
    labels, some = torch.randint(0, 80, (7,)), torch.ones(7, dtype=torch.bool)
    targets = Objects([boxes] * 2, [labels] * 2, [masks] * 2, [some] * 2, [1, 2], [SIZE] * 2, [])

    def step() -> None:
        task.loss(net(images), targets, 0.0).backward()
        net.zero_grad()

    found = _peak_memory(step, CPU)
    assert found is not None
    return found


def memory() -> None:
    fused = inference([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    matrices = inference([SDPBackend.MATH])
    print(f"inference at {SIZE[0]} x {SIZE[1]}: {fused / 1e6:,.0f} MB; with attention matrices", end=" ")
    print(f"{matrices / 1e6:,.0f} MB, {matrices / fused:.1f} times as much")
    for checkpointing in (False, True):
        how = "with" if checkpointing else "without"
        peak = training_step(checkpointing)
        print(f"training step, 2 x {SIZE[0]} x {SIZE[1]}, {how} checkpointing: {peak / 1e9:.2f} GB")


def write_annotations(file: Path) -> None:
    """A JSON as large as that of COCO's training images."""
    rng = random.Random(0)
    with open(file, "w") as out:
        images = [{"id": i + 1, "file_name": f"{i + 1:012d}.jpg", "height": 480, "width": 640} for i in range(IMAGES)]
        names = [{"id": i + 1, "name": f"class {i}"} for i in range(80)]
        out.write(f'{{"images": {json.dumps(images)}, "categories": {json.dumps(names)}, "annotations": [')
        for i in range(OBJECTS):
            x, y = rng.uniform(0, 500), rng.uniform(0, 400)
            points = [round(rng.uniform(0, 80) + (x, y)[k % 2], 2) for k in range(2 * POINTS)]
            box = [round(value, 2) for value in (x, y, 80, 80)]
            each: dict[str, Any] = {
                "id": i + 1,
                "image_id": rng.randrange(IMAGES) + 1,
                "category_id": rng.randrange(80) + 1,
            }
            each |= {"bbox": box, "area": round(rng.uniform(10, 6400), 2), "iscrowd": 0, "segmentation": [points]}
            out.write((", " if i else "") + json.dumps(each))
        out.write("]}")


OPEN = """
import resource, sys, time
from pathlib import Path
from shunted_lab.data.coco.annotations import parsed
start = time.perf_counter()
found = parsed(Path(sys.argv[1]), "data.train_json", Path(sys.argv[2]))
count = int(found.trainable().sum())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(f"{time.perf_counter() - start:.2f} s, peak {peak:.2f} GB, {count:,} images with objects")
"""


def parse() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, cache = Path(folder) / "instances.json", Path(folder) / "cache"
        write_annotations(file)
        print(f"{file.stat().st_size / 1e6:.0f} MB of JSON, {IMAGES:,} images, {OBJECTS:,} objects")
        for what in ("parsed", "opened again"):
            command = [sys.executable, "-c", OPEN, str(file), str(cache)]
            print(f"{what}: {subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()}")
        command = [sys.executable, __file__, "worker", str(file), str(cache)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def worker() -> None:
    """Memory of a forked process which reads objects, as a loader's worker does."""
    import multiprocessing

    from shunted_lab.data.coco.annotations import parsed
    from shunted_lab.data.coco.images import CocoImages

    file, cache = map(Path, sys.argv[2:])
    images = CocoImages(parsed(file, "", cache), Path(), range(IMAGES))

    def read(queue: Any) -> None:
        before = private()
        for index in np.random.default_rng(0).integers(IMAGES, size=2000).tolist():
            for number in images.known(index).numbers.tolist():
                images.mask(number, index)
        queue.put(private() - before)

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=read, args=(queue,))
    process.start()
    print(f"a worker that has read 2,000 images with their masks: {queue.get() / 1e6:.0f} MB of its own")
    process.join()


def private() -> int:
    """Bytes that this process has written and shares with no other; arrays that are mapped from files do not count."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):  # the head of a mapping, with its file
            counts = not line.endswith(".npy")
        elif counts and name == "Private_Dirty:":
            total += int(values[0]) * 1024
    return total


def precision() -> None:
    rng, n, classes = np.random.default_rng(0), 2000, 80
    labels = rng.integers(0, classes, (n, 100), dtype=np.int32)
    labels[:, 36:] = -1  # 72,000 detections
    right = rng.integers(0, 2**10, (n, 100, 1, 1), dtype=np.int32) * (rng.random((n, 100, 1, 1)) < 0.2)
    objects = rng.poisson(0.1, (n, classes, 1)).astype(np.int32)
    scores = -np.sort(-rng.random((n, 100), dtype=np.float32), 1)
    marks = Marks(labels, scores, right.astype(np.int32), np.zeros_like(right), objects, np.arange(n))
    calls: dict[str, Callable[[], Any]] = {
        "AP": lambda: score(marks),
        "500 resamples": lambda: bootstrap(lambda drawn: mean_ap(resampled(marks, drawn)), n, 500),
    }
    for what, call in calls.items():
        start = time.perf_counter()
        call()
        print(f"{what} of 2,000 images, 72,000 detections, 80 classes: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    if sys.argv[1] != "worker":
        print(device_name(CPU))
    {"memory": memory, "annotations": parse, "worker": worker, "precision": precision}[sys.argv[1]]()
