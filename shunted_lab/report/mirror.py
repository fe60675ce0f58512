"""Copies of studies in the Optuna dashboard: readable, up to date, and without any way back to the studies."""

from __future__ import annotations

import json
import mimetypes
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from shunted_lab.config.experiment_file import experiment_files
from shunted_lab.report.index import SUMMARY, Entry, read_summary, render_index
from shunted_lab.study.storage import FILE, JOURNAL_FILE, reading

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

REPORTS = ("table.md", "table.csv", "table.tex", "search.md", "search.csv")
HIDDEN = ("configuration", "heartbeat")  # beside nested attributes, which are long
TRIALS = 1_000_000  # ids of trials that are kept for each study
READ_ONLY = "these are copies of the studies, which cannot be changed here"

PAGES = "/page/"  # where the pages of reports are served
ICONS = ("AddBoxIcon", "DeleteIcon", "DriveFileRenameOutlineIcon", "EditIcon")
EDITING = ", ".join(
    f'button:has(> svg[data-testid="{icon}"]), button:has(> * > svg[data-testid="{icon}"])' for icon in ICONS
)

Key = tuple[Path | str, str]  # file or URL of a study, and its name there


class Mirror:
    """The Optuna dashboard over copies of studies, as a WSGI application.

    A refresh makes a storage with a dashboard of its own, which replaces the last one between two requests. A study
    keeps its number (its page is `/dashboard/studies/NUMBER`) and the ids of its trials: an open page asks only for
    trials that were not finished the last time.

    Args:
        runs_dir: its subfolders with a study are shown.
        url: a storage that holds further ones.
        reports: a folder for copies of the reports.
    """

    def __init__(self, runs_dir: Path, url: str | None, reports: Path):
        self.runs_dir = runs_dir
        self.url = url
        self.reports = reports
        self.storage = InMemoryStorage()
        self._dashboard = self._serve(self.storage)
        self._copies: dict[Path | str, tuple[Any, InMemoryStorage]] = {}  # file or URL -> its stamp, its studies
        self._numbers: list[Key] = []  # the index of a study is its number
        self._reports: dict[str, tuple[str, Path]] = {}  # by that number: the study's name, the folder of its report

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request. One that would change a copy is refused: the next refresh would undo it."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            reason = json.dumps({"reason": READ_ONLY}).encode()
            return _answer(start_response, "403 Forbidden", "application/json", reason)
        path = str(environ.get("PATH_INFO", ""))
        if path.startswith(PAGES):
            return self._report_file(path.removeprefix(PAGES), start_response)
        if path in ("", "/"):
            return _answer(start_response, "200 OK", "text/html; charset=utf-8", self._index().encode())
        return _without_editing(self._dashboard, environ, start_response)

    def _index(self) -> str:
        """The first page: every study with its question, finding and table."""
        entries = [
            Entry(report.parent, name, f"{PAGES}{number}/index.html", {"trials": f"/dashboard/studies/{number}"})
            for number, (name, report) in self._reports.items()
        ]
        return render_index(entries, dashboard="/dashboard")

    def _report_file(self, path: str, start_response: StartResponse) -> Iterable[bytes]:
        """A file of the report of a study, which its note links to: `NUMBER/index.html`, `NUMBER/figures/...`."""
        number, _, name = path.partition("/")
        folder = self._reports[number][1] if number in self._reports else None
        file = None if folder is None else (folder / name).resolve()
        if folder is None or file is None or not file.is_relative_to(folder.resolve()) or not file.is_file():
            return _answer(start_response, "404 Not Found", "text/plain", b"there is no such file of a report")
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return _answer(start_response, "200 OK", kind, file.read_bytes())

    def refresh(self) -> dict[str, Exception]:
        """Copy the studies that have changed, and show them.

        Returns:
            What could not be read, a file or `storage` (the URL), and why; its last copies are still shown.
        """
        places: list[Path | str] = [*self.runs_dir.glob(f"*/{FILE}"), *self.runs_dir.glob(f"*/{JOURNAL_FILE}")]
        copies: dict[Path | str, tuple[Any, InMemoryStorage]] = {}
        problems: dict[str, Exception] = {}
        for place in (*sorted(places), *([self.url] if self.url else [])):
            copies[place] = last = self._copies.get(place, (None, InMemoryStorage()))
            try:
                stamp = _stamp(place)
                if stamp is None or stamp != last[0]:
                    copies[place] = stamp, self._copy(place)
            except Exception as error:
                problems["storage" if place == self.url else str(place)] = error
        if copies != self._copies:
            self._show(copies)
        return problems

    def _copy(self, place: Path | str) -> InMemoryStorage:
        """The studies of a file or URL in memory, made readable."""
        copies = InMemoryStorage()
        with reading(place) as storage:
            if storage is not None:
                for name in sorted(optuna.get_all_study_names(storage)):
                    optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=copies)
        for study in copies.get_all_studies():
            make_readable(copies.get_all_trials(study._study_id, deepcopy=False))
            shown = copies.get_study_user_attrs(study._study_id)  # not a copy, as the trials above
            for key in shown.keys() - _flat(shown).keys():
                del shown[key]
            copy = optuna.load_study(study_name=study.study_name, storage=copies)
            self._describe(copy, self._folder(place, study.study_name, study.user_attrs))
        return copies

    def _folder(self, place: Path | str, name: str, attrs: Mapping[str, Any]) -> Path:
        """The folder of a study: that of its file, which may have been moved; one in a database says where it is."""
        return place.parent if isinstance(place, Path) else Path(attrs.get("folder", self.runs_dir / name))

    def _describe(self, copy: Study, folder: Path) -> None:
        """The note of a study: its question, state, finding and table; the reports as files beside it."""
        from optuna_dashboard import save_note  # an extra

        parts = [_question(folder.name.removesuffix("-smoke"))]
        if (summary := read_summary(folder)) is not None:
            parts += [f"{summary.state}{'; SMOKE TEST, not a result' if summary.smoke else ''}", summary.finding or ""]
        for path in (folder / name for name in REPORTS):
            if path.exists():
                self._attach(copy, path)
                parts += [path.read_text(encoding="utf-8")] if path.suffix == ".md" else []
        save_note(copy, "\n\n".join(part for part in parts if part))

    def _attach(self, copy: Study, path: Path) -> None:
        """Show a report beside a study. `upload_artifact` would add a file with another id at every refresh."""
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, path.absolute().as_uri()))
        shutil.copyfile(path, self.reports / name)
        meta = ArtifactMeta(name, path.name, mimetypes.guess_type(path.name)[0] or "text/plain", None)
        copy._storage.set_study_system_attr(copy._study_id, f"artifacts:{name}", json.dumps(asdict(meta)))

    def _show(self, copies: dict[Path | str, tuple[Any, InMemoryStorage]]) -> None:
        """Put all studies into a new storage, under their numbers, and serve it."""
        folders = {
            (place, study.study_name): self._folder(place, study.study_name, study.user_attrs)
            for place, (_, storage) in copies.items()
            for study in storage.get_all_studies()
        }
        names, fresh = _names(folders), InMemoryStorage()
        reports: dict[str, tuple[str, Path]] = {}
        numbers = self._numbers + [key for key in folders if key not in self._numbers]
        for number, key in enumerate(numbers):
            fresh._max_trial_id = number * TRIALS - 1  # the next trial's id follows
            if key in names:
                place, name = key
                reports[str(number)] = names[key], folders[key] / "report"
                optuna.copy_study(
                    from_study_name=name, from_storage=copies[place][1], to_storage=fresh, to_study_name=names[key]
                )
                if (folders[key] / "report" / "index.html").exists():
                    _link_report(fresh, names[key], number)
            else:  # it was deleted, and no other study gets its number
                fresh.delete_study(fresh.create_new_study([StudyDirection.NOT_SET]))
        self._dashboard = self._serve(fresh)
        self.storage, self._copies, self._numbers, self._reports = fresh, copies, numbers, reports

    def _serve(self, storage: InMemoryStorage) -> WSGIApplication:
        import optuna_dashboard  # an extra

        return optuna_dashboard.wsgi(storage, artifact_store=FileSystemArtifactStore(self.reports))


def _link_report(storage: InMemoryStorage, name: str, number: int) -> None:
    """Put a link to the page of a study at the end of its note."""
    from optuna_dashboard import get_note, save_note  # an extra

    study = optuna.load_study(study_name=name, storage=storage)
    save_note(study, f"{get_note(study)}\n\n[The page with all figures]({PAGES}{number}/index.html)".strip())


def _answer(start_response: StartResponse, status: str, kind: str, body: bytes) -> list[bytes]:
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


def _without_editing(app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The dashboard's answer; in a page, the buttons that would create, change or delete are not shown."""
    heard: list[tuple[str, list[tuple[str, str]]]] = []

    def hear(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        heard.append((status, headers))

    body = b"".join(app(environ, hear))
    ((status, headers),) = heard
    if any(key.lower() == "content-type" and value.startswith("text/html") for key, value in headers):
        body = body.replace(b"</head>", f"<style>{EDITING} {{ display: none }}</style></head>".encode(), 1)
        headers = [(key, value) for key, value in headers if key.lower() != "content-length"]
        headers.append(("Content-Length", str(len(body))))
    start_response(status, headers)
    return [body]


def make_readable(trials: Sequence[FrozenTrial]) -> None:
    """Give the trials of a copy a name, their metrics as attributes, and, where they have no parameters, variant and
    seed as such, so that plots have axes. Other nested attributes are long, and in the run's folder.
    """
    trials = [t for t in trials if "fingerprint" in t.user_attrs]  # others are of another program in the same database
    # In the order of trials: an open page knows a variant by its index, which stays when another one is added.
    variants = list(dict.fromkeys(t.user_attrs["variant"] for t in trials if "variant" in t.user_attrs))
    for trial in trials:
        attrs = trial.user_attrs
        if "variant" in attrs and not trial.params:
            trial.params = {"variant": attrs["variant"], "seed": attrs["seed"]}
            seeds = IntDistribution(0, max(1000, attrs["seed"]))
            trial.distributions = {"variant": CategoricalDistribution(variants), "seed": seeds}
        name = f"{attrs['variant']}, seed {attrs['seed']}" if "variant" in attrs else ""
        result = attrs.get("result", {})
        metrics = {key: round(value, 5) for key, value in result.get("metrics", {}).items()}
        costs = attrs.get("costs", {}) | result.get("costs", {})
        trial.user_attrs = {"name": name} | _flat(attrs) | _flat(result) | _flat(costs) | metrics


def _flat(attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attrs.items() if isinstance(value, str | int | float) and key not in HIDDEN}


def _names(folders: Mapping[Key, Path]) -> dict[Key, str]:
    """How studies are called: by their folders, with the rest of the study's name where several would be the same.

    One that is found twice, by its file and in the database of that file, is called once.
    """
    count = Counter(folder.name for folder in folders.values())
    named = {}
    for key, folder in folders.items():
        rest = key[1].removeprefix(folder.name).strip("-") or folder
        named[folder.name if count[folder.name] == 1 else f"{folder.name} ({rest})"] = key
    return {key: name for name, key in named.items()}


def _stamp(place: Path | str) -> list[tuple[int, int]] | None:
    """What changes with the file of a study or its report; None for a database, which has to be read."""
    if isinstance(place, str):
        return None
    files = [place, place.with_name(f"{place.name}-wal"), *(place.parent / name for name in (*REPORTS, SUMMARY))]
    found = [path.stat() for path in files if path.exists()]
    return [(stat.st_mtime_ns, stat.st_size) for stat in found]


def _question(name: str) -> str:
    """The first line of an experiment's file: what it asks, and its command."""
    path = experiment_files().get(name)
    if path is None:
        return ""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return f"**{first.lstrip('# ')}**" if first.startswith("#") else ""
