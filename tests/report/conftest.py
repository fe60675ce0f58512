"""A study whose runs were never trained: their results, curves and predictions stand where a run leaves them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from shunted_lab.config.compose import compose
from shunted_lab.output.files import write_json
from shunted_lab.report.collect import collect
from shunted_lab.report.states import states_of
from shunted_lab.study import plan
from shunted_lab.study.costs import measure
from shunted_lab.study.folder import add_origin, write_note
from shunted_lab.study.manifest import make_home, read_manifest
from shunted_lab.study.prepare import write_study
from shunted_lab.study.queue import Queue
from shunted_lab.tasks.evidence import write_evidence
from shunted_lab.tasks.predictions import Predictions

CLASSES = ("water", "forest", "snow")
ORIGIN = {"git": "0123abc", "versions": {"torch": "2.14.1"}}


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
        facts = plan.data_facts(self.experiment)
        costs, paper = counted(self.experiment)
        runs = plan.plan_runs(self.experiment, facts, costs)
        made = plan.make_manifest(self.experiment, facts, costs, runs)
        self.manifest = replace(made, paper_costs=paper)
        self.runs, self.folder = runs, made.folder
        self.home = make_home(made.folder, None)
        self.plan = self.manifest.write(self.home)
        self.queue = Queue(write_study(self.home, made), made.folder, {run.fingerprint: run for run in runs})
        rng = np.random.default_rng(0)
        self.targets = rng.integers(0, len(CLASSES), images)
        for run in self.runs:
            value = accuracy(run.variant, run.seed)
            if value is not None:
                self.finish(run, value, rng)

    def finish(self, run, value, rng):
        write_note(run)
        add_origin(run, ORIGIN)
        right = rng.random(len(self.targets)) < value
        predicted = np.where(right, self.targets, (self.targets + 1) % len(CLASSES))
        predictions = Predictions(self.targets, predicted, rng.random(len(self.targets)), CLASSES)
        predictions.write(run.folder)
        write_evidence(predictions, run.folder)
        lines = [f"{e},{value * (0.6 + 0.1 * e)},{1 - 0.1 * e}" for e in range(4)]
        (run.folder / "history.csv").write_text("\n".join(["epoch,val/top1,train/loss", *lines]) + "\n")
        result = {
            "metrics": {"test/top1": float(value), "val/top1": float(value)},
            "headline": "test/top1",
            "device": "a CPU",
            "epoch": 3,
            "seconds": 12.3,
            "costs": {},
            "origins": [ORIGIN],
            "sizes": {"train": 5484, "val": 868, "test": 1550},
        }
        write_json(run.folder / "result.json", result)
        if math.isfinite(value):
            self.queue.adopt([(run, result)])

    def fail(self, run, traceback):
        self.queue.enqueue([run])
        (run.folder / "traceback.txt").write_text(traceback)
        own = Queue(self.queue.study, self.folder, {run.fingerprint: run})
        own.fail(own.take(), traceback)

    def states(self):
        """The study as a report reads it, with what was measured on one device."""
        measured = {"latency": 0.011, "memory": 7e5}
        note = {key: {"a CPU": measured} for key in self.manifest.measured_as.values()}
        write_json(self.folder / measure.FILE, note)
        return states_of(read_manifest(self.folder, self.plan))

    def data(self):
        return collect(self.states())


@pytest.fixture
def make(tmp_path):
    """Makes a study of `ablate_embed` in the test's folder."""

    def usual(variant, seed):
        return 0.7 + 0.02 * seed + 0.001 * len(variant)

    def made(accuracy=usual, *words, name="ablate_embed"):
        small = ["model=shunted_lite", "data=earth", "recipe=lite", "seeds=[0,1,2]"] if name == "ablate_embed" else []
        return Made([f"experiment={name}", f"runs_dir={tmp_path}/runs", *small, *words], accuracy)

    return made
