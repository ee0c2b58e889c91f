"""Study files that somebody else has made, changed or damaged."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from charprobe_lite.eval.cli.main import main
from charprobe_lite.eval.export import export_study
from charprobe_lite.eval.store.checks import RULES
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.salvage import salvage_study
from charprobe_lite.models.errors import BadInput
from tests.conftest import ValidJson

RECORDED = Path(__file__).parent / "data" / "recorded" / "study.sqlite"


def migrated(folder: Path) -> Path:
    """The recorded study in today's schema."""
    path = Path(shutil.copy(RECORDED, folder))
    with Store(path):
        pass
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return migrated(tmp_path)


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE VIEW extra AS SELECT 1", "view extra: not as charprobe-lite makes it"),
        ("CREATE TABLE notes (text)", "table notes: not as"),
        (
            "CREATE TRIGGER boom AFTER INSERT ON rollouts BEGIN DELETE FROM turns; END",
            "trigger boom: not as",
        ),
        ("ALTER TABLE rollouts ADD COLUMN more TEXT", "table rollouts: not as"),
        ("ALTER TABLE samples RENAME COLUMN text TO words", "table samples: not as"),
        ("DROP TABLE labels", "table labels: not as"),
        ("CREATE INDEX quick ON rollouts (item)", "index quick: not as"),
        ('CREATE TABLE "\x1b[31mred" (x)', "table \\x1b[31mred: not as"),
    ],
)
def test_another_schema_is_named_and_not_read(study: Path, statement: str, said: str) -> None:
    change(study, statement)
    for readonly in (True, False):
        with pytest.raises(BadInput) as refused:
            Store(study, readonly=readonly)
        assert said in str(refused.value)
        assert "choose another --study" in str(refused.value)


def test_a_view_in_place_of_a_table_is_not_read(study: Path) -> None:
    change(study, "ALTER TABLE turns RENAME TO other", "CREATE VIEW turns AS SELECT * FROM other")
    with pytest.raises(BadInput, match="table other: not as charprobe-lite makes it"):
        Store(study, readonly=True)


WRONG: dict[str, tuple[str, str]] = {
    "outcome": ("UPDATE rollouts SET outcome = 'won' WHERE id = 2", "row 2: field outcome: cannot"),
    "sample": ("UPDATE rollouts SET sample = -1 WHERE id = 3", "row 3: field sample: cannot be -1"),
    "seconds": ("UPDATE rollouts SET seconds = 9e999 WHERE id = 1", "field seconds: cannot be inf"),
    "finish": (
        "UPDATE turns SET finish = 'bored' WHERE step = 1",
        "field finish: cannot be 'bored",
    ),
    "probabilities": (
        "UPDATE samples SET probabilities = '{\"humor\": 2}'",
        "table samples, row 2: field probabilities: cannot be '{\"humor\": 2}'",
    ),
    "no JSON": (
        "UPDATE samples SET probabilities = '{humor'",
        "field probabilities: cannot be '{h",
    ),
    "NaN": ("UPDATE samples SET probabilities = '{\"humor\": NaN}'", "field probabilities: cannot"),
    "arguments": ("UPDATE turns SET arguments = '[1]' WHERE tool NOT NULL", "field arguments: can"),
    "provenance": (
        "UPDATE provenance SET value = 'x'",
        "table provenance, row 1: field value: can",
    ),
    "types": ("UPDATE files SET tensor_types = '{\"F16\": -4}'", "field tensor_types: cannot be"),
    "blob": (
        "UPDATE fidelity SET kl = x'00'",
        "table fidelity, row 1: field kl: cannot be b'\\x00'",
    ),
    "orphan": ("DELETE FROM cells WHERE id = 1", "table rollouts, row 1: is of no cells"),
    "escape": ("UPDATE rollouts SET outcome = char(27) || '[2J'", "cannot be '\\x1b[2J'"),
}
COMMANDS = (
    ["score"],
    ["export", "-o", "rows.jsonl"],
    ["report", "-o", "page"],
    ["study", "status"],
    ["study", "merge", "-o", "merged.sqlite"],
    ["study", "resume"],
    ["study", "relabel", "-o", "other.sqlite"],
)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_named_with_table_row_and_field(study: Path, case: str) -> None:
    statement, said = WRONG[case]
    change(study, statement)
    with pytest.raises(BadInput) as refused:
        Store(study, readonly=True)
    assert said in str(refused.value)
    assert "study salvage" in str(refused.value)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command[:2]))
def test_every_command_says_it_in_one_line(
    study: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(study.parent)
    change(study, WRONG["outcome"][0])
    done = CliRunner().invoke(main, [*command, str(study)])
    said = f"{done.stderr} {done.exception}"
    assert done.exit_code != 0
    assert isinstance(done.exception, BadInput | SystemExit), said
    assert "table rollouts, row 2: field outcome: cannot be 'won'" in said


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.binary(max_size=12),
    st.sampled_from(["{}", "[]", "null", '{"a": 1e400}', "[" * 2000, "\0", "NaN", "1"]),
)
COLUMNS = [(table, column) for table, column in RULES if table != "cells"] + [
    *(("rollouts", name) for name in ("persona", "item", "seed", "ended", "cell_id")),
    *(("turns", name) for name in ("text", "tool", "arguments", "output", "seconds", "step")),
    *(("samples", name) for name in ("text", "prediction")),
    *(("cells", name) for name in ("base", "stage", "condition", "quant", "lora", "train_seed")),
    *(("provenance", "name"), ("labels", "instrument"), ("fidelity", "kind")),
]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(COLUMNS), VALUES, st.booleans())
def test_any_value_in_any_column_is_read_or_refused(
    place: tuple[str, str], value: Any, everywhere: bool
) -> None:
    table, column = place
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(TODAY(), folder))
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("PRAGMA ignore_check_constraints = ON")
            order = "" if everywhere else f"WHERE {column} = (SELECT max({column}) FROM {table})"
            try:
                database.execute(f"UPDATE {table} SET {column} = ? {order}", (value,))
            except sqlite3.Error:
                return  # a type that the table does not take, or a key that is there already
        with suppress(BadInput):  # any other error fails
            with Store(path, readonly=True) as store:
                store.rows(), store.turns(), store.files(), store.texts()
                store.provenance(), store.predictions(), store.labels("fp32")
                store.unclassified(), store.texts_read()
            export_study(path, "jsonl", Path(folder) / "rows.jsonl")


def _today() -> Callable[[], Path]:
    made: list[Path] = []

    def path() -> Path:
        if not made:
            made.append(migrated(Path(tempfile.mkdtemp())))
        return made[0]

    return path


TODAY = _today()


# salvage


def test_what_is_whole_of_a_damaged_study_is_kept(
    study: Path, tmp_path: Path, valid_json: ValidJson
) -> None:
    change(study, WRONG["outcome"][0], "UPDATE turns SET finish = 'x' WHERE rollout_id = 3")
    whole = tmp_path / "whole.sqlite"
    done = CliRunner().invoke(
        main, ["study", "salvage", str(study), "-o", str(whole), "--json"], catch_exceptions=False
    )
    document = json.loads(done.stdout)
    valid_json(document, "study-salvage")
    assert (document["rollouts"], document["lost"]) == (10, {"rollouts": 2})
    assert sorted(path.name for path in tmp_path.iterdir() if "whole" in path.name) == [
        "whole.sqlite"
    ]
    with Store(whole, readonly=True) as store, Store(migrated(tmp_path / "..")) as before:
        rows = {row.key: row for row in before.rows()}
        assert all(rows[row.key] == row for row in store.rows())
        assert len(store.rows()) == 10
        assert store.files() == before.files()
        assert store.texts() == before.texts()
        assert store.provenance() == before.provenance()
        known = before.turns()
        assert all(known[key] == turns for key, turns in store.turns().items())


def test_pages_of_zeros_cost_what_is_on_them(study: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(study)) as database:
        size = database.execute("PRAGMA page_size").fetchone()[0]
        pages = database.execute("PRAGMA page_count").fetchone()[0]
    raw = bytearray(study.read_bytes())
    salvaged = []
    for page in range(pages // 2, pages):
        damaged = tmp_path / f"{page}.sqlite"
        damaged.write_bytes(raw[: page * size] + bytes(size) + raw[(page + 1) * size :])
        result = salvage_study(damaged, tmp_path / f"{page}-whole.sqlite")
        with Store(result.path, readonly=True) as store:
            assert len(store.rows()) == result.rollouts
        salvaged.append(result.rollouts)
    assert max(salvaged) == 12
    with pytest.raises(BadInput, match="exists already; name a new file"):
        salvage_study(study, tmp_path / f"{pages - 1}-whole.sqlite")
    (tmp_path / "text.sqlite").write_text("no database" * 1000)
    with pytest.raises(BadInput, match="nothing of it can be read"):
        salvage_study(tmp_path / "text.sqlite", tmp_path / "new.sqlite")
