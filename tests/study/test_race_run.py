"""A race from its registration to its verdicts, with trainings that return at once."""

import pytest
from conftest import RESULT, THREE

from shunted_lab import Study
from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.report.render import blocks, to_csv
from shunted_lab.report.shown import make_report
from shunted_lab.report.states import load_states
from shunted_lab.report.table import build_table
from shunted_lab.run import main
from shunted_lab.study.plan import study_folder
from shunted_lab.study.race import rule_of, runs_at, weigh
from shunted_lab.study.session import plan_experiment

LOOKS = "{look: [3, 5, 8], until: decided, margin: 0.5}"
NOISE = [0.0, 0.004, -0.003, 0.002, -0.001, 0.003, -0.004, 0.001]


@pytest.fixture
def race(tmp_path, monkeypatch, trained):
    """Writes the experiment `mine` and gives the overrides of its command; `better` is 5 points ahead, `same` not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()

    def result(variant):
        def train(config, folder, listener):
            own = {"base": 0.0, "better": 0.05 + 0.002 * (config.seed % 3), "same": 0.004 * (-1) ** config.seed}
            metrics = {"val/top1": 0.5, "test/top1": 0.7 + NOISE[config.seed] + own[variant]}
            return {**RESULT, "metrics": metrics}

        return train

    for seed in range(8):
        for variant in ("base", "better", "same"):
            trained.script[variant, seed] = result(variant)

    def made(seeds=LOOKS, *words):
        (tmp_path / "experiments" / "mine.yaml").write_text(THREE.format(seeds=seeds))
        return ["experiment=mine", "launch.measure=false", *words]

    made.trained = trained
    return made


def test_only_undecided_variants_and_the_baseline_get_more_seeds(race, capsys, tmp_path):
    assert main(race()) == 0
    out = capsys.readouterr().out
    runs = race.trained.all()
    assert sorted(seed for name, seed in runs if name == "better") == [0, 1, 2]
    assert sorted(seed for name, seed in runs if name == "base") == list(range(8)), "as long as one is undecided"
    assert sorted(seed for name, seed in runs if name == "same") == list(range(8))
    assert "race: better: better, undecided: same; look 2 of 3 is after 5 seeds; 4 runs for it: same and base" in out
    found = load_states(study_folder(compose(race()).config))
    table = build_table(
        found.manifest.config, found.manifest.variants, found.states, found.manifest.costs, {}, rule=found.manifest.rule
    )
    assert table.complete and [row.verdict for row in table.rows] == ["", "better", "undecided"]
    assert [row.planned for row in table.rows] == [8, 3, 8]
    assert blocks(table)[0].head[-1] == "Verdict" and blocks(table)[0].rows[1][-1] == "better"
    assert to_csv(table).splitlines()[0].split(",").count("verdict") == 1
    facts = {fact.label: fact.text for fact in table.facts}
    assert facts["Seeds"].startswith("until decided, looks after 3, 5, 8 seeds, margin 0.5; 3 to 8 were trained")
    assert facts["Race"] == "better: better (3 seeds); undecided: same (8 seeds); over, 8 seeds were the most"
    assert "repeated 95 % confidence interval" in facts["Δ"]
    assert "better is better than base by" in out and "same is undecided" in out and "one more seed" not in out
    race.trained.clear()
    assert main(race()) == 0 and race.trained.all() == [], "the second command trains nothing"
    assert make_report(found, lambda grid: None).open == []


def test_a_race_that_was_stopped_resumes_at_its_look(race, capsys):
    race.trained.script["same", 3] = "fail"
    assert main(race()) == 1, "a failed run: the look is not complete, and nothing goes on"
    assert not any(seed > 4 for _, seed in race.trained.all())
    assert "not over, the next look is after 5 seeds" in capsys.readouterr().out
    race.trained.clear()
    race.trained.script["same", 3] = race.trained.script["same", 4]
    assert main(race()) == 0
    assert sorted(race.trained.all())[0] == ("base", 5) and ("same", 3) in race.trained.all()


def test_what_is_registered_cannot_change_after_the_first_run(race):
    assert main(race(LOOKS, "only=null")) == 0
    for seeds, message in (
        (
            "{look: [3, 8], until: decided, margin: 0.5}",
            r"seeds\.look: \[3, 8\] is not what was registered .*: \[3, 5, 8\]; name=mine_2",
        ),
        ("{look: [3, 5, 8], until: decided, margin: 1}", r"seeds\.margin: 1 is not what was registered .*: 0\.5"),
        ("[0, 1, 2]", r"seeds: \[0, 1, 2\] are not the looks \[3, 5, 8\] that were registered"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan_experiment(compose(race(seeds)))
    text = (THREE + "  third: {{model.aggregation: pooling}}\n").format(seeds=LOOKS)
    race()
    with open("experiments/mine.yaml", "w") as file:
        file.write(text)
    with pytest.raises(ConfigError, match=r"seeds\.variants: base, better, same, third is not what was registered"):
        plan_experiment(compose(["experiment=mine", "launch.measure=false"]))


def test_a_race_is_registered_before_its_first_run(race):
    assert main(race("[0, 1]")) == 0
    with pytest.raises(ConfigError, match=r"seeds\.look: \[3, 5, 8\] was not registered before the first run"):
        plan_experiment(compose(race()))
    assert plan_experiment(compose(race(LOOKS, "name=other"))).race.standing.needed == 3
    assert plan_experiment(compose(race(LOOKS, "recipe.epochs=2"))).race is not None, "another configuration"


def test_a_plan_shows_the_expected_and_the_largest_number_of_runs(race, capsys):
    assert main(race(LOOKS, "plan_only=true")) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "look 1 of 3 is after 3 seeds; 9 runs for it" in out
    assert "race: 9 to 24 runs; expected" in out
    config = compose(race())
    rule = rule_of(config.config, config.goal)
    assert runs_at(rule, 8) == 24
    none, one, two = (runs for _, runs in weigh(rule, 0.01))
    assert 9 <= two < one <= 24 and none <= 24
    assert weigh(rule, 0.001)[0][1] < 10, "everything is equivalent at once"


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("{look: [5, 3]}", r"seeds\.look: \[5, 3\] does not rise"),
        ("{look: [3, 3]}", r"seeds\.look: \[3, 3\] does not rise"),
        ("{look: [1, 3]}", r"seeds\.look: \[1, 3\] begins below 2"),
        ("{look: 3}", r"seeds\.look: 3 is not a list of numbers of seeds; write seeds: \{look: \[3, 5, 8, 12\]"),
        ("{look: []}", r"seeds\.look: \[\] is not a list"),
        ("{until: decided}", r"seeds: .* has no looks"),
        ("{look: [3], untill: decided}", r"seeds: 'untill' is not known; did you mean 'until'\?"),
        ("{look: [3], until: done}", r"seeds\.until: 'done' is not known; choices: decided"),
        ("{look: [3], margin: -1}", r"seeds\.margin: -1 is not between 0 and 100 percentage points"),
        ("{look: [3], margin: 100}", r"seeds\.margin: 100 is not between"),
        ("{look: [3], margin: .nan}", r"seeds\.margin: nan is not between"),
        (
            "{look: [3], margin: 0.5 ms}",
            r"seeds\.margin: '0\.5 ms' is not in percentage points, which differences in Top-1",
        ),
        ("{look: [3], margin: much}", r"seeds\.margin: 'much' is not a number of percentage points"),
        ("{look: [3], first: -1}", r"seeds\.first: -1 is not a seed"),
        ("[0, a]", r"seeds: \[0, 'a'\] is not a list of whole numbers"),
    ],
)
def test_what_cannot_be_a_race_is_refused_in_one_line(race, seeds, message):
    with pytest.raises(ConfigError, match=message) as found:
        compose(race(seeds))
    assert "\n" not in str(found.value)


def test_a_margin_may_name_its_unit(race):
    for margin in ("0.5", "0.5 points", "0.5 percentage points", "0.5 %"):
        config = compose(race("{look: [3], margin: %s}" % margin))  # noqa: UP031
        assert rule_of(config.config, config.goal).margin == pytest.approx(0.005)


def test_a_race_needs_a_baseline_and_a_variant_beside_it(race, tmp_path):
    race()
    path = tmp_path / "experiments" / "mine.yaml"
    text = path.read_text()
    path.write_text(text.replace("baseline: base\n", ""))
    with pytest.raises(ConfigError, match=r"baseline: is missing; choices: base, better, same"):
        compose(["experiment=mine"])
    path.write_text("baseline: base\nseeds: {look: [3]}\nvariants: {base: {}}\n")
    with pytest.raises(ConfigError, match=r"seeds\.until: 'base' is the only variant; a race needs one beside"):
        compose(["experiment=mine"])
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"only: better is not supported with seeds\.until"):
        compose(["experiment=mine", "only=better"])


def test_overrides_change_a_race(race):
    config = compose(race(LOOKS, "seeds.margin=1.5")).config
    assert config.race.margin == 1.5 and config.race.look == [3, 5, 8]
    config = compose(race(LOOKS, "seeds={look: [2, 4], until: decided, first: 10}")).config
    assert config.all_seeds == [10, 11, 12, 13] and config.race.margin is None
    assert compose(race(LOOKS, "seeds=[0,1]")).config.race is None
    assert compose(race(LOOKS, "smoke=true")).config.race.look == [3, 5]


def test_a_race_in_python_goes_to_its_end(race):
    study = Study.plan(race()).execute()
    assert sorted(seed for name, seed in race.trained.all() if name == "same") == list(range(8))
    assert [row.verdict for row in study.table.data.rows] == ["", "better", "undecided"]
