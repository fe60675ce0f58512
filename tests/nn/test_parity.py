"""Our model with the official names and deterministic weights gives the official model's numbers.

The rule that makes weights and images stands in data/README.md.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shunted_lab.config.groups import PRESETS
from shunted_lab.nn import Pyramid
from shunted_lab.nn.weights import load_weights, published_names

DATA = Path(__file__).parent / "data"
NAMES = json.loads((DATA / "official_state_dict.json").read_text())
CASES = json.loads((DATA / "official_outputs.json").read_text())


def build(name: str) -> Pyramid:
    options = PRESETS["model"][name].options() | {"drop_path_rate": 0.0}
    return Pyramid(**options)


def weights(model: Pyramid, salt: str) -> dict[str, Tensor]:
    """An official checkpoint of deterministic values."""
    made = {}
    names = published_names(model)
    for name, value in model.state_dict().items():
        official = names[name]
        if not value.is_floating_point():
            made[official] = torch.zeros_like(value)
            continue
        seed = zlib.crc32(f"{salt}:{official}".encode())
        z = np.random.RandomState(seed).standard_normal(value.shape).astype(np.float32)
        last = official.rpartition(".")[2]
        if last == "running_var":
            z = 0.5 + abs(z)
        elif last in ("running_mean", "bias"):
            z = 0.1 * z
        elif z.ndim == 1:
            z = 1 + 0.1 * z
        else:
            z = z / np.sqrt(z[0].size)
        made[official] = torch.from_numpy(np.asarray(z, dtype=np.float32))
    return made


@pytest.mark.parametrize("name", ["shunted_t", "shunted_s", "shunted_b"])
def test_names_and_shapes_are_the_official_ones(name):
    with torch.device("meta"):
        model = build(name)
    names = published_names(model)
    ours = {names[key]: list(value.shape) for key, value in model.state_dict().items()}
    assert ours == NAMES[name]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c['model']}-{c['batch']}x{c['height']}x{c['width']}-{c['salt']}"
)
def test_outputs_are_the_official_ones(case):
    model = build(case["model"]).eval()
    load_weights(model, {"model": weights(model, case["salt"])})
    shape = (case["batch"], 3, case["height"], case["width"])
    size = f"{case['batch']}x{case['height']}x{case['width']}"
    seed = zlib.crc32(f"{case['salt']}:image:{size}".encode())
    images = torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))
    with torch.no_grad():
        last, maps = model.forward_intermediates(images)
        logits = model.forward_head(last)
    torch.testing.assert_close(logits[:, :8], torch.tensor(case["logits_first8"]), rtol=1e-4, atol=1e-4)
    assert float(logits.norm()) == pytest.approx(case["logits_norm"], rel=1e-4)
    assert logits.argmax(1).tolist() == case["argmax"]
    for found, stage in zip(maps, case["stages"], strict=True):
        assert list(found.shape) == stage["shape"]
        assert float(found.norm()) == pytest.approx(stage["norm"], rel=1e-4)
        assert float(found.mean()) == pytest.approx(stage["mean"], rel=1e-4, abs=1e-6)
        H, W = found.shape[-2:]
        assert found[0, :4, 0, 0].tolist() == pytest.approx(stage["corner"], rel=1e-4, abs=1e-4)
        assert found[0, :4, H // 2, W // 2].tolist() == pytest.approx(stage["centre"], rel=1e-4, abs=1e-4)
    model.train()
    (model(images) ** 2).mean().backward()
    names = published_names(model)
    norms = {names[key]: float(p.grad.norm()) for key, p in model.named_parameters()}
    for key, value in case["train_grad_norm"].items():
        assert norms[key] == pytest.approx(value, rel=1e-4), key
