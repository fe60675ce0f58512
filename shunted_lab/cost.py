"""What a model costs, stage by stage: python -m shunted_lab.cost model=shunted_s size=800x1333

Counted on the `meta` device; `measure=true` times it on a real one.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from shunted_lab.cli import answer, make_console
from shunted_lab.commands import CostConfig
from shunted_lab.compose import compose_cost
from shunted_lab.config import ConfigError
from shunted_lab.terminal import Grid, say
from shunted_lab.usage import cost_usage

if TYPE_CHECKING:
    from shunted_lab.nn import Cost, Speed

WARMUP = 3


def main(words: list[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 for a user's mistake."""
    return answer(words, cost_usage, lambda words: cost(compose_cost(words)))


def cost(config: CostConfig) -> int:
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
    return 0


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
