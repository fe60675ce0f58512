"""Names, dotted paths and options of components, one or one per stage, and what is said to a mistake."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from shunted_lab.nn import AGGREGATION, ATTENTION, MLP, PATCH_EMBED, ComponentError, Pyramid
from shunted_lab.nn.attention import MSA, SRA, SSA, ConvAggregation
from shunted_lab.nn.ffn import ConvGLU, DetailSpecific, Mlp
from shunted_lab.nn.registry import Registry, import_module

SMALL = dict(
    embed_dims=[8, 16, 24, 32],
    depths=[1, 1, 1, 1],
    num_heads=[2, 2, 2, 2],
    mlp_ratios=[2, 2, 2, 2],
    rates=[[4], [2], [2, 1], [1]],
    num_classes=3,
)


class Own(nn.Module):
    """What a user may write: no `rates`, one option."""

    def __init__(self, dim: int, window: int = 2):
        super().__init__()
        self.window = window
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, grid):
        return self.proj(x)


def not_a_module(dim: int) -> int:
    return dim


def test_a_component_gets_what_its_signature_names():
    registry = Registry("thing")

    @registry.register("linear")
    def linear(dim, scale=2):
        return torch.nn.Linear(dim, dim * scale)

    assert registry.build("linear", dim=3, rates=[1]).out_features == 6
    assert registry.build({"name": "linear", "scale": 4}, dim=3).out_features == 12
    with pytest.raises(ComponentError, match=r"thing: 'linear' needs dim; there is rates"):
        registry.build("linear", rates=[1])
    with pytest.raises(ComponentError, match=r"'linear' is registered twice"):
        registry.register("linear")(linear)


def test_a_name_of_this_package_is_taken_before_it_is_used():
    code = "from shunted_lab.nn import MLP; MLP.register('conv_glu')(object)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1 and "mlp: 'conv_glu' is registered twice" in found.stderr


def test_a_dotted_path_needs_no_registration():
    built = ATTENTION.build({"name": f"{__name__}.Own", "window": 7}, dim=8, num_heads=2, rates=[1])
    assert isinstance(built, Own) and built.window == 7


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("overlaping", r"patch_embed: 'overlaping' is not known; did you mean 'overlapping'\? choices: conv_stem0"),
        (
            "no_such_package.Block",
            r"'no_such_package\.Block': module 'no_such_package' is neither in the working directory nor installed",
        ),
        (f"{__name__}.Ow", r"no 'Ow' in .*test_registry; did you mean 'Own'\? choices: "),
        (f"{__name__}.SMALL", r"test_registry\.SMALL' is a dict, not a class or function"),
        (f"{__name__}.not_a_module", r"builds a int, not an nn\.Module"),
        (
            {"name": f"{__name__}.Own", "windw": 7},
            r"'windw' is not an option of '.*Own'; did you mean 'window'\? choices: dim, ",
        ),
        ({"window": 7}, r"patch_embed: \{'window': 7\} is neither a name nor a mapping with a name"),
        ({"name": "conv_stem1", "extra": 2, "stride": 2}, r"'stride' is not an option of 'conv_stem1'"),
    ],
)
def test_a_mistake_names_the_choices_and_the_nearest(spec, message):
    with pytest.raises(ComponentError, match=message):
        PATCH_EMBED.build(spec, in_chans=3, embed_dim=8, dim=8)


def test_an_error_inside_a_user_s_module_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_more.py").write_text("import a_module_that_is_not_installed\n")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
        import_module("needs_more", "imports")
    with pytest.raises(
        ComponentError, match=r"imports: module 'need_more' is neither in the working directory nor installed"
    ):
        import_module("need_more", "imports")


def test_every_stage_can_differ():
    model = Pyramid(
        **SMALL,
        attn=["sra", "ssa_no_local", {"name": "ssa", "aggregation": "pooling"}, "msa"],
        mlp=["mlp", "mlp_dwconv", "conv_glu", "detail_specific"],
        downsample=["overlapping", "non_overlapping", "overlapping"],
    )
    blocks = [stage.blocks[0] for stage in model.stages]
    assert [type(b.attn) for b in blocks] == [SRA, SSA, SSA, MSA]
    assert [type(b.mlp) for b in blocks][::2] == [Mlp, ConvGLU] and isinstance(blocks[3].mlp, DetailSpecific)
    assert [stage.embed.proj.kernel_size for stage in list(model.stages)[1:]] == [(3, 3), (2, 2), (3, 3)]
    kinds = [type(group.aggregation) for group in blocks[2].attn.groups.values()]
    assert len(set(kinds)) == 1 and kinds[0] is not ConvAggregation
    assert model(torch.randn(2, 3, 45, 70)).shape == (2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn": ["ssa", "ssa"]}, r"attn: .* has 2 entries; one name, or 4"),
        ({"downsample": ["overlapping"] * 4}, r"downsample: .* has 4 entries; one name, or 3"),
        ({"aggregation": ["conv"] * 3}, r"aggregation: .* has 3 entries; one name, or 4"),
        ({"attn": "sra"}, r"rates: \[2, 1\] differ; sra has one rate for all heads of a stage"),
        ({"attn": "msa"}, r"rates: \[4, 4\] would do nothing; msa does not use rates"),
        ({"attn": "linear_sra"}, r"rates: .* would do nothing; linear_sra does not use rates"),
        (
            {"attn": ["sra", "ssa", "ssa", "ssa"], "aggregation": "pooling"},
            r"'pooling' would do nothing in stage 1: 'sra'",
        ),
        ({"attn": {"name": "ssa", "local": "value"}}, r"local: 'value' is not known; choices: published, values"),
        ({"attn": {"name": "ssa", "locl": "values"}}, r"attn: 'locl' is not an option of 'ssa'; did you mean 'local'"),
        (
            {"attn": {"name": "linear_sra", "pool_size": 0}, "rates": [[1]] * 4},
            r"attn: pool_size=0 is not the size of a grid",
        ),
        (
            {"patch_embed": {"name": "conv_stem0", "extra": -1}},
            r"patch_embed: extra=-1 is not a number of convolutions",
        ),
        ({"mlp": "mpl"}, r"mlp: 'mpl' is not known; did you mean 'mlp'\?"),
        ({"global_pool": "max"}, r"global_pool: 'max' is not known"),
    ],
)
def test_pyramids_refuse_what_cannot_work(changes, message):
    with pytest.raises(ComponentError, match=message):
        Pyramid(**(SMALL | changes))


def test_the_names_that_readme_and_experiments_use_are_registered():
    assert {"conv", "pooling", "none"} == set(AGGREGATION.names())
    assert {"mlp", "mlp_dwconv", "mlp_relu_dwconv", "detail_specific", "conv_glu"} == set(MLP.names())
