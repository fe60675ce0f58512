"""The files of a search's report."""

from __future__ import annotations

from pathlib import Path

from optuna.study import Study

from shunted_lab.output.quantities import counted
from shunted_lab.report.index import SUMMARY, Summary
from shunted_lab.report.search import SearchTable, rows_of, search_pictures, to_markdown
from shunted_lab.report.write import PAGE, Coverage, Written, choose_target, publish
from shunted_lab.study.manifest import Manifest
from shunted_lab.study.search.trials import finished


def write_search(manifest: Manifest, study: Study | None, table: SearchTable) -> Written:
    """Write `search.md`, `search.csv`, and `report/` with the page and its figures, each file whole or not at all.

    An incomplete report never replaces one with more finished trials; it goes to `incomplete/` then.
    """
    from shunted_lab.report.page import render_search_page

    folder, spec = manifest.folder, manifest.search
    assert spec is not None
    coverage = Coverage("trials", len(finished(study)) if study else 0, spec.trials, table.complete)
    target = choose_target(folder / "search.md", _done_before(folder), coverage)
    made = search_pictures(manifest, study)
    runs = [folder / t.user_attrs["folder"] for t in rows_of(manifest, study)]
    page = render_search_page(manifest, table, runs, made, target.folder / "report")
    texts = {
        "search.md": to_markdown(table),
        "search.csv": table.csv,
        SUMMARY: _summary(manifest, table, coverage).text(),
    }
    return publish(target, texts | {PAGE: page}, made)


def _summary(manifest: Manifest, table: SearchTable, coverage: Coverage) -> Summary:
    config = manifest.config
    found = next((str(f) for f in table.facts if f.label.startswith("Best") and not config.smoke), None)
    state = f"{coverage.done} of {counted(coverage.planned, 'assignment')} trained"
    title, question = config.name, config.description
    return Summary(title, question, state, table.complete, config.smoke, found, table.head, table.rows)


def _done_before(folder: Path) -> int:
    """Finished trials in the report that is there; 0 if there is none."""
    try:
        return max(0, len((folder / "search.csv").read_text(encoding="utf-8").splitlines()) - 1)
    except (OSError, UnicodeDecodeError):
        return 0
