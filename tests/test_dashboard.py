"""The dashboard's copies: readable, up to date, and without any way back to the study."""

import json
import shutil
import socket
import threading
from urllib.request import urlopen
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import create_trial

from shunted_lab import dashboard
from shunted_lab.config.compose import compose, compose_as
from shunted_lab.config.schema import ConfigError
from shunted_lab.dashboard import DashboardConfig
from shunted_lab.nn.cost import Cost
from shunted_lab.report.index import Summary
from shunted_lab.report.mirror import ICONS, READ_ONLY, Mirror
from shunted_lab.study import plan
from shunted_lab.study.manifest import make_home
from shunted_lab.study.prepare import write_study
from shunted_lab.study.queue import Queue
from shunted_lab.study.storage import JOURNAL_FILE, reading, write_storage

pytest.importorskip("optuna_dashboard", reason="pip install 'shunted_lab[dashboard]'")
RESULT = {
    "metrics": {"val/top1": 0.5, "test/top1": 0.4},
    "headline": "test/top1",
    "seconds": 2.0,
    "costs": {"params": 7},
}


@pytest.fixture
def study(tmp_path):
    """The queue of a study with a finished run and a running one, and the job of the latter."""
    experiment = compose(["experiment=ablate_embed", f"runs_dir={tmp_path}/runs", "seeds=[0]"])
    facts, costs = plan.data_facts(experiment), dict.fromkeys(experiment.variants, Cost(7, 3, 2, 1))
    manifest = plan.make_manifest(experiment, facts, costs, plan.plan_runs(experiment, facts, costs))
    found = write_study(make_home(manifest.folder, None), manifest)
    runs = {run.fingerprint: run for run in manifest.runs}
    queue = Queue(found, manifest.folder, dict(list(runs.items())[:2]))
    queue.adopt([(manifest.runs[0], RESULT)])
    queue.enqueue(manifest.runs[1:2])
    job = queue.take()
    queue.epoch(job, 0, {"val/top1": 0.25})
    found.set_user_attr("space", {"rates[0]": [1, 2]})
    found.set_user_attr("trials", 30)
    (tmp_path / "runs" / "ablate_embed" / "table.md").write_text("| the table |")
    return queue, job, manifest.runs


def get(mirror, path, method="GET"):
    """Status and body of a request, as the dashboard's page sends it."""
    path, _, query = path.partition("?")
    environ, answers = {"PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": method}, []
    setup_testing_defaults(environ)
    body = b"".join(mirror(environ, lambda status, headers, error=None: answers.append(int(status[:3]))))
    return answers[0], body.decode()


def page(mirror, number, after=0):
    """What the page of a study asks for."""
    status, body = get(mirror, f"/api/studies/{number}?after={after}")
    return json.loads(body) if status == 200 else status


def shown(mirror):
    """The studies of the list by their numbers."""
    studies = json.loads(get(mirror, "/api/studies")[1])["study_summaries"]
    return {study["study_id"]: study["study_name"] for study in studies}


def small_study(folder, name="x", file="study.db"):
    """A study of one finished run, to write."""
    folder.mkdir(parents=True, exist_ok=True)
    found = optuna.create_study(study_name=name, storage=write_storage(folder / file))
    found.add_trial(create_trial(value=1.0, user_attrs={"fingerprint": "f", "variant": "a", "seed": 0}))
    return found


def test_a_copy_is_readable_and_follows_the_study(tmp_path, study):
    queue, job, runs = study
    mirror = Mirror(tmp_path / "runs", None, tmp_path)
    mirror.refresh()
    copy = optuna.load_study(study_name="ablate_embed", storage=mirror.storage)
    assert [t.user_attrs["name"] for t in copy.trials] == ["non_overlapping, seed 0", "overlapping, seed 0"]
    assert copy.trials[0].params == {"variant": "non_overlapping", "seed": 0}
    assert copy.trials[0].user_attrs["test/top1"] == 0.4 and copy.trials[1].intermediate_values == {0: 0.25}
    assert copy.trials[0].user_attrs["params"] == 7 and copy.metric_names == ["val/top1"]
    nested = {"configuration", "worker", "heartbeat", "result", "costs"}
    assert not nested & (copy.trials[0].user_attrs.keys() | copy.trials[1].user_attrs.keys())
    assert copy.user_attrs == {"trials": 30, "folder": str(queue.folder)}
    note = page(mirror, copy._study_id)["note"]["body"]
    assert "Which patch embedding earns its cost?" in note and "| the table |" in note
    queue.epoch(job, 1, {"val/top1": 0.5})
    queue.complete(job, RESULT)
    queue.adopt([(runs[2], RESULT)])
    mirror.refresh()
    copy = optuna.load_study(study_name="ablate_embed", storage=mirror.storage)
    assert [t.state.name for t in copy.trials] == ["COMPLETE"] * 3
    assert copy.trials[1].intermediate_values == {0: 0.25, 1: 0.5} and copy.trials[1].value == 0.5
    assert copy.trials[0].datetime_start == queue.study.trials[0].datetime_start


def test_an_open_page_follows_its_study_by_the_same_numbers(tmp_path, study):
    queue, job, _ = study
    other = small_study(tmp_path / "runs" / "a_first_one")
    mirror = Mirror(tmp_path / "runs", None, tmp_path)
    mirror.refresh()
    before = page(mirror, 1)
    assert shown(mirror) == {0: "a_first_one", 1: "ablate_embed"} and len(before["trials"]) == 2
    other.add_trial(create_trial(value=2.0, user_attrs={"fingerprint": "g", "variant": "0", "seed": 0}))
    queue.complete(job, {**RESULT, "metrics": {"val/top1": 0.75, "test/top1": 0.4}})
    mirror.refresh()
    after = page(mirror, 1, after=1)  # the page has the first trial, which is finished
    assert shown(mirror) == {0: "a_first_one", 1: "ablate_embed"}
    assert [t["trial_id"] for t in after["trials"]] == [before["trials"][1]["trial_id"]]
    assert [t["number"] for t in after["best_trials"]] == [1] and after["trials"][0]["state"] == "Complete"
    variants = [t["params"][0] for t in page(mirror, 0)["trials"]]
    assert [v["param_internal_value"] for v in variants] == [0, 1], "a variant keeps its index"


def test_a_deleted_study_disappears_and_no_other_gets_its_page(tmp_path):
    for name in ("a", "b"):
        small_study(tmp_path / "runs" / name)
    mirror = Mirror(tmp_path / "runs", None, tmp_path)
    mirror.refresh()
    shutil.rmtree(tmp_path / "runs" / "a")
    mirror.refresh()
    assert shown(mirror) == {1: "b"} and page(mirror, 0) == 404
    small_study(tmp_path / "runs" / "c")
    mirror.refresh()
    assert shown(mirror) == {1: "b", 2: "c"}
    small_study(tmp_path / "runs" / "a")
    mirror.refresh()
    assert shown(mirror) == {0: "a", 1: "b", 2: "c"}


def test_a_report_is_shown_beside_its_study_and_in_its_note(tmp_path, study):
    table = tmp_path / "runs" / "ablate_embed" / "table.md"
    mirror = Mirror(tmp_path / "runs", None, tmp_path)
    mirror.refresh()
    (report,) = page(mirror, 0)["artifacts"]
    assert report["filename"] == "table.md"
    assert get(mirror, f"/artifacts/0/{report['artifact_id']}") == (200, "| the table |")
    table.write_text("| another table |")
    mirror.refresh()
    assert page(mirror, 0)["artifacts"] == [report], "a link of an open page stays"
    assert get(mirror, f"/artifacts/0/{report['artifact_id']}") == (200, "| another table |")
    assert "| another table |" in page(mirror, 0)["note"]["body"]


def test_the_note_has_state_finding_and_a_link_to_the_page(tmp_path, study):
    queue, _, _ = study
    summary = Summary("ablate_embed", "q", "2 of 3 runs done", False, False, "a is better than b", [], [])
    (queue.folder / "report" / "figures").mkdir(parents=True)
    (queue.folder / "report" / "summary.json").write_text(summary.text())
    (queue.folder / "report" / "index.html").write_text("<p>the page</p>")
    (queue.folder / "report" / "figures" / "costs.svg").write_text("<svg/>")
    mirror = Mirror(tmp_path / "runs", None, tmp_path)
    mirror.refresh()
    note = page(mirror, 0)["note"]["body"]
    question, state, finding, table, link = note.split("\n\n")
    assert (state, finding, table) == ("2 of 3 runs done", "a is better than b", "| the table |")
    assert link == "[The page with all figures](/page/0/index.html)" and "earns its cost" in question
    assert get(mirror, "/page/0/index.html") == (200, "<p>the page</p>")
    assert get(mirror, "/page/0/figures/costs.svg") == (200, "<svg/>")
    status, first = get(mirror, "/")
    assert status == 200 and "a is better than b" in first and 'href="/page/0/index.html"' in first
    assert 'href="/dashboard/studies/0"' in first and 'href="/dashboard"' in first
    for path in ("0/../study.db", "0/none.html", "7/index.html", "0/", "0/%2e%2e/study.db"):
        assert get(mirror, f"/page/{path}")[0] == 404, path


def test_a_study_without_a_report_is_on_the_first_page_with_its_trials(tmp_path, study):
    mirror = Mirror(tmp_path / "runs", None, tmp_path)
    mirror.refresh()
    assert '<li><a href="/dashboard/studies/0">ablate_embed</a></li>' in get(mirror, "/")[1]


def test_buttons_that_would_edit_are_not_shown_and_all_else_is_the_dashboard_s(tmp_path, study):
    mirror = Mirror(tmp_path / "runs", None, tmp_path)
    mirror.refresh()
    status, text = get(mirror, "/dashboard/studies/0")
    assert status == 200 and '[data-testid="DeleteIcon"]' in text and "display: none }</style></head>" in text
    bundle = get(mirror, "/static/bundle.js")[1]
    for icon in ICONS:
        assert icon.removesuffix("Icon") in bundle, icon


def test_a_study_that_has_not_changed_is_not_read_again(tmp_path, study, monkeypatch):
    mirror, read = Mirror(tmp_path / "runs", None, tmp_path), []
    monkeypatch.setattr("shunted_lab.report.mirror.reading", lambda place: read.append(place) or reading(place))
    mirror.refresh()
    mirror.refresh()
    assert len(read) == 1
    study[0].epoch(study[1], 1, {"val/top1": 0.5})
    mirror.refresh()
    assert len(read) == 2


def test_studies_of_a_database_are_named_by_their_folders(tmp_path):
    here, there = tmp_path / "runs" / "ablate", tmp_path / "elsewhere" / "ablate"
    there.mkdir(parents=True)
    (there / "table.md").write_text("| of 2b |")
    names = {"ablate-1a-top1": here, "ablate-2b-top1": there, "alone-3c-top1": tmp_path / "alone", "of_others": None}
    for name, folder in names.items():
        found = small_study(tmp_path, name, "all.db")
        if folder is not None:
            found.set_user_attr("folder", str(folder))
    other = optuna.load_study(study_name="of_others", storage=write_storage(tmp_path / "all.db"))
    other.add_trial(create_trial(value=1.0, user_attrs={"result": 3, "variant": [1]}))
    small_study(here, "ablate-4d-top1", JOURNAL_FILE)
    mirror = Mirror(tmp_path / "runs", f"sqlite:///{tmp_path}/all.db", tmp_path)
    assert mirror.refresh() == {}
    assert shown(mirror) == {
        0: "ablate (4d-top1)",
        1: "ablate (1a-top1)",
        2: "ablate (2b-top1)",
        3: "alone",
        4: "of_others",
    }
    assert [page(mirror, number)["note"]["body"] for number in shown(mirror)] == ["", "", "| of 2b |", "", ""]


@pytest.mark.parametrize("file", ["study.db", JOURNAL_FILE])
def test_a_study_is_never_written_to(tmp_path, file):
    real = small_study(tmp_path / "runs" / "a", file=file)
    folder = tmp_path / "runs" / "a"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".db-shm"}
    mirror = Mirror(tmp_path / "runs", None, tmp_path)
    mirror.refresh()
    assert page(mirror, 0)["trials"][0]["values"] == [1.0]
    assert get(mirror, "/api/studies/0", "DELETE") == (403, json.dumps({"reason": READ_ONLY}))
    assert get(mirror, "/api/studies/0/note", "PUT")[0] == get(mirror, "/api/studies", "POST")[0] == 403
    optuna.delete_study(study_name="a", storage=mirror.storage)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".db-shm"} == before
    assert len(real.trials) == 1


def test_a_file_is_opened_only_to_read(tmp_path, study):
    path = tmp_path / "runs" / "ablate_embed" / "study.db"
    with reading(path) as storage, pytest.raises(StorageInternalError) as error:
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "mine")
    assert "readonly database" in str(error.value.__cause__)


def test_what_cannot_be_read_keeps_its_last_copy_and_holds_up_nothing_else(tmp_path, capsys):
    small_study(tmp_path / "runs" / "a", file=JOURNAL_FILE)
    good = small_study(tmp_path / "runs" / "b")
    mirror, path = Mirror(tmp_path / "runs", None, tmp_path), tmp_path / "runs" / "a" / JOURNAL_FILE
    assert dashboard._say(mirror.refresh(), {}) == {}
    whole = path.read_bytes()
    path.write_bytes(b"not a journal\n" + whole)
    good.add_trial(create_trial(value=2.0))
    said = dashboard._say(mirror.refresh(), {})
    said = dashboard._say(mirror.refresh(), said)
    error = capsys.readouterr().err
    assert error == f"{path} cannot be read now, and is tried again: Expecting value: line 1 column 1 (char 0)\n"
    assert [len(page(mirror, number)["trials"]) for number in (0, 1)] == [1, 2]
    path.write_bytes(whole)
    assert dashboard._say(mirror.refresh(), said) == {}


def test_a_refresh_that_raises_is_said_and_the_next_one_goes_on(tmp_path, study, monkeypatch, capsys):
    mirror, waits, refresh = Mirror(tmp_path / "runs", None, tmp_path), [], Mirror.refresh
    errors = [ZeroDivisionError("a mistake"), ZeroDivisionError("a mistake"), OSError("no answer"), ValueError(), None]

    def fail(self):
        error = errors.pop(0)
        if error is not None:
            raise error
        return refresh(self)

    def wait(seconds):
        waits.append(seconds)
        if not errors:
            raise SystemExit  # only the end of the process ends the thread

    monkeypatch.setattr(Mirror, "refresh", fail)
    monkeypatch.setattr(dashboard.time, "sleep", wait)
    with pytest.raises(SystemExit):
        dashboard._keep_fresh(mirror, 0.5, {})
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("a study")]
    assert [line.partition(": ")[2] for line in lines] == ["a mistake", "no answer", "ValueError"]
    assert lines[0] == "a study cannot be read now, and is tried again: a mistake"
    assert error.count("Traceback") == 2 and error.count("ZeroDivisionError: a mistake") == 1
    assert waits == [0.5] * 6 and shown(mirror) == {0: "ablate_embed"}


def test_the_server_answers_while_a_connection_is_idle(tmp_path, study):
    mirror = Mirror(tmp_path / "runs", None, tmp_path)
    mirror.refresh()
    with dashboard._open_server(mirror, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host, port = server.server_address
        with socket.create_connection((host, port)), urlopen(f"http://{host}:{port}/api/studies", timeout=10) as answer:
            assert "ablate_embed" in answer.read().decode()
        with pytest.raises(ConfigError, match=rf"port: {port} cannot be opened \(Address already in use\)"):
            dashboard._open_server(mirror, port)
        server.shutdown()


def test_a_folder_without_a_study_is_refused(tmp_path, capsys):
    assert dashboard.main([f"runs_dir={tmp_path}"]) == 1
    assert capsys.readouterr().err == f"error: runs_dir: no study was found in {tmp_path}\n"
    assert dashboard.main(["--help"]) == 0 and "runs_dir: str = runs" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"prt: no such key; did you mean 'port'"):
        compose_as(DashboardConfig, ["prt=1"])
