"""Latency and peak memory of a model, measured on a real device."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shunted_lab.nn.cost import Speed
from shunted_lab.nn.count import Call, Size, call_with_batch, height_width


def measure(
    model: nn.Module,
    image_size: Size = 224,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    *,
    in_chans: int = 3,
    call: Call = call_with_batch,
    repeats: int = 20,
    warmup: int = 5,
    training: bool = False,
    memory: bool = True,
) -> Speed:
    """Time a forward pass (`training`: forward and backward) on a real device, and, with `memory`, its peak memory.

    On a GPU the time is that between two events of the device, and memory that of its allocator; on a CPU, the clock
    and what torch's allocator has given out. MPS does not tell its memory. The model is moved to the device and left in
    the mode that it was in; `training` updates its running statistics and clears its gradients.

    Args:
        call: how the model is called, where that is not `model(images)`: `lambda net, images: net(list(images))`, or
            with targets for a detector in training. The backward pass starts from the sum of all floating-point tensors
            in what it returns: a tensor, or lists and dictionaries of them.
    """
    device = torch.device(device)
    before = model.training
    model = model.to(device).train(training)
    images = torch.randn(batch_size, in_chans, *height_width(image_size), device=device)

    def step() -> None:
        if training:
            torch.stack(_tensor_sums(call(model, images))).sum().backward()
            model.zero_grad(set_to_none=True)
        else:
            with torch.inference_mode():
                call(model, images)

    try:
        for _ in range(warmup):
            step()
        latency = statistics.median(_seconds(step, device) for _ in range(repeats))
        peak = _peak_memory(step, device) if memory else None
    finally:
        model.train(before)
    return Speed(latency, batch_size / latency, peak, device_name(device))


def _tensor_sums(output: Any) -> list[Tensor]:
    """The sum of each floating-point tensor in an output."""
    if isinstance(output, Tensor):
        return [output.float().sum()] if output.is_floating_point() else []
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return [each for part in parts for each in _tensor_sums(part)]


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        step()
        if device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - start
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    step()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1e3


def _peak_memory(step: Callable[[], None], device: torch.device) -> int | None:
    """Bytes that `step` holds at most, above what was held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - held
    if device.type != "cpu":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def device_name(device: torch.device | str) -> str:
    """The name that stands in a table's caption, e.g. `NVIDIA H100` or `AMD EPYC (2 threads)`."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{platform.machine()} {device.type}"
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = lines[0] if lines else name
    threads = torch.get_num_threads()
    return f"{name} ({threads} thread{'s' * (threads > 1)})"
