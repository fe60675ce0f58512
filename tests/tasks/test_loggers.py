"""Where a run is logged: any set of loggers, none of them needed, and one W&B or MLflow run for each run."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from shunted_lab import run
from shunted_lab.config.compose import compose
from shunted_lab.config.launch import LOGGERS
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.report.lines import places
from shunted_lab.tasks import loggers, tracking
from shunted_lab.tasks.callbacks import Stopped
from shunted_lab.tasks.history import read_history
from shunted_lab.tasks.listener import RunListener
from shunted_lab.tasks.loggers import RunNames, check_loggers, names_of
from shunted_lab.tasks.tracking import IDS, TRACKING_URI, logging_to
from shunted_lab.tasks.train import train

WORDS = ["experiment=train", "launch.accelerator=cpu", "data.batch_size=8", "recipe.epochs=2"]
WORDS += ["recipe.limit_batches=2", "model.depths=[1,1,1,1]", "model.mlp_ratios=[1,1,1,1]"]
NAMES = RunNames("ablation", "conv_stem", 3)


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """No test speaks to a server, whatever the environment says."""
    for name in ("WANDB_PROJECT", "WANDB_API_KEY", TRACKING_URI):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def config(*names: str, pictures: bool = False) -> RunConfig:
    words = [f"launch.loggers=[{','.join(names)}]", f"launch.pictures={str(pictures).lower()}"]
    return compose([*WORDS, *words]).variants["model"]


class StopAt(RunListener):
    """Asks to stop at the n-th batch."""

    def __init__(self, batch: int):
        self.left = batch

    def stopping(self) -> bool:
        self.left -= 1
        return self.left <= 0


def stop(of: RunConfig, folder: Path) -> None:
    """Train a run until its second epoch."""
    with pytest.raises(Stopped):
        train(of, folder, StopAt(3), names=NAMES)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_tensorboard_is_the_default_and_loggers_change_no_fingerprint():
    assert compose(WORDS).variants["model"].launch.loggers == ["tensorboard"] and tuple(tracking.MAKERS) == LOGGERS
    assert len({config(*names).fingerprint("", {}) for names in ((), ("csv",), LOGGERS)}) == 1


def test_a_logger_that_is_not_known_is_refused_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"^launch\.loggers: 'wandbb' is not known; did you mean 'wandb'\? choices: csv"
    ):
        config("wandbb")


def test_a_run_is_named_by_its_place_in_the_study():
    names = names_of(config(), Path("runs/ablation-smoke/conv_stem/seed0-1a2b3c4d"))
    assert names == RunNames("ablation-smoke", "conv_stem", 0) and names.run == "conv_stem-seed0"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_named_before_anything_is_trained(monkeypatch, capsys, tmp_path, name):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    message = rf"launch\.loggers: {name} is not installed; pip install 'shunted_lab\[{name}\]'"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        train(config("csv", name), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run.main([*WORDS, f"launch.loggers=[{name}]", f"runs_dir={tmp_path}/runs"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: launch.loggers: ") and error.count("\n") == 1
    assert not (tmp_path / "runs" / "train").exists()


def test_a_folder_of_the_name_of_a_package_is_not_that_package(tmp_path, monkeypatch):
    (tmp_path / "a_logger").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not loggers._is_installed("a_logger") and loggers._is_installed("lightning")


def test_wandb_without_a_key_is_refused_unless_it_is_offline(monkeypatch):
    pytest.importorskip("wandb")
    check_loggers(config("wandb").launch)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match=r"^launch\.loggers: wandb has no API key; run `wandb login`, or set WANDB_M"):
        check_loggers(config("wandb").launch)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    check_loggers(config("wandb").launch)
    monkeypatch.delenv("WANDB_API_KEY")
    job = compose([*WORDS, "launch=slurm", "launch.loggers=[wandb]"]).config.launch
    check_loggers(job, here=False)  # the job looks for the key in its own environment


def test_csv_and_tensorboard_together(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = train(config("csv", "tensorboard", pictures=True), tmp_path)["metrics"]
    found = rows(tmp_path / "csv" / "version_0" / "metrics.csv")
    assert float(found[-1]["test/top1"]) == pytest.approx(metrics["test/top1"])
    assert "recipe.epochs: 2" in (tmp_path / "csv" / "version_0" / "hparams.yaml").read_text()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"val/top1", "test/top1", "final/test/top1"} <= set(events.Tags()["scalars"])
    assert set(events.Tags()["images"]) == {"test/predicted", "test/attention"}


def test_tensorboard_opens_with_what_matters(tmp_path):
    """No chart of the epoch; final values where training ended; variant and seed first among the options."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    folder = tmp_path / "study" / "small" / "seed0-1a2b"
    train(config("tensorboard"), folder)
    events = EventAccumulator(str(folder))
    events.Reload()
    assert "epoch" not in events.Tags()["scalars"] and "train/loss_epoch" in events.Tags()["scalars"]
    (final,) = events.Scalars("final/test/top1")
    assert final.step == events.Scalars("test/top1")[-1].step > 0
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    assert (shown["variant"].string_value, shown["seed"].number_value) == ("small", 0)
    assert shown["recipe.epochs"].number_value == 2
    written = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert list(written)[:2] == ["variant", "seed"] and written["recipe.epochs"] == 2


def test_no_logger_writes_nothing_but_the_history_of_the_run(tmp_path):
    train(config(pictures=True), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoints", "evidence.npz", "history.csv", "predictions.npz"}
    assert len(read_history(tmp_path)["val/loss"]) == 2


def test_the_csv_of_a_resumed_run_keeps_what_was_logged_before(tmp_path):
    stop(config("csv"), tmp_path)
    before = rows(tmp_path / "csv" / "version_0" / "metrics.csv")
    train(config("csv"), tmp_path)
    assert rows(tmp_path / "csv" / "version_0" / "metrics.csv") == before
    epochs = [{row["epoch"] for row in rows(tmp_path / "csv" / f"version_{n}" / "metrics.csv")} for n in (0, 1)]
    assert epochs[0] == {"0"} and min(epochs[1]) == "1"


def test_only_the_first_rank_has_loggers(tmp_path):
    trainer = SimpleNamespace(is_global_zero=False, loggers=[])
    with logging_to(trainer, config(*LOGGERS), tmp_path, NAMES):  # type: ignore[arg-type]
        assert trainer.loggers == []
    assert list(tmp_path.iterdir()) == []


def test_the_command_names_tensorboard_where_it_has_curves():
    for names, expected in ((["csv"], False), (["csv", "tensorboard"], True)):
        experiment = compose([*WORDS, f"launch.loggers=[{','.join(names)}]"])
        assert any(line.startswith("curves: tensorboard") for line in places(experiment.config, [])) == expected


def test_wandb_has_one_run_for_a_run_that_was_stopped_and_resumed(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    init, asked, ends = wandb.init, [], []
    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options) or init(**options))
    monkeypatch.setattr(wandb.Run, "finish", lambda run, exit_code: ends.append(exit_code) or run._finish(exit_code))
    folder = tmp_path / "seed3-1a2b3c4d"
    stop(config("wandb"), folder)
    assert wandb.run is None  # else a worker's next run would go into this one
    train(config("wandb", pictures=True), folder, names=NAMES)
    train(config("wandb"), tmp_path / "other", names=NAMES)
    first, again, other = asked
    assert first["id"] == again["id"] == json.loads((folder / IDS).read_text())["wandb"] != other["id"]
    assert first["id"].startswith("seed3-1a2b3c4d-") and first["resume"] == "allow"
    assert (first["project"], first["group"], first["name"]) == ("ablation", "conv_stem", "conv_stem-seed3")
    assert first["tags"] == ["ablation", "seed3"] and first["config"]["recipe.epochs"] == 2
    assert ends == [tracking.EXIT_CODES[end] for end in ("KILLED", "FINISHED", "FINISHED")]
    # W&B names a session by its second; one that begins in the same second ends with `-1`.
    sessions = sorted(folder.glob(f"wandb/offline-run-*-{first['id']}*"))
    pictures = [sorted(path.stem.partition("_")[0] for path in session.rglob("*.png")) for session in sessions]
    assert pictures == [[], ["attention", "predicted"]]


def test_wandb_logs_to_the_project_that_the_environment_names(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    init, asked = wandb.init, []
    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options) or init(**options))
    monkeypatch.setenv("WANDB_PROJECT", "vision")
    train(config("wandb"), tmp_path, names=NAMES)
    assert asked[0]["project"] == "vision" and "ablation" in asked[0]["tags"]


def test_mlflow_has_one_run_for_a_run_that_was_stopped_and_resumed(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    stop(config("mlflow"), tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    identity = json.loads((tmp_path / IDS).read_text())["mlflow"]
    assert client.get_run(identity).info.status == "KILLED"
    metrics = train(config("mlflow", pictures=True), tmp_path, names=NAMES)["metrics"]
    experiment = client.get_experiment_by_name("ablation")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == identity and found.info.status == "FINISHED"
    assert found.info.run_name == "conv_stem-seed3"
    assert (found.data.tags["variant"], found.data.tags["seed"]) == ("conv_stem", "3")
    assert found.data.params["recipe.epochs"] == "2"
    assert found.data.metrics["test/top1"] == pytest.approx(metrics["test/top1"])
    assert [each.step for each in client.get_metric_history(identity, "train/loss_epoch")] == [1, 3]
    assert TRACKING_URI not in os.environ  # MLflow sets it; a worker's next run would log to this one's file


def test_mlflow_begins_a_new_run_where_it_does_not_have_the_old_one(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/server.db"
    monkeypatch.setenv(TRACKING_URI, uri)
    client = mlflow.MlflowClient(uri)
    for written in ("0" * 32, None):  # the id of another server; then a run that the user has deleted
        if written is None:
            client.delete_run(json.loads((tmp_path / IDS).read_text())["mlflow"])
        else:
            (tmp_path / IDS).write_text(json.dumps({"mlflow": written}))
        before = json.loads((tmp_path / IDS).read_text())["mlflow"]
        trainer = SimpleNamespace(is_global_zero=True, loggers=[])
        with pytest.raises(OSError), logging_to(trainer, config("mlflow"), tmp_path, NAMES):  # type: ignore[arg-type]
            raise OSError
        after = json.loads((tmp_path / IDS).read_text())["mlflow"]
        assert after != before and client.get_run(after).info.status == "FAILED"
    assert os.environ[TRACKING_URI] == uri and not (tmp_path / "mlflow.db").exists()
