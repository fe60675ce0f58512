"""Our models as timm's: what timm's own suite asks, and what it does not look at.

The suite: `pip download timm==VERSION --no-binary timm --no-deps`, unpack, and
`TIMM_TESTS=timm-VERSION/tests pytest -m timm_suite`.
"""

import importlib.util
import inspect
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters
from timm.optim import create_optimizer_v2
from torch import nn

import shunted_lab.nn
from shunted_lab.config.groups import PRESETS
from shunted_lab.nn import MLP, Pyramid
from shunted_lab.nn.weights import published_names

NAMES = ["shunted_t", "shunted_s", "shunted_b"]


@pytest.mark.parametrize("first", ["import shunted_lab.nn, timm", "import timm, shunted_lab.nn"])
def test_models_are_registered_whatever_is_imported_first(first):
    code = f"{first}; print(timm.list_models('shunted_*')); timm.create_model('shunted_s', device='meta')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(sorted(NAMES))


def test_nn_alone_does_not_import_timm():
    code = "import sys, shunted_lab.nn; print('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_zoo_and_the_presets_are_the_same_models(name):
    with torch.device("meta"):
        preset = Pyramid(**PRESETS["model"][name].options())
        registered = timm.create_model(name)
    assert [(k, v.shape) for k, v in preset.state_dict().items()] == [
        (k, v.shape) for k, v in registered.state_dict().items()
    ]
    assert str(preset.stages[2].blocks[-1].attn.rates) == str(registered.stages[2].blocks[-1].attn.rates)


def test_initial_values_follow_torch_s_seed():
    first, second, third = (_seeded(seed) for seed in (0, 0, 1))
    assert torch.equal(first.head.weight, second.head.weight) and not torch.equal(first.head.weight, third.head.weight)
    assert first.head.weight.std().item() == pytest.approx(0.02, rel=0.05) and not first.head.bias.any()


def _seeded(seed: int) -> Pyramid:
    torch.manual_seed(seed)
    return timm.create_model("shunted_t")


def test_features_keep_height_and_width_apart():
    """Many square tests miss a swap."""
    net = timm.create_model("shunted_t", features_only=True).eval()
    sizes = [tuple(x.shape[1:]) for x in net(torch.randn(1, 3, 64, 160))]
    assert sizes == [(64, 16, 40), (128, 8, 20), (256, 4, 10), (512, 2, 5)]
    model = timm.create_model("shunted_t", num_classes=0, global_pool="").eval()
    assert model(torch.randn(1, 3, 64, 160)).shape == (1, 512, 2, 5)
    x = torch.randn(1, 3, 64, 160)
    assert not torch.allclose(model(x).mT, model(x.mT), atol=1e-3)


def test_features_only_takes_chosen_stages():
    net = timm.create_model("shunted_t", features_only=True, out_indices=(1, 3))
    assert net.feature_info.channels() == [128, 512] and net.feature_info.reduction() == [8, 32]
    assert [x.shape[1] for x in net(torch.randn(1, 3, 32, 32))] == [128, 512]
    model = timm.create_model("shunted_t").eval()
    x = torch.randn(1, 3, 32, 64)
    last, maps = model.forward_intermediates(x, indices=[0, -1])
    assert [m.shape[1] for m in maps] == [64, 512] and torch.equal(last, maps[1])
    assert torch.equal(model.forward_intermediates(x, indices=1, intermediates_only=True)[0], last)
    with pytest.raises(ValueError, match=r"indices: \[4\] names a stage that the model does not have; it has 4"):
        model.forward_intermediates(x, indices=[4])


@pytest.mark.parametrize("coarse", [False, True])
def test_group_matcher_orders_every_parameter_from_input_to_output(coarse):
    model = timm.create_model("shunted_t", device="meta")
    layers = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    assert set(layers) == {name for name, _ in model.named_parameters()}
    order = ["stages.0.embed.conv.0.weight", "stages.0.norm.weight", "stages.1.embed.proj.weight"]
    order += ["stages.2.blocks.0.norm1.weight", "stages.2.blocks.3.mlp.fc2.weight", "stages.3.norm.bias", "head.bias"]
    found = [layers[name] for name in order]
    assert found == sorted(found) and found[0] == 0 and found[-1] == max(layers.values())
    if not coarse:
        assert found[3] < found[4]
        assert layers["stages.2.norm.weight"] == layers["stages.2.blocks.3.mlp.fc2.weight"]
        assert len(set(layers.values())) == 1 + 3 + sum([1, 2, 4, 1]) + 1  # stem, embeddings, blocks, head


def test_layer_decay_of_timm_works():
    model = timm.create_model("shunted_t")
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scales[id(model.head.weight)] == 1.0
    assert scales[id(model.stages[0].embed.proj.weight)] < 0.5**10


class WithTable(nn.Module):
    """A component with a parameter that takes no weight decay."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2, dim))

    def no_weight_decay(self) -> set[str]:
        return {"table"}

    def forward(self, x, grid):
        return x * self.table.mean()


def test_no_weight_decay_names_parameters_that_there_are():
    options = PRESETS["model"]["shunted_lite"].options() | {"mlp": ["mlp", f"{__name__}.WithTable", "mlp", "mlp"]}
    model = Pyramid(**options)
    assert model.no_weight_decay() == {"stages.1.blocks.0.mlp.table"}
    for net in (model, timm.create_model("shunted_t", device="meta")):
        assert net.no_weight_decay() <= {name for name, _ in net.named_parameters()}
    assert MLP.names() == ["conv_glu", "detail_specific", "mlp", "mlp_dwconv", "mlp_relu_dwconv"]


def test_device_and_dtype_reach_every_parameter():
    model = timm.create_model("shunted_t", dtype=torch.bfloat16, device="meta")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and torch.get_default_dtype() == torch.float32
    assert {t.device.type for t in model.state_dict().values()} == {"meta"}
    small = timm.create_model("shunted_t", dtype=torch.bfloat16).eval()
    assert small(torch.randn(1, 3, 64, 64, dtype=torch.bfloat16)).isfinite().all()


def test_gradient_checkpointing_gives_the_same_gradients_and_keeps_less():
    torch.manual_seed(0)
    model = timm.create_model("shunted_t")
    images, grads, kept = torch.randn(2, 3, 64, 64), [], []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t):
            loss = model(images).square().mean()
        kept.append(sum(sizes))
        loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
        for module in model.modules():  # the running statistics of the stem are updated twice
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    assert kept[1] < kept[0] / 2
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(*grads, strict=True))


def test_timm_reads_an_official_file(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("shunted_t")
    names = published_names(model)
    torch.save({"model": {names[k]: v for k, v in model.state_dict().items()}}, tmp_path / "official.pth")
    torch.manual_seed(1)
    overlay = dict(file=str(tmp_path / "official.pth"))
    other = timm.create_model("shunted_t", pretrained=True, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    smaller = timm.create_model("shunted_t", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, in_chans=1)
    assert smaller.head.weight.shape == (3, 512) and smaller.stages[0].embed.conv[0].weight.shape[1] == 1
    assert torch.equal(smaller.stages[3].norm.weight, model.stages[3].norm.weight)


def test_wrong_arguments_are_errors():
    with pytest.raises(TypeError, match="not_an_argument"):
        timm.create_model("shunted_t", not_an_argument=1)
    with pytest.raises(ValueError, match=r"global_pool: 'max' is not known; choices: 'avg', ''"):
        timm.create_model("shunted_t", device="meta").reset_classifier(7, "max")
    assert shunted_lab.nn.Pyramid is Pyramid


# --- timm's own tests ------------------------------------------------------------------------------------------------

PRETRAINED = {"test_model_load_pretrained", "test_model_features_pretrained", "test_model_inference"}  # need downloads
OTHERS: dict[str, dict[str, object]] = {  # written for a few models, and true of any
    "test_feature_getter_stage_ends_torchscript": {},
    "test_features_only_feature_cls_class": {},
    "test_features_only_grad_checkpointing_backward": {},
    "test_forward_after_prune_intermediate_layers": {},
    "test_forward_intermediates_stop_early_final_norm": {"model_kwargs": {}},
    "test_model_init_weights_after_to_empty": {"kwargs": {}},
    "test_prune_intermediate_layers_last_feature": {"stop_early_final": True},
    "test_prune_intermediate_layers_params_used": {},
    "test_prune_to_stem_feature": {},
}
LEAST = 21  # functions of the suite for timm 1.0.31


def _suite() -> dict[str, object]:
    """Functions of timm's tests/test_models.py that run over all models, and `OTHERS`."""
    folder = os.environ.get("TIMM_TESTS")
    if folder is None:
        return {}
    spec = importlib.util.spec_from_file_location("timm_test_models", Path(folder) / "test_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {}
    for name, function in vars(module).items():
        if not name.startswith("test_") or name in PRETRAINED:
            continue
        lists = [m.args[1] for m in getattr(function, "pytestmark", []) if m.name == "parametrize"]
        over_all = "model_name" in inspect.signature(function).parameters and any(len(names) > 100 for names in lists)
        if name in OTHERS or over_all:
            found[name] = function
    return found


SUITE = _suite()


@pytest.mark.timm_suite
@pytest.mark.skipif(not SUITE, reason="TIMM_TESTS does not name the tests/ folder of timm's source distribution")
@pytest.mark.parametrize("model_name", NAMES)
@pytest.mark.parametrize("function", sorted(SUITE) or ["the suite is absent"])
def test_timm_s_own(function, model_name):
    assert len(SUITE) >= LEAST
    arguments = {"model_name": model_name, "cfg_device": "meta", "batch_size": 2 if "backward" in function else 1}
    arguments |= OTHERS.get(function, {})
    wanted = inspect.signature(SUITE[function]).parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and timm tests it
        SUITE[function](**{key: value for key, value in arguments.items() if key in wanted})
