"""The recipe's options: each does what it says, and what leaves the result alone leaves it alone."""

import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

from shunted_lab.config.compose import compose
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import make_datamodule
from shunted_lab.data.earth.tiles import CLASS_NAMES
from shunted_lab.tasks.base import TaskModule
from shunted_lab.tasks.callbacks import Stopped
from shunted_lab.tasks.device import check_precision, find_device, supports
from shunted_lab.tasks.divergence import EVERY, Diverged
from shunted_lab.tasks.history import read_history
from shunted_lab.tasks.listener import RunListener
from shunted_lab.tasks.recorder import batch_loss
from shunted_lab.tasks.schedule import highest_rate, learning_rate
from shunted_lab.tasks.train import make_module, make_trainer, train

SMALL = [
    "experiment=pretrain_earth",
    "launch.accelerator=cpu",
    "launch.pictures=false",
    "data.batch_size=16",
    "model.drop_path_rate=0",
]
SHORT = ("recipe.epochs=2", "recipe.limit_batches=3")


def config(*words: str, variant: str = "overlapping") -> RunConfig:
    return compose([*SMALL, *words]).variants[variant]


def saved(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- the paper's numbers, against timm -------------------------------------------------------------------------------


def test_the_papers_learning_rate_is_timms_in_every_epoch():
    recipe = PRESETS["recipe"]["paper"]
    peak = recipe.lr * 1024 / recipe.lr_batch
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    reference = CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs,
        lr_min=recipe.min_lr,
        warmup_t=int(recipe.warmup_epochs),
        warmup_lr_init=recipe.warmup_lr,
    )
    steps = 1251
    for epoch in range(recipe.epochs):
        reference.step(epoch)
        for step in (epoch * steps, (epoch + 1) * steps - 1):  # the first and the last of the epoch
            found = learning_rate(step, recipe.epochs * steps, recipe, peak)
            assert found == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), epoch


def test_a_rate_per_step_has_its_corners():
    recipe = replace(
        PRESETS["recipe"]["lite"], epochs=10, warmup_epochs=1.0, warmup_lr=0.1, min_lr=0.01, schedule="step"
    )
    at = [learning_rate(step, 100, recipe, 1.0) for step in range(101)]
    assert at[0] == 0.1 and at[10] == 1.0 and at[100] == pytest.approx(0.01)
    assert at[5] == pytest.approx(0.55) and at[55] == pytest.approx(0.505)  # half-way up, half-way down
    assert learning_rate(0, 10, replace(recipe, warmup_epochs=0.0), 1.0) == 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("recipe=paper", "recipe.epochs=3"),
            r"recipe\.warmup_epochs: 5 leaves no epoch of recipe\.epochs=3 at recipe\.lr=",
        ),
        (
            ("recipe=paper", "recipe.epochs=5"),
            r"recipe\.warmup_epochs: 5 leaves no epoch of recipe\.epochs=5 at recipe\.lr=",
        ),
        (
            ("recipe.warmup_epochs=4",),
            r"recipe\.warmup_epochs: 4 leaves no epoch of recipe\.epochs=4 at recipe\.lr=0\.0015",
        ),
        (("recipe=paper", "recipe.warmup_epochs=0.5"), r"recipe\.warmup_epochs: 0\.5 is not a whole number, .*=step$"),
    ],
)
def test_a_warm_up_that_never_reaches_the_rate_is_refused(words, said):
    with pytest.raises(ConfigError, match=rf"^{said}"):
        config(*words)


def test_a_warm_up_that_hides_the_top_of_the_cosine_is_known_by_its_number():
    recipe = replace(PRESETS["recipe"]["paper"], epochs=10)
    rates = [learning_rate(step, 1000, recipe, 1e-3) for step in range(1000)]
    assert highest_rate(recipe, 1e-3) == max(rates) == pytest.approx(8.0e-4, rel=1e-2)
    assert highest_rate(PRESETS["recipe"]["paper"], 1e-3) == pytest.approx(1e-3, rel=1e-3)
    assert highest_rate(PRESETS["recipe"]["lite"], 1e-3) == 1e-3


def test_the_plan_warns_of_a_rate_that_is_not_nearly_reached():
    from shunted_lab.study.plan import low_rates

    words = ["experiment=pretrain_earth", "recipe=paper", "data.batch_size=1024"]
    assert low_rates(compose(words)) == low_rates(compose([*words, "recipe.epochs=30"])) == []
    assert low_rates(compose([*words, "recipe.epochs=10"])) == [
        "warning: recipe.warmup_epochs: 5 of 10 epochs; the learning rate reaches 0.0008, 80 % of 0.001 "
        "(non_overlapping, overlapping, conv_stem)"
    ]


def test_parameter_groups_are_timms():
    run = compose([*SMALL, "recipe=paper"]).variants["conv_stem"]
    task = make_module(run, CLASS_NAMES)
    task.trainer = type("T", (), {"estimated_stepping_batches": 300})()  # type: ignore[assignment]
    ours = task.configure_optimizers()["optimizer"].param_groups
    theirs = create_optimizer_v2(task.net, opt="adamw", lr=1.0, weight_decay=0.05).param_groups
    names = {id(p): name for name, p in task.net.named_parameters()}

    def decayed(groups):
        return {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}

    assert decayed(ours) == decayed(theirs) and len(decayed(ours)) == len(names)
    assert {group["eps"] for group in ours} == {1e-8}


@pytest.mark.parametrize(
    ("words", "clip"),
    [
        (("model=shunted_b",), 1.0),
        (("model=shunted_s",), None),
        (("model=shunted_b", "recipe.clip_grad=0"), None),
        (("model=shunted_s", "recipe.clip_grad=5"), 5.0),
    ],
)
def test_the_gradient_is_clipped_per_size_unless_the_recipe_says_more(tmp_path, words, clip):
    run = compose(["experiment=train", "launch.accelerator=cpu", "data=earth", *words]).variants["model"]
    assert make_trainer(run, tmp_path, [], progress=False).gradient_clip_val == clip


# --- arithmetic ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [True, False])
def test_arithmetic_that_a_device_does_not_have_is_refused_and_never_replaced(monkeypatch, bf16):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bf16)
    assert [supports("cuda", p) for p in ("32-true", "bf16-mixed", "16-mixed")] == [True, bf16, True]
    assert [supports("cpu", p) for p in ("32-true", "bf16-mixed", "16-mixed")] == [True, True, False]
    with pytest.raises(
        ConfigError, match=r"^recipe\.precision: '16-mixed' is not .* cpu; choices: 32-true, bf16-mixed$"
    ):
        check_precision("16-mixed", "cpu")
    if not bf16:
        with pytest.raises(ConfigError, match=r"'bf16-mixed' is not .* cuda; choices: 32-true, 16-mixed$"):
            check_precision("bf16-mixed", "cuda")


def test_a_precision_whose_arithmetic_depends_on_the_device_is_not_known():
    with pytest.raises(
        ConfigError, match=r"recipe\.precision: 'mixed' is not known; .*choices: 16-mixed, 32-true, bf16"
    ):
        config("recipe.precision=mixed")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert find_device() == find_device("cpu") == "cpu"
    for name in ("gpu", "cuda", "mps"):
        with pytest.raises(ConfigError, match=rf"^launch\.accelerator: this machine has no '{name}'; choices: cpu$"):
            find_device(name, "launch.accelerator")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert find_device("gpu") == find_device("auto") == "mps"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert find_device("gpu") == find_device("auto") == "cuda"


def test_a_run_on_a_gpu_that_is_not_there_does_not_train_on_the_cpu(tmp_path):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=r"^launch\.accelerator: this machine has no 'gpu'; choices: cpu$"):
        make_trainer(config("launch.accelerator=gpu"), tmp_path, [], progress=False)


def test_a_plan_is_refused_before_training_where_the_arithmetic_is_not(tmp_path, capsys):
    from shunted_lab.run import main

    words = [*SMALL, "recipe.precision=16-mixed", f"runs_dir={tmp_path}", "plan_only=true"]
    assert main(words) == 1
    assert "recipe.precision: '16-mixed' is not available on this machine's cpu" in capsys.readouterr().err


def test_mixed_arithmetic_trains_and_the_result_says_which(tmp_path):
    result = train(config("recipe.epochs=1", "recipe.limit_batches=2", "recipe.precision=bf16-mixed"), tmp_path)
    assert result["precision"] == "bf16-mixed" and math.isfinite(result["metrics"]["test/loss"])


# --- memory and speed ------------------------------------------------------------------------------------------------


def test_gradient_checkpointing_leaves_every_weight_as_it_is(tmp_path):
    words = (*SHORT, "model.drop_path_rate=0.3")  # the blocks that are computed again draw the same
    train(config(*words), tmp_path / "plain")
    task = make_module(config(*words, "recipe.grad_checkpointing=true"), CLASS_NAMES)
    assert all(stage.grad_checkpointing for stage in task.net.stages)
    train(config(*words, "recipe.grad_checkpointing=true"), tmp_path / "again")
    assert same(saved(tmp_path / "plain")["state_dict"], saved(tmp_path / "again")["state_dict"])


@pytest.mark.slow
def test_a_compiled_run_has_the_same_keys_and_nearly_the_same_weights(tmp_path):
    words = ("recipe.epochs=1", "recipe.limit_batches=2", "model.depths=[1,1,1,1]")
    plain = train(config(*words), tmp_path / "plain")
    compiled = train(config(*words, "launch.compile=true"), tmp_path / "compiled")
    first, second = (saved(tmp_path / name)["state_dict"] for name in ("plain", "compiled"))
    assert first.keys() == second.keys()
    assert compiled["metrics"]["test/loss"] == pytest.approx(plain["metrics"]["test/loss"], rel=1e-3)


def test_the_compiler_is_used_where_it_is_asked_for(monkeypatch):
    calls = []
    monkeypatch.setattr("torch.compile", lambda f: lambda x: calls.append(len(x)) or f(x))
    task = make_module(config("launch.compile=true"), CLASS_NAMES)
    task(torch.randn(2, 3, 64, 64))
    assert calls == [2] and make_module(config(), CLASS_NAMES).compiled is None


# --- a batch in parts ------------------------------------------------------------------------------------------------


def test_a_batch_in_parts_trains_as_the_whole_one(tmp_path):
    variant = "non_overlapping"  # no BatchNorm, which would see smaller batches
    whole = train(config(*SHORT, variant=variant), tmp_path / "whole")
    parts = train(config(*SHORT, "launch.accumulate=4", variant=variant), tmp_path / "parts")
    first, second = (saved(tmp_path / name) for name in ("whole", "parts"))
    assert first["global_step"] == second["global_step"] == 6
    for name, value in first["state_dict"].items():
        # Adam's first steps are the gradient's sign: where it is nearly 0, so is what can be said of it.
        assert torch.allclose(value, second["state_dict"][name], atol=2e-4), name
    assert parts["metrics"]["test/loss"] == pytest.approx(whole["metrics"]["test/loss"], rel=1e-3)
    losses = [read_history(tmp_path / name)["train/loss"] for name in ("whole", "parts")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_loss_that_diverges_in_a_part_is_said_as_it_is():
    from types import SimpleNamespace

    trainer = SimpleNamespace(accumulate_grad_batches=4)
    assert float(batch_loss(trainer, {"loss": torch.tensor(0.25)})) == 1.0  # Lightning's is divided by the parts


def test_the_last_step_of_an_epoch_is_a_whole_one():
    run = config("launch.accumulate=4")
    data = make_datamodule(replace(run.data, batch_size=run.per_device_batch_size), run.recipe, run.seed)
    data.sampler.group = 16
    loader = data.train_dataloader()
    assert run.per_device_batch_size == 4 and len(loader) % 4 == 0 and len(loader) * 4 == data.sizes["train"] // 16 * 16
    data.sampler.n = 10  # not even one step: all there is
    assert len(data.sampler) == 10


def test_the_rate_is_of_the_whole_batch(tmp_path):
    task = make_module(config("launch.accumulate=4", "recipe.lr_batch=32", "recipe.lr=1"), CLASS_NAMES)
    task.trainer = type("T", (), {"estimated_stepping_batches": 300})()  # type: ignore[assignment]
    assert task.configure_optimizers()["lr_scheduler"]["scheduler"].base_lrs[0] == 16 / 32


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("launch.accumulate=3",), r"launch\.accumulate=3"),
        (("launch.devices_per_run=3",), r"launch\.devices_per_run=3"),
        (("launch.devices_per_run=4", "launch.accumulate=8"), r"launch\.devices_per_run=4 x launch\.accumulate=8"),
    ],
)
def test_parts_that_do_not_divide_the_batch_are_refused(words, said):
    with pytest.raises(ConfigError, match=rf"data\.batch_size: 16 is not divisible by {said}$"):
        config(*words)


class StopsAt(RunListener):
    """A link that asks to stop from the n-th batch on."""

    def __init__(self, n: int):
        self.n, self.asked = n, 0

    def stopping(self) -> bool:
        self.asked += 1
        return self.asked >= self.n

    def epoch(self, epoch: int, metrics: dict[str, float]) -> bool:
        return False


def test_a_run_stops_between_steps_and_not_between_parts(tmp_path):
    words = (*SHORT, "launch.accumulate=4")
    train(config(*words), tmp_path / "whole")
    with pytest.raises(Stopped):
        train(config(*words), tmp_path / "stopped", StopsAt(6))  # the second part of the second step
    assert saved(tmp_path / "stopped", "stopped.ckpt")["batches_of_epoch"] == 8
    train(config(*words), tmp_path / "stopped")
    assert same(saved(tmp_path / "whole")["state_dict"], saved(tmp_path / "stopped")["state_dict"])


def test_sigterm_ends_a_run_with_a_checkpoint_from_which_it_goes_on(tmp_path, monkeypatch):
    """As a cluster sends it that takes a node away: to every process, whoever follows the run."""
    train(config(*SHORT), tmp_path / "whole")
    real, count = TaskModule.training_step, [0]

    def step(self, batch, index):
        count[0] += 1
        if count[0] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch, index)

    monkeypatch.setattr(TaskModule, "training_step", step)
    with pytest.raises(Stopped):
        train(config(*SHORT), tmp_path / "stopped")
    assert saved(tmp_path / "stopped", "stopped.ckpt")["batches_of_epoch"] == 2
    train(config(*SHORT), tmp_path / "stopped")
    assert same(saved(tmp_path / "whole")["state_dict"], saved(tmp_path / "stopped")["state_dict"])


# --- averages of the weights -----------------------------------------------------------------------------------------


def test_averages_follow_their_formula_and_are_what_is_tested(tmp_path, monkeypatch):
    seen: list[dict[str, torch.Tensor]] = []
    run = config(*SHORT, "recipe.ema=0.7")
    step = torch.optim.AdamW.step

    def recorded(self, *args, **kwargs):
        out = step(self, *args, **kwargs)
        seen.append({str(i): p.detach().clone() for g in self.param_groups for i, p in enumerate(g["params"])})
        return out

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    result = train(run, tmp_path)
    assert len(seen) == 6
    last = saved(tmp_path)
    task = make_module(run, CLASS_NAMES)
    names = {id(p): name for name, p in task.named_parameters()}
    task.trainer = type("T", (), {"estimated_stepping_batches": 6})()  # type: ignore[assignment]
    group = task.configure_optimizers()["optimizer"].param_groups[-1]["params"]
    for place, parameter in enumerate(group):
        average = seen[0][str(place)]
        for later in seen[1:]:
            average = 0.7 * average + 0.3 * later[str(place)]
        name = names[id(parameter)]
        assert torch.allclose(last["state_dict"][name], average, atol=1e-6), name
        assert torch.equal(last["current_model_state"][name], seen[-1][str(place)]), name

    task.load_state_dict(last["state_dict"])
    data = make_datamodule(run.data, run.recipe, run.seed)
    trainer = make_trainer(replace(run, recipe=replace(run.recipe, ema=None)), tmp_path / "again", [], progress=False)
    assert trainer.test(task, data, verbose=False)[0]["test/loss"] == result["metrics"]["test/loss"]


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_run_with_averages_goes_on_bit_for_bit(tmp_path, select):
    words = ("recipe.epochs=3", "recipe.limit_batches=3", "recipe.ema=0.7", f"recipe.select={select}")
    whole = train(config(*words), tmp_path / "whole")
    with pytest.raises(Stopped):
        train(config(*words), tmp_path / "stopped", StopsAt(5))
    resumed = train(config(*words), tmp_path / "stopped")
    first, second = saved(tmp_path / "whole"), saved(tmp_path / "stopped")
    for key in ("state_dict", "current_model_state"):
        assert same(first[key], second[key])
    for name in ("val/loss", "test/loss"):
        assert resumed["metrics"][name] == whole["metrics"][name]
    # Killed after its last epoch: nothing is left to fit, and still the averages are tested.
    assert train(config(*words), tmp_path / "whole")["metrics"]["test/loss"] == whole["metrics"]["test/loss"]


# --- divergence ------------------------------------------------------------------------------------------------------


def poison(monkeypatch, at: int, value: float) -> None:
    """The loss of the n-th training batch becomes `value`."""
    real, count = TaskModule.training_step, [0]

    def step(self, batch, index):
        loss = real(self, batch, index)
        count[0] += 1
        return loss * value if count[0] == at else loss

    monkeypatch.setattr(TaskModule, "training_step", step)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_and_names_the_last_good_checkpoint(tmp_path, monkeypatch, value):
    words = ("recipe.epochs=3", "recipe.limit_batches=4", "recipe.warmup_epochs=0", "recipe.schedule=epoch")
    poison(monkeypatch, 6, value)
    good = r"step 6 \(epoch 2, batch 2\) at the learning rate 0\.00113; the last good checkpoint is .*last\.ckpt$"
    with pytest.raises(Diverged, match=rf"^train/loss is {value:g} in {good}"):
        train(config(*words), tmp_path)
    last = saved(tmp_path)
    assert last["epoch"] == 0 and all(v.isfinite().all() for v in last["state_dict"].values())


def test_a_first_epoch_that_diverges_says_that_there_is_no_checkpoint(tmp_path, monkeypatch):
    poison(monkeypatch, 2, math.nan)
    with pytest.raises(Diverged, match=r"in step 2 \(epoch 1, batch 2\) .*; there is no checkpoint before it$"):
        train(config(*SHORT), tmp_path)
    assert not list(tmp_path.glob("checkpoints/*.ckpt"))


def test_looks_are_rare_on_a_gpu_and_never_too_late_for_a_checkpoint():
    from types import SimpleNamespace

    from shunted_lab.tasks.divergence import Divergence

    optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])
    trainer = SimpleNamespace(global_step=0, current_epoch=0, world_size=1, optimizers=[optimizer])
    trainer.accumulate_grad_batches = 1
    look = Divergence(lambda: None)

    class OnGPU:
        """As a tensor whose value is only asked for by a look."""

        device = SimpleNamespace(type="cuda")

        def __init__(self, value: float):
            self.value = value

        def detach(self):
            return self

        def __mul__(self, parts: int):
            return self

    stacked = []

    def stack(losses):
        stacked.append(len(losses))
        return torch.tensor([loss.value for loss in losses])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shunted_lab.tasks.divergence.torch.stack", stack)
        for index in range(EVERY + 3):
            look.on_train_batch_start(trainer, None, None, index)
            look.on_train_batch_end(trainer, None, {"loss": OnGPU(1.0)}, None, index)
        assert stacked == [EVERY]
        look.on_save_checkpoint(trainer, None, {})
        assert stacked == [EVERY, 3]


def test_a_diverged_run_fails_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    from shunted_lab.run import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    text = "baseline: calm\nseeds: [0]\nvariants: {wild: {recipe.lr: 1.0e+30}, calm: {recipe.lr: 1.0e-3}}\n"
    text += "recipe: {epochs: 1, limit_batches: 4, warmup_epochs: 0}\n"
    (tmp_path / "experiments" / "two_rates.yaml").write_text(text)
    assert main(["experiment=two_rates", "launch.accelerator=cpu"]) == 1
    assert list(tmp_path.glob("runs/two_rates/calm/*/result.json"))
    assert not list(tmp_path.glob("runs/two_rates/wild/*/result.json"))
    (traceback,) = tmp_path.glob("runs/two_rates/wild/*/traceback.txt")
    assert "Diverged: train/loss is nan in step 2 (epoch 1, batch 2) at the learning rate" in traceback.read_text()
    assert "Diverged: train/loss is nan in step 2" in (tmp_path / "runs" / "two_rates" / "table.md").read_text()
