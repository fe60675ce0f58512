"""Output that cannot be written costs output only: the command goes on, and its exit status is its own."""

import os
import subprocess
import sys

import pytest

from shunted_lab import run as command
from shunted_lab.output.streams import Forgiving, encodable

RESULT = {
    "metrics": {"val/top1": 0.5, "test/top1": 0.4},
    "headline": "test/top1",
    "device": "none",
    "sizes": None,
    "seconds": 1.0,
}
CODE = """
import sys, warnings
from shunted_lab.command import make_console, run_command
from shunted_lab.output.terminal import Grid

def act(words):
    make_console().print(Grid("t", ("Δ", "b"), [("± − – größe \\udcff", "1.00")]))
    for i in range(int(words[1])):
        print(f"line {i}", "x" * 100)
    warnings.warn("Δ")
    print("Δ", file=sys.stderr)
    assert open(words[0], "w").fileno() > 2
    open(words[0], "w").write("finished")
    return 7

sys.exit(run_command(sys.argv[1:], str, act))
"""


LINES = 2000  # 200 kB: more than a pipe holds


@pytest.mark.parametrize("target", ["pipe", "/dev/full", "closed"])
@pytest.mark.parametrize(("which", "python"), [((1,), ()), ((1,), ("-u",)), ((2,), ()), ((1, 2), ())])
def test_a_command_goes_on_when_its_output_cannot_be_written(tmp_path, target, which, python):
    """The reader of a pipe ends, as `head -1` does; a full disk; a stream that is closed from the start."""
    redirect = " ".join(f"{n}>{'&-' if target == 'closed' else target}" for n in which if target != "pipe")
    start = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, *python, "-c", CODE]
    process = subprocess.Popen(
        [*start, str(tmp_path / "done"), str(LINES)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    shown = {}
    for n, stream in ((1, process.stdout), (2, process.stderr)):
        if n not in which:
            shown[n] = stream.read()
        stream.close()
    assert process.wait() == 7 and (tmp_path / "done").read_text() == "finished"
    assert shown.get(1, b"line " * LINES).count(b"line ") == LINES
    assert b"Error" not in shown.get(2, b"") and b"Exception" not in shown.get(2, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-8"])
def test_characters_that_an_encoding_does_not_have_become_others(tmp_path, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    found = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "done"), "1"], capture_output=True, env=environment
    )
    assert found.returncode == 7 and b"Traceback" not in found.stderr
    line = next(line for line in found.stdout.decode(encoding).splitlines() if "1.00" in line)
    wanted = {
        "latin-1": "± - - größe ?",
        "ascii": "+- - - gr??e ?",
        "cp1252": "± - – größe ?",
        "utf-8": "± − – größe ?",
    }
    assert wanted[encoding] in line


def test_a_full_pipe_in_non_blocking_mode_is_waited_for():
    read, write = os.pipe()
    os.set_blocking(write, False)
    pid = os.fork()
    if pid == 0:
        os.close(read)
        Forgiving(write, "w").write(b"x" * 1_000_000)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        assert len(file.read()) == 1_000_000
    assert os.waitpid(pid, 0)[1] == 0


def test_a_worker_s_output_is_forgiving_too(tmp_path, monkeypatch):
    from shunted_lab.study import worker

    monkeypatch.setattr(worker, "work", lambda *_: print("a warning"))
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        worker.serve(None, tmp_path, "plan", worker.Slot(0), 0, {})
        sys.stdout.flush()
        assert isinstance(sys.stdout.buffer.raw, Forgiving)


def test_text_in_another_encoding_is_what_a_stream_would_write():
    assert encodable("Δ ± 1", "utf-8") == "Δ ± 1" and encodable("Δ ± ä", "ascii") == "delta +- ?"


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """The whole command, with a training that returns at once, and nothing measured."""
    from shunted_lab.study import slots, training, worker

    monkeypatch.setattr(training, "train", lambda *_, **__: dict(RESULT))
    monkeypatch.setattr(slots, "CONTEXT", "fork")
    monkeypatch.setattr(worker, "measure_variants", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()  # two variants and seeds: only then the table has a delta
    (tmp_path / "experiments" / "train.yaml").write_text("baseline: a\nvariants: {a: {}, b: {model.drop_rate: 0.1}}\n")
    return ["experiment=train", "seeds=[0,1]"]


def test_a_study_is_trained_and_its_tables_are_written_whatever_becomes_of_its_output(quick, tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    (tmp_path / "latin").touch()
    for target, encoding in ((write, "utf-8"), ("/dev/full", "utf-8"), (tmp_path / "latin", "latin-1")):
        with open(target, "w", encoding=encoding) as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            assert command.main([*quick, f"runs_dir={encoding}{target == write}"]) == 0
            sys.stdout.flush()
    for folder in tmp_path.glob("*/train"):
        assert {path.name for path in folder.glob("table.*")} == {"table.md", "table.csv", "table.tex"}
        assert len(list(folder.glob("*/seed0-*/result.json"))) == 2
    assert len(list(tmp_path.glob("*/train"))) == 3
    assert "delta [95 % CI]" in (tmp_path / "latin").read_text(encoding="latin-1")


def test_files_are_written_before_anything_is_printed(quick, tmp_path, monkeypatch):
    """A terminal that hangs, or Ctrl-C while a long table is printed."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("shunted_lab.report.render.grids", interrupted)
    assert command.main(quick) == 130
    assert (tmp_path / "runs" / "train" / "table.md").exists()
