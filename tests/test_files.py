"""Files that are whole or absent whatever happens to their writer, and locks that go with their process."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shunted_lab.output import files

PACKAGE = Path(files.__file__).parent
HOLD = """
import sys, time
from pathlib import Path
from shunted_lab.output.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
WRITE = """
import itertools, sys
from pathlib import Path
from shunted_lab.output.files import write_text
for value in itertools.count():
    write_text(Path(sys.argv[1]), f"{value % 10}" * 2_000_000)
    print(value, flush=True)
"""


def _start(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_block_that_raises_leaves_the_file_before_and_nothing_else(tmp_path):
    path = files.write_text(tmp_path / "table.md", "ä before")
    with pytest.raises(RuntimeError), files.atomic(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "ä before" and os.listdir(tmp_path) == ["table.md"]


@pytest.mark.parametrize("wait", [0.0, 0.002, 0.005])
def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path, wait):
    path = tmp_path / "table.md"
    process = _start(WRITE, path)
    while (said := process.stdout.readline().strip()) != "2":
        assert said, "it has died"
    time.sleep(wait)
    _kill(process)
    text = path.read_text()
    assert len(text) == 2_000_000 and len(set(text)) == 1
    files.remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["table.md"]


def test_two_writers_of_one_file_leave_that_of_one_of_them(tmp_path):
    path = tmp_path / "table.md"
    processes = [_start(WRITE, path) for _ in range(2)]
    for process in processes:
        while (said := process.stdout.readline().strip()) != "5":
            assert said, "it has died"
        assert len(path.read_text()) == 2_000_000
    for process in processes:
        _kill(process)
    assert len(set(path.read_text())) == 1


def test_a_new_file_has_the_permissions_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        path = files.write_json(tmp_path / "result.json", {"epoch": 3})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640 and json.loads(path.read_text()) == {"epoch": 3}


def test_a_lock_excludes_other_processes_and_goes_with_its_process(tmp_path):
    path = tmp_path / "lock"
    assert not files.is_locked(path) and not path.exists()
    process = _start(HOLD, path)
    assert process.stdout.readline() == "held\n"
    assert files.is_locked(path)
    with pytest.raises(BlockingIOError, match=r"lock is held by another process"), files.locked(path):
        pass
    asked = []
    with pytest.raises(BlockingIOError), files.locked(path, lambda: not asked and not asked.append(1)):
        pass
    assert asked == [1]  # waited, asked, gave up
    _kill(process)
    assert not files.is_locked(path)
    with files.locked(path):
        assert files.is_locked(path)
    assert not files.is_locked(path)


def test_a_forked_process_does_not_keep_the_lock_of_its_parent(tmp_path):
    """Loaders fork while a run's folder is locked, and may end after the run."""
    context = multiprocessing.get_context("fork")
    end = context.Event()
    with files.locked(tmp_path / "lock"):
        child = context.Process(target=end.wait)
        child.start()
    assert not files.is_locked(tmp_path / "lock")
    end.set()
    child.join()


def test_nothing_else_in_the_package_renames_files_or_locks_them():
    own = re.compile(r"\bfcntl\b|os\.replace\(|os\.rename\(|FileLock|mkstemp")
    found = [path.name for path in sorted(PACKAGE.rglob("*.py")) if own.search(path.read_text(encoding="utf-8"))]
    assert found == ["files.py"]
