"""What is planned of a study and what is done of it, read from its folder alone: nothing is trained or composed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shunted_lab.config.schema import ConfigError
from shunted_lab.study.folder import Run
from shunted_lab.study.manifest import Manifest, read_home, read_manifest
from shunted_lab.study.prepare import read_study
from shunted_lab.study.states import RunState, read_states


@dataclass(frozen=True)
class StudyStates:
    """What is planned of a study, what is done of it, and what could not be read."""

    manifest: Manifest
    states: list[RunState]
    problems: list[str] = field(default_factory=list)


def load_states(folder: Path) -> StudyStates:
    """The study in a folder as it is now, e.g. `runs/ablate_embed`. Nothing is written.

    A database that cannot be read is a problem that is reported: the states are those of the folders then.

    Raises:
        ConfigError: for a folder that is not a study's, and for a search, which has a report of its own.
    """
    manifest = read_manifest(folder)
    if manifest.search is not None:
        raise ConfigError(f"{folder}: is a search, whose report is loaded by report.search")
    return states_of(manifest)


def states_of(manifest: Manifest) -> StudyStates:
    """The states of the runs of a manifest."""
    try:
        states = read_states(manifest.runs, read_study(read_home(manifest.folder), manifest))
    except ConfigError as error:
        return StudyStates(manifest, *_states_of_folders(manifest.runs, [str(error)]))
    return StudyStates(manifest, states)


def _states_of_folders(runs: Sequence[Run], problems: list[str]) -> tuple[list[RunState], list[str]]:
    """States by the folders alone, where the study cannot be read, and what could not be read of them."""
    states = []
    for run in runs:
        try:
            states += read_states([run], None)
        except ConfigError as error:
            problems.append(str(error))
            states.append(RunState(run, "failed", error="its folder cannot be read"))
    return states, problems
