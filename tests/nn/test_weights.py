"""Published weights in our models: PVT v2 against timm, MSA against timm, and what is not a checkpoint is refused."""

import pickle
import re
import warnings
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import Attention
from timm.models._helpers import load_state_dict

from shunted_lab.config.groups import PRESETS
from shunted_lab.nn import ATTENTION, Pyramid, init_weights
from shunted_lab.nn.weights import ENTRIES, CheckpointError, load_weights, published_names, read_checkpoint

PVT = [name for name in PRESETS["model"] if name.startswith("pvt_v2")]


def build(name: str, **changes) -> Pyramid:
    return Pyramid(**(PRESETS["model"][name].options() | {"drop_path_rate": 0.0} | changes))


@torch.no_grad()
def shake(model: torch.nn.Module) -> None:
    """Every parameter away from its initial value: biases are not 0, norms are not 1."""
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.add_(torch.randn(p.shape, generator=generator) * 0.05)


def tiny(**changes) -> Pyramid:
    """Shunted, small enough to be written to disk often."""
    small = {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2], "mlp_ratios": [2] * 4}
    model = build("shunted_s", **(small | {"num_classes": 5} | changes))
    init_weights(model, 0)
    return model


def official(model: Pyramid) -> dict[str, torch.Tensor]:
    names = published_names(model)
    return {names[key]: value for key, value in model.state_dict().items()}


# --- PVT v2 and MSA against timm -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PVT)
def test_pvt_v2_gives_the_numbers_of_timm(name):
    theirs, ours = timm.create_model(name).eval(), build(name).eval()
    shake(theirs)
    load_weights(ours, theirs.state_dict())
    torch.manual_seed(0)
    for size in ((224, 224), (64, 96)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected, maps = theirs.forward_intermediates(images)
            found, ours_maps = ours.forward_intermediates(images)
            logits, expected_logits = ours.forward_head(found), theirs.forward_head(expected)
        for a, b in zip([*ours_maps, logits], [*maps, expected_logits], strict=True):
            assert float((a - b).norm() / b.norm()) < 1e-5


@pytest.mark.parametrize("name", ["pvt_v2_b0", "pvt_v2_b2_li"])
def test_pvt_v2_gives_the_gradients_of_timm(name):
    theirs, ours = timm.create_model(name), build(name)
    shake(theirs)
    load_weights(ours, theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for model in (theirs, ours):
        model(images).square().mean().backward()
    expected = dict(theirs.named_parameters())
    names = published_names(ours, theirs.state_dict())
    for key, p in ours.named_parameters():
        assert float(p.grad.norm()) == pytest.approx(float(expected[names[key]].grad.norm()), rel=1e-3), key


def test_pvt_v2_loads_under_its_published_names_too():
    ours, other = build("pvt_v2_b0", num_classes=7), build("pvt_v2_b0", num_classes=7)
    names = official(ours)
    assert {"patch_embed2.proj.weight", "block1.0.attn.sr.weight", "block1.0.mlp.dwconv.dwconv.bias"} <= set(names)
    load_weights(other, {"model": names})
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_msa_is_timm_s_attention(qkv_bias):
    theirs = Attention(48, num_heads=4, qkv_bias=qkv_bias).eval()
    ours = ATTENTION.build("msa", dim=48, num_heads=4, qkv_bias=qkv_bias).eval()
    state = theirs.state_dict()
    renamed = {f"proj.{part}": state[f"proj.{part}"] for part in ("weight", "bias")}
    for part in ("weight", "bias") if qkv_bias else ("weight",):
        renamed[f"q.{part}"], renamed[f"groups.r1.kv.{part}"] = state[f"qkv.{part}"].split([48, 96])
    ours.load_state_dict(renamed)
    x = torch.randn(2, 35, 48)
    torch.testing.assert_close(ours(x, (5, 7)), theirs(x), rtol=1e-5, atol=1e-5)


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_checkpoint_file_loads_bare_or_wrapped(tmp_path, wrapped):
    ours, other = tiny(), tiny()
    shake(ours)
    state = official(ours)
    torch.save({"model": state, "epoch": 3} if wrapped else state, tmp_path / "ckpt.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(other, tmp_path / "ckpt.pth")
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), other.state_dict().values(), strict=True))


def files_of_timm() -> dict[str, dict]:
    """What timm's and DeiT's scripts write, and variations; each entry has weights of its own."""
    state = {entry: {"a.weight": torch.full((1,), float(i))} for i, entry in enumerate(ENTRIES)}
    ema = state["state_dict_ema"]
    options = {
        "arch": "shunted_s",
        "args": Namespace(lr=0.1, sched="cosine"),
        "epoch": 3,
        "metric": 0.5,
        "optimizer": {},
    }
    return {
        "timm": {**options, "state_dict": state["state_dict"], "state_dict_ema": ema},
        "DeiT": {**options, "model": state["model"], "model_ema": state["model_ema"]},
        "both averages": {**state},
        "no averages": {**options, "state_dict": state["state_dict"], "model": state["model"], "model_ema": None},
        "official": {"model": state["model"]},
        "bare": ema,
        "parallel, compiled": {"state_dict": {f"module._orig_mod.{name}": v for name, v in ema.items()}},
        "compiled, parallel": {"state_dict_ema": {f"_orig_mod.module.{name}": v for name, v in ema.items()}},
        "some in parallel": {"state_dict": {"module.a.weight": ema["a.weight"], "b": torch.ones(1)}},
    }


@pytest.mark.parametrize("name", files_of_timm())
def test_the_weights_of_a_file_are_those_that_timm_takes(tmp_path, name, caplog):
    torch.save(files_of_timm()[name], tmp_path / "file.pth")
    with caplog.at_level("INFO", logger="timm.models._helpers"):
        expected = load_state_dict(str(tmp_path / "file.pth"))
    found = read_checkpoint(tmp_path / "file.pth")
    assert found.state_dict == expected
    assert f"Loaded {found.entry or ''} from" in caplog.text


def test_the_names_of_classes_are_taken_if_there_is_one_for_each_row(tmp_path):
    state = {"net.head.weight": torch.ones(2, 3)}
    for names, expected in ((["a", "b"], ("a", "b")), (["a"], None), ("ab", None), ([1, 2], None)):
        torch.save({"state_dict": state, "class_names": names}, tmp_path / "file.pth")
        assert read_checkpoint(tmp_path / "file.pth").class_names == expected


@pytest.mark.parametrize(("classes", "said"), [(9, "the model has 9"), (0, "the model has none")])
def test_a_head_of_another_size_is_dropped_with_a_warning(classes, said):
    ours = tiny()
    other = tiny(num_classes=classes)
    head = [value.clone() for value in other.head.parameters()]
    with pytest.warns(UserWarning, match=rf"its head, for 5 classes, is dropped; {said}"):
        load_weights(other, official(ours))
    assert torch.equal(other.stages[0].norm.weight, ours.stages[0].norm.weight)
    assert all(torch.equal(a, b) for a, b in zip(head, other.head.parameters(), strict=True))


def test_misfits_are_refused_and_the_first_differences_named():
    model = tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = official(tiny())
    for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
        del state[name]
    state["block9.extra"] = torch.ones(3)
    state["block1.0.norm1.weight"] = torch.ones(4)
    message = (
        r"the state dict does not fit the model: missing: norm1\.weight, norm1\.bias, norm2\.weight and 1 more; "
        r"not in the model: block9\.extra; shapes: block1\.0\.norm1\.weight is 4 and not 8"
    )
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"shapes: patch_embed1\.conv\.0\.weight is 8x3x7x7 and not 16x3x7x7"):
        load_weights(tiny(embed_dims=[16, 16, 24, 32]), official(tiny()))


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_pickled_code_is_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("executed").exists()  # it would go off
    Path("executed").unlink()
    torch.save({"model": {"head.weight": torch.ones(1)}, "args": Bomb()}, "bomb.pth")
    Path("plain.pkl").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pth", "plain.pkl"):
        message = rf"^{name}: .*more than tensors.*; nothing in it was executed; if you trust"
        with pytest.raises(CheckpointError, match=message) as caught:
            read_checkpoint(name)
        assert "\n" not in str(caught.value)
    assert not Path("executed").exists()


def test_files_that_are_no_checkpoint_are_refused_in_one_line(tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save(official(tiny()), whole)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[:2000])
    empty, text, other = tmp_path / "empty.pth", tmp_path / "text.pth", tmp_path / "other.pth"
    empty.touch()
    text.write_text("not a checkpoint\n" * 50)
    torch.save([1, 2, 3], other)
    expected = {
        cut: "is truncated, or not a checkpoint",
        empty: "is truncated, or not a checkpoint",
        text: "not a checkpoint",
        other: "holds no state dict; expected names to tensors",
        tmp_path / "none.pth": "does not exist",
    }
    for path, message in expected.items():
        with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: .*{message}") as caught:
            load_weights(tiny(), path)
        assert "\n" not in str(caught.value)
