"""The dashboard's copies: readable, up to date, and without any way back to the study."""

import sqlite3

import optuna
import pytest
from optuna.exceptions import StorageInternalError

from shunted_lab import dashboard
from shunted_lab.config.compose import compose, compose_as
from shunted_lab.config.schema import ConfigError
from shunted_lab.dashboard import DashboardConfig
from shunted_lab.study import plan, store
from shunted_lab.study.storage import reading

pytest.importorskip("optuna_dashboard", reason="pip install 'shunted_lab[dashboard]'")
RESULT = {"metrics": {"val/top1": 0.5, "test/top1": 0.4}, "headline": "test/top1", "seconds": 2.0}


@pytest.fixture
def study(tmp_path):
    """A study with a finished run and a running one."""
    experiment = compose(["experiment=ablate_embed", f"runs_dir={tmp_path}/runs", "seeds=[0]"])
    found = store.create_study(experiment.config, {"val/top1": "max"})
    runs = plan.plan_runs(experiment, plan.data_facts(experiment))
    store.adopt(found, runs[0], RESULT)
    found.enqueue_trial({}, user_attrs=store.attributes(runs[1]))
    trial = found.ask()
    trial.report(0.25, 0)
    (tmp_path / "runs" / "ablate_embed" / "table.md").write_text("| the table |")
    return found, runs, trial


def test_a_copy_is_readable_and_follows_the_study(tmp_path, study):
    real, runs, trial = study
    mirror = dashboard.Mirror(tmp_path / "runs", None, tmp_path)
    mirror.refresh()
    copy = optuna.load_study(study_name="ablate_embed", storage=mirror.storage)
    assert [t.user_attrs["name"] for t in copy.trials] == ["non_overlapping, seed 0", "overlapping, seed 0"]
    assert copy.trials[0].params == {"variant": "non_overlapping", "seed": 0}
    assert copy.trials[0].user_attrs["test/top1"] == 0.4 and copy.trials[1].intermediate_values == {0: 0.25}
    assert not {"config", "launcher", "result"} & copy.trials[0].user_attrs.keys()
    note = "".join(
        str(v)
        for k, v in mirror.storage.get_study_system_attrs(copy._study_id).items()
        if k.startswith("dashboard:note_str")
    )
    assert "Which patch embedding earns its cost?" in note and "| the table |" in note
    trial.report(0.5, 1)
    trial.set_user_attr("result", RESULT)
    real.tell(trial, 0.5)
    store.adopt(real, runs[2], RESULT)
    mirror.refresh()
    copy = optuna.load_study(study_name="ablate_embed", storage=mirror.storage)
    assert [t.state.name for t in copy.trials] == ["COMPLETE"] * 3
    assert copy.trials[1].intermediate_values == {0: 0.25, 1: 0.5} and copy.trials[1].value == 0.5


def test_what_is_done_to_a_copy_does_not_reach_the_study(tmp_path, study):
    real, _, _ = study
    path = tmp_path / "runs" / "ablate_embed" / "study.db"
    mirror = dashboard.Mirror(tmp_path / "runs", None, tmp_path)
    mirror.refresh()
    optuna.delete_study(study_name="ablate_embed", storage=mirror.storage)
    assert len(store.open_study(compose(["experiment=ablate_embed", f"runs_dir={tmp_path}/runs"]).config).trials) == 2
    with reading(path) as storage, pytest.raises(StorageInternalError) as error:
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "mine")
    assert "readonly database" in str(error.value.__cause__)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM studies").fetchone() == (1,)
    assert len(real.trials) == 2


def test_a_folder_without_a_study_is_refused(tmp_path, capsys):
    assert dashboard.main([f"runs_dir={tmp_path}"]) == 1
    assert capsys.readouterr().err == f"error: runs_dir: no study was found in {tmp_path}\n"
    assert dashboard.main(["--help"]) == 0 and "runs_dir: str = runs" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"prt: no such key; did you mean 'port'"):
        compose_as(DashboardConfig, ["prt=1"])
