"""Components against references: closed forms, torch, their contract on odd grids, and messages."""

import pytest
import torch
import torch.nn.functional as F
from attention_reference import attention_weights
from torch.utils._python_dispatch import TorchDispatchMode

from shunted_lab.config.groups import PRESETS
from shunted_lab.nn import AGGREGATION, MLP, PATCH_EMBED, ComponentError, Pyramid, init_weights, linear
from shunted_lab.nn.attention import SSA, spread_rates
from shunted_lab.nn.convolution import DWConv, PatchConv, ResidualDWConv
from shunted_lab.nn.linear import Linear
from shunted_lab.nn.pyramid import DropPath

LITE = PRESETS["model"]["shunted_lite"].options()


def lite(**changes) -> Pyramid:
    model = Pyramid(**(LITE | {"num_classes": 9} | changes))
    init_weights(model, 0)
    return model


def ssa(rates, dim=24, **kwargs) -> SSA:
    torch.manual_seed(0)
    return SSA(dim, len(rates), rates, **kwargs).eval()


def silence(attn: SSA) -> SSA:
    """Without local enhancement."""
    for group in attn.groups.values():
        torch.nn.init.zeros_(group.local.weight)
        torch.nn.init.zeros_(group.local.bias)
    return attn


# --- attention -------------------------------------------------------------------------------------------------------


def test_all_rates_one_is_multi_head_attention():
    attn = silence(ssa([1, 1, 1]))
    reference = torch.nn.MultiheadAttention(24, 3, batch_first=True).eval()
    group = attn.groups["r1"]
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([attn.q.weight, group.kv.weight]))
        reference.in_proj_bias.copy_(torch.cat([attn.q.bias, group.kv.bias]))
        reference.out_proj.load_state_dict(attn.proj.state_dict())
    x = torch.randn(2, 35, 24)
    torch.testing.assert_close(attn(x, (5, 7)), reference(x, x, x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rates", [[2, 1], [4, 4, 2, 1], [1, 2, 1, 4], [3, 3, 3]])
@pytest.mark.parametrize("grid", [(8, 8), (7, 5), (1, 3)])
def test_forward_is_the_weights_times_the_values(rates, grid):
    attn = ssa(rates, dim=8 * len(rates))
    x = torch.randn(2, grid[0] * grid[1], 8 * len(rates))
    out = torch.empty(2, len(rates), x.shape[1], 8)
    for rate, found in attention_weights(attn, x, grid).items():
        group = attn.groups[f"r{rate}"]
        assert found.grid == (-(-grid[0] // rate), -(-grid[1] // rate))
        torch.testing.assert_close(found.weights.sum(-1), torch.ones(found.weights.shape[:-1]))
        _, v = group.kv(group.aggregation(x, grid)[0] if group.aggregation else x).chunk(2, dim=-1)
        image = v.transpose(1, 2).unflatten(2, found.grid)
        local = F.conv2d(image, group.local.weight, group.local.bias, padding=1, groups=v.shape[-1])
        v, local = (t.unflatten(-1, (-1, 8)).transpose(1, 2) for t in (v, local.flatten(2).transpose(1, 2)))
        plain = set(rates) == {1}
        out[:, group.heads] = (found.weights @ v + local) if plain else found.weights @ (v + local)
    torch.testing.assert_close(attn(x, grid), attn.proj(out.transpose(1, 2).flatten(2)), rtol=1e-4, atol=1e-5)


def test_heads_keep_their_place_when_rates_interleave():
    """[2, 1, 2, 1] with the rows of q and the columns of proj moved accordingly is [2, 2, 1, 1]."""
    mixed, sorted_ = ssa([2, 1, 2, 1], dim=32), ssa([2, 2, 1, 1], dim=32)
    order = torch.tensor([0, 2, 1, 3])
    channels = torch.arange(32).view(4, 8)[order].flatten()
    sorted_.groups.load_state_dict(mixed.groups.state_dict())
    with torch.no_grad():
        sorted_.q.weight.copy_(mixed.q.weight[channels])
        sorted_.q.bias.copy_(mixed.q.bias[channels])
        sorted_.proj.weight.copy_(mixed.proj.weight[:, channels])
        sorted_.proj.bias.copy_(mixed.proj.bias)
    x = torch.randn(2, 30, 32)
    torch.testing.assert_close(mixed(x, (5, 6)), sorted_(x, (5, 6)))


MIXED = [2, 1, 2, 1]


def test_the_order_of_mixed_heads_is_a_buffer_that_no_state_dict_has():
    mixed, plain = ssa(MIXED, dim=32), ssa([2, 2, 1, 1], dim=32)
    assert not list(plain.named_buffers()) and mixed.state_dict().keys() == plain.state_dict().keys()
    assert {name: b.tolist() for name, b in mixed.named_buffers()} == {
        "to_groups": [0, 2, 1, 3],
        "from_groups": [0, 2, 1, 3],
    }
    with torch.device("meta"):
        attn, x = ssa(MIXED, dim=32), torch.randn(2, 30, 32)
    assert attn(x, (5, 6)).device.type == "meta"  # no tensor of another device takes part


def test_the_order_of_mixed_heads_is_computed_again_after_to_empty():
    with torch.device("meta"):
        model = Pyramid(**LITE | {"rates": [[1], [1], [3, 2, 1, 3, 2, 1, 3, 1], [1]]}, num_classes=9)
    model = model.to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.zero_()
    model.init_weights(0)
    expected = lite(rates=[[1], [1], [3, 2, 1, 3, 2, 1, 3, 1], [1]]).eval()
    assert [name for name, _ in model.named_buffers()] == [name for name, _ in expected.named_buffers()]
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.eval()(x), expected(x))


def test_mixed_rates_are_exported_to_onnx():
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(ssa(MIXED, dim=32), (torch.randn(2, 30, 32), (5, 6)), dynamo=True, verbose=False)
    assert program is not None


def test_parameter_names_follow_the_rate_and_not_the_order():
    shapes = [{k: v.shape for k, v in ssa(rates, dim=32).state_dict().items()} for rates in ([4, 2], [2, 4])]
    assert shapes[0] == shapes[1]
    assert "groups.r4.aggregation.conv.weight" in shapes[0] and not any(
        "aggregation" in k for k in ssa([1, 1]).state_dict()
    )


def test_no_attention_matrix_is_kept_for_the_backward_pass():
    attn, x = ssa([1, 1]), torch.randn(1, 400, 24)
    kept: list[int] = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attn(x, (20, 20)).sum()
    assert max(kept) < 400 * 400


@pytest.mark.parametrize(
    ("rates", "heads", "spread"),
    [([8, 4], 4, [8, 8, 4, 4]), ([1], 3, [1, 1, 1]), ([4, 2, 1], 3, [4, 2, 1]), ([2, 8], 4, [2, 2, 8, 8])],
)
def test_a_short_list_of_rates_is_spread_in_equal_blocks(rates, heads, spread):
    assert spread_rates(rates, heads) == spread


def test_wrong_rates_are_refused():
    with pytest.raises(ComponentError, match=r"\[8, 4, 2\] has 3 rates for 4 heads"):
        spread_rates([8, 4, 2], 4)
    with pytest.raises(ComponentError, match=r"has 4 rates for 2 heads"):
        spread_rates([8, 4, 2, 1], 2)
    with pytest.raises(ComponentError, match=r"\[2, 0\] has a rate that is not a positive integer"):
        spread_rates([2, 0], 4)
    with pytest.raises(ComponentError, match=r"num_heads: 5 does not divide dim 24"):
        SSA(24, 5, [1])


# --- embeddings and feed-forward layers ------------------------------------------------------------------------------


def test_non_overlapping_patches_are_a_linear_layer_of_patches():
    layer = PATCH_EMBED.build("non_overlapping", in_chans=3, embed_dim=8)
    x = torch.randn(2, 3, 8, 12)
    patches = F.unfold(x, 4, stride=4).transpose(1, 2)
    torch.testing.assert_close(
        layer(x)[0], layer.norm(F.linear(patches, layer.proj.weight.flatten(1), layer.proj.bias))
    )


def test_stems_have_the_extra_convolutions_of_their_name():
    for extra in range(4):
        stem = PATCH_EMBED.build(f"conv_stem{extra}", in_chans=3, embed_dim=8)
        assert [m.kernel_size for m in stem.conv if isinstance(m, torch.nn.Conv2d)] == [(7, 7)] + [(3, 3)] * extra


def test_detail_specific_without_its_convolution_is_a_plain_mlp():
    detail, plain = (MLP.build(name, dim=8, hidden_dim=16) for name in ("detail_specific", "mlp"))
    plain.load_state_dict({k: v for k, v in detail.state_dict().items() if "dwconv" not in k})
    x = torch.randn(2, 12, 8)
    assert not torch.allclose(detail(x, (3, 4)), plain(x, (3, 4)))
    torch.nn.init.zeros_(detail.dwconv.weight)
    torch.nn.init.zeros_(detail.dwconv.bias)
    torch.testing.assert_close(detail(x, (3, 4)), plain(x, (3, 4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_residual_convolution_is_the_sum_as_written(dtype):
    """Exactly, but in float32, where the identity is added to the kernel."""
    conv = ResidualDWConv(6).to(dtype)
    x = torch.randn(2, 6, 5, 7, dtype=dtype, requires_grad=True)
    plain = x + F.conv2d(x, conv.weight, conv.bias, padding=1, groups=6)
    tolerance = {} if dtype == torch.float32 else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(conv(x), plain, **tolerance)
    expected = torch.autograd.grad(plain.square().sum(), [x, conv.weight, conv.bias])
    found = torch.autograd.grad(conv(x).square().sum(), [x, conv.weight, conv.bias])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [(5, 7), (3, 3), (2, 2), (1, 1), (1, 5), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("residual", [True, False])
def test_a_depthwise_convolution_of_any_grid_is_as_written(residual, dtype, grid):
    conv = (ResidualDWConv if residual else DWConv)(6).to(dtype)
    x = torch.randn(2, 6, *grid, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    plain = F.conv2d(x, conv.weight, conv.bias, padding=1, groups=6) + (x if residual else 0)
    same_with_gradients(conv, x, plain)


@pytest.mark.parametrize(("rate", "grid"), [(2, (4, 6)), (4, (4, 4)), (8, (16, 8)), (1, (3, 5))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_convolution_of_patches_is_as_written(layout, dtype, rate, grid):
    conv = PatchConv(6, 8, rate).to(dtype)
    x = torch.randn(2, 6, *grid, dtype=dtype).to(memory_format=layout).requires_grad_()
    same_with_gradients(conv, x, F.conv2d(x, conv.weight, conv.bias, stride=rate))


def same_with_gradients(conv, x, plain):
    """conv(x) is `plain`, in training and in inference, and so are the gradients of both."""
    tolerances = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2}}
    tolerance = tolerances.get(x.dtype, {"rtol": 1e-5, "atol": 1e-5})
    torch.testing.assert_close(conv(x), plain, **tolerance)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), plain, **tolerance)
    along = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, [x, conv.weight, conv.bias], along)
    found = torch.autograd.grad(conv(x), [x, conv.weight, conv.bias], along)
    tolerance |= {"atol": 10 * tolerance["atol"]}  # sums over the batch and the map
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_compiled_linear_layer_is_a_convolution_with_the_same_numbers(bias, batch, monkeypatch):
    layer, x = Linear(24, 40, bias=bias), torch.randn(batch, 35, 24)
    with torch.no_grad(), torch.profiler.profile() as profile:
        plain = layer(x)
        monkeypatch.setattr(linear, "_compiles_inference", lambda: True)
        torch.testing.assert_close(layer(x), plain, rtol=1e-5, atol=1e-5)
        assert layer(x).is_contiguous() and layer(x.double().float()).shape == (batch, 35, 40)
    assert "aten::conv2d" in {event.key for event in profile.key_averages()}


def test_a_compiled_model_gives_the_same_numbers():
    model, x = lite().eval(), torch.randn(2, 3, 40, 72)
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)  # with gradients, as matrix products
    torch._dynamo.reset()


def test_the_local_enhancement_stands_where_its_name_says():
    rates, grid = [2, 2, 1], (5, 6)
    x = torch.randn(2, 30, 24)
    layers = {}
    for where in ("none", "values", "output"):
        layers[where] = ssa(rates, local=where)
        layers[where].load_state_dict(ssa(rates, local="output").state_dict(), strict=False)
    outs = {where: layer(x, grid) for where, layer in layers.items()}
    assert not torch.allclose(outs["values"], outs["none"]) and not torch.allclose(outs["output"], outs["none"])
    for where in ("values", "output"):  # without the convolution all are one
        torch.testing.assert_close(silence(layers[where])(x, grid), outs["none"])
    layer = ssa(rates, local="output")
    found, added = layer(x, grid), []
    for group in layer.groups.values():  # each token gets what the window that covers it has
        _, v, (H, W) = group.keys_values(x, grid)
        local = group.local(v.transpose(1, 2).unflatten(2, (H, W)))
        rows, columns = torch.arange(5) // group.rate, torch.arange(6) // group.rate
        added.append(local[:, :, rows][:, :, :, columns].flatten(2).transpose(1, 2))
    plain = ssa(rates, local="none")
    plain.load_state_dict(layer.state_dict(), strict=False)
    difference = F.linear(torch.cat(added, -1), layer.proj.weight)
    torch.testing.assert_close(found, plain(x, grid) + difference, rtol=1e-4, atol=1e-5)


def test_pooling_is_the_mean_of_the_tokens_that_there_are():
    layer = AGGREGATION.build("pooling", dim=4, rate=3)
    x = torch.randn(1, 4 * 5, 4)
    tokens, grid = layer(x, (4, 5))
    image = x.unflatten(1, (4, 5))
    means = torch.stack([image[0, r : r + 3, c : c + 3].mean((0, 1)) for r in (0, 3) for c in (0, 3)])
    assert grid == (2, 2)
    torch.testing.assert_close(tokens[0], F.gelu(layer.norm(layer.proj(means))))


def test_no_aggregation_gives_every_head_every_token():
    attn, x, grid = ssa([4, 2, 1], aggregation="none"), torch.randn(1, 30, 24), (5, 6)
    assert [group.keys_values(x, grid)[2] for group in attn.groups.values()] == [grid] * 3
    assert [found.weights.shape[-1] for found in attention_weights(attn, x, grid).values()] == [30, 30, 30]


def test_the_gated_layer_costs_about_what_the_others_do():
    sizes = {name: sum(p.numel() for p in MLP.build(name, dim=64, hidden_dim=512).parameters()) for name in MLP.names()}
    assert sizes["conv_glu"] == pytest.approx(sizes["detail_specific"], rel=0.03)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    y = drop(torch.ones(20_000, 2, 3))
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (y.flatten(1).std(1) == 0).all() and float(y.mean()) == pytest.approx(1, abs=0.02)
    x = torch.randn(4, 2, 3)
    assert torch.equal(drop.eval()(x), x) and (DropPath(1.0)(x) == 0).all()


# --- pyramid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (75, 100), (225, 33)])
@pytest.mark.parametrize("patch_embed", PATCH_EMBED.names())
def test_four_maps_at_strides_4_to_32_for_any_size(size, patch_embed):
    model = lite(patch_embed=patch_embed).eval()
    H, W = (-(-s // 4) for s in size)
    last, maps = model.forward_intermediates(torch.randn(1, 3, *size))
    for found, dim in zip(maps, LITE["embed_dims"], strict=True):
        assert found.shape == (1, dim, H, W)
        H, W = -(-H // 2), -(-W // 2)
    assert model.forward_head(last).shape == (1, 9)


@pytest.mark.parametrize("size", [(225, 225), (800, 1333)])
def test_every_pixel_and_token_takes_part_where_no_rate_divides(size):
    """Shunted's rates on grids that they do not divide: the last row and column reach the output, and all tokens."""
    options = LITE | {"embed_dims": [4, 8, 12, 16], "num_heads": [2, 2, 2, 2], "mlp_ratios": [1] * 4, "mlp": "mlp"}
    model = Pyramid(**options, num_classes=2)
    init_weights(model, 0)
    for stage, side in zip(model.stages, (4, 8, 16, 32), strict=True):
        grid = (-(-size[0] // side), -(-size[1] // side))
        attn = stage.blocks[0].attn
        for group in attn.groups.values():
            x = torch.randn(1, grid[0] * grid[1], attn.proj.out_features, requires_grad=True)
            k, v, reduced = group.keys_values(x, grid)
            assert reduced == (-(-grid[0] // group.rate), -(-grid[1] // group.rate))
            (k.square().sum() + v.square().sum()).backward()
            assert (x.grad.abs().sum(-1) > 0).all()
    images = torch.randn(1, 3, *size, requires_grad=True)
    model.eval()(images).square().sum().backward()
    reached = images.grad.abs().sum(1)[0] > 0
    assert reached[-1].any() and reached[:, -1].any() and float(reached.float().mean()) > 0.9


def test_padding_changes_nothing_where_every_rate_divides():
    """A padded map of zeros gives other tokens at the border only: the whole windows are those of a smaller map."""
    group = ssa([4, 4]).groups["r4"]
    x = torch.randn(1, 9, 12, 24)
    whole, _ = group.aggregation(x[:, :8].reshape(1, 96, 24), (8, 12))
    padded, grid = group.aggregation(x.reshape(1, 108, 24), (9, 12))
    assert grid == (3, 3)
    torch.testing.assert_close(padded[:, :6], whole)


class Copies(TorchDispatchMode):
    """Counts elements that operators copy from one layout into another."""

    def __init__(self):
        super().__init__()
        self.copied = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.clone, torch.ops.aten.copy_, torch.ops.aten.contiguous):
            self.copied += args[0].numel()
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch", [1, 2])
def test_features_stay_channels_last_so_no_layer_copies(batch):
    model = lite().eval()
    images = torch.randn(batch, 3, 64, 64)
    with torch.inference_mode(), Copies() as count:
        _, maps = model.forward_intermediates(images)
    kernels = sum(m.weight.numel() for m in model.modules() if isinstance(m, ResidualDWConv))
    assert count.copied == images.numel() + kernels  # the images, once, and the kernels that take up the identity
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in maps)


@pytest.mark.parametrize("batch", [1, 2])
def test_attention_is_fused(batch):
    """At a batch of one a wrong stride once sent it to the kernel that holds the whole matrix."""
    model = lite().eval()
    with torch.inference_mode(), torch.profiler.profile() as profile:
        model(torch.randn(batch, 3, 64, 64))
    ran = {event.key: event.count for event in profile.key_averages()}
    groups = sum(len(m.groups) for m in model.modules() if isinstance(m, SSA))
    assert ran["aten::_scaled_dot_product_flash_attention_for_cpu"] == groups
    assert "aten::_scaled_dot_product_attention_math" not in ran


def test_a_batch_is_its_images():
    model, x = lite().eval(), torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


def test_no_head():
    assert lite(num_classes=0)(torch.randn(2, 3, 32, 32)).shape == (2, 192)


def test_impossible_pyramids_are_refused():
    with pytest.raises(ComponentError, match=r"an image of 16 x 64 is too small for this model: at least 32 pixels"):
        lite()(torch.randn(1, 3, 16, 64))
    with pytest.raises(ComponentError, match=r"num_heads\[1\]=5 does not divide embed_dims\[1\]=48"):
        lite(num_heads=[2, 5, 8, 16])
    with pytest.raises(ComponentError, match=r"rates: .* has 2 entries for 4 stages"):
        lite(rates=[[8, 4], [1]])


def test_drop_path_rises_linearly():
    rates = [block.drop_path.rate for stage in lite(drop_path_rate=0.4).stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_initial_values_depend_on_the_seed_and_the_name_only():
    state = torch.get_rng_state()
    first, second = lite(), lite(patch_embed="overlapping", depths=[2, 1, 1, 1], mlp="mlp")
    assert not torch.equal(torch.get_rng_state(), state)  # constructors draw; init_weights does not:
    state = torch.get_rng_state()
    init_weights(first, 0)
    assert torch.equal(torch.get_rng_state(), state)
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    shared = [name for name in ours.keys() & theirs.keys() if ours[name].shape == theirs[name].shape]
    assert len(shared) > 80 and all(torch.equal(ours[name], theirs[name]) for name in shared)
    init_weights(second, 1)
    assert not torch.equal(ours["head.weight"], theirs["head.weight"])


def test_initial_values_follow_the_official_rules():
    for name, p in lite(embed_dims=[64, 128, 256, 512]).state_dict().items():
        if "running" in name or "num_batches" in name:
            continue
        if name.endswith("bias"):
            assert (p == 0).all(), name
        elif p.ndim == 1:
            assert (p == 1).all(), name
        elif p.ndim == 2:
            assert float(p.std()) == pytest.approx(0.02, rel=0.1) and p.abs().max() < 0.12, name
        elif p.numel() > 10_000:
            fan_out = p[0, 0].numel() * p.shape[0] // (p.shape[0] if p.shape[1] == 1 else 1)
            assert float(p.std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name


def test_initial_values_are_those_of_float32_on_the_cpu_in_any_type():
    """Drawn where the model is, they would need a generator of its device, and differ between types."""
    low = Pyramid(**LITE, num_classes=9, dtype=torch.bfloat16)
    init_weights(low, 0)
    for (name, a), b in zip(lite().named_parameters(), low.parameters(), strict=True):
        assert torch.equal(a.bfloat16(), b), name


def test_a_users_own_layer_is_reset_under_its_name():
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.empty(3))
            self.reset_parameters()

        def reset_parameters(self):
            torch.nn.init.normal_(self.scale)

    first, second = torch.nn.Sequential(Own()), torch.nn.Sequential(Own(), torch.nn.Linear(2, 2))
    for model in (first, second):
        init_weights(model, 5)
    assert torch.equal(first[0].scale, second[0].scale)
