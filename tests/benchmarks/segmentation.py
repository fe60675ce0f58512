"""Memory of Shunted-S with Semantic FPN, and the time of a bootstrap of ADE20K's size.

    python tests/benchmarks/segmentation.py

Inference at 512 x 2048 with fused attention, against the same with attention matrices (torch's math backend); a
training step of two crops of 512 x 512, with and without checkpointing of the blocks. Peak memory is above weights,
buffers and the batch.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from shunted_lab.config.groups import PRESETS
from shunted_lab.config.model import MODELS
from shunted_lab.data.label_maps import LabelMaps
from shunted_lab.nn import device_name, measure
from shunted_lab.nn.speed import _peak_memory
from shunted_lab.report.image_statistics import bootstrap
from shunted_lab.tasks.iou import mean_iou

CPU = torch.device("cpu")


def network(training: bool) -> Any:
    """Shunted-S with Semantic FPN for 150 classes."""
    return PRESETS["task"]["segmentation"].build(MODELS["shunted_s"], 150).train(training)


def inference(backends: list[SDPBackend]) -> int:
    """Peak memory of an image of 512 x 2048, in bytes."""
    with sdpa_kernel(backends):
        found = measure(network(False), (512, 2048), batch_size=1, repeats=1, memory=True).peak_memory
    assert found is not None
    return found


def training_step(checkpointing: bool) -> int:
    """Peak memory of a step of two crops, in bytes."""
    net, task = network(True), PRESETS["task"]["segmentation"]
    net.set_grad_checkpointing(checkpointing)
    images, labels = torch.randn(2, 3, 512, 512), LabelMaps(torch.randint(0, 150, (2, 512, 512), dtype=torch.uint8))

    def step() -> None:
        task.loss(net(images), labels, 0.0).backward()
        net.zero_grad()

    found = _peak_memory(step, CPU)
    assert found is not None
    return found


def main() -> None:
    print(device_name(CPU))
    fused = inference([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    matrices = inference([SDPBackend.MATH])
    print(f"inference at 512 x 2048: {fused / 1e6:,.0f} MB; with attention matrices {matrices / 1e6:,.0f} MB", end="")
    print(f", {matrices / fused:.1f} times as much")
    for checkpointing in (False, True):
        how = "with" if checkpointing else "without"
        print(f"training step, 2 x 512 x 512, {how} checkpointing: {training_step(checkpointing) / 1e9:.2f} GB")
    counts = np.random.default_rng(0).integers(0, 1000, (2000, 3, 150))
    start = time.perf_counter()
    flat = counts.reshape(2000, -1).astype(np.float64)
    bootstrap(lambda drawn: mean_iou((drawn @ flat).reshape(-1, 3, 150)), 2000)
    print(f"2,000 resamples of 2,000 images x 150 classes: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
