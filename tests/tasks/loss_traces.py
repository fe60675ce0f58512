"""The losses of the first training steps of small runs, which together use every part that can change a number.

python tests/tasks/loss_traces.py stores them anew, after RESULTS_VERSION was raised.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image

from shunted_lab import RESULTS_VERSION
from shunted_lab.config.compose import compose
from shunted_lab.config.run import RunConfig
from shunted_lab.data import make_datamodule
from shunted_lab.data.earth.tiles import load_picture
from shunted_lab.tasks.recorder import batch_loss
from shunted_lab.tasks.train import make_module, make_trainer

FILE = Path(__file__).parent / "data" / "traces.json"
STEPS = 20
SMALL = ["experiment=train", "model=shunted_lite", "recipe=lite", "launch.accelerator=cpu", "recipe.epochs=1"]
SMALL += [f"recipe.limit_batches={STEPS}", "seeds=[3]"]
CASES = {
    # the published components, the embedded data, dropout of every kind, turned tiles
    "earth": ["data=earth", "data.batch_size=16", "model.drop_path_rate=0.2", "model.drop_rate=0.1"],
    # other components, averages of the weights, rates that differ by layer
    "components": [
        "data=earth",
        "data.batch_size=16",
        "model.patch_embed=overlapping",
        "model.downsample=[non_overlapping,overlapping,overlapping]",
        "model.attn=[sra,linear_sra,ssa_local_output,msa]",
        "model.rates=[[8],[1],[2,1],[1]]",
        "model.aggregation=[conv,conv,pooling,conv]",
        "model.mlp=[mlp,mlp_dwconv,mlp_relu_dwconv,conv_glu]",
        "recipe.ema=0.9",
        "recipe.layer_decay=0.8",
    ],
    # the components that are left
    "other components": [
        "data=earth",
        "data.batch_size=16",
        "model.patch_embed=non_overlapping",
        "model.attn=[ssa_local_values,ssa_no_local,ssa,ssa]",
        "model.aggregation=[conv,none,pooling,conv]",
    ],
    # the paper's augmentation, mixup and schedule on image files, in the warm-up and after it
    "folder": [
        "recipe=paper",
        "recipe.epochs=2",
        "recipe.warmup_epochs=1",
        f"recipe.limit_batches={STEPS // 2}",
        "recipe.precision=32-true",
        "data=folder",
    ],
    # label maps: auxiliary logits, groups of parameters, a schedule and an epoch counted in steps
    "segmentation": [
        "data=earth",
        "data.batch_size=4",
        "task=segmentation",
        "task.head=upernet_lite",
        "recipe=segment_lite",
        "recipe.schedule=poly",
        "recipe.power=0.9",
        "recipe.warmup_steps=5",
        "recipe.decay=but_norms",
        "recipe.head_lr=10",
        "recipe.limit_batches=20",
        "model.drop_path_rate=0.1",
    ],
    # several labels an image, and the drawn scenes
    "scales": ["data=scales", "data.image_size=64", "data.batch_size=8", "data.train_images=200", "data.val_images=8"],
}


def losses_and_metrics(overrides: list[str], folder: Path) -> dict[str, object]:
    """Variant -> the losses of its training steps and the metrics after them, in full precision."""
    found = {}
    torch.set_num_threads(1)
    for variant, run in compose(overrides).variants.items():
        losses, trainer = fit(run, folder / variant)
        metrics = {key: float(value) for key, value in sorted(trainer.callback_metrics.items())}
        found[variant] = {"losses": losses, "metrics": metrics}
    return found


def fit(run: RunConfig, folder: Path) -> tuple[list[float], Trainer]:
    """Train a run; the loss of each step, and the Trainer."""
    data = make_datamodule(replace(run.data, batch_size=run.per_device_batch_size), run.recipe, run.seed)
    losses = Losses()
    trainer = make_trainer(run, folder, [losses], progress=False)
    trainer.fit(make_module(run, data.class_names), data)
    return losses.values, trainer


class Losses(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, task, outputs, batch, index):
        self.values.append(float(batch_loss(trainer, outputs)))


def run_of(name: str, folder: Path) -> RunConfig:
    """The run of a case; `folder` is for files."""
    words = [*SMALL, *CASES[name]]
    if name == "folder":
        words += [f"data.root={folder}/images", "data.image_size=64", "data.batch_size=8"]
    if name == "scales":
        words += ["data.test_images=8", f"data.cache={folder}/cache"]
    return compose(words).variants["model"]


def trace(name: str, folder: Path) -> dict[str, object]:
    """The losses of the steps, and those of the validation after them; `folder` is for files."""
    run = run_of(name, folder)
    if name == "folder":
        write_images(folder / "images")
    losses, trainer = fit(run, folder / "run")
    validation = float(trainer.callback_metrics["val/loss"])
    return {"losses": [round(v, 7) for v in losses[:STEPS]], "validation": round(validation, 7)}


def write_images(folder: Path) -> None:
    """Three classes of pieces of the embedded picture, of several sizes; PNG, so that no decoder has a say."""
    picture, rng = load_picture(), np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 8)):
        for label in range(3):
            (folder / split / f"class{label}").mkdir(parents=True, exist_ok=True)
            for number in range(count):
                height, width = rng.integers(70, 140, 2)
                y, x = rng.integers(0, 2000), rng.integers(1700 * label, 1700 * label + 1600)
                piece = Image.fromarray(picture[y : y + height, x : x + width])
                piece.save(folder / split / f"class{label}" / f"{number}.png")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        traces = {name: trace(name, Path(folder) / name) for name in CASES}
    FILE.write_text(json.dumps({"results_version": RESULTS_VERSION, "traces": traces}, indent=1) + "\n")
    print(FILE)


if __name__ == "__main__":
    main()
