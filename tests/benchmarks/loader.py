"""Images a second of the loader, against torchvision's ImageFolder with timm's transforms: one process, one thread.

    python tests/benchmarks/loader.py             # three recipes: about 3 minutes
    python tests/benchmarks/loader.py light       # or only some: paper, light, evaluation, profile

JPEGs of 500 x 375 (about 100 kB, of the embedded satellite colour, with grain) in a temporary folder, cached by the
system. All loaders take the same images in rounds that alternate, with num_workers=0; printed are medians of images a
second of processor time, and of the ratios of neighbouring rounds with their range.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from shunted_lab.config.compose import compose_as
from shunted_lab.config.recipe import LITE_RECIPE, PAPER_RECIPE, RecipeConfig
from shunted_lab.convert import ConvertConfig, convert
from shunted_lab.data import make_datamodule
from shunted_lab.data.earth.tiles import load_picture
from shunted_lab.data.folder import FolderConfig
from shunted_lab.data.image_files import ImageFilesConfig
from shunted_lab.data.module import EpochSampler
from shunted_lab.data.shards import ShardsConfig
from shunted_lab.nn import device_name

IMAGES, BATCH, ROUNDS, SIZE = 96, 32, 9, 224
RECIPES = {
    "paper": replace(PAPER_RECIPE, repeated_aug=1),
    "light": replace(LITE_RECIPE, random_resized_crop=True, dihedral=False, hflip=0.5),
}


def photos(root: Path) -> None:
    """Two classes of training images, and as many to evaluate."""
    earth, rng = load_picture(), np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(IMAGES + 4 * (split == "train")):  # some are held out
            folder = root / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            y, x = int(rng.integers(300, 1500)), int(rng.integers(0, 4900))
            grain = rng.normal(0, 14, (375, 500, 1))
            pixels = np.clip(earth[y : y + 375, x : x + 500] + grain, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=93)


def reference(root: Path, recipe: RecipeConfig | None) -> DataLoader[Any]:
    """ImageFolder and timm's transform with the options of the recipe; None evaluates."""
    if recipe is None:
        transform = create_transform(SIZE, interpolation="bicubic", crop_pct=0.875)
        return DataLoader(ImageFolder(str(root / "val"), transform), BATCH)
    options: dict[str, Any] = {
        "hflip": recipe.hflip,
        "color_jitter": None,
        "re_prob": recipe.random_erasing,
        "re_mode": "pixel",
    }
    options |= {"auto_augment": recipe.rand_augment, "interpolation": "bicubic"}
    transform = create_transform(SIZE, is_training=True, **options)
    return DataLoader(ImageFolder(str(root / "train"), transform), BATCH, shuffle=True)


def ours(data: ImageFilesConfig, recipe: RecipeConfig | None) -> DataLoader[Any]:
    module = make_datamodule(data, recipe or LITE_RECIPE, 0)
    return module.test_dataloader() if recipe is None else module.train_dataloader()


def epoch(loader: DataLoader[Any], number: int) -> None:
    """All images once; each epoch has other draws."""
    if isinstance(loader.sampler, EpochSampler):
        loader.sampler.set_epoch(number)
    seen = sum(len(labels) for _, labels in islice(loader, IMAGES // BATCH))
    assert seen == IMAGES


def compare(root: Path, tars: Path, recipe: RecipeConfig | None) -> None:
    options: dict[str, Any] = {"image_size": SIZE, "batch_size": BATCH, "val_fraction": 0.01}
    loaders = {
        "ImageFolder + timm": reference(root, recipe),
        "data=folder": ours(FolderConfig(root=str(root), **options), recipe),
        "data=shards": ours(ShardsConfig(root=str(tars), **options), recipe),
        "data=folder data.resize=exact": ours(FolderConfig(root=str(root), resize="exact", **options), recipe),
    }
    if recipe is None:
        del loaders["data=folder data.resize=exact"]  # evaluation is exact
    times = alternate(loaders)
    baseline = times["ImageFolder + timm"]
    for name, found in times.items():
        ratios = sorted(a / b for a, b in zip(baseline, found, strict=True))
        said = f"{statistics.median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"  {name:30} {IMAGES / statistics.median(found):4.0f} images/s per core  {said}")


def alternate(loaders: dict[str, DataLoader[Any]]) -> dict[str, list[float]]:
    """Name -> seconds of each round, the loaders in turn, after a round that is not timed."""
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for round in range(ROUNDS + 1):
        for name, loader in loaders.items():
            start = time.process_time()
            epoch(loader, round)
            if round:
                times[name].append(time.process_time() - start)
    return times


def profile(root: Path) -> None:
    """Where the reference spends its time with the paper's recipe, step by step."""
    folder: Any = reference(root, RECIPES["paper"]).dataset
    spent: dict[str, float] = {}
    for _ in range(ROUNDS):
        for path, _ in folder.samples:
            start = time.process_time()
            image = folder.loader(path)
            spent["decode"] = spent.get("decode", 0.0) + time.process_time() - start
            for step in folder.transform.transforms:
                start, name = time.process_time(), type(step).__name__
                image = step(image)
                spent[name] = spent.get(name, 0.0) + time.process_time() - start
    total = sum(spent.values())
    print("  " + ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in spent.items()))


def main() -> None:
    torch.set_num_threads(1)
    print(f"{SIZE} pixels, batches of {BATCH}, {device_name(torch.device('cpu'))}")
    with tempfile.TemporaryDirectory() as where:
        root, tars = Path(where) / "photos", Path(where) / "tars"
        photos(root)
        sizes = [path.stat().st_size for path in root.glob("*/*/*")]
        print(f"{IMAGES} JPEGs of 500 x 375, {statistics.mean(sizes) / 1e3:.0f} kB")
        convert(compose_as(ConvertConfig, [f"data.root={root}", f"out={tars}", "data.val_fraction=0.01"]))
        for part in sys.argv[1:] or [*RECIPES, "evaluation"]:
            print(part)
            profile(root) if part == "profile" else compare(root, tars, RECIPES.get(part))


if __name__ == "__main__":
    main()
