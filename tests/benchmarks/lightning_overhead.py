"""Training throughput through Lightning, against a bare PyTorch loop: same model, same batches, one process.

    python tests/benchmarks/lightning_overhead.py

Both loops run in turn, several times. Printed: each pair, the median of their ratios, and the ratio of the fastest of
both, which a busy machine disturbs least. Goal: at least 0.95.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay

from shunted_lab.compose import compose
from shunted_lab.config import RunConfig
from shunted_lab.data import make_datamodule
from shunted_lab.tasks.train import device_name, make_task, train

BATCHES, WARM_UP, PAIRS = 30, 1, 9


def bare(config: RunConfig) -> float:
    """Images per second of a loop that does what the recipe says and nothing else."""
    data = make_datamodule(config.data, config.recipe, config.seed)
    data.setup("fit")
    task = make_task(config, data.num_classes)
    net = task.net.train()
    groups = param_groups_weight_decay(net, config.recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.recipe.lr)
    images_seen, start = 0, 0.0
    for step, (images, labels) in enumerate(data.train_dataloader()):
        if step == WARM_UP:
            start = time.perf_counter()
        if step == BATCHES:
            break
        loss = F.cross_entropy(net(images), labels, label_smoothing=config.recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        images_seen += len(images) * (step >= WARM_UP)
    return images_seen / (time.perf_counter() - start)


def through_lightning(config: RunConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return train(config, Path(folder))["images_per_second"]


def main() -> None:
    config = compose(["experiment=ablate_embed", "launch.accelerator=cpu", "recipe.epochs=1"]).variants["conv_stem"]
    config = replace(config, recipe=replace(config.recipe, limit_batches=BATCHES))
    ratios = []
    fastest = {"bare": 0.0, "through_lightning": 0.0}
    for pair in range(PAIRS):
        loops = [through_lightning, bare] if pair % 2 else [bare, through_lightning]
        speed = {loop.__name__: loop(config) for loop in loops}
        fastest = {name: max(fastest[name], found) for name, found in speed.items()}
        ratios.append(speed["through_lightning"] / speed["bare"])
        print(f"bare {speed['bare']:.1f} images/s, lightning {speed['through_lightning']:.1f}, ratio {ratios[-1]:.3f}")
    best = fastest["through_lightning"] / fastest["bare"]
    median = statistics.median(ratios)
    print(f"median ratio {median:.3f}, ratio of the fastest {best:.3f} on {device_name(torch.device('cpu'))}")


if __name__ == "__main__":
    main()
