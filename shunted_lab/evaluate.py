"""The command that tests a checkpoint: python -m shunted_lab.evaluate checkpoint=RUN_FOLDER|FILE [data.root=...]"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from shunted_lab.cli import answer, make_console
from shunted_lab.commands import EvaluateConfig
from shunted_lab.compose import compose_evaluate, value_of
from shunted_lab.config import LITE_RECIPE, ConfigError, FolderConfig, LaunchConfig, RunConfig
from shunted_lab.quantities import cell_text, value_text
from shunted_lab.terminal import Grid
from shunted_lab.usage import evaluate_usage


def main(words: list[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 for a user's mistake."""
    return answer(words, evaluate_usage, _act)


def _act(words: list[str]) -> int:
    show(words)
    return 0


def show(words: list[str]) -> dict[str, Any]:
    """Evaluate what `key=value` overrides ask for, write `out`, print the table; returns what `evaluate` does.

    Raises:
        ConfigError: for anything that a user can get wrong.
    """
    from shunted_lab.files import write_json
    from shunted_lab.study.folder import find_checkpoint

    checkpoint = value_of("checkpoint", words)
    run, file = (None, Path()) if checkpoint is None else find_checkpoint(checkpoint)
    trained = None if run is None else run.config
    config = compose_evaluate(words, trained)  # refuses overrides without a checkpoint
    out = None if config.out is None else Path(config.out)
    if out is not None:
        _writable(out)
    found = evaluate(config, file, trained)
    if out is not None:
        write_json(out, found)
    make_console().print(_grid(config, found, trained))
    return found


def evaluate(config: EvaluateConfig, file: Path, run: RunConfig | None = None) -> dict[str, Any]:
    """Test the weights in `file`.

    Args:
        file: a checkpoint (see `tasks.checkpoint.load_model`).
        run: what it was trained as, if that is known: images are normalised as they were then.

    Returns:
        Plain values: `metrics` as in a run's result, `top1_interval` (95 %, Wilson; None for several labels an image),
        `images` and those there are (`of_images`), `images_per_second`, `device`, `precision`, the file, its SHA-256
        and which `weights` of it were taken, how `classes` were matched, `config`, the git revision and the versions of
        libraries.

    Raises:
        ConfigError: for data, a device or a checkpoint that cannot be used.
    """
    from shunted_lab.data import check_data, make_datamodule

    class_names = check_data(config.data, tested_only=config.split == "test").class_names  # before torch is imported
    import torch

    from shunted_lab.data.splits import stats_of
    from shunted_lab.files import digest_of
    from shunted_lab.nn import device_name
    from shunted_lab.report.statistics import wilson
    from shunted_lab.study.order import origin
    from shunted_lab.tasks import evaluate as passes
    from shunted_lab.tasks.checkpoint import entry_text, load_model
    from shunted_lab.tasks.device import find_device
    from shunted_lab.tasks.train import task_of

    device = torch.device(find_device(config.device))
    precision = _precision(config, run, device.type)
    model = load_model(config.model, file, class_names)
    task = task_of(model.net, RunConfig(config.model, config.data, LITE_RECIPE, LaunchConfig(), 0), class_names)
    data = make_datamodule(config.data, LITE_RECIPE, 0, config.num_workers)
    stats = stats_of(config.data), stats_of(config.data if run is None else run.data)
    loader = data.test_dataloader() if config.split == "test" else data.val_dataloader()
    result = passes.evaluate(task, loader, config.split, device, precision, config.limit_batches, stats)
    top1 = result.metrics.get(f"{config.split}/top1")
    return {
        "metrics": result.metrics,
        "top1_interval": None if top1 is None else list(wilson(round(top1 * result.images), result.images)),
        "images": result.images,
        "of_images": data.sizes[config.split],
        "images_per_second": result.images_per_second,
        "device": device_name(device),
        "precision": precision,
        "file": str(file),
        "sha256": digest_of(file),
        "weights": entry_text(model.entry),
        "classes": model.classes,
        "synthetic": config.data.synthetic,
        "config": {key: value for key, value in dataclasses.asdict(config).items() if key != "defaults"},
        **origin(),
    }


def _precision(config: EvaluateConfig, run: RunConfig | None, device: str) -> str:
    """What is asked for, or that of the run; where this device does not have the run's, 32-true. It is printed."""
    from shunted_lab.tasks.device import check_precision, supports

    if config.precision is not None:
        check_precision(config.precision, device, "precision")
        return config.precision
    own = "32-true" if run is None else run.recipe.precision
    return own if supports(device, own) else "32-true"


def _writable(out: Path) -> None:
    """Refuse a file that could not be written in the end; makes its folder."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out: '{out}' cannot be written ({error.strerror})") from None
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise ConfigError(f"out: '{out}' cannot be written")


def _grid(config: EvaluateConfig, found: dict[str, Any], run: RunConfig | None) -> Grid:
    """One line per figure; `run` is what the checkpoint was trained as, if that is known."""
    from shunted_lab.tasks import goal_of

    goal, data = goal_of(config.data), config.data
    labels = {goal.headline: goal.label, "test/top5": "Top-5", **dict(goal.columns)}
    some = found["images"] != found["of_images"]
    images = f"{found['images']:,}" + (f" of {found['of_images']:,}" if some else "")
    size = f"{data.image_size} x {data.image_size}"
    if isinstance(data, FolderConfig):
        size += f", centre crop {data.crop_pct:g} of the resized shorter side, {data.interpolation}"
    if run is not None and run.data.image_size != data.image_size:
        size += f"; trained at {run.data.image_size} x {run.data.image_size}"
    rows = [
        ("Model", config.model.name),
        ("Checkpoint", f"{found['file']}; {found['weights']}"),
        ("Classes", found["classes"]),
        ("Images", f"{images}, {config.split} split of {data.name}{' (SYNTHETIC)' if found['synthetic'] else ''}"),
        ("Image size", size),
    ]
    loss = f"{config.split}/loss"
    for key, value in found["metrics"].items():
        if key == loss:
            continue
        name = key.partition("/")[2]
        interval = ""
        if name == "top1":
            low, high = found["top1_interval"]
            interval = f"  [{cell_text(key, low)}, {cell_text(key, high)}] (95 %, over images)"
        rows.append((f"{labels.get(f'test/{name}', name)} (%)", f"{cell_text(key, value)}{interval}"))
    rows.append(("Loss", value_text(loss, found["metrics"][loss])))
    speed = "–, one batch is not timed"
    if found["images_per_second"] is not None:
        speed = f"{found['images_per_second']:.1f}, forward passes without the first"
    rows.append(("Images/s", f"{speed}; batch {data.batch_size}, {found['precision']}, {found['device']}"))
    return Grid("", ("", ""), rows, names=1)


if __name__ == "__main__":
    sys.exit(main())
