"""An A/A study: what is measured from values whose noise is known."""

import numpy as np
import pytest

from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.quantities import PERCENT
from shunted_lab.report.calibration import calibrate
from shunted_lab.tasks.evidence import StoredEvidence

TWINS = ["own_init", "own_order", "own_augmentation"]


def measured(shared: float, seeds: int = 400, evidence=()):
    """Of runs whose noise is 2 points, a part of it shared between the runs of a seed."""
    experiment = compose(["experiment=calibrate"])
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.02 * shared**0.5, seeds)
    own = {name: rng.normal(0, 0.02 * (1 - shared) ** 0.5, seeds) for name in experiment.variants}
    values = {name: dict(enumerate((0.7 + common + noise).tolist())) for name, noise in own.items()}
    found = calibrate(experiment.config, experiment.variants, values, evidence, PERCENT)
    return {quantity.name: quantity for quantity in found.quantities}


def test_coverage_is_what_simulation_says():
    found = measured(0.0)
    together = [q for name, q in found.items() if name.startswith("all simultaneous")]
    alone = [q for name, q in found.items() if name.startswith("all separate")]
    assert len(together) == 5 and all(90 < float(q.value.split()[0]) <= 98 for q in together)
    assert float(found["all separate intervals hold zero: 5 variants and a baseline, 3 seeds"].value.split()[0]) < 88
    assert len(alone) == 4


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
def test_pairing_leaves_what_is_not_shared(shared):
    found = measured(shared)
    for pair in ("order, augmentation", "init, augmentation", "init, order"):
        quantity = found[f"variance of a difference, pair: [{pair}]"]
        low, high = (float(x) for x in quantity.interval.strip("[]").split(","))
        assert float(quantity.value) == pytest.approx(1 - shared, abs=0.1)
        assert low <= 1 - shared <= high and high - low < 0.25


def test_noise_over_images_is_the_binomial_s():
    rng = np.random.default_rng(1)  # not the bootstrap's, which draws with seed 0
    one = rng.random(2000) < 0.7
    scores = [np.where(rng.random(2000) < 0.1, ~one, one).astype(float) for _ in range(6)]
    found = measured(0.5, 20, [StoredEvidence(of, True, "x", (), np.array([])) for of in scores])
    assert float(found["standard deviation over test images, of one run"].value) == pytest.approx(1.06, abs=0.06)
    # Two runs differ where one of them was changed: 2 x 0.1 x 0.9 of the images.
    of_two = float(found["... of the difference of two seeds"].value)
    assert of_two == pytest.approx(100 * (0.18 / 2000) ** 0.5, rel=0.1)
    std = found["standard deviation over seeds"]
    assert 1.4 < float(std.value) < 2.8 and std.interval.startswith("[")


def test_few_results_measure_nothing():
    experiment = compose(["experiment=calibrate"])
    values = {name: {0: 0.7, 1: 0.8} for name in experiment.variants}
    assert calibrate(experiment.config, experiment.variants, values, [], PERCENT) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "variants: {a: {}, b: {model.mlp: mlp}}",
            r"calibrate: 'b' changes model\.mlp; variants may differ",
        ),
        ("variants: {a: {}}\nseeds: [0, 1]", r"seeds: \[0, 1\] are too few for calibrate: at least 6, better 20"),
        ("variants: {a: {}, b: {}}\nseeds: {look: [3, 8]}", r"calibrate: true needs a list of seeds"),
    ],
)
def test_variants_that_are_not_the_same_are_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    seeds = "" if "seeds" in text else "seeds: [0, 1, 2, 3, 4, 5]\n"
    (tmp_path / "experiments" / "mine.yaml").write_text(f"baseline: a\ncalibrate: true\n{seeds}{text}\n")
    with pytest.raises(ConfigError, match=message):
        compose(["experiment=mine"])


def test_a_smoke_test_has_the_fewest_seeds():
    assert len(compose(["experiment=calibrate", "smoke=true"]).config.all_seeds) == 6
    assert len(compose(["experiment=calibrate"]).config.all_seeds) == 20
