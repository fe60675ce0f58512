"""What a plan says of power, from the spread of earlier studies."""

import pytest
from conftest import RESULT, THREE

from shunted_lab.config.compose import compose
from shunted_lab.run import main
from shunted_lab.study.power import earlier_spread, power_lines
from shunted_lab.study.session import plan_experiment
from shunted_lab.study.statistics.power import detectable_with


@pytest.fixture
def mine(tmp_path, monkeypatch, trained):
    """Writes `mine` and gives the overrides of its command; every run has its own noise."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()

    def noisy(shift):
        def train(config, folder, listener):
            return {**RESULT, "metrics": {"val/top1": 0.5, "test/top1": 0.7 + 0.01 * ((7 * config.seed + shift) % 5)}}

        return train

    for seed in range(6):
        for shift, variant in enumerate(("base", "better", "same")):
            trained.script[variant, seed] = noisy(shift * seed)

    def made(seeds, *words):
        (tmp_path / "experiments" / "mine.yaml").write_text(THREE.format(seeds=seeds))
        return ["experiment=mine", "launch.measure=false", *words]

    return made


def test_a_plan_has_the_power_of_the_spread_of_earlier_studies(mine, capsys):
    assert power_lines(plan_experiment(compose(mine("[0, 1, 2]"))).manifest) == [], "nothing is known yet"
    assert main(mine("[0, 1, 2, 3]")) == 0
    capsys.readouterr()
    planned = plan_experiment(compose(mine("[0, 1, 2]", "name=next")))
    spread = earlier_spread(planned.manifest)
    assert (spread.study, spread.df) == ("mine", 6)
    (line,) = power_lines(planned.manifest)
    three, five = (100 * detectable_with(spread.std, (2,), n) for n in (3, 5))
    assert f"power: 3 seeds detect {three:.1f} [" in line and f", 5 seeds detect {five:.1f} [" in line
    assert line.endswith(f"standard deviation of paired differences {100 * spread.std:.2f} points, from mine")
    assert main(mine("[0, 1, 2]", "name=next", "plan_only=true")) == 0
    assert "power: 3 seeds detect" in " ".join(capsys.readouterr().out.split())
    race = plan_experiment(compose(mine("{look: [3, 5], margin: 1}", "name=next")))
    (line,) = power_lines(race.manifest)
    assert line.startswith("race: 9 to 15 runs; expected ") and f"differ by {100 * spread.std:.1f} points" in line


@pytest.mark.parametrize("word", ["model=shunted_t", "data.image_size=32", "recipe.epochs=2", "smoke=true"])
def test_another_model_data_or_recipe_says_nothing(mine, word):
    assert main(mine("[0, 1]")) == 0
    assert earlier_spread(plan_experiment(compose(mine("[0, 1]"))).manifest) is not None
    assert earlier_spread(plan_experiment(compose(mine("[0, 1]", word))).manifest) is None
