"""Changes to good inputs, each made with a generator whose seed says which."""

from __future__ import annotations

import json
import random
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]
NUMBERS = (0, 1, -1, 2, 7, 127, 255, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63, 2**64)
TEXTS = (
    *("", " ", "\0", "\x1b[2J", "\x07", "\u202e", "\ud800", "\ufeff", "\r\n", "../../etc/passwd"),
    *("~nobody", "/dev/zero", "x" * 300, "9" * 5000, "{{ 1 }}", "</script>", "NaN", "null", "-"),
    *("%s%n", "${HOME}", "http://127.0.0.1:9", "*", "[", "(a|a)*$", "e\u0301", "\U0001f600"),
)
YAML_PIECES = (
    *("&a [*a]", "*a", "!!python/object:os.system x", "<<: *a", "---", "? x", "- - - -", "|\n"),
    *(": : :", "{", "[[[[", "'", '"', "\t", "%YAML 9.9", "!!binary aaaa", "0o17", "1e400", "~"),
)
JINJA_PIECES = (
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{% set x = messages[0]['content'] * 99999999 %}{{ x }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ messages | map(attribute='x') | list | join('y') * 9999999 }}",
    "{% if messages | length > 2 %}{{ 'x' * 9999999999 }}{% endif %}",
    *("{{ raise_exception('no') }}", "{% include 'x' %}", "{% macro m() %}{{ m() }}{% endmacro %}"),
    *("{{ 1 / 0 }}", "{{ 9 ** 9999999 }}", "{{", "%}", "{% endfor %}", "{{ messages[99] }}"),
)


def nested(depth: int) -> Any:
    value: Any = 0
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, repeated, inserted and overwritten bytes; more often near the beginning."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not changed:
            return bytes(changed)
        near = rng.choice((64, 512, 4096, len(changed)))
        place = rng.randrange(min(near, len(changed)))
        kind = rng.randrange(6)
        if kind == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            number = rng.choice(NUMBERS) & (2**64 - 1)
            width = rng.choice((1, 2, 4, 8))
            changed[place : place + width] = number.to_bytes(8, "little")[:width]
        elif kind == 2:
            del changed[rng.randrange(len(changed)) :]
        elif kind == 3:
            del changed[place : place + rng.choice((1, 4, 100))]
        elif kind == 4:
            changed[place:place] = rng.randbytes(rng.choice((1, 8, 300)))
        else:
            changed[place : place + 8] = struct.pack("<d", rng.choice((float("nan"), 1e308, -0.0)))
    return bytes(changed)


def mutate_text(pieces: tuple[str, ...] = TEXTS) -> Mutate:
    """Mutates the text at places between its words, with some of ``pieces``."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return mutate_bytes(data, rng)
        text = data.decode("utf-8", "replace")
        for _ in range(rng.choice((1, 1, 2, 5))):
            place = rng.randrange(len(text) + 1)
            end = place + rng.choice((0, 0, 1, 10, 200))
            text = text[:place] + rng.choice((*pieces, *TEXTS)) + text[end:]
        return text.encode("utf-8", "surrogatepass")

    return mutate


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Another value, type, key or depth somewhere in one of the JSON documents, one a line."""
    if rng.random() < 0.15:
        return mutate_text()(data, rng)
    text = data.decode("utf-8", "replace")
    lines = [text] if _is_json(text) else text.splitlines()
    chosen = rng.randrange(len(lines))
    with suppress(ValueError):
        value = json.loads(lines[chosen])
        for _ in range(rng.choice((1, 1, 2, 3))):
            value = _changed(value, rng)
        lines[chosen] = json.dumps(value)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _is_json(text: str) -> bool:
    with suppress(ValueError):
        json.loads(text)
        return True
    return False


def _changed(value: Any, rng: random.Random) -> Any:
    """The value with one of its parts replaced, removed, renamed or added."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return _hostile(value, rng)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = rng.choice(keys)
    changed: Any = value.copy()
    kind = rng.randrange(8)
    if kind == 0:
        del changed[key]
    elif kind == 1 and isinstance(changed, dict):
        changed[rng.choice(TEXTS)] = changed.pop(key)
    elif kind == 2 and isinstance(changed, list):
        changed *= rng.choice((0, 2, 500))
    else:
        changed[key] = _changed(changed[key], rng)
    return changed


def _hostile(value: Any, rng: random.Random) -> Any:
    near = [-value, value + 1, value * 1000, str(value)] if isinstance(value, int | float) else []
    others = [None, True, [], {}, [value], {"a": value}, 1e308, float("nan"), float("-inf"), 0.5]
    deep = [nested(rng.choice((50, 100, 300, 900)))]
    return rng.choice((*near, *others, *deep, rng.choice(NUMBERS), rng.choice(TEXTS)))


def mutate_study(data: bytes, rng: random.Random, room: Path) -> bytes:
    """Another value in some rows, another schema, or other bytes of a SQLite file."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    room.write_bytes(data)
    with closing(sqlite3.connect(room)) as database, database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        for _ in range(rng.choice((1, 1, 3))):
            listed = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = [row[0] for row in listed]
            with suppress(sqlite3.Error):  # STRICT tables refuse some
                database.execute(*_statement(database, rng.choice(tables), rng))
    changed = room.read_bytes()
    room.unlink()
    return changed


def _statement(
    database: sqlite3.Connection, table: str, rng: random.Random
) -> tuple[str, tuple[Any, ...]]:
    """A change of some rows, or of the schema."""
    columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
    value = rng.choice((*NUMBERS[:10], *TEXTS, None, 1e308, 9e999, -1.5, b"\0\1", "[1]"))
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()
    return rng.choice(
        (
            *[(f'UPDATE "{table}" SET "{rng.choice(columns)}" = ?', (value,))] * 6,
            (f'DELETE FROM "{table}" WHERE rowid % 3 = ?', (rng.randrange(3),)),
            (f'DROP TABLE "{table}"', ()),
            (f'ALTER TABLE "{table}" ADD COLUMN more', ()),
            ("CREATE VIEW extra AS SELECT 1", ()),
            ("CREATE TRIGGER t AFTER INSERT ON rollouts BEGIN DELETE FROM turns; END", ()),
        )
    )
