"""Costs: reference values, sums of parts, what is measured on this machine, and the command."""

import pytest
import timm
import torch
from torch import nn

from shunted_lab import cost
from shunted_lab.config.groups import PRESETS
from shunted_lab.nn import Pyramid, count_cost, count_parts, measure


def build(name: str, **changes) -> Pyramid:
    return Pyramid(**(PRESETS["model"][name].options() | changes))


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [("pvt_v2_b2", 4.027), ("swin_tiny_patch4_window7_224", 4.491), ("deit_small_patch16_224", 4.599)],
)
def test_timm_s_models_have_their_known_cost(name, gmacs):
    counted = count_cost(lambda: timm.create_model(name), 224)
    assert round(counted.macs / 1e9, 3) == gmacs


@pytest.mark.parametrize("name", [name for name in PRESETS["model"] if name.startswith("pvt_v2")])
def test_our_pvt_v2_costs_what_timm_s_does(name):
    assert count_cost(lambda: build(name), 224) == count_cost(lambda: timm.create_model(name), 224)


@pytest.mark.parametrize(
    ("name", "params", "linear", "attention", "total"),
    [
        ("shunted_t", 11_553_576, 1.997, 0.150, 2.147),
        ("shunted_s", 22_401_256, 4.646, 0.347, 4.993),
        ("shunted_b", 39_614_376, 7.604, 0.546, 8.150),
    ],
)
def test_parameters_and_gmacs_are_the_published_ones(name, params, linear, attention, total):
    found = count_cost(lambda: build(name), 224)
    assert found.params == params
    counted = (found.macs_linear, found.macs_attention, found.macs)
    assert tuple(round(macs / 1e9, 3) for macs in counted) == (linear, attention, total)


def test_the_parts_of_a_layer_by_hand():
    parts = count_parts(lambda: build("shunted_t"), 224)
    N, M8, M4, C, D = 56 * 56, 49, 196, 64, 512
    mlp = parts["stages.0.blocks.0.mlp"]
    assert mlp.macs == N * (C * D + 9 * D + D * C) and mlp.macs_attention == 0
    assert mlp.params == C * D + D + 9 * D + D + D * C + C
    attn = parts["stages.0.blocks.0.attn"]
    assert attn.macs_attention == 2 * N * (M8 + M4) * (C // 2)
    aggregation = M8 * 64 * C * C + M4 * 16 * C * C
    assert attn.macs_linear == 2 * N * C * C + aggregation + (M8 + M4) * (C * C + 9 * C // 2)


def test_the_parts_add_up():
    parts = count_parts(lambda: build("shunted_s"), (96, 160))
    top = [parts[name] for name in ("stages.0", "stages.1", "stages.2", "stages.3", "head")]
    for key in ("params", "macs", "macs_linear", "macs_attention"):
        assert sum(getattr(part, key) for part in top) == getattr(parts[""], key)
    assert parts[""].macs == parts[""].macs_linear + parts[""].macs_attention


class Holds(nn.Module):
    """Holds 8 MB at most: an input of 4 bytes, two maps of 4 MB."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1024, 1024))

    def forward(self, x):
        first = self.weight * x.mean()
        second = first + 1
        del first
        return second.sum().view(1, 1)


def test_measured_memory_is_what_is_held_at_once():
    model = Holds()
    speed = measure(model, 32, repeats=2, warmup=1)
    assert 8 * 2**20 <= speed.peak_memory < 8 * 2**20 + 2**17
    assert measure(model, 32, repeats=1, warmup=0, training=True).peak_memory >= speed.peak_memory
    assert model.training and model.weight.grad is None


def test_measured_time_is_a_median_and_throughput_its_inverse(monkeypatch):
    seconds = iter([5.0, 1.0, 3.0])
    monkeypatch.setattr("shunted_lab.nn.speed._seconds", lambda step, device: next(seconds))
    speed = measure(nn.Flatten(), 32, batch_size=6, repeats=3, warmup=0)
    assert speed.latency == 3.0 and speed.throughput == 2.0


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_the_table_per_stage(capsys):
    assert cost.main(["model=shunted_s", "size=800x1333"]) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "head", "total"]
    assert [row[1] for row in rows[:4]] == ["200 x 334", "100 x 167", "50 x 84", "25 x 42"]
    assert rows[-1][4] == "22.401"
    gmacs = [float(row[-1]) for row in rows]
    assert gmacs[-1] == pytest.approx(sum(gmacs[:-1]), abs=0.003)
    for row in rows[:4]:
        assert float(row[-1]) == pytest.approx(sum(map(float, row[5:9])), abs=0.003)


def test_the_command_measures(capsys):
    assert cost.main(["model=shunted_lite", "size=64", "measure=true", "repeats=2", "batch_size=2"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "forward, batch 2, float32:" in out and "images/s, peak memory above the weights" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=shunted_x"], "model: 'shunted_x' is not known; did you mean 'shunted_t'?"),
        (["size=3x"], "size: '3x' is not a size; write one number, or height x width, e.g. 224 or 800x1333"),
        (["size=800x16"], "size: 800x16 is too small for four stages: at least 32 x 32"),
        (
            ["model.attn=sra"],
            "model.rates: [8, 4] differ; sra has one rate for all heads of a stage; "
            "write model.rates: [[8], [4], [2], [1]]\n",
        ),
        (
            ["model.attn=msa"],
            "model.rates: [8, 4] would do nothing; msa does not use rates, so they must be all 1; "
            "write model.rates: [[1], [1], [1], [1]]\n",
        ),
        (
            ["model.attn=[ssa,sra,ssa,linear_sra]", "model.rates=[[8,4],[4,2],[2,1],[2]]"],
            "model.rates: [4, 4, 2, 2] differ; sra has one rate for all heads of a stage; "
            "write model.rates: [[8, 4], [4], [2, 1], [1]]\n",
        ),
        (
            ["model.mlp=no_such.Mlp"],
            "model.mlp: 'no_such.Mlp': module 'no_such' is neither in the working directory nor installed",
        ),
        (["training=true"], "training: True does nothing without measure=true"),
        (["device=gpu"], "device: 'gpu' is not known; did you mean 'cpu'? choices: auto, cpu, cuda, mps"),
        (["repeats=0"], "repeats: 0 is too small: at least 1"),
        (["batchsize=3"], "batchsize: no such key; did you mean batch_size?"),
        (["data=imagenet"], "data: no such key; choices: batch_size, device"),
        (["model.mlp={name:mlp,dim:5}"], "model.mlp: 'dim' is not an option of 'mlp'; the model's widths set it"),
        (
            ["model.patch_embed={name:conv_stem1,extra:x}"],
            "model.patch_embed: extra='x' is not a number of convolutions",
        ),
        (["size"], "'size' is not of the form key=value"),
    ],
)
def test_mistakes_are_one_line(capsys, words, message):
    assert cost.main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_help_names_every_key(capsys):
    assert cost.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(key in out for key in ("size:", "measure:", "model.attn: component", "pvt_v2_b2_li"))
