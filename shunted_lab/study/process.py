"""The first function of a worker's process. Importing this is instant: what trains is imported when it is called."""

from __future__ import annotations

from multiprocessing.connection import Connection

from shunted_lab.output.streams import forgive
from shunted_lab.study.assignment import Slot


def start(connection: Connection, slot: Slot) -> None:
    """The first function of a worker's process."""
    from shunted_lab.study.worker import serve

    forgive()
    serve(connection, slot)
