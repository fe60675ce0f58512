"""Where a study is stored: a SQLite file in its folder, or a database by its URL; opened to write, or only to read."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback

from shunted_lab.config.experiment import Config
from shunted_lab.study.plan import study_folder

FILE = "study.db"  # in the study's folder
TABLES = {"studies", "trials", "version_info", "alembic_version"}  # Optuna makes the last one at the end
ERRORS = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError, AssertionError)
"""What opening or reading a storage raises: no answer, another version of Optuna, no driver, no database at all."""


def place_of(config: Config) -> Path | str:
    """The file of an experiment's study, or the URL of its database."""
    return config.study.storage or study_folder(config) / FILE


def make_storage(where: Path | str, heartbeat: int = 60, max_retry: int = 3) -> RDBStorage:
    """Optuna's storage of a file or a URL, with heartbeats; made if there is none. Each trial is taken once."""
    storage = RDBStorage(
        **_target(where, "rwc"),
        heartbeat_interval=heartbeat,
        grace_period=2 * heartbeat,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=max_retry),
    )
    if storage.engine.dialect.name == "sqlite":
        # SQLite locks no rows: two workers that read, then write, take the same trial. With the write lock taken at
        # BEGIN each trial is taken once; write-ahead logging alone does not help.
        sqlalchemy.event.listen(storage.engine, "connect", _connect)
        sqlalchemy.event.listen(storage.engine, "begin", lambda found: found.exec_driver_sql("BEGIN IMMEDIATE"))
        storage.engine.dispose()
    return storage


def _connect(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transaction of its own
    connection.execute("PRAGMA busy_timeout=60000")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # whole after a power cut; what it lacks is in the runs' folders


def read_storage(where: Path | str) -> RDBStorage | None:
    """Optuna's storage of a file or a URL, only to read: also from a folder without write permission.

    Returns:
        None where Optuna has made no tables yet.

    Raises:
        One of `ERRORS`, for what cannot be read.
    """
    path = _sqlite_path(where)
    if path is not None and not path.exists():
        return None
    target = _target(where, None)
    engine = sqlalchemy.create_engine(target["url"], **target["engine_kwargs"])
    try:
        names = set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()
    return RDBStorage(**target, skip_table_creation=True) if names >= TABLES else None


@contextmanager
def reading(where: Path | str) -> Iterator[RDBStorage | None]:
    """`read_storage`, closed at the end of the block."""
    storage = read_storage(where)
    try:
        yield storage
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def _target(where: Path | str, mode: str | None) -> dict[str, Any]:
    """URL and arguments of an engine. A file is opened by its path: in a URL, `?` and `{` would have a meaning."""
    path = _sqlite_path(where)
    if path is None:
        return {"url": str(where), "engine_kwargs": {"pool_pre_ping": True}}
    return {"url": f"sqlite:///{FILE}", "engine_kwargs": {"creator": _opener(path, mode)}}


def _sqlite_path(where: Path | str) -> Path | None:
    """The path of a SQLite file; None for another database."""
    if isinstance(where, Path):
        return where
    url = sqlalchemy.make_url(where)
    is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:") and not url.query
    return Path(str(url.database)) if is_file else None


def _opener(path: Path, mode: str | None) -> Callable[[], sqlite3.Connection]:
    def opened() -> sqlite3.Connection:
        query = f"mode={mode}" if mode else _mode_to_read(path)
        uri = f"{path.absolute().as_uri()}?{query}"
        connection = sqlite3.connect(uri, uri=True, timeout=60, check_same_thread=False)
        if mode is None:
            connection.execute("PRAGMA query_only=ON")
        return connection

    return opened


def _mode_to_read(path: Path) -> str:
    """How SQLite can read a file with a write-ahead log (WAL).

    It shares an index of the log (`-shm`) with other processes, and makes one where there is none; the last connection
    removes it, unless it was opened with `mode=ro`. Where none can be made, nobody else has the file open: then it does
    not change, and is read as it is.
    """
    if os.access(path.parent, os.W_OK) and os.access(path, os.W_OK):
        return "mode=rw"
    log, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    unfinished = log.exists() and log.stat().st_size > 0
    return "mode=ro" if index.exists() or unfinished else "mode=ro&immutable=1"
