"""The search: what its points are, that each is tried once, and what is refused before anything is trained."""

import signal

import pytest
import torch
from conftest import Silent
from optuna.trial import TrialState, create_trial

from shunted_lab import run as command
from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.report.facts import Fact, sentences
from shunted_lab.report.search import SHOWN, _verdict, build_search_table, load_search
from shunted_lab.report.write_search import write_search
from shunted_lab.run import main
from shunted_lab.study import slots as slots_module
from shunted_lab.study import training
from shunted_lab.study.engines import work_of
from shunted_lab.study.engines.local import Local
from shunted_lab.study.plan import data_facts, search_manifest, study_folder
from shunted_lab.study.prepare import prepare_search, read_study
from shunted_lab.study.search.confirm import find_search, with_best_trials
from shunted_lab.study.search.search import make_search
from shunted_lab.study.search.space import read_rates, write_rates
from shunted_lab.study.search.trials import costs_of, finished, is_over, tried
from shunted_lab.study.slots import Slot

FILE = """
baseline: paper
seeds: [0]
variants:
  paper: {{model.rates: [[8, 4], [4, 2], [2, 1], [1]]}}
search:
  space: {space}
  trials: {trials}
  sampler: {sampler}
{more}
"""
RATES = "{rates: [[8, 4, 2], [4, 2], [2, 1], [1]]}"  # 6 x 5 x 9 assignments of 2, 4 and 8 heads


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Write experiments/mine.yaml and compose it."""
    monkeypatch.chdir(tmp_path)

    def of(*words, space=RATES, trials=12, sampler="tpe", more=""):
        (tmp_path / "experiments").mkdir(exist_ok=True)
        text = FILE.format(space=space, trials=trials, sampler=sampler, more=more)
        (tmp_path / "experiments" / "mine.yaml").write_text(text)
        return compose(["experiment=mine", *words])

    return of


def search_of(experiment):
    return make_search(experiment, next(iter(data_facts(experiment).values())))


def manifest_of(experiment):
    return search_manifest(experiment, data_facts(experiment), search_of(experiment).spec)


def run_search(experiment, slots=1, progress=None):
    """What `run.py` does with a search: its plan and the study afterwards."""
    manifest = manifest_of(experiment)
    home, plan, left = prepare_search(manifest)
    if left:
        workers = [Slot(i) for i in range(slots)]
        Local().run(work_of(home, plan, experiment.config.launch, left, workers, progress or Silent()), print)
    return manifest, read_study(home, manifest)


def graded(config, folder, link):
    """Better with more heads at the finest rate."""
    value = sum(rate == 1 for stage in config.model.rates for rate in stage) / 10
    return {"metrics": {"val/top1": value, "test/top1": 0.1}, "headline": "test/top1", "seconds": 1.0, "device": "none"}


@pytest.fixture
def graded_training(trained):
    trained.script = type("All", (dict,), {"get": lambda self, key, default=None: graded})()
    return trained


def test_rates_are_written_without_the_order_of_heads():
    assert write_rates([4, 8, 8, 4]) == write_rates([8, 8, 4, 4]) == "8x2 4x2"
    assert read_rates("8x2 4x2") == [8, 4] and read_rates("8x3 1x1") == [8, 8, 8, 1] and read_rates("1x16") == [1]


def test_no_two_points_are_the_same_model(searched):
    space = search_of(searched()).space
    assert list(space.distributions) == ["rates[0]", "rates[1]", "rates[2]"]
    assert [len(d.choices) for d in space.distributions.values()] == [6, 5, 9] and space.size() == 270
    seen = {tuple(tuple(sorted(stage)) for stage in space.changes(p)["model.rates"]) for p in space.points()}
    assert len(seen) == 270


def test_a_configuration_and_its_point_are_each_others_inverse(searched):
    experiment = searched(
        space="{rates: [8, 4, 2, 1], model.mlp: [mlp, detail_specific], recipe.lr: {low: 1e-4, high: 1e-2, log: true}}"
    )
    search = search_of(experiment)
    assert search.spec.baseline["rates[1]"] == "4x2 2x2" and search.spec.baseline["model.mlp"] == "detail_specific"
    again = experiment.change(search.space.changes(search.spec.baseline))
    assert again.model.rates == [[8, 4], [4, 2], [2, 1], [1]] and again.recipe.lr == pytest.approx(1.5e-3)
    assert "rates[3]" in search.space.distributions  # 2 x 2 tiles: 2 and 1 fit
    assert search.space.distributions["rates[3]"].choices[0] == "2x16"


def test_the_baselines_neighbours_differ_by_one_head_and_one_step(searched):
    search = search_of(searched())
    found = [search.space.label(p) for p in search.space.neighbours(search.spec.baseline)]
    assert sorted(found) == [
        "4x2 | 4x2 2x2 | 2x4 1x4",
        "8x1 2x1 | 4x2 2x2 | 2x4 1x4",
        "8x1 4x1 | 4x1 2x3 | 2x4 1x4",
        "8x1 4x1 | 4x2 2x2 | 2x3 1x5",
        "8x1 4x1 | 4x2 2x2 | 2x5 1x3",
        "8x1 4x1 | 4x3 2x1 | 2x4 1x4",
        "8x2 | 4x2 2x2 | 2x4 1x4",
    ]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "brute_force", "grid"])
def test_each_point_is_trained_once_the_baseline_first(searched, trained, sampler):
    heard = Silent()
    _, study = run_search(searched(trials=14, sampler=sampler), slots=2, progress=heard)
    done = finished(study)
    assert len(done) == len({t.user_attrs["name"] for t in done}) == 14 == len(trained.all())
    assert len(tried(study.trials)) == 14
    assert next(v for _, v, what in heard.heard if what == "started") == "8x1 4x1 | 4x2 2x2 | 2x4 1x4"
    assert {t.user_attrs["folder"] for t in done} == {f"trials/seed0-{t.user_attrs['fingerprint'][:8]}" for t in done}


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_space_that_is_exhausted_ends_the_search(searched, trained, sampler):
    experiment = searched(space="{model.mlp: [mlp, detail_specific, conv_glu]}", trials=50, sampler=sampler)
    _, study = run_search(experiment)
    assert len(trained.all()) == 3 and study.user_attrs["exhausted"]


def test_more_than_the_baselines_macs_are_rejected_before_training(searched, graded_training):
    manifest, study = run_search(searched(trials=10, more="  constraints: {macs: baseline}"), slots=2)
    bound = manifest.search.bounds["macs"]
    assert all(costs_of(t)["macs"] <= bound for t in finished(study)) and len(finished(study)) == 10
    broken = [t for t in study.trials if t.user_attrs.get("given_back", "").startswith("more macs")]
    assert all(t.state == TrialState.PRUNED and t.constraints["macs"] > 0 for t in broken)
    assert len(graded_training.all()) == 10
    table = build_search_table(manifest, study)
    assert table.complete and "Not evidence: " in sentences(table.facts)


def test_several_objectives_give_a_front(searched, graded_training):
    experiment = searched(trials=8, sampler="nsga2", more="  objectives: {val/top1: max, macs: min}")
    manifest, study = run_search(experiment)
    assert len(study.best_trials) >= 1 and all(len(t.values) == 2 for t in finished(study))
    table = build_search_table(manifest, study)
    assert table.head == ("Assignment", "val/top1 (%)", "macs (G)", "Params (M)", "GMACs")


def test_a_latency_of_a_busy_machine_is_said(searched, trained, monkeypatch):
    costs = [{"latency": 0.01}, {"latency": 0.02, "latency_spread": 0.34}]
    monkeypatch.setattr("shunted_lab.study.training._measured", lambda run, classes: costs[len(trained.all()) - 1])
    experiment = searched(trials=2, more="  objectives: {val/top1: max, latency: min}")
    manifest, study = run_search(experiment)
    caption = sentences(build_search_table(manifest, study).facts)
    assert "Uncertain latency: 1 of 2 trials: rounds differed by up to 34 %, the machine was busy." in caption


def test_a_hopeless_run_is_pruned(searched, trained):
    def curve(config, folder, link):
        from shunted_lab.tasks.callbacks import Pruned

        good = len(trained.all()) <= 6
        for epoch in range(3):
            if link.epoch(epoch, {"val/top1": 0.5 if good else 0.1}):
                raise Pruned

    trained.script = type("All", (dict,), {"get": lambda self, key, default=None: curve})()
    _, study = run_search(searched(trials=8, more="  pruner: median"))
    states = [t.state for t in study.trials if "given_back" not in t.user_attrs]
    assert states.count(TrialState.PRUNED) == 2 and states.count(TrialState.COMPLETE) == 6
    assert len(tried(study.trials)) == 8


def test_a_search_that_died_goes_on_with_the_point_it_had(searched, trained, tmp_path):
    trained.script = type(
        "Second", (dict,), {"get": lambda self, key, d=None: signal.SIGKILL if len(trained.all()) == 2 else None}
    )()
    _, study = run_search(searched(trials=4))
    died = [t for t in study.trials if "died" in t.user_attrs]
    again = [t for t in finished(study) if t.user_attrs["fingerprint"] == died[0].user_attrs["fingerprint"]]
    assert len(died) == len(again) == 1 and died[0].params == again[0].params
    assert len(finished(study)) == 4 and len(trained.all()) == 5
    _, study = run_search(searched(trials=6))
    assert len(finished(study)) == 6 and len(trained.all()) == 7


def test_a_point_that_failed_too_often_is_tried_again_on_request(searched, trained):
    def fails(config, folder, link):
        raise RuntimeError("loss is nan")

    trained.script = type("All", (dict,), {"get": lambda self, key, default=None: fails})()
    words = ("launch.max_attempts=1",)
    for _ in range(2):
        _, study = run_search(searched(*words, trials=2))
    assert len(trained.all()) == 2 and len(tried(study.trials)) == 2
    trained.script = {}
    _, study = run_search(searched(*words, "rerun=failed", trials=2))
    assert len(finished(study)) == 2 and len(trained.all()) == 4
    with pytest.raises(ConfigError, match=r"rerun: all is not supported for a search, only failed is"):
        searched("rerun=all")


def test_a_lost_database_is_filled_again_with_its_points(searched, graded_training):
    manifest, study = run_search(searched(trials=5))
    before = {t.user_attrs["fingerprint"]: (t.params, t.values) for t in finished(study)}
    for path in manifest.folder.glob("study.db*"):
        path.unlink()
    _, study = run_search(searched(trials=5))
    assert {t.user_attrs["fingerprint"]: (t.params, t.values) for t in finished(study)} == before
    assert len(graded_training.all()) == 5


def test_a_search_s_table_is_not_replaced_by_one_with_fewer_trials(searched, graded_training, monkeypatch):
    monkeypatch.setattr("shunted_lab.report.write_search.search_pictures", lambda manifest, study: [])
    run_search(searched(trials=4))
    folder = study_folder(searched(trials=4).config)
    manifest, study = load_search(folder)
    full, empty = (build_search_table(manifest, found) for found in (study, None))
    assert write_search(manifest, study, full).warnings == []
    before = (folder / "search.md").read_text()
    written = write_search(manifest, None, empty)
    kept = f"search.md has 4 finished trials and is kept; this report has 0 of 4: {folder}/incomplete/search.md"
    assert written.warnings == [kept] and (folder / "search.md").read_text() == before
    assert "**Tried**: 0 of 4 assignments: " in (folder / "incomplete" / "search.md").read_text()
    write_search(manifest, study, full)
    assert not (folder / "incomplete").exists()


def test_a_search_is_finished_when_every_point_is_trained_or_pruned(searched, graded_training):
    """A running or a failed point is not: nothing is confirmed by it, and another one takes its place."""
    heard = Silent()
    experiment = searched(trials=4)

    def second_fails(config, folder, listener):
        if len(graded_training.all()) == 2:
            raise RuntimeError("loss is nan")
        return graded(config, folder, listener)

    graded_training.script = type("All", (dict,), {"get": lambda self, key, default=None: second_fails})()
    manifest, study = run_search(experiment, progress=heard)
    points = tried(study.trials)
    assert len(points) == 5 and sum(is_over(trials) for trials in points.values()) == 4
    assert build_search_table(manifest, study).complete
    assert Fact("INCOMPLETE", "1 is running, interrupted or failed") in build_search_table(manifest, study).facts


def test_workers_of_a_search_propose_different_points(searched, graded_training):
    experiment = searched(trials=20, sampler="random", more="  neighbours: false")
    _, study = run_search(experiment, slots=4)
    twice = [t for t in study.trials if t.user_attrs.get("given_back") == "another trial has this assignment"]
    assert len(finished(study)) == 20 and len(twice) <= 3
    assert all(t.state == TrialState.FAIL for t in twice), "a sampler does not take a duplicate for a bad point"


def test_the_verdict_is_about_all_points_and_not_only_those_that_are_shown(searched):
    def trial(name, value, macs):
        return create_trial(values=[value], user_attrs={"name": name, "costs": {"macs": macs}, "result": {}})

    manifest, base = manifest_of(searched()), trial("base", 0.5, 100)
    dear = [trial(f"dear{i}", 0.9, 200) for i in range(SHOWN)]
    assert _verdict(manifest, [base], [base, *dear, trial("cheap", 0.6, 90), trial("cheaper", 0.55, 80)]) == Fact(
        "Best at the baseline's MACs or fewer", "cheap, val/top1 +10.00 percentage points"
    )
    assert _verdict(manifest, [base], [base, *dear]) == Fact(
        "Best", "nothing was found with a better val/top1 than the baseline at its MACs or fewer"
    )


def test_a_folder_that_holds_no_search_is_refused(searched, trained, tmp_path):
    with pytest.raises(ConfigError, match=r"is not a study's folder"):
        load_search(tmp_path)


CONFIRM = """
baseline: paper
seeds: {seeds}
variants:
  paper: {{model.rates: [[8, 4], [4, 2], [2, 1], [1]]}}
confirm: {{search: mine, best: 2}}
"""


def confirmed(words):
    experiment = compose(words)
    return with_best_trials(experiment, find_search(experiment, words))


def test_the_best_are_confirmed_with_other_seeds(searched, graded_training, tmp_path):
    experiment = searched(trials=6)
    (tmp_path / "experiments" / "again.yaml").write_text(CONFIRM.format(seeds=[1, 2]))
    assert not find_search(compose(["experiment=again"])).is_finished
    _, study = run_search(experiment)
    found = confirmed(["experiment=again"])
    ranked = sorted(finished(study), key=lambda t: (-t.value, t.number))
    ranked = [t for t in ranked if t.user_attrs["name"] != "8x1 4x1 | 4x2 2x2 | 2x4 1x4"][:2]
    assert list(found.variants) == list(found.config.variants) == ["paper", "best1", "best2"]
    with pytest.raises(ConfigError, match=r"made for another search \(recipe\.epochs was 4\)"):
        find_search(compose(["experiment=again", "recipe.epochs=9"]), ["experiment=again", "recipe.epochs=9"])
    for name, trial in zip(("best1", "best2"), ranked, strict=True):
        assert found.variants[name].model.rates[0] == read_rates(trial.params["rates[0]"])
        assert f"{name}: {trial.user_attrs['name']}" in found.config.description
    (tmp_path / "experiments" / "again.yaml").write_text(CONFIRM.format(seeds=[0, 1]))
    with pytest.raises(ConfigError, match=r"seeds: \[0\] were used by mine to select the best; choose other seeds"):
        confirmed(["experiment=again"])


def test_a_search_that_the_command_line_shortened_is_finished(searched, graded_training, tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "again.yaml").write_text(CONFIRM.format(seeds=[1, 2]))
    run_search(searched("search.trials=3", trials=12))
    assert list(confirmed(["experiment=again"]).variants) == ["paper", "best1", "best2"]
    table = build_search_table(*load_search(study_folder(searched(trials=12).config)))
    assert table.complete and "3 of 3" in sentences(table.facts)
    run_search(searched("search.trials=3", "seeds=[7]", f"runs_dir={tmp_path}/seven", trials=12))
    words = ["experiment=again", f"runs_dir={tmp_path}/seven"]
    assert len(confirmed(words).variants) == 3
    with pytest.raises(ConfigError, match=r"seeds: \[7\] were used by mine"):
        confirmed([*words, "seeds=[7,8]"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "{rates: [[8, 4], [4, 2], [2, 1], [1]]}"}, r"search\.space\.rates\[0\] has other choices"),
        ({"space": RATES[:-1] + ", model.mlp: [mlp, detail_specific]}"}, r"search\.space\.model\.mlp is new"),
        ({"more": "  objectives: {val/loss: min}"}, r"search\.objectives was \{'val/top1': 'max'\}"),
    ],
)
def test_a_search_that_has_changed_is_refused(searched, trained, change, message):
    run_search(searched(trials=2))
    with pytest.raises(ConfigError, match=f"was made for another search .*{message}"):
        prepare_search(manifest_of(searched(trials=2, **change)))


def test_another_base_configuration_is_refused(searched, trained):
    run_search(searched(trials=2))
    with pytest.raises(ConfigError, match=r"another search \(recipe\.epochs was 4\)"):
        prepare_search(manifest_of(searched("recipe.epochs=9", trials=2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"space": "{rates: [64, 4]}"},
            r"search\.space\.rates: .*leaves no rate for stage|64 is too coarse for every stage",
        ),
        (
            {"space": "{rates: [32, 8, 4, 2, 1]}"},
            r"rates: 32 is too coarse for every stage; the grids at 64 px are 16, 8, 4, 2",
        ),
        ({"space": "{rates: [[8], [16, 4], [2], [1]]}"}, r"rates\[1\]: 16 is coarser than the stage's grid of 8"),
        ({"space": "{rates: [0, 1]}"}, r"rates: \[0, 1\] is neither a list of positive integers"),
        ({"space": "{rates: [[8, 4], [4, 2]]}"}, r"rates: has 2 lists for 4 stages"),
        (
            {"space": "{rates: [[2], [4, 2], [2, 1], [1]]}"},
            r"rates\[0\] does not contain '8x1 4x1', the value of a variant",
        ),
        ({"space": "{model.mpl: [mlp, conv_glu]}"}, r"search\.space: model\.mpl: no such key; did you mean 'mlp'"),
        ({"space": "{seeds: [1, 2]}"}, r"search\.space: 'seeds' cannot be searched"),
        ({"space": "{recipe.lr: {low: 1, high: 0.1}}"}, r"search\.space\.recipe\.lr: needs numbers low < high"),
        (
            {"space": "{recipe.lr: {lo: 1, high: 2}}"},
            r"search\.space\.recipe\.lr: 'lo' is not known; did you mean 'low'",
        ),
        ({"space": "{}"}, r"search\.space: \{\} is empty"),
        ({"sampler": "tpee"}, r"search\.sampler: 'tpee' is not known; did you mean 'tpe'"),
        (
            {"more": "  objectives: [val/top1]"},
            r"search\.objectives: \['val/top1'\] has no direction; write \{METRIC: max\}",
        ),
        (
            {"more": "  objectives: {val/top1: up}"},
            r"search\.objectives\.val/top1: 'up' is not known; choices: max, min",
        ),
        (
            {"more": "  objectives: {val/top2: max}"},
            r"search\.objectives: 'val/top2' is not known; did you mean 'val/top5'\? choices: latency, macs, memory, "
            r"params, val/loss, val/top1, val/top5",
        ),
        ({"more": "  objectives: {val/recall: max, macs: min}"}, r"search\.objectives: 'val/recall' is not known"),
        ({"more": "  objectives: {test/top1: max}"}, r"search\.objectives: 'test/top1' is not an objective"),
        (
            {"more": "  objectives: {val/top1: max, macs: min}\n  pruner: median"},
            r"pruner: 'median' needs one objective",
        ),
        ({"more": "  constraints: {macs: 10}"}, r"search\.constraints\.macs: 10 is less than the baseline's"),
        ({"sampler": "grid", "space": "{recipe.lr: {low: 0.001, high: 0.01}}"}, r"sampler: 'grid' needs a step"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_starts(searched, change, message):
    with pytest.raises(ConfigError, match=message):
        search_of(searched(**change))


def test_no_objectives_are_the_metric_that_chooses_the_task_s_best_epoch(searched, trained):
    earth, scales = searched(), searched("data=scales", space="{recipe.lr: [1e-3, 1.5e-3]}", more="  pruner: median")
    assert earth.config.search.objectives is None and search_of(earth).spec.objectives == {"val/top1": "max"}
    manifest = manifest_of(scales)
    home, _, _ = prepare_search(manifest)
    study = read_study(home, manifest)
    assert study.metric_names == ["val/recall"] and study.direction.name == "MAXIMIZE"
    manifest, study = load_search(home.folder)
    assert manifest.search.objectives == {"val/recall": "max"}
    assert build_search_table(manifest, study).head[1] == "val/recall (%)"


def test_a_point_without_the_metric_is_not_trained(searched):
    search = search_of(
        searched("data=scales", space="{data.size_ratio: [4, 16]}", more="  objectives: {val/recall_medium: max}")
    )
    search.run({"data.size_ratio": 4})
    with pytest.raises(ConfigError, match=r"search\.objectives: 'val/recall_medium' is not known; did you mean"):
        search.run({"data.size_ratio": 16})


def test_memory_is_not_searched_for_where_the_device_does_not_tell(searched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ConfigError, match=r"search\.objectives: 'memory' cannot be measured on this machine's device"):
        search_of(searched(more="  objectives: {val/top1: max, memory: min}"))


def test_an_unknown_metric_is_refused_by_the_plan_too(searched, tmp_path, capsys):
    searched(more="  objectives: {val/f1: max}")
    assert command.main(["experiment=mine", "plan_only=true"]) == 1
    assert capsys.readouterr().err.startswith("error: search.objectives: 'val/f1' is not known; ")
    assert not (tmp_path / "runs").exists()


def test_a_word_cannot_set_what_is_searched(searched):
    with pytest.raises(ConfigError, match=r"model\.rates=.*searches rates|varies model\.rates"):
        searched("model.rates=[[1],[1],[1],[1]]")


def test_a_search_has_one_seed(searched):
    with pytest.raises(ConfigError, match=r"seeds: \[0, 1\] are too many for a search"):
        searched("seeds=[0,1]")


@pytest.mark.slow
def test_a_search_has_a_page_with_its_figures(tmp_path, trained, monkeypatch, capsys):
    from shunted_lab.report import __main__ as report

    def train(config, folder, link=None, progress=False):
        value = 0.5 + 0.01 * config.model.rates[0].count(8) - 0.001 * sum(map(sum, config.model.rates))
        return {"metrics": {"val/top1": value, "test/top1": value}, "headline": "test/top1", "device": "none"}

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(slots_module, "CONTEXT", "fork")
    words = ["experiment=search_rates", f"runs_dir={tmp_path}/runs", "search.trials=8"]
    assert command.main(words) == 0
    folder = tmp_path / "runs" / "search_rates"
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    for name in ("front", "importance", "rates"):
        assert f'id="figure-{name}"' in page and (folder / "report" / "figures" / f"{name}.pdf").exists()
    assert page.count('><a href="../trials/') >= 8
    before = (folder / "search.md").read_bytes()
    (folder / "search.md").unlink()
    assert report.main([str(folder)]) == 0 and (folder / "search.md").read_bytes() == before


def test_one_command_searches_and_confirms_by_a_race(searched, graded_training, tmp_path, capsys):
    searched(trials=4)
    seeds = "{look: [2, 3], until: decided, margin: 1, first: 1}"
    (tmp_path / "experiments" / "again.yaml").write_text(CONFIRM.format(seeds=seeds))
    words = ["experiment=again", "launch.measure=false"]
    assert main([*words, "plan_only=true"]) == 0 and graded_training.all() == []
    assert "confirms mine: 4 assignments of it first, then the best of them" in capsys.readouterr().out
    assert main(words) == 0
    trained = graded_training.all()
    assert len([pair for pair in trained if pair[1] == 0]) == 4, "the search's seed"
    assert sorted({seed for _, seed in trained}) == [0, 1, 2, 3]
    assert sorted(name for name, seed in trained if seed == 3) == ["best1", "best2", "paper"]
    out = capsys.readouterr().out
    assert "confirms mine" in out and "best1" in out and "race: " in out
    graded_training.clear()
    assert main(words) == 0 and graded_training.all() == []


def test_how_a_point_was_drawn_is_kept_where_it_is_tried_again(searched, trained, tmp_path):
    """TPE draws its first two points at random, and the others by what it has learnt."""

    def fails_once(config, folder, listener):
        mark = tmp_path / f"tried-{folder.name}"
        if not mark.exists():
            mark.touch()
            raise RuntimeError("once")
        return graded(config, folder, listener)

    trained.script = type("All", (dict,), {"get": lambda self, key, default=None: fails_once})()
    for _ in range(2):
        _, study = run_search(searched("search.neighbours=false", trials=6))
    done = {t.user_attrs["fingerprint"]: t.user_attrs["drawn"] for t in finished(study)}
    first = {}
    for trial in study.get_trials():
        if "fingerprint" in trial.user_attrs and "given_back" not in trial.user_attrs:
            first.setdefault(trial.user_attrs["fingerprint"], trial.user_attrs["drawn"])
    assert len(done) == 6 and done == {fingerprint: first[fingerprint] for fingerprint in done}
    assert list(done.values()).count("listed") == 1 and "random" in done.values()
