"""A report of a whole study: it says what is there, fails closed on what is not, and opens in a browser."""

import csv
import html
import html.parser
import io
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from sqlalchemy import Engine, event

from shunted_lab.report import __main__ as command
from shunted_lab.report.collect import class_scores, curves, image_evidence, load_study
from shunted_lab.report.finding import finding
from shunted_lab.report.index import write_index
from shunted_lab.report.page import pictures
from shunted_lab.report.render import blocks, effects_csv, interval_text, to_latex, to_markdown
from shunted_lab.report.write import Target, publish, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


class Page(html.parser.HTMLParser):
    """Links, ids and the text of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.text, self.external = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "a":
            self.links.append(found["href"])
        if "id" in found:
            self.ids.append(found["id"])
        self.external += [v for k, v in found.items() if k in ("src", "href") and v and v.startswith("http")]

    def handle_data(self, data):
        self.text.append(data)


def written(made):
    data = made.data()
    write_report(data)
    return data, Page(data.folder / "report" / "index.html")


def test_the_page_has_the_table_the_figures_and_a_link_to_every_run(make):
    made = make()
    data, page = written(made)
    for cell in ("non_overlapping", "baseline", "73.50 ± 2.00 (3)", "Latency (ms)", "11.0"):
        assert cell in page.words, cell
    report = data.folder / "report"
    assert page.external == [] and len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (report / link).exists(), link
    folders = {Path(report / link).resolve() for link in page.links if "/seed" in link and "figures" not in link}
    assert folders == {run.folder.resolve() for run in made.runs}
    names = {"differences", "seeds", "top1_macs", "val_top1", "train_loss", "classes"}  # latency, memory: one for all
    assert {i.removeprefix("figure-") for i in page.ids if i.startswith("figure-")} == names
    assert {p.name for p in (report / "figures").iterdir()} == {f"{n}.{kind}" for n in names for kind in ("svg", "pdf")}
    assert "INCOMPLETE" not in page.words and "0123abc" in page.words and "data: name: earth" in page.words


def test_the_page_shows_the_numbers_of_the_other_formats(make):
    data, _ = written(make())
    text = (data.folder / "report" / "index.html").read_text(encoding="utf-8")
    for row in blocks(data.table)[0].rows:
        for cell in row:
            assert f">{cell}</a>" in text
    lines = list(csv.DictReader((data.folder / "runs.csv").open()))
    assert len(lines) == 9 and {line["state"] for line in lines} == {"done"}
    assert float(lines[0]["test/top1"]) == data.runs[0].value
    assert int(lines[0]["macs"]) == data.table.rows[0].cost.macs


def test_a_failed_and_a_missing_run_show_with_the_traceback(make):
    made = make(lambda variant, seed: None if (variant, seed) in {("overlapping", 1), ("conv_stem", 2)} else 0.7)
    failed = next(run for run in made.runs if (run.variant, run.seed) == ("overlapping", 1))
    made.fail(failed, "Traceback ...\nValueError: <loss> is nan")
    data, page = written(made)
    assert "INCOMPLETE" in page.words and "(2 of 3: 1 failed)" in page.words and "(2 of 3: 1 missing)" in page.words
    assert "ValueError: <loss> is nan" in page.words and not data.table.complete
    assert "top1_macs" not in [picture.name for picture in pictures(data)], "one point says nothing"


def test_a_variant_with_an_open_run_is_not_among_the_points(make):
    data = make(lambda variant, seed: None if (variant, seed) == ("overlapping", 1) else 0.7).data()
    points = next(p for p in pictures(data) if p.name == "top1_macs")
    shown = [t.get_text() for t in points.figure.findobj(lambda a: hasattr(a, "get_text"))]
    assert "non_overlapping" in shown and "overlapping" not in shown and "conv_stem" in shown


def test_an_empty_study_one_run_and_a_nan_are_said(make, tmp_path):
    _, page = written(make(lambda variant, seed: None))
    assert "No run is done yet." in page.words and "(0 of 3: 3 missing)" in page.words
    shutil.rmtree(tmp_path / "runs")
    _, page = written(make(lambda variant, seed: 0.7 if (variant, seed) == ("conv_stem", 0) else None))
    assert "70.00 (1 of 3: 2 missing)" in page.words
    shutil.rmtree(tmp_path / "runs")
    _, page = written(make(lambda v, seed: float("nan") if (v, seed) == ("conv_stem", 0) else 0.7))
    assert "failed: test/top1 is nan" in page.words and "(2 of 3: 1 failed)" in page.words


def test_a_folder_that_is_gone_keeps_its_numbers_and_is_named(make):
    made = make()
    shutil.rmtree(made.runs[0].folder)
    data, page = written(made)
    assert "Run folders are missing" in page.words and "non_overlapping seed 0" in page.words
    assert data.table.complete and data.of("non_overlapping")[0].value == made.data().runs[0].value


@pytest.mark.parametrize("name", ["evidence.npz", "history.csv", "run.json"])
def test_a_broken_file_is_named_and_the_rest_is_reported(make, name):
    made = make()
    (made.runs[0].folder / name).write_bytes(b"\xff\xfe broken,\n,x")
    data, page = written(made)
    assert any(str(made.runs[0].folder) in problem for problem in data.problems)
    assert data.table.complete and "figure-differences" in page.ids


def test_a_study_of_another_version_is_said_and_the_folders_are_reported(make, tmp_path, capsys):
    made = make()
    words = ["experiment=ablate_embed", f"runs_dir={tmp_path}/runs"]
    assert command.main(words) == 0
    for path in (tmp_path / "runs" / "ablate_embed").glob("study.db*"):
        path.unlink()
    (tmp_path / "runs" / "ablate_embed" / "study.db").write_text("not a database")
    note = made.runs[0].folder / "run.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"format": 1}))
    capsys.readouterr()
    assert command.main(words) == 1  # a run cannot be read: the table is not complete
    errors = capsys.readouterr().err
    assert "is not a study of this version" in errors and "format 1" in errors and "Traceback" not in errors
    assert "warning: table.md has 9 finished runs and is kept; this report has 8 of 9" in errors
    text = (tmp_path / "runs" / "ablate_embed" / "incomplete" / "table.md").read_text()
    assert "(2 of 3: 1 failed)" in text and "its folder cannot be read" in text


def nothing(variant, seed):
    return None


@pytest.fixture
def without_figures(monkeypatch):
    """A report in a tenth of the time."""
    monkeypatch.setattr("shunted_lab.report.page.pictures", lambda data: [])


def test_a_complete_table_is_not_replaced_by_one_with_fewer_runs(make, without_figures):
    data = make().data()
    folder = data.folder
    write_report(data)
    files = [*folder.glob("table.*"), folder / "runs.csv", folder / "report" / "index.html"]
    before = {path: path.read_bytes() for path in files}
    written = write_report(make(nothing, "recipe.epochs=9").data())
    kept = f"table.md has 9 finished runs and is kept; this report has 0 of 9: {folder}/incomplete/table.md"
    assert written.warnings == [kept] and {path: path.read_bytes() for path in before} == before
    assert set(written.paths) == {folder / "incomplete" / path.relative_to(folder) for path in files}
    assert "(0 of 3: 3 missing)" in (folder / "incomplete" / "table.md").read_text()
    written = write_report(make(nothing, "seeds=[0]").data())
    assert written.warnings == [], "what is complete for its overrides is written"
    assert not (folder / "incomplete").exists() and "one (0): no spread" in (folder / "table.md").read_text()


def test_an_incomplete_table_is_replaced_by_one_with_as_many_runs(make, without_figures):
    made = make(lambda variant, seed: 0.7 if seed < 2 else None)
    folder = made.data().folder
    assert write_report(made.data()).warnings == [] and "(2 of 3: 1 missing)" in (folder / "table.md").read_text()
    made.fail(made.runs[-1], "ValueError: loss is nan")
    assert write_report(made.data()).warnings == [] and "(2 of 3: 1 failed)" in (folder / "table.md").read_text()
    (folder / "table.md").unlink()  # nothing is kept then
    write_report(make(nothing, "recipe.epochs=9").data())
    assert "(0 of 3: 3 missing)" in (folder / "table.md").read_text() and not (folder / "incomplete").exists()


def test_links_of_an_incomplete_page_lead_to_the_runs(make, without_figures):
    write_report(make().data())
    made = make(lambda variant, seed: 0.7 if seed == 3 else None, "seeds=[3,4]")
    page = next(path for path in write_report(made.data()).paths if path.name == "index.html")
    assert page.parent.parent.name == "incomplete"
    links = [link for link in Page(page).links if "seed" in link and not link.startswith("#")]
    assert {(page.parent / link).resolve() for link in links} == {run.folder.resolve() for run in made.runs[:3]}


def test_a_variant_may_be_named_as_the_folder_of_incomplete_reports(tmp_path):
    texts = {"table.md": "| the table |"}
    (tmp_path / "incomplete" / "seed0-1a2b3c4d").mkdir(parents=True)
    publish(Target(tmp_path / "incomplete", "fewer runs"), texts, [])
    publish(Target(tmp_path), texts, [])
    assert [path.name for path in (tmp_path / "incomplete").iterdir()] == ["seed0-1a2b3c4d"]


def test_a_disk_that_is_full_is_a_warning(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    written = publish(Target(tmp_path), {"table.md": "| the table |"}, [])
    assert written.paths == [] and written.warnings == [
        f"{tmp_path}: the report cannot be written (No space left on device)"
    ]


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert command.main(["experiment=ablate_embed", f"runs_dir={tmp_path}/none"]) == 1
    assert "none/ablate_embed: is not a study's folder: it has no study.json" in capsys.readouterr().err
    assert command.main([]) == 1
    assert "study: is missing; give the study's folder, e.g. runs/ablate_embed" in capsys.readouterr().err
    assert command.main([str(tmp_path), "seeds=[0]"]) == 1
    assert "seeds" in capsys.readouterr().err


def test_the_command_rebuilds_what_the_run_has_written(make, tmp_path, capsys):
    made = make()
    written(made)
    folder = made.data().folder
    before = {p.name: p.read_bytes() for p in folder.glob("*.*") if p.suffix in (".md", ".csv", ".tex")}
    for path in folder.glob("table.*"):
        path.unlink()
    assert command.main(["experiment=ablate_embed", f"runs_dir={tmp_path}/runs"]) == 0
    after = {p.name: p.read_bytes() for p in folder.glob("*.*") if p.suffix in (".md", ".csv", ".tex")}
    assert after.keys() == before.keys() and after["runs.csv"] == before["runs.csv"]
    assert str(folder / "report" / "index.html") in capsys.readouterr().out


def test_evidence_compares_the_same_images_only(make):
    made = make(lambda variant, seed: 0.9 if variant == "conv_stem" else 0.6)
    data = made.data()
    found = {e.variant: e for e in image_evidence(data)}
    assert set(found) == {"overlapping", "conv_stem"} and found["conv_stem"].bootstrap.low > 0
    assert set(found["conv_stem"].mcnemar) == {0, 1, 2}
    run = next(r for r in data.runs if (r.state.run.variant, r.state.run.seed) == ("conv_stem", 1))
    runs = [replace(r, evidence=replace(r.evidence, images="others")) if r is run else r for r in data.runs]
    found = {e.variant: e for e in image_evidence(replace(data, runs=runs))}
    assert set(found["conv_stem"].mcnemar) == {0, 2}


def test_classes_and_curves_come_from_the_folders(make):
    data = make().data()
    names, accuracies = class_scores(data)
    assert names == ["water", "forest", "snow"] and set(accuracies) == set(data.variants)
    assert [len(line) for line in curves(data, "val/top1")["conv_stem"]] == [4, 4, 4]


def test_effects_of_the_leave_one_out_experiment(make):
    values = {"full": 0.8, "none_of_them": 0.7, "no_stem": 0.78}
    made = make(
        lambda variant, seed: values.get(variant, 0.79) + 0.0003 * (seed - 1) * len(variant), name="ablate_components"
    )
    table = made.data().table
    means = {name: d.mean for name, d in table.evidence.effects.differences.items()}
    singles = ["no_stem", "no_mixed_rates", "no_aggregation_conv", "no_local_enhancement", "no_detail_specific"]
    assert list(means) == [*singles, "all parts", "interaction"]
    assert means["no_stem"] == pytest.approx(0.02) and means["all parts"] == pytest.approx(0.1)
    assert means["interaction"] == pytest.approx(0.1 - 0.02 - 4 * 0.01)
    assert [block.title for block in blocks(table)][-1] == "Effects on Top-1"
    assert effects_csv(table).splitlines()[1].startswith("no_stem,2.00,")
    for line, d in zip(effects_csv(table).splitlines()[1:], table.evidence.effects.differences.values(), strict=True):
        text = interval_text(d, table.goal.leading.unit)
        assert f"| {text} |" in to_markdown(table) and text.replace("−", "$-$") in to_latex(table)
        shown = [word.strip("[],+").replace("−", "-") for word in text.split()]
        assert d.has_interval and line.split(",")[1:4] == shown
    assert make(name="ablate_embed").data().table.evidence.effects is None


def test_the_work_of_a_report_grows_with_the_runs_only_by_reading_their_files_once(make, tmp_path, monkeypatch):
    """`tests/benchmarks/scaling.py` measures how long a thousand runs take."""
    opened, queries, drawn = Counter(), [], []
    real_open, real_draw = io.open, Figure.draw

    def counted_open(file, *args, **kwargs):
        opened[str(file)] += 1
        return real_open(file, *args, **kwargs)

    monkeypatch.setattr(io, "open", counted_open)
    monkeypatch.setattr("builtins.open", counted_open)
    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: drawn.append(figure) or real_draw(figure, renderer))
    event.listen(Engine, "before_cursor_execute", lambda *args: queries.append(args[2]))
    work = []
    for count in (3, 12):
        seeds = f"seeds=[{','.join(map(str, range(count)))}]"
        make(lambda variant, seed: 0.7 + 0.0001 * (seed % 17), seeds)
        for seen in (opened, queries, drawn):
            seen.clear()
        data = load_study(tmp_path / "runs" / "ablate_embed")
        write_report(data)
        assert len(data.runs) == 3 * count and data.table.complete
        of_runs = [path for path in opened if "/seed" in path]
        assert len(of_runs) == 3 * 3 * count  # run.json, history.csv and evidence.npz; results are in the study
        assert max(opened[path] for path in of_runs) <= 2
        work.append((len(queries), len(drawn)))
    assert work[0] == work[1] and min(work[0]) > 0


def browse(page, profile, script, *words, width=390, address=""):
    """Open a page in headless Chromium, run a script in it, and return what it gives; no error is on the console.

    What it gives is written into the page's title, which --dump-dom shows.
    """
    probe = f"""<script>window.addEventListener('load', () => {{
      document.title = JSON.stringify((() => {{ {script} }})()); }});</script>"""
    copy = page.with_name("probe.html")
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{probe}</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", *words]
    options += [f"--window-size={width},800", f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom"]
    found = subprocess.run([CHROMIUM, *options, copy.as_uri() + address], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", found.stdout)
    assert title and title[1].startswith("{"), found.stderr[-2000:]
    assert "CONSOLE" not in found.stderr, found.stderr
    return json.loads(html.unescape(title[1]))


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return tmp_path_factory.mktemp("chromium")


@in_a_browser
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_opens_in_a_browser_without_an_error(make, profile, dark):
    made = make()
    written(made)
    seen = browse(
        made.folder / "report" / "index.html",
        profile,
        """return {
          rows: document.querySelectorAll('table.results tbody tr').length,
          svgs: [...document.querySelectorAll('figure svg')].map(
            svg => svg.querySelectorAll('path, use').length > 0 && svg.getBoundingClientRect().width > 100),
          wide: document.documentElement.scrollWidth,
          first: [...document.querySelectorAll('table.results tbody tr td')].slice(0, 7).sort(
            (a, b) => a.getBoundingClientRect().y - b.getBoundingClientRect().y).map(td => td.dataset.head),
          paper: getComputedStyle(document.body).backgroundColor};""",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
    )
    assert seen["rows"] >= 3 and len(seen["svgs"]) == 6 and all(seen["svgs"])
    assert seen["wide"] <= 500  # nothing but tables and figures scrolls sideways on a phone
    assert seen["first"][:3] == ["Variant", "Top-1 (%)", "Δ [95 % CI]"], "important values first on a phone"
    assert (seen["paper"] == "rgb(22, 23, 26)") == dark


CLICKS = """
const table = document.querySelector('table.results'), tools = document.querySelector('.tools');
const names = () => [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[0].textContent);
const head = name => [...table.tHead.rows[0].cells].find(cell => cell.textContent === name);
const seen = {before: names()};
head('Top-1 (%)').querySelector('button').click(); seen.down = names(); seen.sorted = head('Top-1 (%)').ariaSort;
head('Top-1 (%)').querySelector('button').click(); seen.up = names();
head('Top-1 (%)').querySelector('button').click(); seen.back = names();
const find = tools.querySelector('input[type=search]');
find.value = 'STEM'; find.dispatchEvent(new Event('input')); seen.found = names();
find.value = ''; find.dispatchEvent(new Event('input'));
const box = (kind, name) => [...[...tools.querySelectorAll('details')].find(
  d => d.querySelector('summary').textContent === kind).querySelectorAll('label')].find(
  label => label.textContent.trim() === name).querySelector('input');
box('columns', 'GMACs').click(); box('variants', 'overlapping').click();
head('Params (M)').querySelector('button').click();
seen.shown = names(); seen.gmacs = head('GMACs').hidden; seen.address = location.hash;
const row = document.querySelector('#figure-differences .tip'), tip = document.getElementById('tip');
row.dispatchEvent(new PointerEvent('pointerenter', {clientX: 50, clientY: 50}));
seen.hover = [tip.hidden, tip.textContent];
row.dispatchEvent(new PointerEvent('pointerleave')); seen.left = tip.hidden;
row.dispatchEvent(new MouseEvent('click', {clientX: 50, clientY: 50})); seen.tap = tip.hidden;
return seen;
"""


@in_a_browser
def test_the_table_is_sorted_filtered_and_reduced_and_a_link_shows_it_again(make, profile):
    made = make(lambda variant, seed: {"n": 0.70, "o": 0.72, "c": 0.68}[variant[0]] + 0.001 * seed)
    data, _ = written(made)
    page = made.folder / "report" / "index.html"
    seen = browse(page, profile, CLICKS, width=1200)
    assert seen["before"] == seen["back"] == ["non_overlapping", "overlapping", "conv_stem"]
    assert seen["down"] == ["overlapping", "non_overlapping", "conv_stem"] and seen["sorted"] == "descending"
    assert seen["up"] == seen["down"][::-1]
    assert seen["found"] == ["conv_stem"] and sorted(seen["shown"]) == ["conv_stem", "non_overlapping"]
    assert seen["gmacs"] is True
    interval = blocks(data.table)[0].rows[1][-1]
    assert seen["hover"][0] is False and seen["hover"][1].startswith("overlapping:\n" + interval.split()[0])
    assert seen["left"] is True and seen["tap"] is False
    again = browse(
        page,
        profile,
        """const table = document.querySelector('table.results'), cells = [...table.tHead.rows[0].cells];
        return {heads: cells.filter(cell => !cell.hidden).map(cell => cell.textContent),
          sort: cells.map(cell => cell.ariaSort).indexOf('descending'),
          rows: [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[0].textContent)};""",
        width=1200,
        address=seen["address"],
    )
    assert "GMACs" not in again["heads"] and "Params (M)" in again["heads"]
    assert sorted(again["rows"]) == ["conv_stem", "non_overlapping"] and again["sort"] == 1


@in_a_browser
def test_a_link_that_was_cut_shows_the_whole_table(make, profile):
    made = make()
    written(made)
    seen = browse(
        made.folder / "report" / "index.html",
        profile,
        "return {rows: document.querySelector('table.results tbody').querySelectorAll('tr:not([hidden])').length};",
        address="#view=%5B%7B%22sort",
    )
    assert seen == {"rows": 3}


# --- all studies -----------------------------------------------------------------------------------------------------


def test_the_index_has_every_study_with_question_state_finding_and_table(make, without_figures, tmp_path):
    made = make(lambda variant, seed: 0.7 + 0.01 * seed + (0.02 if variant == "overlapping" else 0.001 * seed))
    data = made.data()
    write_report(data)
    (tmp_path / "runs" / "new").mkdir()
    (tmp_path / "runs" / "new" / "study.json").write_text("{}")
    (tmp_path / "runs" / "no study").mkdir()
    assert write_index(tmp_path / "runs") is None
    page = Page(tmp_path / "runs" / "index.html")
    interval = blocks(data.table)[0].rows[1][-1]
    for text in ("patch embedding", "9 of 9 runs done", finding(data.table, data.config), interval):
        assert text in page.words, text
    assert {"ablate_embed/report/index.html", "ablate_embed/", "new/"} == set(page.links)
    assert page.external == [] and "no study" not in page.words
    (data.folder / "report" / "summary.json").write_text('{"title"')  # cut: listed without its report
    write_index(tmp_path / "runs")
    assert set(Page(tmp_path / "runs" / "index.html").links) == {"ablate_embed/", "new/"}


def test_a_report_updates_an_index_that_is_there_and_makes_none(make, without_figures, tmp_path, capsys):
    made = make()
    assert command.main([str(made.folder)]) == 0 and not (tmp_path / "runs" / "index.html").exists()
    (tmp_path / "runs" / "index.html").write_text("old")
    assert command.main([str(made.folder)]) == 0
    assert "9 of 9 runs done" in (tmp_path / "runs" / "index.html").read_text()
