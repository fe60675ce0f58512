"""The command that tests a checkpoint: python -m shunted_lab.evaluate checkpoint=RUN_FOLDER|FILE [data.root=...]"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from shunted_lab.command import make_console, run_command
from shunted_lab.config.compose import compose_as, value_of
from shunted_lab.config.data import DataConfig
from shunted_lab.config.help import help_text
from shunted_lab.config.launch import LaunchConfig
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.recipe import LITE_RECIPE, PRECISIONS
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError, affecting_result, group, one_of, option, path_option, require
from shunted_lab.config.task import TaskConfig
from shunted_lab.output.quantities import LOSS, cell_text, head_text, value_text
from shunted_lab.output.terminal import Grid
from shunted_lab.tasks.device import DEVICES

HELP = """\
usage: python -m shunted_lab.evaluate checkpoint=RUN_FOLDER|FILE [model=NAME] [data=NAME] [key=value ...]

Measures a checkpoint on a data set: the metrics of the task, accuracy with its 95 % interval, and images per second.
For a checkpoint of a run, model, data and task are those of the run; other data are resized to the image size of the
run, unless data.image_size is given. A file of weights (official, timm's, .safetensors) needs model=, and the data=
that its head was trained for.

  python -m shunted_lab.evaluate checkpoint=runs/ablate_embed/conv_stem/seed0-1a2b3c4d
  python -m shunted_lab.evaluate checkpoint=ckpt_S.pth model=shunted_s data=imagenet data.root=/data/imagenet
  python -m shunted_lab.evaluate checkpoint=ckpt_S.pth data.root=/data/imagenet data.image_size=288 data.crop_pct=1.0
"""

PLAIN = dataclasses.replace(LITE_RECIPE, label_smoothing=0.0)  # nothing is trained, and any task takes it


@dataclass
class EvaluateConfig:
    """The configuration of `python -m shunted_lab.evaluate`."""

    checkpoint: str = path_option(MISSING, "a run's folder, or a .ckpt in it; or a file of weights for model=...")
    model: ModelConfig = group("shunted_s")
    data: DataConfig = group("imagenet")
    task: TaskConfig = group(None)  # that of the run, or of the data
    split: str = option("test", "which split of the data: test, val")
    limit_batches: int | None = option(None, "evaluate at most this many batches; null: all")
    device: str = option("auto", "auto, cpu, cuda, mps")
    precision: str | None = option(
        None, f"arithmetic: {', '.join(PRECISIONS)}; null: that of the run, or 32-true for a file of weights"
    )
    num_workers: int = option(0, "processes that load images")
    out: str | None = path_option(None, "a .json file for all results, the configuration and the versions of libraries")

    def __post_init__(self) -> None:
        one_of("split", self.split, ("test", "val"))
        one_of("device", self.device, DEVICES)
        one_of("precision", self.precision, (None, *PRECISIONS))
        require(self.num_workers >= 0, "num_workers", self.num_workers, "is negative")
        good = self.limit_batches is None or self.limit_batches >= 1
        require(good, "limit_batches", self.limit_batches, "is too small: at least 1")
        if self.out is not None and not self.out.endswith(".json"):
            raise ConfigError(f"out: '{self.out}' is not a .json file")


def main(overrides: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 for a user's mistake."""
    return run_command(overrides, lambda: help_text(HELP, EvaluateConfig, ["data"]), _act)


def _act(overrides: list[str]) -> None:
    show(overrides)


def compose_evaluate(overrides: Sequence[str], run: RunConfig | None = None) -> EvaluateConfig:
    """Compose `key=value` overrides into the configuration of this command.

    Args:
        run: what the checkpoint was trained as, if it is a run's: it gives the model and the data. Overrides change
            the data; other data are seen at the run's image size unless `data.image_size` is given.

    Raises:
        ConfigError: for anything a user can get wrong, also for overrides that name another model than the run's.
    """
    if run is None:
        return _for_task(compose_as(EvaluateConfig, overrides))
    of_run = {"model": run.model, "data": run.data, "task": run.task, "data.image_size": run.data.image_size}
    config = compose_as(EvaluateConfig, overrides, of_run)
    for name in affecting_result(run.model):
        given, own = getattr(config.model, name), getattr(run.model, name)
        if given != own:
            raise ConfigError(f"model.{name}: {given} differs from the run's, {own}; leave model=... out")
    if config.data.splits_otherwise(run.data):
        raise ConfigError(
            f"data: {config.data.name} splits the same pictures otherwise than the run's, {run.data.name}, so its "
            f"weights have seen test images; leave data=... out"
        )
    return _for_task(config)


def _run_config(config: EvaluateConfig) -> RunConfig:
    """What is tested, as a run."""
    return RunConfig(config.model, config.data, config.task, PLAIN, LaunchConfig(), 0)


def _for_task(config: EvaluateConfig) -> EvaluateConfig:
    """With the data as the task sees them."""
    return dataclasses.replace(config, data=_run_config(config).data)


def show(overrides: Sequence[str]) -> dict[str, Any]:
    """Evaluate what `key=value` overrides ask for, write `out`, print the table; returns what `evaluate` does.

    Raises:
        ConfigError: for anything that a user can get wrong.
    """
    from shunted_lab.output.files import write_json
    from shunted_lab.study.folder import find_checkpoint

    checkpoint = value_of("checkpoint", overrides, EvaluateConfig)
    run, file = (None, Path()) if checkpoint is None else find_checkpoint(checkpoint)
    trained = None if run is None else run.config
    config = compose_evaluate(overrides, trained)  # refuses overrides without a checkpoint
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
        Plain values: `metrics` as in a run's result, `intervals` (metric -> 95 %: of the leading metric, by Wilson
        where it is a share of the images, by the bootstrap over images or groups of them where it is a mean IoU),
        `images` and those there are (`of_images`), `images_per_second`, `device`, `precision`, the file, its SHA-256
        and which `weights` of it were taken, how `classes` were matched, `config`, the git revision and the versions of
        libraries.

    Raises:
        ConfigError: for data, a device or a checkpoint that cannot be used.
    """
    from shunted_lab.data import check_data, make_datamodule

    class_names = check_data(config.data, tested_only=config.split == "test").class_names  # before torch is imported
    import torch

    from shunted_lab.nn import device_name
    from shunted_lab.output.files import digest_of
    from shunted_lab.study.slots import origin
    from shunted_lab.tasks.base import TaskModule
    from shunted_lab.tasks.checkpoint import entry_text, load_model
    from shunted_lab.tasks.device import find_device
    from shunted_lab.tasks.evaluate import evaluate as measure

    device = torch.device(find_device(config.device))
    precision = _precision(config, run, device.type)
    model = load_model(config.model, file, class_names, config.task)
    module = TaskModule(model.net, _run_config(config), class_names)
    data = make_datamodule(config.data, PLAIN, 0, config.num_workers)
    stats = config.data.stats, (config.data if run is None else run.data).stats
    loader = data.test_dataloader() if config.split == "test" else data.val_dataloader()
    result = measure(module, loader, config.split, device.type, precision, config.limit_batches, stats)
    lead = f"{config.split}/{module.goal.lead}"
    interval = _interval(module, result, lead, data.splits.test_groups if config.split == "test" else None)
    return {
        "metrics": result.metrics,
        "intervals": {} if interval is None else {lead: list(interval)},
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


def _interval(module: Any, result: Any, lead: str, groups: Any) -> tuple[float, float] | None:
    """The 95 % interval of the leading metric over images, or groups of them; None where there is none."""
    from shunted_lab.report.image_statistics import bootstrap_interval, wilson
    from shunted_lab.report.resamples import score_draws
    from shunted_lab.tasks.evidence import stored

    if module.goal.leading.is_proportion:
        return wilson(round(result.metrics[lead] * result.images), result.images)
    evidence = stored(module.evidence(), groups)
    return None if evidence.is_mean else bootstrap_interval(score_draws(evidence))


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
    data = config.data
    goal = config.task.goal(data)
    some = found["images"] != found["of_images"]
    images = f"{found['images']:,}" + (f" of {found['of_images']:,}" if some else "")
    size = data.preparation
    if run is not None and run.data.image_size != data.image_size:
        size += f"; trained at {run.data.image_size} x {run.data.image_size}"
    rows = [
        ("Model", config.model.name),
        ("Checkpoint", f"{found['file']}; {found['weights']}"),
        *([("Classes", found["classes"])] if found["classes"] else []),
        ("Images", f"{images}, {config.split} split of {data.name}{' (SYNTHETIC)' if found['synthetic'] else ''}"),
        ("Image size", size),
    ]
    loss = f"{config.split}/loss"
    for key, value in found["metrics"].items():
        if key == loss:
            continue
        metric = goal.metric(key)
        interval = ""
        if key in found["intervals"]:
            low, high = (cell_text(end, metric.unit) for end in found["intervals"][key])
            interval = f"  [{low}, {high}] (95 %, over images)"
        rows.append((head_text(metric.label, metric.unit), f"{cell_text(value, metric.unit)}{interval}"))
    rows.append(("Loss", value_text(found["metrics"][loss], LOSS)))
    speed = "–, one batch is not timed"
    if found["images_per_second"] is not None:
        speed = f"{found['images_per_second']:.1f}, forward passes without the first"
    rows.append(("Images/s", f"{speed}; batch {data.batch_size}, {found['precision']}, {found['device']}"))
    return Grid("", ("", ""), rows, names=1)


if __name__ == "__main__":
    sys.exit(main())
