"""What a model costs, stage by stage: python -m shunted_lab.cost model=shunted_s size=800x1333

Counted on the `meta` device; `measure=true` times it on a real one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shunted_lab.command import make_console, run_command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.help import help_text
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.schema import ConfigError, group, height_width, one_of, option, require
from shunted_lab.output.terminal import Grid, say
from shunted_lab.tasks.device import DEVICES

if TYPE_CHECKING:
    from shunted_lab.nn import Cost, Speed

WARMUP = 3

HELP = """\
usage: python -m shunted_lab.cost [model=NAME] [size=224|800x1333] [key=value ...]

Counts parameters and multiply-accumulates of a model, stage by stage, without running it; measure=true also measures
the time and the memory of a forward pass.

  python -m shunted_lab.cost model=shunted_s size=800x1333
  python -m shunted_lab.cost model=pvt_v2_b2 measure=true batch_size=8
"""


@dataclass
class CostConfig:
    """The configuration of `python -m shunted_lab.cost`."""

    model: ModelConfig = group("shunted_s")
    size: Any = option(224, "pixels of the image: one number, or height x width, e.g. 800x1333", type="int | HxW")
    num_classes: int = option(1000, "number of classes; 0: without a head")
    measure: bool = option(False, "time a forward pass on the device, and its peak memory")
    training: bool = option(False, "measure forward and backward")
    batch_size: int = option(1, "images in the batch that is measured")
    repeats: int = option(10, "timed passes, after 3 for warm-up; the median is shown")
    device: str = option("auto", "where to measure: auto, cpu, cuda, mps")

    def __post_init__(self) -> None:
        require(min(self.height_width) >= 32, "size", self.size, "is too small for four stages: at least 32 x 32")
        require(self.num_classes >= 0, "num_classes", self.num_classes, "is negative")
        for name in ("batch_size", "repeats"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "is too small: at least 1")
        one_of("device", self.device, DEVICES)
        require(self.measure or not self.training, "training", self.training, "does nothing without measure=true")

    @property
    def height_width(self) -> tuple[int, int]:
        return height_width("size", self.size)


def main(overrides: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 for a user's mistake."""
    return run_command(
        overrides, lambda: help_text(HELP, CostConfig, ["model"]), lambda given: cost(compose_as(CostConfig, given))
    )


def cost(config: CostConfig) -> None:
    """Print the table, and what was measured."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler greets on stderr; read when torch is imported
    from shunted_lab.nn import ComponentError, count_parts
    from shunted_lab.tasks.model import build_model

    console = make_console()
    try:
        parts = count_parts(lambda: build_model(config.model, config.num_classes), config.height_width)
    except ComponentError as error:
        raise ConfigError(f"model: {error}") from None
    console.print(_grid(config, parts))
    if config.measure:
        say(console, _measured(config, _measure(config)))


def _grid(config: CostConfig, parts: dict[str, Cost]) -> Grid:
    """One row per stage: its blocks, parameters, and GMACs by part."""
    height, width = config.height_width
    head = ("stage", "grid", "width", "blocks", "params (M)", "embed", "attn", "attn products", "mlp", "GMACs")
    rows = []
    for i, (dim, depth) in enumerate(zip(config.model.embed_dims, config.model.depths, strict=True)):
        stride = 2 ** (i + 2)
        attns = [parts[f"stages.{i}.blocks.{j}.attn"] for j in range(depth)]
        mlps = [parts[f"stages.{i}.blocks.{j}.mlp"] for j in range(depth)]
        stage = parts[f"stages.{i}"]
        macs = [
            parts[f"stages.{i}.embed"].macs,
            sum(c.macs_linear for c in attns),
            sum(c.macs_attention for c in attns),
            sum(c.macs for c in mlps),
            stage.macs,
        ]
        grid = f"{-(-height // stride)} x {-(-width // stride)}"
        rows.append((str(i + 1), grid, str(dim), str(depth), _millions(stage), *(f"{m / 1e9:.3f}" for m in macs)))
    rows.append(("head", "", "", "", _millions(parts["head"]), "", "", "", "", f"{parts['head'].macs / 1e9:.3f}"))
    total = parts[""]
    attention = f"{total.macs_attention / 1e9:.3f}"
    rows.append(("total", "", "", "", _millions(total), "", "", attention, "", f"{total.macs / 1e9:.3f}"))
    return Grid(
        f"{config.model.name} at {height} x {width}, one image; GMACs by part", head, rows, rules=(len(rows) - 1,)
    )


def _millions(cost: Cost) -> str:
    return f"{cost.params / 1e6:.3f}"


def _measure(config: CostConfig) -> Speed:
    from shunted_lab.nn import init_weights, measure
    from shunted_lab.tasks.device import find_device
    from shunted_lab.tasks.model import build_model

    model = build_model(config.model, config.num_classes)
    init_weights(model, 0)
    return measure(
        model,
        config.height_width,
        config.batch_size,
        find_device(config.device),
        repeats=config.repeats,
        warmup=WARMUP,
        training=config.training,
    )


def _measured(config: CostConfig, speed: Speed) -> str:
    what = "forward and backward" if config.training else "forward"
    memory = "unknown" if speed.peak_memory is None else f"{speed.peak_memory / 1e6:,.0f} MB"
    return (
        f"{what}, batch {config.batch_size}, float32: {speed.latency * 1e3:.1f} ms (median of {config.repeats}), "
        f"{speed.throughput:.1f} images/s, peak memory above the weights {memory}; "
        f"{speed.device}"
    )


if __name__ == "__main__":
    sys.exit(main())
