"""What a command writes before workers start: its manifest, and a trial for each run that is to be trained.

Results that are known already are taken instead: from the runs' own folders, where the database was lost, and from
other experiments in `runs_dir`, where they have trained the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optuna.study import Study
from optuna.trial import TrialState

from shunted_lab.config.experiment import Config
from shunted_lab.study.folder import Run, copy_twin, find_twin, read_result
from shunted_lab.study.manifest import Home, Manifest, make_home, read_home
from shunted_lab.study.plan import study_folder
from shunted_lab.study.queue import Queue
from shunted_lab.study.search.queue import SearchQueue
from shunted_lab.study.search.search import check_same_search, note_search, search_of
from shunted_lab.study.states import by_fingerprint, current, is_alive, read_states, set_aside
from shunted_lab.study.storage import create_study, open_study, place_of


def read_study(home: Home | None, manifest: Manifest) -> Study | None:
    """The study of a plan, only to read; None if there is none yet."""
    if home is None:
        return None
    return open_study(place_of(home.folder, home.url), manifest.study_name(home))


def storage_of(config: Config) -> str | None:
    """Where the study of a command is kept: as it says, or where it is already."""
    home = read_home(study_folder(config))
    return config.study.storage or (home.storage if home else None)


def write_study(home: Home, manifest: Manifest) -> Study:
    """The study of a plan, to write; made if there is none."""
    place = place_of(home.folder, home.url)
    return create_study(place, manifest.study_name(home), manifest.objectives, home.folder)


def prepare(manifest: Manifest, wanted: Sequence[Run]) -> tuple[Home, str, int]:
    """Write the manifest, and enqueue the runs `wanted` that nobody has finished or trains.

    Returns:
        The study, the plan's ID, by which workers find it, and how many runs they may take.
    """
    config = manifest.config
    home = make_home(manifest.folder, config.study.storage)
    study = write_study(home, manifest)
    if config.race is not None:
        from shunted_lab.study.race import register  # scipy: 1 s

        register(study, config, manifest.runs)
    if config.rerun == "all":
        set_all_aside(study, wanted)
    queue = Queue(study, home.folder, {run.fingerprint: run for run in manifest.runs}, config.launch.max_attempts)
    queue.recover()
    if config.rerun is None:
        for run in wanted:
            if (twin := find_twin(run, Path(config.runs_dir))) and read_result(run) is None:
                copy_twin(run, twin)
    done = {state.run.fingerprint: state for state in read_states(manifest.runs, study) if state.state == "done"}
    queue.adopt((state.run, state.result or {}) for state in done.values())
    left = [run for run in wanted if run.fingerprint not in done]
    queue.enqueue(left)
    return home, manifest.write(home), len(left)


def prepare_search(manifest: Manifest) -> tuple[Home, str, int]:
    """The same for a search: its points are proposed by the workers. Points that have failed are queued again."""
    config, spec = manifest.config, manifest.search
    assert spec is not None
    home = make_home(manifest.folder, config.study.storage)
    study = write_study(home, manifest)
    check_same_search(study, spec, home.folder)
    note_search(study, spec)
    search = search_of(manifest)
    queue = SearchQueue(study, search, config.launch.max_attempts)
    queue.recover()
    queue.adopt_points()
    queue.retry_failed(also_given_up=config.rerun == "failed")
    return home, manifest.write(home), search.left(study)


def twins_of(runs: Sequence[Run], runs_dir: Path) -> dict[str, Path]:
    """Fingerprint -> the folder of an identical run that another experiment in `runs_dir` has finished."""
    found = {run.fingerprint: find_twin(run, runs_dir) for run in runs}
    return {fingerprint: path for fingerprint, path in found.items() if path is not None}


def set_all_aside(study: Study, runs: Sequence[Run]) -> None:
    """Make room for all runs to be trained again: old results are kept, their folders renamed.

    A rerun that was not finished is resumed: only runs that it has not set aside yet are.
    """
    gone, begun = set_aside(study), begun_again(study, runs)
    known = by_fingerprint(current(study))
    for fingerprint, run in {run.fingerprint: run for run in runs}.items():
        if fingerprint in begun or any(
            t.state == TrialState.RUNNING and is_alive(t) for t in known.get(fingerprint, ())
        ):
            continue
        moved = _move_away(run.folder)
        gone |= {t.number: moved for t in known.get(fingerprint, []) if t.state.is_finished()}
        begun.add(fingerprint)
        study.set_user_attr("set_aside", {str(number): folder for number, folder in gone.items()})
        study.set_user_attr("rerun", sorted(begun))


def begun_again(study: Study | None, runs: Sequence[Run]) -> set[str]:
    """Fingerprints of the runs that a rerun of all has set aside and not finished yet; none where the last is over."""
    if study is None:
        return set()
    begun, known = set(study.user_attrs.get("rerun", [])), by_fingerprint(current(study))
    planned = {run.fingerprint for run in runs}
    complete = {f for f in planned if any(t.state == TrialState.COMPLETE for t in known.get(f, []))}
    return begun if (begun & planned) - complete else set()


def _move_away(folder: Path) -> str:
    """Rename a folder to the next of NAME.1, NAME.2, ...; its new name, or the old one if there is none."""
    if not folder.exists():
        return str(folder)
    count = 1
    while (target := folder.with_name(f"{folder.name}.{count}")).exists():
        count += 1
    return str(folder.rename(target))
