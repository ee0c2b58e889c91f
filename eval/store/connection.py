"""The connection to a study file: opened, locked, migrated, and SQLite's errors in one line."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from charprobe_lite.eval.store.checks import check_schema, check_values
from charprobe_lite.eval.store.migrations import (
    MIGRATIONS,
    SCHEMA_VERSION,
    UNCHECKED_VERSION,
)
from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.files import regular_file, sound_path

if TYPE_CHECKING:
    from filelock import FileLock

FIXES = {
    "SQLITE_FULL": "free some disk space and start again: what ended is kept",
    "SQLITE_BUSY": "another process is writing this study; wait for it",
    "SQLITE_NOTADB": "not a SQLite file; choose another --study",
    "SQLITE_CORRUPT": "the file is damaged; choose another --study",
}


class Connection:
    """A study file, open for one process; a context manager.

    With ``readonly`` it is the study as it is now, copied into memory: the file may be written
    meanwhile, and is neither changed nor migrated. Raises BadInput when the file is no study, has
    another schema version, is being written by another process, or the disk is full.
    """

    def __init__(self, path: Path, readonly: bool = False) -> None:
        self.path = path
        with bad_input(f"{path}: study cannot be opened", OSError, ValueError):
            if sound_path(path).exists():
                regular_file(path, "choose another --study")
        self._lock = None if readonly else _locked(path)
        try:
            self.database = _copied(path) if readonly else _connected(path)
        except (OSError, sqlite3.Error) as error:
            self._release()
            raise BadInput(f"{path}: study cannot be opened: {error}; choose --study") from None
        try:
            with self.one_line():
                self._prepare()
        except BadInput:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let other processes write it."""
        self.database.close()
        self._release()

    def select(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query. Raises BadInput."""
        with self.one_line():
            return self.database.execute(query, values).fetchall()

    def insert(self, table: str, values: Sequence[Any], conflict: str = "") -> int | None:
        """Add a row; its id. Only within a transaction."""
        marks = ", ".join("?" * len(values))
        statement = f"INSERT {conflict} INTO {table} VALUES ({marks})"
        return self.database.execute(statement, values).lastrowid

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is recorded, or nothing."""
        with self.one_line():
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.database.execute("COMMIT")
            except BaseException:
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")
                raise

    @contextmanager
    def one_line(self) -> Iterator[None]:
        """Turn SQLite's errors into one line with the fix."""
        try:
            yield
        except sqlite3.Error as error:
            fix = FIXES.get(getattr(error, "sqlite_errorname", ""), "choose another --study")
            raise BadInput(f"{self.path}: {error}; {fix}") from None

    def save(self, path: Path) -> None:
        """Write the study as it stands here to another file. Raises BadInput."""
        try:
            file = sqlite3.connect(path)
            file.execute("PRAGMA user_version")  # opens it
        except sqlite3.Error as error:
            raise BadInput(
                f"{path.parent}: cannot be written ({error}); choose another --output"
            ) from None
        with self.one_line(), closing(file):
            self.database.backup(file)

    def content(self) -> bytes:
        """The study as it stands here, as the bytes of a file."""
        return self.database.serialize()

    def _prepare(self) -> None:
        version = self.database.execute("PRAGMA user_version").fetchone()[0]
        tables = {row[0] for row in self.database.execute("SELECT name FROM sqlite_master")}
        if not 0 < version <= SCHEMA_VERSION if tables else version != 0:
            raise BadInput(
                f"{self.path}: schema version {version}, this program writes {SCHEMA_VERSION}; "
                "choose another --study"
            )
        check_schema(self.database, version, self.path)
        self.database.execute("PRAGMA journal_mode = WAL")
        # off while tables change places: what refers to them stays as it is
        self.database.execute("PRAGMA foreign_keys = OFF")
        with self.transaction():
            for number, migration in enumerate(MIGRATIONS[version:], version):
                if number == UNCHECKED_VERSION:
                    check_values(self.database, self.path)
                for statement in migration.split(";\n"):
                    self.database.execute(statement)
            self.database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self.database.execute("PRAGMA foreign_keys = ON")
        check_values(self.database, self.path)

    def _release(self) -> None:
        if self._lock:
            self._lock.release()


def _locked(path: Path) -> FileLock:
    """The study's lock, held: readers are welcome, a second writer would run the same rollouts."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(lock.lock_file, "ab"):  # FileLock waits also for a folder that it cannot write
            pass
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(
            f"{path}: another process is running this study; wait for it or choose --study"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(f"{path}: study cannot be written ({reason}); choose --study") from None
    return lock


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=5)


def _copied(path: Path) -> sqlite3.Connection:
    """The study as it stands, in memory. Raises sqlite3.Error also where there is no file."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    with readable(path) as uri, closing(sqlite3.connect(uri, uri=True, timeout=5)) as study:
        study.backup(copy)
    return copy


@contextmanager
def readable(path: Path) -> Iterator[str]:
    """The URI by which SQLite reads a study and leaves no file beside it.

    In a folder that cannot be written, SQLite reads what another process may be writing (there is
    a -wal file) only from a copy.
    """
    file = path.absolute()
    if not file.is_file() or (_is_writable(file) and _is_writable(file.parent)):
        # not mode=ro, which leaves its -wal and -shm files behind; rw never makes a new study
        yield f"{file.as_uri()}?mode=rw"
        return
    log = file.with_name(f"{file.name}-wal")
    if not log.is_file() or not log.stat().st_size:
        yield f"{file.as_uri()}?mode=ro&immutable=1"
        return
    with tempfile.TemporaryDirectory() as folder:
        for source in (file, log):
            shutil.copyfile(source, Path(folder) / source.name)
        yield f"{(Path(folder) / file.name).as_uri()}?mode=rw"


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
