"""A study whose runs were never trained: their results, curves and predictions stand where a run leaves them."""

import math

import numpy as np
import pytest

from shunted_lab.config.compose import compose
from shunted_lab.output.files import write_json
from shunted_lab.report.collect import collect
from shunted_lab.study import measure, plan, store
from shunted_lab.study.folder import describe
from shunted_lab.tasks.predictions import Predictions

CLASSES = ("water", "forest", "snow")
COSTS = {"params": 1_100_000, "macs": 12_000_000, "macs_attention": 1000, "latency": 0.011, "memory": 7e5}


COUNTED = {}


def counted(experiment):
    """Costs at both scales, counted once for an experiment: its seeds do not matter."""
    name = experiment.config.name
    if name not in COUNTED:
        costs = plan.count_costs(experiment, plan.data_facts(experiment))
        COUNTED[name] = costs, plan.count_paper_costs(experiment)
    return COUNTED[name]


class Made:
    """A study in `folder` with accuracy by (variant, seed)."""

    def __init__(self, words, accuracy, images=200):
        self.experiment = compose(words)
        self.runs = plan.plan_runs(self.experiment, plan.data_facts(self.experiment))
        self.study = store.create_study(self.experiment.config, {"val/top1": "max"})
        rng = np.random.default_rng(0)
        self.targets = rng.integers(0, len(CLASSES), images)
        for run in self.runs:
            value = accuracy(run.variant, run.seed)
            if value is not None:
                self.finish(run, value, rng)

    def finish(self, run, value, rng):
        describe(run, {"git": "0123abc", "versions": {"torch": "2.14.1"}})
        right = rng.random(len(self.targets)) < value
        predicted = np.where(right, self.targets, (self.targets + 1) % len(CLASSES))
        Predictions(self.targets, predicted, rng.random(len(self.targets)), CLASSES).write(run.folder)
        lines = [f"{e},{value * (0.6 + 0.1 * e)},{1 - 0.1 * e}" for e in range(4)]
        (run.folder / "history.csv").write_text("\n".join(["epoch,val/top1,train/loss", *lines]) + "\n")
        result = {
            "metrics": {"test/top1": float(value), "val/top1": float(value)},
            "headline": "test/top1",
            "device": "a CPU",
            "epoch": 3,
            "seconds": 12.3,
            "costs": COSTS,
            "sizes": {"train": 5484, "val": 868, "test": 1550},
        }
        write_json(run.folder / "result.json", result)
        if math.isfinite(value):
            store.adopt(self.study, run, result)

    def fail(self, run, traceback):
        describe(run, {"git": "0123abc", "versions": {}})
        (run.folder / "traceback.txt").write_text(traceback)
        trial = self.study.ask()
        for key, value in {**store.attributes(run), "error": traceback}.items():
            trial.set_user_attr(key, value)
        self.study.tell(trial, state=store.TrialState.FAIL)

    def data(self):
        states = store.read_states(self.runs, self.study)
        measured = {"latency": 0.011, "memory": 7e5, "device": "a CPU"}
        runs = self.experiment.variants.items()
        note = {name: {"model": measure._key(run), "measured": measured} for name, run in runs}
        write_json(plan.study_folder(self.experiment.config) / measure.FILE, note)
        return collect(self.experiment, states, *counted(self.experiment))


@pytest.fixture
def make(tmp_path):
    """Makes a study of `ablate_embed` in the test's folder."""

    def usual(variant, seed):
        return 0.7 + 0.02 * seed + 0.001 * len(variant)

    def made(accuracy=usual, *words, name="ablate_embed"):
        return Made([f"experiment={name}", f"runs_dir={tmp_path}/runs", *words], accuracy)

    return made
