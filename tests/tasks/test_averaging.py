"""Averages of weights leave buffers of integers exact."""

import torch
from torch.optim.swa_utils import AveragedModel

from shunted_lab.nn.attention import SSA
from shunted_lab.tasks.averaging import Averages


def test_the_order_of_heads_is_not_averaged():
    attn = SSA(24, 12, [3, 2, 1] * 4)
    averaged = AveragedModel(attn, use_buffers=True, **Averages(decay=0.9)._kwargs)
    before = attn.q.weight.detach().clone()
    averaged.update_parameters(attn)  # the first update copies
    with torch.no_grad():
        attn.q.weight.add_(1.0)
    for _ in range(50):
        averaged.update_parameters(attn)
    expected = dict(attn.named_buffers())
    assert len(expected) == 2
    for name, found in averaged.module.named_buffers():
        assert torch.equal(found, expected[name]), name
    torch.testing.assert_close(averaged.module.q.weight, before + 1 - 0.9**50, rtol=0, atol=1e-5)
