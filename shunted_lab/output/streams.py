"""Standard output and standard error whose failures cost output only: never a training, a file or the exit status."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any

LOOKALIKES = "shunted_lab.lookalikes"  # the error handler of codecs for characters that an encoding does not have
ASCII = {"Δ": "delta", "±": "+-", "−": "-", "–": "-", "—": "-", "…": "...", "×": "x", "·": ".", "│": "|", "─": "-"}


class Forgiving(io.FileIO):
    """A file descriptor to write to. When it cannot be written any more (the reader of a pipe has ended, the disk is
    full), it leads to /dev/null from then on, and the process goes on.
    """

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            try:
                written = super().write(rest)
            except OSError:
                self._give_up()
                return size
            if written is None:  # the terminal or pipe is in non-blocking mode, and full
                select.select([], [self.fileno()], [])
                continue
            rest = rest[written:]
        return size

    def _give_up(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno(), inheritable=True)
        os.close(null)


def forgive() -> None:
    """Make `sys.stdout` and `sys.stderr` of this process forgiving; what is not a file descriptor is left alone.

    Characters that the encoding does not have are written as ASCII that looks alike, or as `?`.
    """
    codecs.register_error(LOOKALIKES, _lookalikes)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            _open_standard_files()
            null = io.FileIO(number, "w", closefd=False)
            setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(null), "utf-8", LOOKALIKES))
        elif type(stream) is io.TextIOWrapper:
            setattr(sys, name, _forgiving(stream))


def encodable(text: str, encoding: str) -> str:
    """The text as a forgiving stream of that encoding shows it."""
    codecs.register_error(LOOKALIKES, _lookalikes)
    return text.encode(encoding, LOOKALIKES).decode(encoding)


def _open_standard_files() -> None:
    """Open /dev/null as each of the files 0, 1 and 2 that whoever started the process has closed.

    The next file that is opened, a study's database, would get such a number, and with it what libraries print.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _forgiving(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    raw = stream.buffer if isinstance(stream.buffer, io.FileIO) else getattr(stream.buffer, "raw", None)
    if type(raw) is not io.FileIO:
        return stream
    with suppress(OSError):
        stream.flush()
    file: Any = Forgiving(stream.fileno(), "w", closefd=False)
    buffer = file if raw is stream.buffer else io.BufferedWriter(file)  # `python -u` has no buffer
    return io.TextIOWrapper(
        buffer,
        stream.encoding,
        LOOKALIKES,
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _lookalikes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(ASCII.get(letter, "?") for letter in error.object[error.start : error.end]), error.end
