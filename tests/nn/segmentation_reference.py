"""Store what the heads of transformers return with the weights of ours: python tests/nn/segmentation_reference.py

`test_segmentation_heads.py` compares with the stored numbers, and with transformers itself where that is installed.
Both compute in float64: in float32 two CPUs differ by more than 1e-5.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shunted_lab.nn.segmentation.heads import build_head

FILE = Path(__file__).parent / "data" / "segmentation_outputs.json"
CHANNELS, CLASSES = [64, 128, 256, 512], 150
HEADS = ("upernet", "auxiliary", "segformer")


@torch.no_grad()
def filled(head: nn.Module) -> nn.Module:
    """The head in `eval()`, every parameter and buffer drawn by its name's number."""
    for number, value in enumerate(head.state_dict().values()):
        if value.dtype.is_floating_point:
            drawn = torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
            value.copy_(1 + 0.1 * drawn.abs() if value.ndim == 1 else 0.05 * drawn)
    return head.eval()


def maps() -> list[Tensor]:
    """Of an image of 96 x 128, float64."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(24, 32), (12, 16), (6, 8), (3, 4)]
    return [torch.randn(1, dim, *size, generator=generator).double() for dim, size in zip(CHANNELS, sizes, strict=True)]


def ours(name: str) -> nn.Module:
    """One of `HEADS` with the weights that are compared."""
    return filled(build_head("segformer" if name == "segformer" else "upernet", CHANNELS, CLASSES)).double()


@torch.no_grad()
def output(name: str) -> Tensor:
    """What our head returns."""
    head: Any = ours(name)
    return head.auxiliary(maps()[2]) if name == "auxiliary" else head(maps())


@torch.no_grad()
def expected(name: str) -> Tensor:
    """What the head of transformers returns with the same weights."""
    from transformers import SegformerConfig, UperNetConfig
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead
    from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

    head: Any = ours(name)
    if name == "segformer":
        config = SegformerConfig(hidden_sizes=CHANNELS, decoder_hidden_size=768, num_labels=CLASSES)
        theirs: Any = SegformerDecodeHead(config).eval()
        projections = getattr(theirs, "linear_projections", None) or theirs.linear_c
        for linear, projection in zip(head.linears, projections, strict=True):
            (projection if isinstance(projection, nn.Linear) else projection.proj).load_state_dict(linear.state_dict())
        theirs.linear_fuse.load_state_dict(head.fuse.conv.state_dict())
        theirs.batch_norm.load_state_dict(head.fuse.bn.state_dict())
        theirs.classifier.load_state_dict(head.classifier.state_dict())
        return theirs.double()(maps())
    config = UperNetConfig(hidden_size=512, pool_scales=[1, 2, 3, 6], num_labels=CLASSES, auxiliary_channels=256)
    if name == "auxiliary":
        theirs = UperNetFCNHead(config, in_channels=CHANNELS).eval()
        _fill(theirs.convs[0], head.auxiliary[0])
        theirs.classifier.load_state_dict(head.auxiliary[1].conv.state_dict())
        return theirs.double()(maps())
    theirs = UperNetHead(config, in_channels=CHANNELS).eval()
    for i, pool in enumerate(head.pools):
        _fill(theirs.psp_modules.blocks[i].layers[1], pool[1])
    for their, our in (
        *zip(theirs.lateral_convs, head.laterals, strict=True),
        *zip(theirs.fpn_convs, head.convs, strict=True),
        (theirs.bottleneck, head.bottleneck),
        (theirs.fpn_bottleneck, head.fuse),
    ):
        _fill(their, our)
    theirs.classifier.load_state_dict(head.classifier.conv.state_dict())
    return theirs.double()(maps())


def _fill(theirs: Any, own: Any) -> None:
    theirs.conv.load_state_dict(own.conv.state_dict())
    theirs.batch_norm.load_state_dict(own.bn.state_dict())


def summary(logits: Tensor) -> dict[str, Any]:
    """What is stored of logits: their shape, and every 997th of them."""
    return {"shape": list(logits.shape), "values": logits.flatten()[::997].tolist()}


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: summary(expected(name)) for name in HEADS}) + "\n")
    worst = {name: float((expected(name) - output(name)).abs().max()) for name in HEADS}
    print(f"{FILE}: largest differences of ours {worst}", file=sys.stderr)
