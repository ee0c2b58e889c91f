"""What is whole of a damaged study, as a new one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from charprobe_lite.eval.store.checks import wrong_values
from charprobe_lite.eval.store.connection import readable
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.migrations import SCHEMA_VERSION
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput

OF_ROLLOUT = ("turns", "samples", "labels")
PARTS = ("rollouts", *OF_ROLLOUT)
ALONE = ("provenance", "files", "fidelity")
"""Tables whose rows refer to no other."""


@dataclass(frozen=True)
class SalvagedStudy:
    """A study with the rollouts that are whole, and how many rows of each table were lost."""

    path: Path
    rollouts: int
    lost: dict[str, int]


def salvage_study(source: Path, target: Path) -> SalvagedStudy:
    """Copy what can be read of a study, and passes its checks, into a new file.

    A rollout is copied with all its turns, its text and its labels, or not at all. Raises BadInput
    for a file that is no study of this schema version, and where ``target`` exists.
    """
    if target.exists():
        raise BadInput(f"{target}: exists already; name a new file")
    if not source.is_file():
        raise BadInput(f"{source}: no such study")
    with readable(source) as uri, closing(sqlite3.connect(uri, uri=True, timeout=5)) as damaged:
        damaged.text_factory = lambda raw: raw.decode("utf-8", "replace")
        _check_version(damaged, source)
        with TemporaryDirectory() as folder, Store(Path(folder) / "whole.sqlite") as store:
            lost = {table: _copy_alone(damaged, store, table) for table in ALONE}
            lost["rollouts"] = _copy_rollouts(damaged, store)
            for table in _drop_wrong(store):
                lost[table] += 1
            rollouts = store.select("SELECT count(*) FROM rollouts")[0][0]
            with new_file(target) as part:
                store.save(part)
    return SalvagedStudy(target, rollouts, {name: n for name, n in lost.items() if n})


def _check_version(damaged: sqlite3.Connection, source: Path) -> None:
    try:
        version = damaged.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise BadInput(f"{source}: {error}; nothing of it can be read") from None
    if version != SCHEMA_VERSION:
        raise BadInput(
            f"{source}: schema version {version}; only version {SCHEMA_VERSION} is salvaged"
        )


def _copy_alone(damaged: sqlite3.Connection, store: Store, table: str) -> int:
    """Copy the rows of a table that stand alone; how many were lost."""
    lost = 0
    for row in _rows_by_id(damaged, table):
        lost += row is None or not _added(store, [(table, row[1:])])
    return lost


def _copy_rollouts(damaged: sqlite3.Connection, store: Store) -> int:
    lost = 0
    for row in _rows_by_id(damaged, "rollouts"):
        lost += row is None or not _copy_rollout(damaged, store, row[1:])
    return lost


def _copy_rollout(damaged: sqlite3.Connection, store: Store, rollout: tuple[Any, ...]) -> bool:
    try:
        cells = damaged.execute("SELECT * FROM cells WHERE id = ?", (rollout[1],)).fetchall()
        rows = [("rollouts", rollout)]
        for table in OF_ROLLOUT:
            query = f"SELECT * FROM {table} WHERE rollout_id = ?"
            rows += [(table, row) for row in damaged.execute(query, (rollout[0],))]
    except sqlite3.Error:
        return False
    turns = sum(table == "turns" for table, _ in rows)
    if len(cells) != 1 or turns != rollout[8]:  # steps
        return False
    known = store.select("SELECT count(*) FROM cells WHERE id = ?", (rollout[1],))[0][0]
    return _added(store, [*([] if known else [("cells", cells[0])]), *rows])


def _added(store: Store, rows: list[tuple[str, tuple[Any, ...]]]) -> bool:
    """Whether the rows were added, all of them: each column has its type."""
    try:
        with store.transaction():
            for table, values in rows:
                store.insert(table, values)
    except BadInput:
        return False
    return True


def _drop_wrong(store: Store) -> Iterator[str]:
    """Remove what breaks a study's rules; the table of each row, of a rollout's the rollouts."""
    rows = {(wrong.table, wrong.row) for wrong in wrong_values(store.database)}
    rollouts = {int(str(row).split("/")[0]) for table, row in rows if table in PARTS}
    for table, row in rows:
        if table == "cells":
            found = store.select("SELECT id FROM rollouts WHERE cell_id = ?", (row,))
            rollouts |= {number for (number,) in found}
    with store.transaction():
        for number in rollouts:
            for table in OF_ROLLOUT:
                store.database.execute(f"DELETE FROM {table} WHERE rollout_id = ?", (number,))
            store.database.execute("DELETE FROM rollouts WHERE id = ?", (number,))
            yield "rollouts"
        for table, row in rows:
            if table not in PARTS:
                store.database.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
                if table in ALONE:
                    yield table


def _rows_by_id(damaged: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...] | None]:
    """(rowid, *columns) of every row of a table; None for one on a page that cannot be read."""
    try:
        [(last,)] = damaged.execute(f"SELECT max(rowid) FROM {table}")
    except sqlite3.Error:
        last = _last_readable(damaged, table)
    for rowid in range(1, (last or 0) + 1):
        try:
            yield from damaged.execute(f"SELECT rowid, * FROM {table} WHERE rowid = ?", (rowid,))
        except sqlite3.Error:
            yield None


def _last_readable(damaged: sqlite3.Connection, table: str) -> int:
    last = 0
    with suppress(sqlite3.Error):
        for (last,) in damaged.execute(f"SELECT rowid FROM {table} ORDER BY rowid"):  # noqa: B007
            pass
    return last
