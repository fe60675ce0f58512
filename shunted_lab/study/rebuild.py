"""Make the database of a study again from the folders of its runs: python -m shunted_lab.study.rebuild FOLDER [URL]

FOLDER is the study's, e.g. runs/ablate_embed; URL is its `study.storage`, if it has one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import json_to_distribution
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from shunted_lab.config.paths import expand
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.quantities import counted
from shunted_lab.output.streams import forgive
from shunted_lab.study import store
from shunted_lab.study.folder import TRACEBACK, Run, load_run, read_result
from shunted_lab.study.search import SEARCH
from shunted_lab.study.space import Space
from shunted_lab.study.storage import FILE, make_storage
from shunted_lab.study.trials import TRIALS


def rebuild(folder: Path, url: str | None = None) -> dict[str, int]:
    """Take every run of a study's folder into a new study. Returns the number of trials by their state.

    A run with a result is COMPLETE, one with a traceback has FAILED; others are left to be trained. What is lost:
    intermediate values, pruned trials, and how often a run had failed.

    Raises:
        ConfigError: if there is a study already, or nothing to take.
    """
    notes = sorted(path for path in folder.rglob("run.json") if "repeat" not in path.parent.name)
    if not notes:
        raise ConfigError(f"{folder}: contains no run; give the folder of a study, e.g. runs/ablate_embed")
    storage = make_storage(url or folder / FILE)
    search = json.loads((folder / SEARCH).read_text()) if (folder / SEARCH).exists() else None
    config = load_run(notes[0].parent).config
    goal = config.task.goal(config.data)
    objectives = search["objectives"] if search else {goal.monitor: goal.mode}
    try:
        study = optuna.create_study(
            study_name=folder.name,
            storage=storage,
            directions=["maximize" if way == "max" else "minimize" for way in objectives.values()],
        )
    except optuna.exceptions.DuplicatedStudyError:
        where = "the storage" if url else folder / FILE
        raise ConfigError(f"{folder}: a study of this name exists in {where}; move it away first") from None
    study.set_metric_names(list(objectives))
    if search is not None:
        for key in ("space", "base", TRIALS):
            study.set_user_attr(key, search[key])
    counts: dict[str, int] = {}
    aside = {}
    for note in notes:
        state = _take(study, load_run(note.parent), search)
        if state is None:
            continue
        counts[state.name] = counts.get(state.name, 0) + 1
        if note.parent.suffix[1:].isdigit():  # renamed by rerun=all
            aside[str(len(study.trials) - 1)] = str(note.parent)
    study.set_user_attr("set_aside", aside)
    return counts


def _take(study: Study, run: Run, search: dict[str, Any] | None) -> TrialState | None:
    point: dict[str, Any] = {}
    attrs = store.attributes(run)
    if search:
        space = Space({key: json_to_distribution(text) for key, text in search["space"].items()}, run.config)
        params = space.params(run.config)
        point = {"params": params, "distributions": space.distributions}
        attrs |= {"name": space.label(params), "launcher": {"host": "", "lock": ""}}
    result = read_result(run)
    if result is not None:
        study.add_trial(
            create_trial(values=store.values(study, result), user_attrs=attrs | {"result": result}, **point)
        )
        return TrialState.COMPLETE
    if (run.folder / TRACEBACK).exists():
        attrs["error"] = (run.folder / TRACEBACK).read_text()
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attrs, **point))
        return TrialState.FAIL
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 for a user's mistake."""
    forgive()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not 1 <= len(arguments) <= 2 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 0 if {"-h", "--help"} & set(arguments) else 1
    try:
        counts = rebuild(Path(expand(arguments[0])), *arguments[1:])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(", ".join(f"{counted(count, 'trial')} {state}" for state, count in counts.items()) or "no run was finished")
    return 0


if __name__ == "__main__":
    sys.exit(main())
