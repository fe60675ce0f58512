"""`check_component` holds any component against its contract, as scikit-learn's `check_estimator` does."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shunted_lab.nn.components import AGGREGATION, ATTENTION, DOWNSAMPLE, MLP, PATCH_EMBED, SLOTS
from shunted_lab.nn.contract import ceil_grid, fault_of_grid, fault_of_tokens
from shunted_lab.nn.registry import ComponentError, Registry

GRIDS = [(8, 8), (7, 5), (1, 9), (13, 6)]  # even, odd, one row, neither
LAYER = {"dim": 16, "num_heads": 4, "hidden_dim": 24, "rate": 3, "in_chans": 4, "embed_dim": 8}
RATES = [[4, 2, 2, 1], [2], [1]]  # spread over the heads; the first that an attention takes
TELLS = {"num_heads": ATTENTION, "hidden_dim": MLP, "rate": AGGREGATION}  # an argument that only one slot has


class ContractError(AssertionError):
    """A component breaks the contract of its slot."""


def check_component(
    component: str | Callable[..., nn.Module],
    slot: Registry | str | None = None,
    *,
    backend: str = "inductor",
    **options: Any,
) -> list[str]:
    """Hold a component against the contract of its slot, on the CPU.

    Args:
        component: a registered name, a dotted path, or a class (or function) that builds a module.
        slot: where it is to stand: `ATTENTION` or "attn", and so on; may be left out for a class whose arguments tell
            (`num_heads`: attention, `hidden_dim`: feed-forward, `rate`: aggregation).
        backend: of `torch.compile`; "aot_eager" is quick and needs no compiler.
        options: of the component, and sizes to test it with (`dim=32`, `rates=[4, 2, 2, 1]`).

    Returns:
        The names of what was checked.

    Raises:
        ContractError: naming the check, the size and what was found.
        ComponentError: if the component cannot be built.
    """
    subject = _Subject(component, slot, options)
    checks = {
        "shapes": _check_shapes,
        "gradients": _check_gradients,
        "bf16 autocast": _check_autocast,
        "determinism": _check_determinism,
        "batch independence": _check_batch,
        "memory": _check_memory,
        "state dict": _check_state_dict,
        "cost": _check_cost,
        "torch.export": _check_export,
        "torch.compile": lambda subject: _check_compile(subject, backend),
    }
    return run_checks(f"{subject.kind} '{subject.name}'", subject, checks)


def run_checks(what: str, subject: Any, checks: Mapping[str, Callable[[Any], None]]) -> list[str]:
    """Run checks by name, each under the same seed. Returns the names.

    Args:
        what: names the component in errors.

    Raises:
        ContractError: of the first check that fails.
    """
    for name, check in checks.items():
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                check(subject)
        except ContractError as error:
            raise ContractError(f"{what}: {name}: {error}") from error.__cause__
    return list(checks)


class _Subject:
    """A component that is checked: how to build it, what to feed it, and what must come out."""

    def __init__(self, component: str | Callable[..., nn.Module], slot: Registry | str | None, options: dict[str, Any]):
        if isinstance(slot, str) and slot not in SLOTS:
            raise ComponentError(f"slot: '{slot}' is not known; choices: {', '.join(SLOTS)}")
        self.slot = SLOTS[slot] if isinstance(slot, str) else slot or _infer(component)
        self.kind = self.slot.kind
        self.name = component if isinstance(component, str) else getattr(component, "__name__", repr(component))
        self.registry = self.slot
        if not isinstance(component, str):  # a registry of its own, so that nothing is left behind
            self.registry = Registry(self.kind)
            self.registry.register(self.name)(component)
        own = {key: value for key, value in options.items() if key not in (*LAYER, "rates")}
        self.spec = {"name": self.name, **own}
        self.context = LAYER | {key: value for key, value in options.items() if key not in own}
        if self.slot is ATTENTION and "rates" not in options:
            self.context["rates"] = self._rates()
        self.image = self.slot in (PATCH_EMBED, DOWNSAMPLE)
        self.sizes = [(32, 32), (33, 47), (35, 34)] if self.image else GRIDS

    def _rates(self) -> list[int]:
        heads = self.context["num_heads"]
        spread = [[rates[head * len(rates) // heads] for head in range(heads)] for rates in RATES]
        for rates in spread[:-1]:
            try:
                self.registry.build(self.spec, **self.context, rates=rates)
            except ComponentError:
                continue
            return rates
        return spread[-1]

    def build(self) -> nn.Module:
        return self.registry.build(self.spec, **self.context)

    def input(self, size: tuple[int, int], batch: int = 2) -> Tensor:
        if self.image:
            return torch.randn(batch, self.context["in_chans"], *size)
        return torch.randn(batch, size[0] * size[1], self.context["dim"])

    def output(self, layer: nn.Module, x: Tensor, size: tuple[int, int]) -> Any:
        """What the component returns."""
        return layer(x) if self.image else layer(x, size)

    def call(self, layer: nn.Module, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Tokens and their grid."""
        output = self.output(layer, x, size)
        return output if self.image or self.slot is AGGREGATION else (output, size)

    def fault(self, output: Any, x: Tensor, size: tuple[int, int]) -> str | None:
        """What is wrong with the output for an input of this size; None if nothing is."""
        if self.image:
            stride = 4 if self.slot is PATCH_EMBED else 2
            return fault_of_grid(output, len(x), self.context["embed_dim"], [ceil_grid(size, stride)])
        if self.slot is AGGREGATION:
            return fault_of_grid(output, len(x), x.shape[-1], [ceil_grid(size, self.context["rate"]), size])
        return fault_of_tokens(output, tuple(x.shape))

    def layers(self) -> Iterator[tuple[nn.Module, Tensor, tuple[int, int]]]:
        """A fresh layer and an input for each size."""
        for size in self.sizes:
            yield self.build(), self.input(size), size


def _infer(component: str | Callable[..., nn.Module]) -> Registry:
    for slot in SLOTS.values():
        if component in slot._entries.values():
            return slot
    if not isinstance(component, str):
        for argument, slot in TELLS.items():
            registry = Registry(slot.kind)
            registry.register("component")(component)
            if registry.accepts("component", argument):
                return slot
    raise ComponentError(f"slot: is missing; say where {component!r} is to stand: {', '.join(SLOTS)}")


def require(ok: bool, found: str, cause: BaseException | None = None) -> None:
    """Raise ContractError, with what was found, unless `ok`."""
    if not ok:
        raise ContractError(found) from cause


def _at(size: tuple[int, int]) -> str:
    return f"at {size[0]} x {size[1]}"


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


def _check_shapes(subject: _Subject) -> None:
    """Any grid goes in, also odd ones and those no rate divides; the contract's comes out."""
    for layer, x, size in subject.layers():
        fault = subject.fault(subject.output(layer, x, size), x, size)
        require(fault is None, f"{_at(size)} it {fault}")


def _check_gradients(subject: _Subject) -> None:
    """Every parameter gets a gradient, and every token takes part."""
    for layer, x, size in subject.layers():
        x.requires_grad_()
        tokens, _ = subject.call(layer, x, size)
        (tokens * torch.randn_like(tokens)).sum().backward()
        for name, p in layer.named_parameters():
            require(p.grad is not None, f"{_at(size)} parameter '{name}' gets none")
            require(bool(p.grad.isfinite().all()), f"{_at(size)} that of '{name}' is not finite")  # type: ignore[union-attr]
        assert x.grad is not None
        reached = x.grad.abs().sum(1 if subject.image else -1) > 0
        if subject.image:  # activations may close a way; a border that is dropped closes all of them
            reached = torch.stack([reached[:, -1].any(), reached[:, :, -1].any(), reached.float().mean() > 0.9])
        require(bool(reached.all()), f"{_at(size)} some tokens have no influence: their gradient is zero")


def _check_autocast(subject: _Subject) -> None:
    for layer, x, size in subject.layers():
        with torch.autocast("cpu", torch.bfloat16):
            tokens, _ = subject.call(layer, x.requires_grad_(), size)
        tokens.float().square().sum().backward()
        require(bool(tokens.isfinite().all()), f"{_at(size)} the output is not finite")
        for name, p in layer.named_parameters():
            require(p.grad is not None and bool(p.grad.isfinite().all()), f"{_at(size)} gradient of '{name}' is not")


@torch.no_grad()
def _check_batch(subject: _Subject) -> None:
    for layer, x, size in subject.layers():
        layer.eval()
        both, one = subject.call(layer, x, size)[0], subject.call(layer, x[1:], size)[0]
        require(_close(both[1:], one), f"{_at(size)} an image's output depends on the others in the batch")


@torch.no_grad()
def _check_determinism(subject: _Subject) -> None:
    for layer, x, size in subject.layers():
        layer.eval()
        first, second = subject.call(layer, x, size)[0], subject.call(layer, x, size)[0]
        require(torch.equal(first, second), f"{_at(size)} two passes in evaluation differ")


def _check_memory(subject: _Subject) -> None:
    """What is kept for the backward pass grows with the tokens, and not with their square: no attention matrix."""
    kept = []
    for side in (32, 64):
        layer, x = subject.build(), subject.input((side, side), batch=1)
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        weights = sum(p.numel() for p in layer.parameters())
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            subject.call(layer, x.requires_grad_(), (side, side))
        kept.append(sum(sizes) + weights)
    growth = kept[1] / max(1, kept[0])
    require(growth <= 5, f"4 x the tokens keep {growth:.1f} x the memory; is the attention matrix kept?")


@torch.no_grad()
def _check_state_dict(subject: _Subject) -> None:
    for layer, x, size in subject.layers():
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        other = subject.build()
        try:
            other.load_state_dict(torch.load(file, weights_only=True))
        except Exception as error:
            require(False, f"another instance does not load it: {str(error).splitlines()[0]}", error)
        same = torch.equal(subject.call(layer.eval(), x, size)[0], subject.call(other.eval(), x, size)[0])
        require(same, f"{_at(size)} another instance with the same state dict gives another output")


def _check_cost(subject: _Subject) -> None:
    """It can be built and counted on `meta`, and its matrices are counted."""
    with torch.device("meta"):
        layer, x = subject.build().eval(), subject.input((16, 16))
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subject.call(layer, x, (16, 16))
    except Exception as error:
        require(False, f"it cannot be counted on the meta device: {str(error).splitlines()[0]}", error)
    matrices = [p for p in layer.parameters() if p.ndim > 1]
    require(not matrices or counter.get_total_flops() > 0, "no multiply-accumulates are counted")


@torch.no_grad()
def _check_export(subject: _Subject) -> None:
    for layer, x, size in subject.layers():
        wrapped = _Wrapped(subject, layer.eval(), size)
        try:
            exported = torch.export.export(wrapped, (x,)).module()
        except Exception as error:
            require(False, f"{_at(size)} {type(error).__name__}: {str(error).splitlines()[0]}", error)
        require(_close(exported(x), wrapped(x)), f"{_at(size)} the exported program gives another output")


def _check_compile(subject: _Subject, backend: str) -> None:
    size = subject.sizes[1]
    layer, x = subject.build().eval(), subject.input(size)
    wrapped = _Wrapped(subject, layer, size)
    expected = wrapped(x)
    try:
        found = torch.compile(wrapped, fullgraph=True, backend=backend)(x.requires_grad_())
        found.square().sum().backward()
    except Exception as error:
        require(False, f"{_at(size)} {type(error).__name__}: {str(error).splitlines()[0]}", error)
    finally:
        torch._dynamo.reset()
    require(_close(found, expected), f"{_at(size)} the compiled layer gives another output")


class _Wrapped(nn.Module):
    """A layer at one size, from a tensor to a tensor."""

    def __init__(self, subject: _Subject, layer: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.layer = layer
        self.takes_size = not subject.image
        self.gives_grid = subject.image or subject.slot is AGGREGATION
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x, self.size) if self.takes_size else self.layer(x)
        return found[0] if self.gives_grid else found
