"""The README and docs/: commands, YAML, Python, links and tables, page by page in the order in which they stand."""

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from shunted_lab.attention import AttentionConfig
from shunted_lab.compare import CompareConfig
from shunted_lab.config.compose import compose, compose_as
from shunted_lab.config.experiment_file import experiment_files
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.schema import ConfigError
from shunted_lab.convert import ConvertConfig
from shunted_lab.cost import CostConfig
from shunted_lab.dashboard import DashboardConfig
from shunted_lab.evaluate import compose_evaluate
from shunted_lab.predict import PredictConfig
from shunted_lab.report.__main__ import ReportConfig
from shunted_lab.worker import WorkerConfig

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
LINKED = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "experiments/LOG.md"))]
LINKED += sorted((ROOT / "shunted_lab" / "data").glob("*/README.md"))

FILE = re.compile(r"# ([\w/]+\.(?:py|yaml))\n")  # the first line of a block that is a file of the reader's
RUN = "seed0-1a2b3c4d"  # the folder of a run, as pages write it
COMPOSERS = {
    "run": compose,
    "report": partial(compose_as, ReportConfig),
    "worker": partial(compose_as, WorkerConfig),
    "attention": partial(compose_as, AttentionConfig),
    "predict": partial(compose_as, PredictConfig),
    "cost": partial(compose_as, CostConfig),
    "dashboard": partial(compose_as, DashboardConfig),
    "convert": partial(compose_as, ConvertConfig),
    "compare": partial(compose_as, CompareConfig),
}
FOLDERS = {"report", "worker"}  # commands whose first argument may be a folder
# programs that are not ours
OTHERS = {"pip", "pytest", "tensorboard", "wandb", "mlflow", "jupyter", "kubectl", "tail", "du", "cat"}


def name_of(page):
    return str(page.relative_to(ROOT))


class Fence(NamedTuple):
    language: str
    text: str

    @property
    def file(self) -> str | None:
        found = FILE.match(self.text)
        return found[1] if found else None


def fences(page: Path) -> list[Fence]:
    return [Fence(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)]


def commands(fence: Fence) -> list[list[str]]:
    """The words of every command in a block of shell. A block that shows a mistake has none that succeeds."""
    if fence.language or "\nerror: " in fence.text:
        return []
    lines = [line for line in fence.text.splitlines() if line and not line.startswith(("/", " ", "runs/"))]
    parts = [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
    return [[word for word in part if word != "nohup"] for part in parts]


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """The module below `shunted_lab` and its overrides, of `python -m shunted_lab.MODULE ...`."""
    if words[:2] != ["python", "-m"] or not words[2].startswith("shunted_lab."):
        return None
    end = words.index(">") if ">" in words else len(words)
    return words[2].removeprefix("shunted_lab."), words[3:end]


def trained_as(checkpoint: str):
    """What the run in a folder such as runs/NAME/VARIANT/seed0-1a2b3c4d is configured as."""
    _, name, variant, run = checkpoint.split("/")
    assert run == RUN
    return compose([f"experiment={name}"]).variants[variant]


def check(words: list[str]) -> None:
    """Compose a command of ours; of another, see that it is one that is known here."""
    if (found := ours(words)) is None:
        if words[0] == "python" and words[1] == "-c":
            compile(words[2], "<a page>", "exec")
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), words
        else:
            assert words[0] in OTHERS, words
        return
    module, overrides = found
    assert importlib.util.find_spec(f"shunted_lab.{module}"), words
    if overrides == ["--help"]:
        return
    if module == "compare" and "=" not in overrides[0]:
        overrides = [f"file={overrides[0]}", *overrides[1:]]
    elif module in FOLDERS and "=" not in overrides[0]:
        assert set(overrides[0].split("/")) & set(experiment_files()), words
        overrides = [f"study={overrides[0]}", *overrides[1:]]
    if module == "evaluate":
        checkpoint = next(word for word in overrides if word.startswith("checkpoint=")).partition("=")[2]
        compose_evaluate(overrides, trained_as(checkpoint) if checkpoint.startswith("runs/") else None)
    else:
        assert COMPOSERS[module](overrides)


def write_files(fence: Fence, folder: Path, change=lambda text: text) -> None:
    """Write a block that is a file into `folder`, YAML after `change`."""
    if fence.file is not None:
        path = folder / fence.file
        path.parent.mkdir(exist_ok=True)
        path.write_text(change(fence.text) if path.suffix == ".yaml" else fence.text)


# --- commands and files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_experiments_compose_in_their_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for fence in fences(page):
        write_files(fence, tmp_path)
        if fence.language == "yaml":
            assert fence.file, f"{fence.text}\nbegins with no '# experiments/NAME.yaml'"
            found = compose([f"experiment={Path(fence.file).stem}"])
            assert found.variants and found.config.description
        for words in commands(fence):
            check(words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_within_sentences_compose(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for fence in fences(page):
        write_files(fence, tmp_path)
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for command in re.findall(r"`((?:python|pip|shunted-lab) [^`]+)`", text):
        placeholders = re.search(r"\b(NAME|\w+_FOLDER)\b|\.\.\.", command)
        words = shlex.split(command)
        if words[0] == "shunted-lab":
            words = ["python", "-m", f"shunted_lab.{words[1]}", *words[2:]]
        if words[:3] == ["python", "-m", "shunted_lab"]:
            words = ["python", "-m", f"shunted_lab.{words[3]}", *words[4:]] if words[3:] else ["pip"]
        if placeholders:
            assert (found := ours(words)) and importlib.util.find_spec(f"shunted_lab.{found[0]}"), command
        else:
            check(words)


def test_the_error_that_is_shown_is_the_error():
    text = (DOCS / "reference" / "commands.md").read_text()
    shown = re.search(r"^error: (.*)$", text, re.M)
    command = re.search(r"^\$ python -m shunted_lab\.run (.*)$", text, re.M)
    assert shown and command
    with pytest.raises(ConfigError, match=re.escape(shown[1])):
        compose(command[1].split())


def test_every_preset_and_experiment_is_described():
    reference = "".join((DOCS / "reference" / f"{name}.md").read_text() for name in ("commands", "data", "recipes"))
    for group in ("data", "recipe", "launch"):
        assert not [name for name in PRESETS[group] if f"`{name}`" not in reference]
    experiments = (DOCS / "reference" / "experiments.md").read_text()
    shipped = [path.stem for path in (ROOT / "experiments").glob("*.yaml")]
    assert not [name for name in shipped if f"`{name}`" not in experiments]


def test_every_component_is_described():
    from shunted_lab.config.model import COMPONENTS

    text = (DOCS / "reference" / "components.md").read_text()
    for slot, names in COMPONENTS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `model.{slot}`"))
        assert not [name for name in names if f"`{name}`" not in row and not re.match(r"conv_stem[12]", name)]


# --- what pages say --------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_has_the_two_commands():
    text = README.read_text()
    assert len(text.splitlines()) <= 160
    assert "\npip install . && python -m shunted_lab.run experiment=ablate_embed\n" in text
    assert "\npip install '.[test]' && pytest\n" in text


def test_the_table_that_is_shown_has_the_form_of_the_report():
    measured = ("Variant", "Params (M)", "GMACs", "Latency (ms)", "Memory (MB)", "Top-1 (%)", "Δ [95 % CI]")
    published = (*measured[:3], "Paper: Top-1 (%)", "Paper: params (M)", "Paper: FLOPs (G)")
    for head, rows in ((measured, 3), (published, 3)):
        block = README.read_text().split(f"| {' | '.join(head)} |\n")[1].split("\n\n")[0].splitlines()
        assert len(block) == 1 + rows and all(line.count("|") == len(head) + 1 for line in block)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_rows_of_a_table_have_the_cells_of_its_head(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, re.M):
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(set(cells)) == 1, table


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page):
    text = page.read_text()
    targets = re.findall(r"\]\((?!https?:)([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    for target in targets:
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_index():
    index = DOCS / "index.md"
    listed = {(DOCS / target).resolve() for target in re.findall(r"\]\(([\w/.-]+\.md)", index.read_text())}
    assert not set(PAGES) - {index} - listed


def test_results_are_not_committed():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "runs"], capture_output=True, text=True)
    assert listed.stdout == ""


def test_the_package_holds_nothing_but_its_own_files():
    kinds = {".py", ".md", ".txt", ".html", ".css", ".js", ".jpg", ".png"}
    files = [path for path in (ROOT / "shunted_lab").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert [str(path) for path in files if path.suffix not in kinds] == []


# --- what pages do ---------------------------------------------------------------------------------------------------

SMALL = {"recipe": {"epochs": 1, "limit_batches": 2}, "data": {"batch_size": 16}}


def cut_down(text: str) -> str:
    """An experiment's file with two seeds and two small batches an epoch, and the presets that are the default.

    A file in ./experiments replaces one that ships, so the commands of a page are run as they stand.
    """
    content = yaml.safe_load(text)
    kept = {key: content[key] for key in ("description", "baseline", "variants")}
    return yaml.safe_dump({**kept, "seeds": [0, 1], **SMALL}, sort_keys=False)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder to work in, where the commands of the quick start were run in their order.

    Everything is in this process but the workers; nothing is measured, since that takes a quiet machine.
    """
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "experiments").mkdir()
    shipped = ROOT / "experiments" / "ablate_embed.yaml"
    (folder / "experiments" / "ablate_embed.yaml").write_text(cut_down(shipped.read_text()))
    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("COLUMNS", "200")
        patch.setattr("shunted_lab.study.costs.measure.measure_variants", lambda *args, **kwargs: None)
        for fence in fences(DOCS / "quickstart.md"):
            write_files(fence, folder, cut_down)
            for words in commands(fence):
                if (found := ours(words)) is None or any("/data/" in word for word in words):
                    continue
                module, overrides = found
                command = importlib.import_module(f"shunted_lab.{module}")
                if module == "report":
                    command = importlib.import_module("shunted_lab.report.__main__")
                done.append((words, command.main([located(word, folder) for word in overrides])))
    return folder, done


def located(text: str, folder: Path) -> str:
    """Text with the folder of a run that is there in place of the one that pages write."""
    for written in set(re.findall(rf"runs/\w+/\w+/{RUN}", text)):
        real = sorted((folder / written).parent.glob("seed0-*"))[0]
        text = text.replace(written, str(real.relative_to(folder)))
    return text


@pytest.mark.slow
def test_the_quick_start_runs_as_it_stands(workplace):
    folder, done = workplace
    assert len(done) >= 8 and [words for words, status in done if status != 0] == []
    seeds = {path.parent.name.partition("-")[0] for path in folder.glob("runs/ablate_embed/conv_stem/*/result.json")}
    assert seeds == {f"seed{i}" for i in range(10)}
    for name in ("ablate_embed", "ablate_embed-smoke", "two_rates"):
        assert (folder / "runs" / name / "table.tex").stat().st_size
        assert (folder / "runs" / name / "report" / "index.html").stat().st_size
    assert (folder / "runs" / "two_rates" / "table.md").read_text().count("| first_stage_only |") == 1


@pytest.mark.slow
def test_the_attention_of_the_readme_is_sound_and_trains(tmp_path):
    for fence in fences(README):
        write_files(fence, tmp_path, cut_down)
    check_it, train_it = (words for fence in fences(README) for words in commands(fence) if "row" in words[-1].lower())
    assert check_it[:2] == ["python", "-c"]
    for words in (check_it, [*train_it, "smoke=true", "seeds=[0]"]):
        found = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert found.returncode == 0, found.stdout + found.stderr
    assert "| rows |" in (tmp_path / "runs" / "row_attention-smoke" / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["howto/own-component.md", "howto/search.md", "reference/experiments.md"])
def test_the_experiments_of_a_page_are_built(page, tmp_path):
    """A plan builds every variant, with the components of the page; those that are trained elsewhere are left out."""
    found = fences(DOCS / page)
    for fence in found:
        write_files(fence, tmp_path)
    names = [Path(fence.file).stem for fence in found if fence.language == "yaml" and "confirm:" not in fence.text]
    assert names
    for name in names:
        command = [sys.executable, "-m", "shunted_lab.run", f"experiment={name}", "plan_only=true"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr


def script(page: Path) -> str:
    """The blocks of Python of a page, one after another; without the export where its libraries are absent."""
    blocks = [fence.text for fence in fences(page) if fence.language == "python" and fence.file is None]
    exports = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    return "\n".join(block for block in blocks if exports or "torch.onnx" not in block)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if script(page)], ids=name_of)
def test_the_python_of_a_page_runs(page, workplace):
    folder, _ = workplace
    for fence in fences(page):
        write_files(fence, folder, cut_down)
    weights = (
        "import torch, shunted_lab.nn, timm\ntorch.save(timm.create_model('shunted_s').state_dict(), 'ckpt_S.pth')\n"
    )
    code = weights + located(script(page), folder)
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.slow
def test_an_exported_model_gives_the_same_outputs(workplace):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder, _ = workplace
    code = located(script(DOCS / "howto" / "weights.md"), folder)
    code += "\nx = torch.randn(3, 3, 64, 64)\ntorch.save((x, net(x)), 'expected.pt')\n"
    code = code.replace("model = timm", "net = model\nmodel = timm", 1).replace('load_weights(model, "ckpt_S.pth")', "")
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    import torch

    images, expected = torch.load(folder / "expected.pt")
    (output,) = runtime.InferenceSession(os.fspath(folder / "model.onnx")).run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected.detach(), rtol=0, atol=1e-5)
