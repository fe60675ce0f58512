"""The command that predicts: python -m shunted_lab.predict checkpoint=RUN_FOLDER image=FILE|FOLDER|GLOB out=FOLDER"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from shunted_lab.command import run_command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.help import help_text
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.schema import ConfigError, group, one_of, option, path_option, require
from shunted_lab.output.quantities import counted
from shunted_lab.tasks.device import DEVICES

if TYPE_CHECKING:
    from shunted_lab.config.data import DataConfig
    from shunted_lab.config.task import TaskConfig

HELP = """\
usage: python -m shunted_lab.predict checkpoint=RUN_FOLDER|FILE image=FILE|FOLDER|GLOB out=FOLDER [key=value ...]

Predicts for images with a trained network, whatever its task: classes, a class for each pixel, or objects with boxes
and masks. `out` gets a picture of each image with what is predicted, and predictions.json: classes with their scores,
the file of a label map, or objects with class, score, box (x0, y0, x1, y1 in pixels of the image) and mask (COCO's run
lengths).

  python -m shunted_lab.predict checkpoint=runs/detect_scales/ssa/seed0-1a2b3c4d image=photo.jpg out=predicted
  python -m shunted_lab.predict checkpoint=RUN_FOLDER 'image=photos/*.jpg' out=predicted score=0.5
  python -m shunted_lab.predict checkpoint=ckpt_S.pth model=shunted_s image=photos out=predicted
"""
RESULTS = "predictions.json"


@dataclass
class PredictConfig:
    """The configuration of `python -m shunted_lab.predict`."""

    checkpoint: str = path_option(MISSING, "a run's folder, or a .ckpt in it; or a file of weights for model=...")
    image: str = path_option(MISSING, "an image file, a folder of them, or a pattern with * or ?")
    out: str = path_option(MISSING, "folder of the results")
    model: ModelConfig = group("shunted_s")
    score: float = option(0.3, "least score of an object")
    top: int = option(5, "classes of an image, the most probable ones")
    device: str = option("auto", "auto, cpu, cuda, mps")
    overwrite: bool = option(False, "replace results in `out`")

    def __post_init__(self) -> None:
        one_of("device", self.device, DEVICES)
        require(self.top >= 1, "top", self.top, "is below 1")
        require(0 <= self.score <= 1, "score", self.score, "is not between 0 and 1")


def main(overrides: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 for a user's mistake, or an image that could not be read."""
    return run_command(overrides, lambda: help_text(HELP, PredictConfig), _act)


def _act(overrides: list[str]) -> int:
    config = compose_as(PredictConfig, overrides)
    found = predict(config)
    failed = [each for each in found["images"] if "error" in each]
    for each in found["images"]:
        print(f"{each['file']}: {each['error'] if 'error' in each else each['text']}")
    print(Path(config.out) / RESULTS)
    if failed:
        text = f"{len(failed)} of {counted(len(found['images']), 'image')} could not be read"
        print(f"error: image: {text}", file=sys.stderr)
    return 1 if failed else 0


def predict(config: PredictConfig) -> dict[str, Any]:
    """Predict for all images, and write the results.

    Returns:
        Plain values, as in `predictions.json`: the checkpoint and its SHA-256, task, model, names of the `classes`, and
        `images`: of each its file, and what is predicted, or an `error` where it cannot be read.

    Raises:
        ConfigError: for a checkpoint that cannot be used, no image, or results that are there already.
    """
    files = find_images(config.image)
    out = Path(config.out)
    if (out / RESULTS).exists() and not config.overwrite:
        raise ConfigError(f"out: '{out}' has a {RESULTS}; give another folder, or overwrite=true")
    import torch

    from shunted_lab.data import eval_transform, whole_transform
    from shunted_lab.output.files import digest_of, write_json
    from shunted_lab.study.folder import find_checkpoint
    from shunted_lab.tasks.checkpoint import load_model
    from shunted_lab.tasks.device import find_device

    run, file = find_checkpoint(config.checkpoint)
    model = config.model if run is None else run.config.model
    data, task = _of_weights() if run is None else (run.config.data, run.config.task)
    if not task.predicts:
        raise ConfigError(f"checkpoint: task={task.name} does not say how to predict for an image")
    loaded = load_model(model, file, task=task)
    device = torch.device(find_device(config.device))
    net = loaded.net.to(device).eval()
    prepare = whole_transform(data) if task.sees_whole_images else eval_transform(data)
    _make(out)
    options = {"score": config.score, "top": config.top}
    images = [
        _predict_one(path, out / f"{name}.png", prepare, net, task, loaded.class_names, options)
        for name, path in files.items()
    ]
    found = {
        "checkpoint": str(file),
        "sha256": digest_of(file),
        "task": task.name,
        "model": model.name,
        "classes": list(loaded.class_names),
        "images": images,
    }
    write_json(out / RESULTS, found)
    return found


def find_images(given: str) -> dict[str, Path]:
    """Name of each image in the results -> its file: one file, the images in a folder, or those that a pattern fits.

    Raises:
        ConfigError: for none.
    """
    from shunted_lab.data.listing import is_image

    path = Path(given)
    if path.is_file():
        return {path.name: path}
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if is_image(each.name) and each.is_file())
        if not files:
            raise ConfigError(f"image: the folder '{given}' has no images")
        return {each.name: each for each in files}
    if not has_magic(given):
        raise ConfigError(f"image: '{given}' does not exist")
    files = sorted(Path(each) for each in glob(given, recursive=True) if is_image(each) and Path(each).is_file())
    if not files:
        raise ConfigError(f"image: no image fits '{given}'")
    names = [each.name for each in files]
    if len(set(names)) < len(names):
        names = ["_".join(each.parts[-2:]) for each in files]
    if len(set(names)) < len(names):
        names = [f"{i:06d}_{each.name}" for i, each in enumerate(files)]
    return dict(zip(names, files, strict=True))


def _of_weights() -> tuple[DataConfig, TaskConfig]:
    """What a file of weights is taken for: a classifier of images that are prepared as ImageNet's."""
    from shunted_lab.data.imagenet import ImageNetConfig
    from shunted_lab.tasks.classification import Classification

    return ImageNetConfig("imagenet", root=""), Classification()


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out: '{out}' cannot be written ({error.strerror})") from None


def _predict_one(
    path: Path,
    picture: Path,
    prepare: Any,
    net: Any,
    task: TaskConfig,
    class_names: Sequence[str],
    options: dict[str, Any],
) -> dict[str, Any]:
    import numpy as np
    import torch
    from PIL import Image

    from shunted_lab.data.decode import Undecodable, decode

    try:
        image = decode(path.read_bytes())
    except (Undecodable, OSError) as error:
        return {"file": str(path), "error": f"cannot be read ({error})"}
    device = next(net.parameters()).device
    with torch.inference_mode():
        found = task.predict(net, prepare(image)[None].to(device), (image.height, image.width), class_names, **options)
    Image.fromarray(found.draw(np.asarray(image))).save(picture)
    values = {"file": str(path), "width": image.width, "height": image.height, "text": found.text, **found.values}
    if found.label_map is not None:
        labels = picture.with_name(f"{picture.stem}.labels.png")
        Image.fromarray(found.label_map).save(labels)
        values["label_map"] = labels.name
    return values | {"picture": picture.name}


if __name__ == "__main__":
    sys.exit(main())
