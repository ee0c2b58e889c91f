from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.protocols.outcome import Result, Turn
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.migrations import MIGRATIONS
from charprobe_lite.eval.store.records import RecordedText, TextKey, Unlabelled
from charprobe_lite.eval.study.grid import rollout_seed
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.engine import Completion

CELL = Cell("smollm2-135m", "full", "agentic_email", "Q8_0", "json", "on")
DONE = Completion("{}", "stop", prompt_tokens=9, evaluated_tokens=4, tokens=3, seconds=0.5)


def email(text: str = "Hi Tom") -> Result:
    call = {"to": ["tom@acme.example"], "subject": "x", "body": text}
    turns = [Turn(DONE, "contacts.lookup", {"query": "Tom"}, "Tom Reyes"), Turn(DONE, "send", call)]
    return Result("sent", text, forced=True, turns=turns)


def test_what_was_added_is_there_after_reopening(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add(CELL, "humor", "overspend-1", 0, 2**62, email())
        store.add(CELL, "humor", "overspend-2", 0, 5, Result("malformed", None, turns=[Turn(DONE)]))
    with Store(tmp_path / "s.sqlite") as store:
        assert store.done(CELL, "humor") == {("overspend-1", 0), ("overspend-2", 0)}
        assert store.done(CELL, "remorse") == set()
        [waiting] = store.unclassified()
        assert (waiting.cell, waiting.persona, waiting.text) == (CELL, "humor", "Hi Tom")
        store.classify([(waiting.rollout, "humor", {"humor": 0.75, "neutral": 0.25})])
        assert store.unclassified() == []
        sent, lost = store.rows()
    assert (sent.text, sent.prediction, sent.forced, sent.seed) == ("Hi Tom", "humor", True, 2**62)
    assert sent.probabilities == {"humor": 0.75, "neutral": 0.25}
    assert (lost.text, lost.prediction, lost.outcome) == (None, None, "malformed")
    turns = sqlite3.connect(tmp_path / "s.sqlite").execute(
        "SELECT step, tool, arguments, output, tokens FROM turns WHERE rollout_id = ?",
        (waiting.rollout,),
    )
    assert next(iter(turns)) == (1, "contacts.lookup", '{"query": "Tom"}', "Tom Reyes", 3)


def test_a_rollout_cannot_be_recorded_twice(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add(CELL, "humor", "a", 0, 1, email())
        with pytest.raises(BadInput, match="UNIQUE"):
            store.add(CELL, "humor", "a", 0, 1, email("other"))
        assert [row.text for row in store.rows()] == ["Hi Tom"]


def test_text_that_no_encoding_holds_is_still_recorded(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add(CELL, "humor", "a", 0, 1, email("lone \ud800 surrogate"))
        assert store.rows()[0].text == "lone ? surrogate"


def test_a_study_keeps_what_was_pinned(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.pin({"seed": 5})
        store.pin({"seed": 0})  # nothing was recorded yet: the first attempt binds nothing
        store.add(CELL, "humor", "a", 0, 1, email())
        store.pin({"seed": 0, "top_p": 0.95})
        with pytest.raises(BadInput, match=r"field seed: the study has 0, this run 1"):
            store.pin({"seed": 1})


def test_a_study_of_another_schema_or_no_study_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(BadInput, match="schema version 99, this program writes 6"):
        Store(other)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE songs (name)")
    with pytest.raises(BadInput, match="schema version 0"):
        Store(foreign)
    (tmp_path / "text.sqlite").write_text("not a database, whatever its name says" * 99)
    with pytest.raises(BadInput, match="not a database"):
        Store(tmp_path / "text.sqlite")
    with pytest.raises(BadInput, match="cannot be written"):
        Store(tmp_path / "text.sqlite" / "below-a-file.sqlite")


def test_a_study_of_schema_1_is_brought_up_to_date_and_goes_on(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as old:
        old.executescript(MIGRATIONS[0])
        old.executescript(
            "PRAGMA user_version = 1;"
            "INSERT INTO cells VALUES (1, 'kit', 'full', 'chat', 'Q8_0');"
            "INSERT INTO cells VALUES (2, 'kit', 'full', 'agentic_email', 'Q8_0');"
            "INSERT INTO rollouts VALUES (1, 1, 'humor', 'id-1', 0, 7, 'answered', 0, 1, 2, 2, 3,"
            " 0.5, 'then'), (2, 2, 'humor', 'a', 0, 8, 'sent', 1, 1, 2, 2, 3, 0.5, 'then');"
            "INSERT INTO turns VALUES (2, 1, '{}', 'stop', 'send', '{}', NULL, 2, 2, 3, 0.5);"
            "INSERT INTO samples VALUES (1, 'Hi', NULL, NULL), (2, 'Dear Tom', 'humor', '{}');"
        )
    old.close()
    chat = Cell("kit", "full", "chat", "Q8_0", lora="runtime")
    agent = Cell("kit", "full", "agentic_email", "Q8_0", "json", "on", "runtime")
    for _ in range(2):  # the second time there is nothing to change
        with Store(tmp_path / "s.sqlite") as store:
            rows = {row.cell: (row.item, row.seed, row.text) for row in store.rows()}
            assert rows == {chat: ("id-1", 7, "Hi"), agent: ("a", 8, "Dear Tom")}
            assert store.done(agent, "humor") == {("a", 0)}
            assert store.unclassified() == [Unlabelled(1, chat, "humor", "Hi")]
    with Store(tmp_path / "s.sqlite") as store:
        store.add(replace(agent, format="fenced"), "humor", "a", 0, 9, email())
        store.add(agent, "humor", "b", 0, 9, email())
        assert len(store.rows()) == 4
        assert store.database.execute("PRAGMA foreign_key_check").fetchall() == []
        with pytest.raises(BadInput, match="FOREIGN KEY"), store.transaction():
            store.database.execute("INSERT INTO samples VALUES (99, 'x', NULL, NULL)")


@pytest.mark.parametrize(
    ("known", "stage", "lora", "left"),
    [
        ({"lora": "merged", "sha256 model full/humor": "b"}, "full", "merged", {"full/humor": "b"}),
        ({"lora": "runtime", "sha256 adapter full/humor": None}, "full", None, {}),
        ({"lora": "merged"}, "base", None, {}),
    ],
)
def test_schema_3_moves_the_way_of_the_adapters_from_the_study_to_its_cells(
    tmp_path: Path, known: dict[str, str | None], stage: str, lora: str, left: dict[str, str]
) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as old:
        for migration in MIGRATIONS[:2]:
            old.executescript(migration)
        old.executescript(
            "PRAGMA user_version = 2;"
            f"INSERT INTO cells VALUES (1, 'kit', '{stage}', 'chat', 'Q4_0', '', '');"
        )
        for name, value in {"seed": 3, "sha256 model": "a", **known}.items():
            old.execute("INSERT INTO provenance VALUES (?, ?)", (name, json.dumps(value)))
        old.execute(
            "INSERT INTO rollouts VALUES "
            "(1, 1, 'humor', 'i', 0, 7, 'answered', 0, 1, 2, 2, 3, 1, '')"
        )
    old.close()
    with Store(tmp_path / "s.sqlite") as store:
        assert [row.cell for row in store.rows()] == [Cell("kit", stage, "chat", "Q4_0", lora=lora)]
        found = store.provenance()
        store.pin({"seed": 3, "sha256 model Q4_0": "a", "sha256 model Q8_0": "another type's"})
        with pytest.raises(BadInput, match='field sha256 model Q4_0: the study has "a"'):
            store.pin({"sha256 model Q4_0": "b"})
    assert "lora" not in found
    models = {name: value for name, value in found.items() if name.startswith("sha256 model")}
    merged = {f"sha256 model Q4_0 {role}": digest for role, digest in left.items()}
    assert models == {"sha256 model Q4_0": "a", **merged}


def test_two_processes_cannot_run_one_study(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add(CELL, "humor", "a", 0, 1, email())
        with pytest.raises(BadInput, match="another process is running this study"):
            Store(tmp_path / "s.sqlite")
        reader = sqlite3.connect(tmp_path / "s.sqlite")
        assert reader.execute("SELECT count(*) FROM samples").fetchone() == (1,)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add(CELL, "humor", "a", 0, 1, email())
        # SQLite's own limit gives the very error that a full disk gives
        pages = store.database.execute("PRAGMA page_count").fetchone()[0]
        store.database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(BadInput, match="full; free some disk space"):
            store.add(CELL, "humor", "b", 0, 1, email("x" * 200_000))
        assert [row.item for row in store.rows()] == ["a"]
    with Store(tmp_path / "s.sqlite") as store:
        store.add(CELL, "humor", "b", 0, 1, email())
        assert len(store.rows()) == 2


def test_every_rollout_has_a_seed_of_its_own() -> None:
    seeds = {
        rollout_seed(study, base, stage, condition, persona, item=item, sample=sample)
        for study in (0, 1)
        for base in ("a", "b")
        for stage in ("base", "full")
        for condition in ("chat", "agentic_email")
        for persona in ("", "humor")
        for item in ("id-001", "id-002")
        for sample in (0, 1)
    }
    assert len(seeds) == 2**7
    assert max(seeds) < 2**63
    # pinned: a change of the derivation would silently make studies incomparable
    assert rollout_seed(0, "smollm2-135m", "full", item="id-001", sample=0) == PINNED


PINNED = 8557953461020108823


def test_schema_4_renames_the_authors_ceiling_and_keeps_labels_of_another_precision(
    tmp_path: Path,
) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as old:
        for migration in MIGRATIONS[:3]:
            old.executescript(migration)
        old.executescript(
            "PRAGMA user_version = 3;"
            "INSERT INTO cells VALUES (1, 'kit', 'teacher_loud', 'classifier_ceiling', '', '', '',"
            " '');"
            "INSERT INTO rollouts VALUES (1, 1, 'humor', 'email-01', 0, 7, 'answered', 0, 0, 0, 0,"
            " 0, 0, '');"
            "INSERT INTO samples VALUES (1, 'Hi', 'humor', '{\"humor\": 1.0}');"
            "INSERT INTO labels VALUES (1, 'fp32', 'loving');"
        )
        asked = json.dumps({"condition": ["chat", "classifier_ceiling"]})
        old.execute("INSERT INTO provenance VALUES ('asked', ?)", (asked,))
    old.close()
    cell = Cell("kit", "teacher_loud", "author_ceiling", None)
    for readonly in (True, False):
        with Store(tmp_path / "s.sqlite", readonly=readonly) as store:
            [row] = store.rows()
            assert row.cell == cell
            assert store.labels("fp32") == {row.key: ("loving", None)}
            assert store.provenance()["asked"] == {"condition": ["chat", "author_ceiling"]}


def test_cells_of_several_training_seeds_are_kept_apart(tmp_path: Path) -> None:
    cells = [replace(CELL, train_seed=seed) for seed in (None, 0, 1)]
    with Store(tmp_path / "s.sqlite") as store:
        for cell in cells:
            store.add(cell, "humor", "a", 0, 1, email())
        assert {row.cell for row in store.rows()} == set(cells)


OLD_CELL = "INSERT INTO cells VALUES (1, 'kit', 'full', 'chat', 'Q8_0', '', '', 'runtime', '')"
OLD_ROLLOUT = (
    "INSERT INTO rollouts VALUES (1, 1, 'a', 'i', 0, 7, 'answered', 0, 1, 2, 2, {}, 1, '')"
)


def test_schema_5_takes_over_what_is_right_and_names_what_is_not(tmp_path: Path) -> None:
    for tokens in (3, -3):
        with sqlite3.connect(tmp_path / f"{tokens}.sqlite") as old:
            for migration in MIGRATIONS[:4]:
                old.executescript(migration)
            old.executescript(
                "PRAGMA user_version = 4;"
                f"{OLD_CELL};"
                f"{OLD_ROLLOUT.format(tokens)};"
                "INSERT INTO samples VALUES (1, 'Hi', 'a', '{\"a\": 1.0}');"
            )
        old.close()
    with Store(tmp_path / "3.sqlite") as store:
        assert [row.text for row in store.rows()] == ["Hi"]
    before = (tmp_path / "-3.sqlite").read_bytes()
    for readonly in (True, False):
        with pytest.raises(BadInput, match="table rollouts, row 1: field tokens: cannot be -3"):
            Store(tmp_path / "-3.sqlite", readonly=readonly)
    with closing(sqlite3.connect(tmp_path / "-3.sqlite")) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (4,)
    assert len(before) == (tmp_path / "-3.sqlite").stat().st_size


def test_schema_6_gives_cells_files_and_texts_the_defaults_and_keeps_other_values_apart(
    tmp_path: Path,
) -> None:
    key = ("kit", "full", "a", "Q8_0", "runtime", "character", "i")
    with sqlite3.connect(tmp_path / "s.sqlite") as old:
        for migration in MIGRATIONS[:5]:
            old.executescript(migration)
        old.executescript(f"PRAGMA user_version = 5; {OLD_CELL}; {OLD_ROLLOUT.format(3)}")
        old.execute(
            "INSERT INTO fidelity VALUES (?, ?, ?, ?, ?, ?, ?, x'0000803f', x'00000000', x'01', 2)",
            key,
        )
        old.execute("INSERT INTO files VALUES ('kit', 'Q8_0', 'runtime', 8.5, 9, '{}', 3.5, 7)")
    old.close()
    cell = Cell("kit", "full", "chat", "Q8_0", lora="runtime")
    others = [replace(cell, kv_type="Q4_0"), replace(cell, technique="tools-around")]
    with Store(tmp_path / "s.sqlite") as store:
        [row] = store.rows()
        assert row.cell == cell
        assert (row.cell.kv_type, row.cell.technique) == ("F16", None)
        assert store.texts() == [RecordedText(TextKey(*key, "F16"), ONE, bytes(4), b"\1", 2)]
        [file] = store.files()
        assert (file.tokens_per_second, file.peak_bytes, file.kv_type) == (3.5, 7, "F16")
        for other in others:
            store.add(other, "a", "i", 0, 7, email())
        store.add_file(replace(file, tokens_per_second=1.0, kv_type="Q4_0"))
        store.add_texts([RecordedText(TextKey(*key, "Q4_0"), ONE, ONE, b"\0", 2)])
    with Store(tmp_path / "s.sqlite", readonly=True) as store:
        assert {row.cell for row in store.rows()} == {cell, *others}
        assert store.done(cell, "a") == {("i", 0)}
        assert [file.tokens_per_second for file in store.files()] == [3.5, 1.0]
        assert [text.same_top for text in store.texts()] == [b"\1", b"\0"]


ONE = bytes.fromhex("0000803f")


def test_a_type_of_the_cache_that_is_unknown_is_named(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add(CELL, "humor", "a", 0, 1, email())
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as database, database:
        database.execute("UPDATE cells SET kv_type = 'Q9'")
    with pytest.raises(BadInput, match="table cells, row 1: field kv_type: cannot be 'Q9'"):
        Store(tmp_path / "s.sqlite")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE rollouts SET forced = 2",
        "UPDATE rollouts SET seconds = 9e999",
        "UPDATE samples SET probabilities = ''",
        "UPDATE cells SET base = ''",
        "UPDATE cells SET kv_type = ''",
        "UPDATE cells SET technique = 'Not/A-Name'",
        "INSERT INTO provenance VALUES ('seed', '')",
        "INSERT INTO fidelity VALUES ('', '', '', '', '', '', '', 'F16', x'00', x'00', x'00', 0)",
    ],
)
def test_the_file_itself_takes_no_impossible_value(tmp_path: Path, change: str) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add(CELL, "humor", "a", 0, 1, email())
    with (
        closing(sqlite3.connect(tmp_path / "s.sqlite")) as database,
        pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"),
    ):
        database.execute(change)


def test_a_study_that_cannot_be_saved_names_where_it_should_go(tmp_path: Path) -> None:
    target = tmp_path / "none" / "study.sqlite"
    with (
        Store(tmp_path / "study.sqlite") as store,
        pytest.raises(
            BadInput, match=rf"{target.parent}: cannot be written .*choose another --out"
        ),
    ):
        store.save(target)
