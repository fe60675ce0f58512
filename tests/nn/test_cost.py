"""Costs: reference values, sums of parts, what is measured on this machine, and the command."""

import pytest
import timm
import torch
from torch import nn
from toy_detector import CLASSES, SMALL, WIDTH, Detector, PriorHead, detect

from shunted_lab import cost
from shunted_lab.config.groups import PRESETS
from shunted_lab.nn import ComponentError, Pyramid, count_cost, count_parts, measure
from shunted_lab.nn.speed import _tensor_sums


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


# --- networks with a convention of their own -------------------------------------------------------------------------


def test_a_detector_is_counted_with_its_head_by_hand():
    parts = count_parts(Detector, (64, 96), call=detect)
    pixels = sum((64 // s) * (96 // s) for s in (4, 8, 16, 32))
    head = parts["head"]
    assert head.macs == pixels * 9 * WIDTH * (WIDTH + CLASSES) and head.macs_attention == 0
    assert head.params == 9 * WIDTH * (WIDTH + CLASSES) + WIDTH + CLASSES
    laterals = parts["laterals"]  # a list of layers, which is not called itself
    assert laterals.macs == pixels * 8 * WIDTH and laterals.params == 4 * (8 * WIDTH + WIDTH)
    alone = count_parts(lambda: Pyramid(**SMALL, num_classes=0), (64, 96))
    assert parts["backbone"] == alone[""]  # called by forward_intermediates
    assert parts["backbone.stages.1.blocks.0.attn"] == alone["stages.1.blocks.0.attn"]
    for key in ("params", "macs", "macs_linear", "macs_attention"):
        assert getattr(parts[""], key) == sum(getattr(parts[n], key) for n in ("backbone", "laterals", "head"))
    assert count_cost(Detector, (64, 96), call=detect) == parts[""]


def test_a_part_of_a_network_can_be_called():
    """As a detector needs it whose choice of boxes depends on values."""
    parts = count_parts(Detector, 64, call=lambda net, images: net.head(net.laterals[0](net.pyramid.stages[0](images))))
    assert parts["head.logits"].macs == 16 * 16 * 9 * WIDTH * CLASSES and parts["backbone.stages.1"].macs == 0
    assert parts[""].macs == sum(parts[name].macs for name in ("backbone", "laterals", "head"))


def test_a_user_s_component_inside_a_detector_is_held_against_its_contract():
    class OneImage(nn.Module):
        """Broadcasts over a batch of one."""

        def forward(self, x, grid):
            return x.mean(0, keepdim=True)

    def make(attn):
        detector = Detector()
        detector.pyramid.stages[1].blocks[0].attn = attn
        return detector

    with pytest.raises(ComponentError, match=r"OneImage returns \(1, 64, 8\); expected \(2, 64, 8\)"):
        count_cost(lambda: make(OneImage()), 64, call=detect)


@pytest.mark.parametrize("training", [False, True])
def test_a_detector_is_measured(training):
    seen = []

    def call(net, images):
        seen.append((tuple(images.shape), net.training))
        return detect(net, images)

    model = Detector(PriorHead)
    speed = measure(model, (32, 64), 2, repeats=1, warmup=1, training=training, call=call)
    assert speed.latency > 0 and set(seen) == {((2, 3, 32, 64), training)} and len(seen) == 3
    assert model.training and all(p.grad is None for p in model.parameters())


def test_the_backward_pass_starts_from_every_tensor_of_an_output():
    a, b = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    output = {"loss": a, "boxes": [{"scores": 2 * b, "labels": torch.arange(5)}], "names": "cat"}
    assert [each.item() for each in _tensor_sums(output)] == [3.0, 4.0]


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
        (["model.mlp={name: mlp, dim: 5}"], "model.mlp: 'dim' is not an option of 'mlp'; the model's widths set it"),
        (
            ["model.patch_embed={name: conv_stem1, extra: x}"],
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
