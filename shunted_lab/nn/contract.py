"""What a component returns, held against the contract of its slot.

Shapes: B batch, N = H*W tokens, C channels, H W grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, SupportsIndex

from torch import Tensor, nn

from shunted_lab.nn.attention import HeadGroup
from shunted_lab.nn.layout import Grid
from shunted_lab.nn.pyramid import Pyramid
from shunted_lab.nn.registry import ComponentError

Fault = Callable[[tuple[Any, ...], Any], str | None]
"""Inputs and output of a component -> what is wrong with the output; None if nothing is."""


def fault_of_tokens(output: Any, shape: tuple[int, ...]) -> str | None:
    """What is wrong with tokens that should have this shape, e.g. `returns (1, 1, 24); expected (1, 256, 24)`."""
    if not isinstance(output, Tensor):
        return f"returns a {type(output).__name__}; expected a tensor of {shape}"
    if tuple(output.shape) != shape:
        return f"returns {tuple(output.shape)}; expected {shape}"
    return None


def fault_of_grid(output: Any, batch: int, chans: int, grids: Sequence[Grid] = ()) -> str | None:
    """What is wrong with tokens and their grid, as embeddings and aggregations return them.

    Args:
        output: what was returned.
        batch, chans: B and C of the tokens.
        grids: the grids that are allowed; none stands for any that the tokens match.
    """
    if not isinstance(output, tuple | list) or len(output) != 2:
        return f"returns a {type(output).__name__}; expected tokens and their grid"
    tokens, grid = output
    if not isinstance(grid, tuple | list) or not _are_sizes(grid):
        return f"returns the grid {grid}; expected (height, width)"
    if grids and tuple(grid) not in grids:
        return f"returns the grid {tuple(grid)}; expected {grids[0]}"
    return fault_of_tokens(tokens, (batch, grid[0] * grid[1], chans))


def _are_sizes(grid: Sequence[Any]) -> bool:
    return len(grid) == 2 and all(isinstance(side, SupportsIndex) for side in grid)


def ceil_grid(size: Sequence[int], stride: int) -> Grid:
    """(ceil(H / stride), ceil(W / stride)): nothing at the border is dropped."""
    return -(-size[0] // stride), -(-size[1] // stride)


@contextmanager
def checked_outputs(model: nn.Module) -> Iterator[None]:
    """Inside, a forward pass of each `Pyramid` in the model refuses a component whose output breaks its contract.

    A wrong shape need not fail by itself: (B, 1, C) broadcasts over the tokens that it is added to. An exception that a
    component raises gets a note with the component's place and class.

    Raises:
        ComponentError: e.g. `my_blocks.BadShape returns (1, 1, 24); expected (1, 256, 24)`.
    """
    running: list[str] = []  # the components whose forward has begun, the innermost last
    handles = []
    for place, component, fault in _components(model):
        handles.append(component.register_forward_pre_hook(_begins(running, f"{place}, {class_of(component)}")))
        handles.append(component.register_forward_hook(_ends(running, fault)))
    try:
        yield
    except ComponentError:
        raise
    except Exception as error:
        if running:
            error.add_note(f"raised in {running[-1]}")
        raise
    finally:
        for handle in handles:
            handle.remove()


def has_own_components(model: nn.Module) -> bool:
    """Whether a component of a `Pyramid` in the model is a user's and not of this package."""
    package = __name__.partition(".")[0]
    return any(type(component).__module__.partition(".")[0] != package for _, component, _ in _components(model))


def class_of(component: nn.Module) -> str:
    """The class of a component by its module and name, e.g. `my_blocks.WindowAttention`."""
    return f"{type(component).__module__}.{type(component).__qualname__}"


def _components(model: nn.Module) -> Iterator[tuple[str, nn.Module, Fault]]:
    """Place, module and check of every component of every pyramid in the model."""
    for name, pyramid in model.named_modules():
        if isinstance(pyramid, Pyramid):
            for i, stage in enumerate(pyramid.stages):
                yield from _stage_components(f"{name}.stages.{i}".removeprefix("."), stage, 4 if i == 0 else 2)


def _stage_components(place: str, stage: Any, stride: int) -> Iterator[tuple[str, nn.Module, Fault]]:
    yield f"{place}.embed", stage.embed, _embedding_fault(stride, stage.norm.normalized_shape[0])
    for j, block in enumerate(stage.blocks):
        yield f"{place}.blocks.{j}.attn", block.attn, _layer_fault
        yield f"{place}.blocks.{j}.mlp", block.mlp, _layer_fault
        for name, group in block.attn.named_modules():
            if isinstance(group, HeadGroup) and group.aggregation is not None:
                yield f"{place}.blocks.{j}.attn.{name}.aggregation", group.aggregation, _aggregation_fault


def _embedding_fault(stride: int, chans: int) -> Fault:
    def fault(inputs: tuple[Any, ...], output: Any) -> str | None:
        image = inputs[0]
        return fault_of_grid(output, len(image), chans, [ceil_grid(image.shape[-2:], stride)])

    return fault


def _layer_fault(inputs: tuple[Any, ...], output: Any) -> str | None:
    return fault_of_tokens(output, tuple(inputs[0].shape))


def _aggregation_fault(inputs: tuple[Any, ...], output: Any) -> str | None:
    batch, _, chans = inputs[0].shape
    return fault_of_grid(output, batch, chans)


def _begins(running: list[str], name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(component: nn.Module, inputs: tuple[Any, ...]) -> None:
        running.append(name)

    return hook


def _ends(running: list[str], fault: Fault) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(component: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        running.pop()
        found = fault(inputs, output)
        if found is not None:
            raise ComponentError(f"{class_of(component)} {found}")

    return hook
