"""A study file is data from outside: its schema and its values are checked before they are used."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from charprobe_lite.eval.protocols.outcome import Outcome
from charprobe_lite.eval.store.migrations import MIGRATIONS
from charprobe_lite.models.errors import BadInput, printable
from charprobe_lite.models.quant_types import KV_TYPES
from charprobe_lite.runtime.backend import Finish

Columns = dict[str, list[tuple[Any, ...]]]
KV_TABLES = ("cells", "files", "fidelity")
COUNTS = "steps prompt_tokens evaluated_tokens tokens"
# CASE, as json_type fails on what is no JSON
NUMBERS = (
    "CASE WHEN NOT json_valid({0}) OR json_type({0}) <> 'object' THEN 0 "
    "ELSE NOT EXISTS (SELECT 1 FROM json_each({0}) WHERE {1}) END"
)
NO_SHARE = "type NOT IN ('real', 'integer') OR value NOT BETWEEN 0 AND 1"
NO_COUNT = "type <> 'integer' OR value < 1"


def _among(column: str, values: list[str]) -> str:
    return f"{column} IN ({', '.join(map(repr, values))})"


RULES = {
    ("provenance", "value"): "json_valid(value)",
    ("cells", "base"): "base <> ''",
    **{(table, "kv_type"): _among("kv_type", [*KV_TYPES]) for table in KV_TABLES},
    ("cells", "technique"): "length(technique) <= 64 AND technique NOT GLOB '*[^a-z0-9-]*'",
    ("rollouts", "sample"): "sample >= 0",
    ("rollouts", "outcome"): _among("outcome", [*map(str, Outcome)]),
    ("rollouts", "forced"): "forced IN (0, 1)",
    **{("rollouts", name): f"{name} >= 0" for name in COUNTS.split()},
    ("rollouts", "seconds"): "seconds >= 0 AND seconds < 9e999",
    ("turns", "finish"): _among("finish", [*get_args(Finish)]),
    **{("turns", name): f"{name} >= 0" for name in COUNTS.split()[1:]},
    ("samples", "probabilities"): NUMBERS.format("probabilities", NO_SHARE),
    ("labels", "probabilities"): NUMBERS.format("probabilities", NO_SHARE),
    ("files", "tensor_types"): NUMBERS.format("tensor_types", NO_COUNT),
    ("files", "bits_per_weight"): "bits_per_weight > 0 AND bits_per_weight < 9e999",
    ("files", "bytes"): "bytes > 0",
    ("files", "tokens_per_second"): "tokens_per_second > 0 AND tokens_per_second < 9e999",
    ("files", "peak_bytes"): "peak_bytes > 0",
    ("fidelity", "nll"): "length(nll) = 4 * length(same_top)",
    ("fidelity", "kl"): "length(kl) = 4 * length(same_top)",
    ("fidelity", "left_out"): "left_out >= 0",
}
"""What holds of every value that is not NULL, in SQL; SQLite's STRICT tables hold the types."""
KEYS = {"turns": "rollout_id || '/' || step", "labels": "rollout_id || '/' || instrument"}
"""What names a row of the tables without a rowid."""


def check_schema(database: sqlite3.Connection, version: int, path: Path) -> None:
    """Raises BadInput for a database whose tables are not those of this schema version.

    No view, trigger or table of somebody else's is read or run. Raises sqlite3.Error for a file
    that is damaged.
    """
    database.execute("PRAGMA trusted_schema = OFF")
    found, expected = _columns(database), _expected(version)
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            raise BadInput(
                f"{path}: {printable(name)}: not as charprobe-lite makes it; choose another --study"
            )
    # `check_values` names the row and the field of what breaks a CHECK
    database.execute("PRAGMA ignore_check_constraints = ON")
    [(verdict,), *_] = database.execute("PRAGMA quick_check(1)").fetchall()
    database.execute("PRAGMA ignore_check_constraints = OFF")
    if verdict != "ok":
        raise BadInput(f"{path}: {printable(str(verdict))}; {_salvage(path)}")


def check_values(database: sqlite3.Connection, path: Path) -> None:
    """Raises BadInput naming table, row and field of a value that this program does not write."""
    for wrong in wrong_values(database):
        shown = printable(repr(wrong.value))
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise BadInput(
            f"{path}: table {wrong.table}, row {printable(str(wrong.row))}: field {wrong.column}: "
            f"cannot be {shown}; {_salvage(path)}"
        )
    for table, row, parent, _ in database.execute("PRAGMA foreign_key_check"):
        place = "" if row is None else f", row {row}"
        raise BadInput(f"{path}: table {table}{place}: is of no {parent}; {_salvage(path)}")


@dataclass(frozen=True)
class WrongValue:
    """A value that breaks one of RULES; ``row`` is what KEYS names it by, else its rowid."""

    table: str
    row: Any
    column: str
    value: Any


def wrong_values(database: sqlite3.Connection) -> Iterator[WrongValue]:
    """Every value that breaks one of RULES, and arguments that are no JSON object.

    The study may be of an earlier schema, which has no columns that came later.
    """
    for (table, column), rule in RULES.items():
        if not _has_column(database, table, column):
            continue
        for row, value in database.execute(
            f"SELECT {KEYS.get(table, 'rowid')}, {column} FROM {table} "
            f"WHERE {column} IS NOT NULL AND NOT ({rule})"
        ):
            yield WrongValue(table, row, column, value)
    for row, arguments in _odd_arguments(database):
        yield WrongValue("turns", row, "arguments", arguments)


def _has_column(database: sqlite3.Connection, table: str, column: str) -> bool:
    query = "SELECT EXISTS (SELECT 1 FROM pragma_table_info(?) WHERE name = ?)"
    return bool(database.execute(query, (table, column)).fetchone()[0])


def _odd_arguments(database: sqlite3.Connection) -> Iterator[tuple[Any, str]]:
    """Arguments that are no JSON object, as Python reads JSON: a model may write NaN."""
    for key, text in database.execute(
        f"SELECT {KEYS['turns']}, arguments FROM turns WHERE arguments IS NOT NULL AND "
        "CASE WHEN json_valid(arguments) THEN json_type(arguments) <> 'object' ELSE 1 END"
    ):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            yield key, text


def _salvage(path: Path) -> str:
    return f"keep what is whole: charprobe-lite study salvage {path} -o NEW"


def _columns(database: sqlite3.Connection) -> Columns:
    """The columns of every table, and all else that a schema has, by name."""
    found: Columns = {}
    for kind, name, sql in database.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind == "index" and sql is None:  # of a UNIQUE or PRIMARY KEY
            continue
        found[f"{kind} {name}"] = database.execute(
            'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)',
            (name,),
        ).fetchall()
    for name, columns, *flags in database.execute(
        "SELECT name, ncol, wr, strict FROM pragma_table_list WHERE schema = 'main'"
    ):
        if f"table {name}" in found:
            found[f"table {name}"].append((columns, *flags))
    return found


@lru_cache(maxsize=8)
def _expected(version: int) -> Columns:
    with closing(sqlite3.connect(":memory:")) as database:
        for migration in MIGRATIONS[:version]:
            database.executescript(migration)
        return _columns(database)
