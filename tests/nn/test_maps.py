"""Attention maps against the whole matrices, closed forms, mass that is kept at any size, and messages."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from attention_reference import attention_weights
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from shunted_lab.nn import ATTENTION, PATCH_EMBED, ComponentError, Pyramid, init_weights
from shunted_lab.nn.maps import attention_of, concentration, rollout

SMALL = {"embed_dims": [8, 16, 24, 32], "depths": [1, 2, 1, 1], "num_heads": [2, 4, 4, 4], "mlp_ratios": [1] * 4}
SHUNTED = [[8, 4], [4, 2], [2, 1], [1]]
ONES = [[1]] * 4
KINDS = {
    name: {
        "attn": name,
        "rates": [[8], [4], [2], [1]] if name == "sra" else ONES if name in ("msa", "linear_sra") else SHUNTED,
    }
    for name in ATTENTION.names()
} | {
    "pooling": {"aggregation": "pooling", "rates": SHUNTED},
    "none": {"aggregation": "none", "rates": SHUNTED},
    "mixed": {"rates": [[2, 1], [2, 1, 2, 1], [1, 3, 2, 1], [1]]},
    "linear_sra3": {"attn": {"name": "linear_sra", "pool_size": 3}, "rates": ONES},
}
ODD = (70, 101)


def small(seed=0, **changes) -> Pyramid:
    """A model whose weights are large enough that attention is far from uniform."""
    model = Pyramid(**(SMALL | {"rates": SHUNTED, "mlp": "mlp", "num_classes": 3} | changes))
    init_weights(model, seed)
    for block in blocks(model):
        for layer in (block.attn.q, *(group.kv for group in block.attn.groups.values())):
            layer.weight.data.mul_(30)
    return model.eval()


def blocks(model) -> list[nn.Module]:
    return [block for stage in model.stages for block in stage.blocks]


def picture(size, seed=0) -> torch.Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def whole(model, image) -> list[tuple[dict, tuple[int, int]]]:
    """Block by block, the whole matrices and the grid."""
    calls: list = []
    hooks = [b.attn.register_forward_pre_hook(lambda attn, args: calls.append((attn, *args))) for b in blocks(model)]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return [(attention_weights(attn, x, grid), grid) for attn, x, grid in calls]


def box(size, top, bottom, left, right) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


# --- one token -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_rows_of_the_whole_matrix_and_keep_their_mass(kind):
    model, image, query = small(**KINDS[kind]), picture(ODD), (0.6, 0.97)
    maps = iter(attention_of(model, image, query, blocks="all"))
    numbers = [(i, j) for i, stage in enumerate(model.stages) for j in range(len(stage.blocks))]
    for (stage, block), (matrices, grid) in zip(numbers, whole(model, image), strict=True):
        row, column = int(0.6 * 70) // (4 << stage), int(0.97 * 101) // (4 << stage)
        for rate, expected in matrices.items():
            found = next(maps)
            assert (found.stage, found.block, found.rate, found.heads) == (stage, block, rate, expected.heads)
            assert (found.token, found.grid) == ((row, column), grid)
            rows = expected.weights[0, :, row * grid[1] + column]
            assert found.weights.shape[1:] == expected.grid
            torch.testing.assert_close(found.weights.flatten(1), rows)
            drawn = found.on_image(ODD)
            assert drawn.shape == ODD and drawn.min() >= 0 and float(drawn.sum()) == pytest.approx(1, abs=1e-5)
    assert next(maps, None) is None


def test_a_reduced_token_is_drawn_on_the_pixels_that_it_covers():
    """70 x 101 at stride 4 and rate 8: windows of 32 pixels, the last of 6 rows and of 5 columns."""
    first = attention_of(small(), picture(ODD), (0.0, 0.0))[0]
    assert (first.rate, first.grid, first.weights.shape) == (8, (18, 26), (1, 3, 4))
    rows, columns = torch.arange(70) // 32, torch.arange(101) // 32
    area = torch.tensor([32, 32, 6])[:, None] * torch.tensor([32, 32, 32, 5])
    torch.testing.assert_close(first.on_image(ODD), (first.weights[0] / area)[rows][:, columns])
    with pytest.raises(ComponentError, match=r"size: \(32, 101\) does not give the grid \(18, 26\) of stage 1"):
        first.on_image((32, 101))


def test_pooled_cells_that_overlap_share_their_mass_evenly():
    """A grid of 8 pooled to 3: cells 0-2, 2-5, 5-7."""
    found = attention_of(small(**KINDS["linear_sra3"]), picture((32, 32)), (0.5, 0.5))[0]
    cells = [slice(0, 12), slice(8, 24), slice(20, 32)]
    expected = torch.zeros(32, 32)
    for i, rows in enumerate(cells):
        for j, columns in enumerate(cells):
            expected[rows, columns] += found.weights.mean(0)[i, j] / expected[rows, columns].numel()
    torch.testing.assert_close(found.on_image((32, 32)), expected)


def test_the_last_block_of_each_stage_is_the_default():
    model, image = small(), picture((64, 64))
    every = [found for found in attention_of(model, image, (0.2, 0.2), "all") if (found.stage, found.block) != (1, 0)]
    for last, found in zip(attention_of(model, image, (0.2, 0.2)), every, strict=True):
        assert last[:6] == found[:6] and torch.equal(last.weights, found.weights)


# --- rollout ---------------------------------------------------------------------------------------------------------


def spread(reduced, grid, rate) -> torch.Tensor:
    """(M, N): a reduced token goes evenly to the tokens of its window."""
    side = 1 if reduced == grid else rate
    index = torch.arange(grid[0])[:, None] // side * reduced[1] + torch.arange(grid[1]) // side  # (H, W)
    covers = F.one_hot(index.flatten(), reduced[0] * reduced[1]).float().T
    return covers / covers.sum(1, keepdim=True)


def sees(size, *steps) -> torch.Tensor:
    """(tokens, positions) of a chain of convolutions (kernel, stride, padding), asked of torch's convolution."""
    chain = torch.eye(size[0] * size[1])
    for kernel, stride, padding in steps:
        each = torch.eye(size[0] * size[1]).view(-1, 1, *size)
        if kernel == stride:
            each = F.pad(each, (0, -size[1] % stride, 0, -size[0] % stride))
        made = F.conv2d(each, torch.ones(1, 1, kernel, kernel), stride=stride, padding=padding)
        size = made.shape[-2:]
        covers = made.flatten(1).T
        chain = covers / covers.sum(1, keepdim=True) @ chain
    return chain


EMBEDS = {  # the embedding of the image, that between stages, and their convolutions
    "stem": ("conv_stem1", "overlapping", [(7, 2, 3), (3, 1, 1), (2, 2, 0)], [(3, 2, 1)]),
    "patches": ("non_overlapping", "non_overlapping", [(4, 4, 0)], [(2, 2, 0)]),
    "overlap": ("overlapping", "overlapping", [(7, 4, 3)], [(3, 2, 1)]),
}


@pytest.mark.parametrize("embed", EMBEDS)
@pytest.mark.parametrize("query", [None, (0.7, 0.1)])
def test_rollout_is_the_product_of_the_whole_matrices(embed, query):
    patch_embed, downsample, stem, step = EMBEDS[embed]
    model = small(patch_embed=patch_embed, downsample=downsample, rates=KINDS["mixed"]["rates"])
    image, residual = picture((33, 47)), 0.3
    matrices, grids = zip(*whole(model, image), strict=True)
    v = torch.full((4,), 0.25)  # of a last grid of 2 x 2
    if query:
        v = torch.tensor([1.0, 0, 0, 0])
    sizes = [(33, 47), grids[0], grids[1], grids[3]]
    for stage, numbers in reversed(list(enumerate([[0], [1, 2], [3], [4]]))):
        for number in reversed(numbers):
            groups, grid = matrices[number], grids[number]
            heads = [(w, g.grid, rate) for rate, g in groups.items() for w in g.weights[0]]
            A = torch.stack([w @ spread(reduced, grid, rate) for w, reduced, rate in heads]).mean(0)
            v = residual * v + (1 - residual) * v @ A
        v = v @ sees(sizes[stage], *(step if stage else stem))
    found = rollout(model, image, query, residual, chunk=100)
    torch.testing.assert_close(found.flatten(), v, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_rollout_keeps_its_mass(kind):
    model = small(**KINDS[kind])
    for query in (None, (0.99, 0.5)):
        found = rollout(model, picture(ODD), query)
        assert found.shape == ODD and found.min() >= 0
        assert float(found.double().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("patch_embed", PATCH_EMBED.names())
def test_rollout_follows_every_embedding(patch_embed):
    found = rollout(small(patch_embed=patch_embed), picture(ODD))
    assert float(found.double().sum()) == pytest.approx(1, abs=1e-5)


def test_patches_without_attention_keep_their_place():
    """Only skip connections, and patches side by side: the token's own pixels, those that there are."""
    model = small(patch_embed="non_overlapping", downsample="non_overlapping")
    found = rollout(model, picture((64, 40)), query=(0.9, 0.9), residual=1)
    expected = torch.zeros(64, 40)
    expected[32:, 32:] = 1 / (32 * 8)
    torch.testing.assert_close(found, expected)


# --- closed forms and objects ----------------------------------------------------------------------------------------


def test_without_queries_attention_is_uniform():
    model, image = small(patch_embed="non_overlapping", downsample="non_overlapping"), picture((64, 96))
    for block in blocks(model):
        nn.init.zeros_(block.attn.q.weight)
        nn.init.zeros_(block.attn.q.bias)
    uniform = torch.full((64, 96), 1 / (64 * 96))
    for found in attention_of(model, image, (0.3, 0.3)):
        torch.testing.assert_close(found.on_image((64, 96)), uniform)
    torch.testing.assert_close(rollout(model, image), uniform)
    for queries in ("all", "object"):
        for _, _, _, ratio in concentration(model, image, box((64, 96), 3, 40, 5, 60), queries):
            assert ratio == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("attn", ["msa", "sra", "ssa"])
def test_models_that_have_learnt_nothing_have_no_object(attn):
    options = SMALL | {"embed_dims": [32, 64, 128, 256], "num_heads": [2, 4, 8, 16]} | KINDS[attn]
    for seed in range(3):
        model = Pyramid(**options, num_classes=0)
        init_weights(model, seed)
        found = concentration(model, picture((96, 128), seed), box((96, 128), 20, 70, 30, 100))
        assert [f.stage for f in found] == ([0, 0, 1, 1, 2, 2, 3] if attn == "ssa" else [0, 1, 2, 3])
        assert [f.ratio for f in found] == pytest.approx([1] * len(found), abs=0.02)


@pytest.mark.parametrize("attn", ["msa", "ssa", "linear_sra"])
def test_keys_that_point_at_the_object_concentrate_attention(attn):
    """A bright object; keys of the first stage measure what its tokens have and others not, queries are constant."""
    model, image, mask = small(**KINDS[attn]), picture((64, 64)) * 0.1, box((64, 64), 0, 32, 0, 32)
    image = image + 2.0 * mask
    layer = model.stages[0].blocks[0].attn
    calls: list = []
    with torch.no_grad(), layer.register_forward_pre_hook(lambda _, args: calls.append(args)):
        model(image)
    x, grid = calls[0]
    for sign, holds in ((1, lambda ratio: 1.5 < ratio <= 4), (-1, lambda ratio: 0 <= ratio < 0.5)):
        nn.init.zeros_(layer.q.weight)
        nn.init.ones_(layer.q.bias)
        for group in layer.groups.values():
            tokens, (H, W) = group.aggregation(x, grid) if group.aggregation else (x, grid)
            inside = F.adaptive_avg_pool2d(mask[None].float(), (H, W)).flatten() > 0.9
            towards = tokens[0, inside].mean(0) - tokens[0, ~inside].mean(0)
            group.kv.weight.data[: layer.head_dim * len(group.heads)] = sign * 10 * towards / towards.norm()
        for queries in ("all", "object"):
            first = [found for found in concentration(model, image, mask, queries) if found.stage == 0]
            assert len(first) == len(layer.groups) and all(holds(found.ratio) for found in first), first


@pytest.mark.parametrize("kind", ["mixed", "linear_sra3"])
def test_concentration_is_the_mean_of_the_drawn_maps(kind):
    size = H, W = 33, 38
    model, image, mask = small(**KINDS[kind]), picture(size), box(size, 0, 25, 10, 38)
    area = float(mask.float().mean())
    shares: dict = {"all": {}, "object": {}}
    for y, x in itertools.product(range(0, H, 4), range(0, W, 4)):
        for drawn in attention_of(model, image, (y / H + 1e-9, x / W + 1e-9)):
            side = 4 << drawn.stage
            if y % side == x % side == 0:
                row, column = ((t * side + min((t + 1) * side, n)) // 2 for t, n in zip(drawn.token, size, strict=True))
                share = float(drawn.on_image(size)[mask].sum()) / area
                for queries in ("all", "object") if mask[row, column] else ("all",):
                    shares[queries].setdefault(drawn[:3], []).append(share)
    for queries, expected in shares.items():
        found = {
            f[:3]: f.ratio for f in concentration(model, image, mask, queries, chunk=50) if not math.isnan(f.ratio)
        }
        assert found == pytest.approx({key: sum(every) / len(every) for key, every in expected.items()}, rel=1e-4)


def test_an_object_without_a_token_has_no_ratio():
    mask = box((64, 64), 0, 4, 0, 4)  # covers a token of the first stage only
    found = concentration(small(), picture((64, 64)), mask, "object")
    assert [math.isnan(f.ratio) for f in found] == [f.stage > 0 for f in found]


# --- what is refused, left as it was, and held -----------------------------------------------------------------------


def test_impossible_requests_are_refused():
    model, image = small(), picture((64, 64))
    for query in ((1.0, 0.5), (0.5, -0.1), (0.5, float("nan"))):
        for work in (attention_of, rollout):
            with pytest.raises(ComponentError, match=r"query: .* is not a point of the image: fractions \(y, x\)"):
                work(model, image, query)
    for work in (lambda x: attention_of(model, x, (0, 0)), lambda x: rollout(model, x)):
        with pytest.raises(ComponentError, match=r"an image of 16 x 64 is too small for this model: at least 32"):
            work(picture((16, 64)))
        with pytest.raises(ComponentError, match=r"image: \(2, 3, 64, 64\) is not a single image \(1, 3, H, W\)"):
            work(image.expand(2, 3, 64, 64))
    with pytest.raises(ComponentError, match=r"blocks: 'first' is not known; choices: 'last', 'all'"):
        attention_of(model, image, (0, 0), "first")
    with pytest.raises(ComponentError, match=r"residual: 1.5 is not a share between 0 and 1"):
        rollout(model, image, residual=1.5)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(64, 64), "mask: it is empty"),
        (torch.ones(64, 64, dtype=torch.bool), "mask: it is full"),
        (torch.ones(32, 64), r"mask: \(32, 64\) is not the size \(64, 64\) of the image"),
        (
            torch.full((64, 64), 255, dtype=torch.uint8),
            r"mask: 255.0 to 255.0 are not shares: bool, or values between 0 and 1",
        ),
    ],
)
def test_masks_that_mean_nothing_are_refused(mask, message):
    with pytest.raises(ComponentError, match=message):
        concentration(small(), picture((64, 64)), mask)


def test_unknown_queries_are_refused():
    with pytest.raises(ComponentError, match=r"queries: 'none' is not known; choices: 'all', 'object'"):
        concentration(small(), picture((64, 64)), box((64, 64), 0, 9, 0, 9), "none")


class Mean(nn.Module):
    """No attention weights."""

    def forward(self, x, grid):
        return x.mean(1, keepdim=True).expand_as(x)


class Thirds(nn.Module):
    """An aggregation that keeps the upper third of the rows."""

    def forward(self, x, grid):
        return x[:, : grid[0] // 3 * grid[1]], (grid[0] // 3, grid[1])


def test_components_without_maps_are_named():
    model, image = small(), picture((64, 64))
    model.stages[1].embed = nn.Sequential(nn.MaxPool2d(2), model.stages[1].embed)
    with pytest.raises(ComponentError, match=r"stage 2: Sequential is not a chain of convolutions"):
        rollout(model, picture((128, 128)))
    model = small()
    model.stages[2].blocks[0].attn.groups["r2"].aggregation = Thirds()
    with pytest.raises(
        ComponentError, match=r"stage 3, block 1: Thirds makes \(1, 4\) of \(4, 4\): no windows of rate 2"
    ):
        attention_of(model, image, (0, 0))
    model.stages[1].blocks[1].attn = Mean()
    with pytest.raises(ComponentError, match=r"stage 2, block 2: Mean is not a GroupedAttention"):
        attention_of(model, image, (0, 0))


def test_the_model_is_left_as_it_was():
    model, image, mask = small().train(), picture((64, 64)), box((64, 64), 0, 9, 0, 9)
    model.stages[0].embed.eval()  # a frozen norm
    before = {name: module.training for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    works = [
        lambda x: attention_of(model, x, (0, 0)),
        lambda x: rollout(model, x),
        lambda x: concentration(model, x, mask[:, : x.shape[-1]]),
    ]
    for work in works:
        work(image)
        with pytest.raises(ComponentError, match="too small"):
            work(picture((64, 16)))
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class Largest(TorchDispatchMode):
    """The largest tensor that an operator makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        storage = [t.untyped_storage().nbytes() // t.element_size() for t in (out,) if isinstance(t, torch.Tensor)]
        self.numel = max([self.numel, *storage])
        return out


@pytest.mark.slow
def test_no_matrix_of_all_queries_is_made():
    """Every token sees every token at 256 x 384: N * M is 38 million, and nothing is larger than a chunk."""
    model, image, chunk = small(rates=ONES), picture((256, 384)), 2**19
    with Largest() as largest:
        attention_of(model, image, (0.5, 0.5))
        rollout(model, image, chunk=chunk)
        concentration(model, image, box((256, 384), 0, 99, 0, 99), chunk=chunk)
    assert chunk / 2 < largest.numel <= chunk < (64 * 96) ** 2 / 50
