"""Where Optuna keeps a study: a SQLite file in its folder, Optuna's journal beside it, or a database by its URL.

Any number of workers on any number of machines may write one study. A storage can also be opened only to read, in a
folder without write permission too.
"""

from __future__ import annotations

import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study

from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import locked

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=ExperimentalWarning)  # names of metrics, constraints

FILE, JOURNAL_FILE = "study.db", "study.journal"  # in the study's folder
JOURNAL = "journal"  # the value of study.storage
CONNECT = 10  # seconds until a server that does not answer counts as away
TABLES = {"studies", "trials", "version_info", "alembic_version"}  # Optuna makes the last one at the end
AWAY = (StorageInternalError, sqlalchemy.exc.OperationalError)
"""What a call raises while the database does not answer."""
ERRORS = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError, AssertionError)
"""What opening or reading a storage raises: no answer, another version of Optuna, no driver, no database at all."""
UNREACHABLE = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.ArgumentError, ImportError)
DRIVERS = {"psycopg": "shunted_lab[postgres]"}  # module -> the extra that brings it


def place_of(folder: Path, storage: str | None) -> Path | str:
    """The file of the study in `folder`, or the URL of its database; `storage` is `study.storage`."""
    if storage is None:
        return folder / FILE
    return folder / JOURNAL_FILE if storage == JOURNAL else storage


def masked(url: str) -> str:
    """A URL without its password."""
    try:
        parts = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        return url
    return parts._replace(password=None).render_as_string() if parts.password else url


def open_study(place: Path | str, name: str) -> Study | None:
    """A study, only to read; None if there is none. Nothing is written.

    Raises:
        ConfigError: for a database that does not answer, or that another version of Optuna has made.
    """
    with _in_one_line(place):
        found = read_storage(place)
        try:
            return None if found is None else optuna.load_study(study_name=name, storage=found)
        except KeyError:
            return None  # it was planned and never started, or these are other studies
    raise AssertionError("unreachable")


def create_study(place: Path | str, name: str, objectives: Mapping[str, str], folder: Path) -> Study:
    """A study to write; made if there is none.

    Args:
        objectives: metric -> `max` or `min`.
        folder: the study's; the dashboard finds the report there.

    Raises:
        ConfigError: as in `open_study`.
    """
    open_study(place, name)  # refuses what is not a study's database
    directions: Any = ["maximize" if way == "max" else "minimize" for way in objectives.values()]
    with _in_one_line(place), locked(folder / ".create", lambda: True):  # Optuna's tables are made by one process
        for wait in (0.1, 0.3, 1, 3, None):  # processes on other machines, whose locks are not seen here
            try:
                study = optuna.create_study(
                    study_name=name,
                    storage=write_storage(place),
                    directions=directions,
                    sampler=optuna.samplers.RandomSampler(),
                    pruner=optuna.pruners.NopPruner(),
                    load_if_exists=True,
                )
                break
            except (sqlalchemy.exc.DBAPIError, StorageInternalError, DuplicatedStudyError):
                if wait is None:
                    raise
                time.sleep(wait)
        if study.metric_names is None:
            study.set_metric_names(list(objectives))
            study.set_user_attr("folder", str(folder.absolute()))
    return study


@contextmanager
def _in_one_line(place: Path | str) -> Iterator[None]:
    """Turn what a storage raises into one line, without a password."""
    is_file = isinstance(place, Path)
    where = str(place) if is_file else f"study.storage: {masked(str(place))}"
    try:
        yield
    except ModuleNotFoundError as error:
        extra = DRIVERS.get(error.name or "")
        how = f"; pip install '{extra}'" if extra else ""
        raise ConfigError(f"{where} needs the module '{error.name}', which is not installed{how}") from None
    except UNREACHABLE as error:
        raise ConfigError(f"{where} cannot be {'read' if is_file else 'reached'} ({_reason(error, place)})") from None
    except ERRORS as error:
        raise ConfigError(
            f"{where}: is not a study of this version ({_reason(error, place)}); move it away: finished runs are read "
            "from their folders"
        ) from None


def _reason(error: Exception, place: Path | str) -> str:
    """What the database said, without a password."""
    text = cause_of(error).replace(str(place), masked(str(place)))
    return text if len(text) < 300 else text[:300] + "..."


def cause_of(error: BaseException) -> str:
    """What the database said, in one line, without the statement that Optuna and SQLAlchemy add."""
    while isinstance(error.__cause__, sqlalchemy.exc.SQLAlchemyError):
        error = error.__cause__
    return " ".join(str(getattr(error, "orig", None) or error).split())


def write_storage(place: Path | str) -> BaseStorage:
    """Optuna's storage of a file or a URL, made if there is none. Each trial can be claimed once.

    Heartbeats are this package's own (`study.queue`): Optuna's belong to `Study.optimize` and to some storages.
    """
    if isinstance(place, Path) and place.name == JOURNAL_FILE:
        return JournalStorage(JournalFileBackend(str(place)))
    storage = RDBStorage(**_target(place, "rwc"))
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


def read_storage(place: Path | str) -> BaseStorage | None:
    """Optuna's storage of a file or a URL, only to read: also from a folder without write permission.

    Returns:
        None where Optuna has made no tables yet.

    Raises:
        One of `ERRORS`, for what cannot be read.
    """
    path = _file_of(place)
    if path is not None and not path.exists():
        return None
    if path is not None and path.name == JOURNAL_FILE:
        return JournalStorage(JournalFileBackend(str(path)))
    target = _target(place, None)
    engine = sqlalchemy.create_engine(target["url"], **target["engine_kwargs"])
    try:
        names = set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()
    return RDBStorage(**target, skip_table_creation=True) if names >= TABLES else None


@contextmanager
def reading(place: Path | str) -> Iterator[BaseStorage | None]:
    """`read_storage`, closed at the end of the block."""
    storage = read_storage(place)
    try:
        yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def _target(place: Path | str, mode: str | None) -> dict[str, Any]:
    """URL and arguments of an engine. A file is opened by its path: in a URL, `?` and `{` would have a meaning."""
    path = _file_of(place)
    if path is not None:
        return {"url": f"sqlite:///{FILE}", "engine_kwargs": {"creator": _opener(path, mode)}}
    options: dict[str, Any] = {"pool_pre_ping": True}
    if sqlalchemy.make_url(str(place)).get_backend_name() in ("postgresql", "mysql"):
        options["connect_args"] = {"connect_timeout": CONNECT}
    return {"url": str(place), "engine_kwargs": options}


def _file_of(place: Path | str) -> Path | None:
    """The path of a SQLite file or a journal; None for a database on a server."""
    if isinstance(place, Path):
        return place
    url = sqlalchemy.make_url(place)
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
