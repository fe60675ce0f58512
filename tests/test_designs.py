"""`leave_one_out` and `factorial`: which variants they make, and what is refused."""

import pytest

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.variants import cells

FACTORIAL = """
baseline: plain
factorial: [stem, mixed, detail]
model.patch_embed: overlapping
model.rates: [[8], [4], [2], [1]]
model.mlp: mlp
variants:
  plain: {}
  stem: {model.patch_embed: conv_stem1}
  mixed: {model.rates: [[8, 4], [4, 2], [2, 1], [1]]}
  detail: {model.mlp: detail_specific}
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()

    def of(text, *words):
        (tmp_path / "experiments" / "mine.yaml").write_text(text)
        return compose(["experiment=mine", *words])

    return of


def test_all_combinations_of_the_factors_are_variants(mine):
    found = mine(FACTORIAL)
    names = ["plain", "stem", "mixed", "detail", "stem-mixed", "stem-detail", "mixed-detail", "stem-mixed-detail"]
    assert list(found.variants) == names
    assert cells(found.config)[frozenset({"stem", "detail"})] == "stem-detail"
    both = found.variants["stem-detail"].model
    assert (both.patch_embed, both.mlp, both.rates[0]) == ("conv_stem1", "detail_specific", [8])
    assert found.config.compared == dict.fromkeys(names[1:], "plain")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "factorial: [stem, mixed, detail]",
            "factorial: [stem, mixd]",
            r"factorial: 'mixd' is not known; did you mean 'mixed'",
        ),
        ("factorial: [stem, mixed, detail]", "factorial: [stem, plain]", r"factorial: 'plain' is the baseline"),
        ("factorial: [stem, mixed, detail]", "factorial: [stem, stem]", r"factorial: 'stem' is named twice"),
        ("factorial: [stem, mixed, detail]", "factorial: [stem]", r"factorial: \['stem'\] are 1 factors; 2 to 5"),
        ("  plain: {}", "  plain: {model.mlp: conv_glu}", r"factorial: the baseline 'plain' changes model\.mlp"),
        (
            "{model.mlp: detail_specific}",
            "{model.patch_embed: non_overlapping}",
            r"'stem' and 'detail' both change model",
        ),
        ("  plain: {}", "  plain: {}\n  stem-mixed: {}", r"factorial: 'stem-mixed' is the name of a combination"),
        ("factorial:", "across: {a: {recipe.epochs: 1}}\nfactorial:", r"factorial: is not supported with across"),
        ("factorial:", "seeds: {look: [3]}\nfactorial:", r"seeds\.until: is not supported with factorial"),
        (
            "factorial: [stem, mixed, detail]",
            "leave_one_out: {without: [stm]}",
            r"leave_one_out: 'stm' is not known; did you",
        ),
        ("factorial: [stem, mixed, detail]", "leave_one_out: {without: []}", r"leave_one_out\.without: \[\] is empty"),
        (
            "factorial: [stem, mixed, detail]",
            "leave_one_out: {without: [stem], none: x}",
            r"leave_one_out: 'x' is not",
        ),
    ],
)
def test_factors_that_are_not_in_the_variants_are_refused(mine, old, new, message):
    assert old in FACTORIAL
    with pytest.raises(ConfigError, match=message) as found:
        mine(FACTORIAL.replace(old, new, 1))
    assert "\n" not in str(found.value)


def test_only_what_is_said_to_be_a_design_is_one(mine):
    """Variants that change one key each are not factors by themselves, as learning rates are not."""
    text = FACTORIAL.replace("factorial: [stem, mixed, detail]\n", "")
    assert not mine(text).config.factorial and mine(text).config.leave_one_out is None
    kept = mine(FACTORIAL.replace("factorial: [stem, mixed, detail]", "leave_one_out: {without: [stem, mixed]}"))
    assert list(kept.variants) == ["plain", "stem", "mixed", "detail"] and kept.config.leave_one_out.none is None
