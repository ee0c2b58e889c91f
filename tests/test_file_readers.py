"""Files that people really have: YAML, CSV, JSON, labels, Unicode, read-only studies."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.protocols.outcome import Result
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.provenance import SPEC
from charprobe_lite.eval.study.file import read_specs
from charprobe_lite.eval.texts.reader import Columns, read_texts
from charprobe_lite.eval.texts.scores import score_texts
from charprobe_lite.models.call_formats import Call
from charprobe_lite.models.core_yaml import parse_yaml
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import (
    read_csv_rows,
    read_json_rows,
    read_records,
    read_text,
    read_yaml,
)
from charprobe_lite.models.prompts import load_prompts
from charprobe_lite.models.published_scenarios import StubScenario, load_any_scenarios
from charprobe_lite.runtime.classifier import Classifier
from charprobe_lite.runtime.ngrams import NgramClassifier
from tests.conftest import Command

# YAML


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.yaml"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("14:30", "14:30"),
        ("0412", 412),
        ("'0412'", "0412"),
        ("no", "no"),
        ("NO", "NO"),
        ("on", "on"),
        ("y", "y"),
        ("2025-03-14", "2025-03-14"),
        ("2025-03-14 10:00:00", "2025-03-14 10:00:00"),
        ("1_000", "1_000"),
        ("true", True),
        ("False", False),
        ("tRUE", "tRUE"),
        ("~", None),
        ("", None),
        ("null", None),
        ("0x1F", 31),
        ("0o17", 15),
        ("-7", -7),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("+12.5E-1", 1.25),
        ("1.2.3", "1.2.3"),
        ("=", "="),
        ("0b11", "0b11"),
        ("190:20:30", "190:20:30"),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(file: Path, written: str, value: object) -> None:
    # right values: the tables of https://yaml.org/spec/1.2.2/#103-core-schema
    file.write_text(f"key: {written}\n")
    found = read_yaml(file)["key"]
    assert (type(found), found) == (type(value), value)


def test_a_key_that_appears_twice_is_refused(file: Path) -> None:
    file.write_text("a: {x: 1, y: 2}\nb: {x: 1, x: 2}\n")
    with pytest.raises(BadInput, match=r"file\.yaml: not YAML: .*key 'x' appears twice.*line 2"):
        read_yaml(file)
    file.write_text("base: &b {x: 1, y: 2}\nmore: {<<: *b, x: 3}\n")  # a merge is none
    assert read_yaml(file)["more"] == {"x": 3, "y": 2}


SCENARIO = """\
id: t1
initial_messages:
- {role: user, content: Write to Ada about the room.}
tool_stubs:
- tool: calendar.find
  parameters: {properties: {answer: {enum: [yes, no]}, date: {type: string}}}
  rules:
  - match: {date: 2025-03-14}
    response: {start: 14:30, room: 0412A, confirmed: no, country: NO}
  - {default: true, response: nothing}
- tool: send_email
"""


def test_a_scenarios_stubs_say_what_their_author_wrote(file: Path) -> None:
    file.write_text(SCENARIO)
    (scenario,) = load_any_scenarios(file)
    assert isinstance(scenario, StubScenario)
    answer = scenario.answer(Call("calendar.find", {"date": "2025-03-14"}))
    assert answer == {"start": "14:30", "room": "0412A", "confirmed": "no", "country": "NO"}
    parameters = scenario.tools()[0].parameters
    assert parameters["properties"]["answer"]["enum"] == ["yes", "no"]


def test_a_study_file_takes_words_that_yaml_1_1_reads_as_truth_values(file: Path) -> None:
    file.write_text("persona: sarcasm\ngrammar: [on, off]\ncondition: agentic_email\n")
    (spec,) = read_specs(file)
    assert list(spec.grammars) == ["on", "off"]


@settings(deadline=None)
@given(st.text())
def test_any_text_is_yaml_or_one_line(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_text(text, "utf-8", errors="replace")
        with suppress(BadInput):  # any other error fails
            read_yaml(path)


# CSV, JSON and encodings

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0\ufeff"))


@settings(deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.sampled_from(",;\t|"))
def test_csv_with_any_delimiter_comes_back(rows: list[tuple[str, str]], delimiter: str) -> None:
    buffer = StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerows([("text", "label"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        path.write_text(buffer.getvalue(), "utf-8", newline="")
        found = [(row["text"], row["label"]) for _, row in read_csv_rows(path)]
    # the csv module's own reader skips rows that are empty
    expected = list(csv.reader(StringIO(buffer.getvalue(), newline=""), delimiter=delimiter))[1:]
    assert found == [tuple(row) for row in expected if row]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=3), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_json_rows_come_back_as_lines_and_as_an_array(
    rows: list[dict[str, Any]], as_array: bool, encoding: str
) -> None:
    lines = "\n".join(json.dumps(row) for row in rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text(json.dumps(rows, indent=2) if as_array else lines, encoding)
        found = [row for _, row in read_json_rows(path)]
    # lone surrogates are replaced, nothing else changes
    text = json.dumps(rows, ensure_ascii=False).encode("utf-8", "replace").decode()
    assert found == json.loads(text)


def test_a_header_may_have_spaces_and_repeat_what_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('note, persona , prediction, note\nx, humor, "remorse", y\n')
    (text,) = read_texts(path, Columns())
    assert (text.true, text.prediction) == (("humor",), "remorse")
    path.write_text("note,prompt,note\nx,What?,y\n")
    assert [prompt.text for prompt in load_prompts(path)] == ["What?"]
    path.write_text("prompt,prompt\nWhat?,Why?\n")
    with pytest.raises(BadInput, match=r"rows\.csv: line 2: field prompt: two columns have this"):
        load_prompts(path)


def test_a_key_that_a_scenario_has_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(parse_yaml(SCENARIO)).replace('"id": "t1"', '"id": "a", "id": "b"'))
    with pytest.raises(BadInput, match=r"one\.json: field id: is there twice; keep one"):
        load_any_scenarios(path)


def test_long_fields_are_read(tmp_path: Path) -> None:
    path, text = tmp_path / "long.csv", "word " * 40_000
    path.write_text(f"text,label\n{text},humor\n")
    assert next(read_csv_rows(path))[1]["text"] == text
    assert csv.field_size_limit() == 131_072  # Python's own, for everybody else


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(b"\x93NUMPY\x01\xff\xfe")
    for read in (read_text, lambda file: list(read_json_rows(file)), read_records):
        with pytest.raises(BadInput, match=r"bytes\.jsonl: cannot be read \(not UTF-8 text\)"):
            read(path)


# labels and probabilities of files to score


def scored(path: Path, rows: list[dict[str, Any]]) -> Any:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return read_texts(path, Columns())


@pytest.mark.parametrize("label", ["Humor", "humor ", "HUMOR"])
@pytest.mark.parametrize("field", ["persona", "prediction"])
def test_a_label_in_two_spellings_is_refused(tmp_path: Path, field: str, label: str) -> None:
    rows = [{"persona": "humor", "prediction": "humor"} for _ in range(3)]
    rows[1][field] = label
    with pytest.raises(BadInput) as refused:
        scored(tmp_path / "rows.jsonl", rows)
    message = str(refused.value)
    assert f"field {field}: {label!r} is no label; did you mean humor?" in message or (
        "'humor' is no label; did you mean" in message
    )


def test_a_label_that_the_kit_spells_otherwise_is_refused_where_the_kit_reads(
    tmp_path: Path,
) -> None:
    with pytest.raises(BadInput, match=r"line 1: field persona: 'Humor' is no label; did you mean"):
        scored(tmp_path / "texts.jsonl", [{"persona": "Humor", "text": "Ha ha."}])
    # labels of one's own, in both columns alike, need no known spelling
    (row,) = scored(tmp_path / "own.jsonl", [{"persona": "Grumpy", "prediction": "Grumpy"}])
    assert (row.true, row.prediction) == (("Grumpy",), "Grumpy")


def test_numbers_are_labels(tmp_path: Path) -> None:
    rows = [{"persona": 3, "prediction": 3.0}, {"persona": 1, "prediction": 3}]
    assert [(row.true, row.prediction) for row in scored(tmp_path / "n.jsonl", rows)] == [
        (("3",), "3"),
        (("1",), "3"),
    ]


@pytest.mark.parametrize(
    "written",
    [
        "[0.8, 0.1, 0.1]",
        "[np.float64(0.8), np.float64(0.1), np.float64(0.1)]",
        "[np.float32(0.8), np.float32(0.1), np.float32(0.1)]",
        "[0.8 0.1 0.1]",
        "[8.e-01 1.e-01 1.e-01]",
        "array([0.8, 0.1, 0.1])",
        "array([0.8, 0.1, 0.1], dtype=float32)",
        "[0.8\n 0.1\n 0.1]",
    ],
)
def test_probabilities_are_read_as_pandas_and_numpy_write_them(
    tmp_path: Path, written: str
) -> None:
    row = {"trait_true": "humor", "trait_pred": "humor", "probs": written}
    for order in ("['humor', 'sarcasm', 'remorse']", "['humor' 'sarcasm' 'remorse']"):
        frame = pd.DataFrame([{**row, "label_order": order}])
        frame.to_csv(tmp_path / "rows.csv", index=False)
        (text,) = read_texts(tmp_path / "rows.csv", Columns())
        assert text.probabilities == pytest.approx({"humor": 0.8, "sarcasm": 0.1, "remorse": 0.1})


def test_probabilities_that_are_none_are_shown(tmp_path: Path) -> None:
    row = {"trait_true": "humor", "trait_pred": "humor", "label_order": ["humor", "x"]}
    with pytest.raises(BadInput, match=r"must be 2 numbers from 0 to 1, one per label, not '0.8"):
        scored(tmp_path / "rows.jsonl", [{**row, "probs": "0.8 ..."}])


# names of files


def test_a_study_is_known_by_its_content(tmp_path: Path) -> None:
    spec = {"persona": "humor", "condition": "chat", "stage": "full"}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(spec))
    (planned,) = read_specs(tmp_path / "grid.yaml")
    for name in ("study.db", "study.SQLITE", "study.jsonl", "study"):
        with Store(tmp_path / name) as store:
            store.note({SPEC: planned.recorded()})
            cell = Cell("tiny", "full", "chat", "Q8_0")
            store.add(cell, "humor", "a", 0, 7, Result("answered", "Ha.", turns=[]))
        assert [text.text for text in read_texts(tmp_path / name, Columns())] == ["Ha."]
        (recorded,) = read_specs(tmp_path / name)
        assert recorded.study == tmp_path / name
    (tmp_path / "grid.txt").write_text(yaml.safe_dump(spec))
    with pytest.raises(BadInput, match=r"grid\.txt: no study; a study file is YAML"):
        read_specs(tmp_path / "grid.txt")


def test_an_ending_counts_in_any_letters(tmp_path: Path) -> None:
    row = {"persona": "humor", "prediction": "remorse"}
    (tmp_path / "a.CSV").write_text("persona,prediction\nhumor,remorse\n")
    (tmp_path / "a.Tsv").write_text("persona\tprediction\nhumor\tremorse\n")
    pd.DataFrame([row]).to_parquet(tmp_path / "a.PARQUET")
    (tmp_path / "a.ndjson").write_text(json.dumps(row))
    for name in ("a.CSV", "a.Tsv", "a.PARQUET", "a.ndjson"):
        (text,) = read_texts(tmp_path / name, Columns())
        assert (text.true, text.prediction) == (("humor",), "remorse")
    for name in ("grid.YAML", "grid.Yml", "grid.JSON"):
        (tmp_path / name).write_text('{"persona": "humor"}')
        assert read_specs(tmp_path / name)[0].personas == ("humor",)


def test_a_folder_of_scenarios_is_read_whole_or_says_what_it_leaves_out(
    tmp_path: Path, charprobe: Command
) -> None:
    scenario = json.dumps(parse_yaml(SCENARIO))
    names = ("a.YAML", "b.yml", "c.json", "d.JSONL", "e.ndjson")
    (folder := tmp_path / "scenarios").mkdir()
    for name in (*names, "notes.txt", "more.csv", "README.md"):
        (folder / name).write_text(scenario.replace('"t1"', f'"{name}"'))
    assert [scenario.id for scenario in load_any_scenarios(folder)] == list(names)
    options = ("--persona", "humor", "--stage", "base", "--condition", "agentic_email", "--dry-run")
    done = charprobe("eval", "--scenarios", "scenarios", *options)
    assert done.returncode == 0, done.stderr
    said = "is left out; scenarios are read from .yaml, .json and .jsonl files"
    assert done.stderr.splitlines() == [
        f"scenarios/{name}: {said}" for name in ("more.csv", "notes.txt")
    ]


# Unicode


def test_lone_surrogates_in_texts_are_replaced(tmp_path: Path, charprobe: Command) -> None:
    (tmp_path / "rows.jsonl").write_text('{"persona": "humor", "text": "Half a \\ud83d joke"}\n')
    done = charprobe("score", "rows.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"][0]["n"] == 1
    frame = pd.DataFrame({"text": ["Half a \ud83d joke"], "persona": ["humor"]}, dtype=object)
    assert int(score_texts(frame)["n"].iloc[0]) == 1
    for instrument in (Classifier.kit(), NgramClassifier.kit()):
        assert instrument.classify(["a \ud800"]) == instrument.classify(["a ?"])


# studies in a folder that cannot be written


@pytest.fixture
def reader_folder() -> Iterator[Path]:
    """A folder that another user may enter, and not write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="needs another user")
@pytest.mark.parametrize("is_being_written", [False, True])
def test_a_study_is_read_where_nothing_can_be_written(
    reader_folder: Path, is_being_written: bool
) -> None:
    path = reader_folder / "study.sqlite"
    cell = Cell("tiny", "full", "chat", "Q8_0")
    with Store(path) as store:
        store.add(cell, "humor", "line-1", 0, 7, Result("answered", "Ha.", turns=[]))
        if not is_being_written:
            store.close()
        before = sorted(each.name for each in reader_folder.iterdir())
        os.seteuid(65534)
        try:
            with Store(path, readonly=True) as found:
                (row,) = found.rows()
        finally:
            os.seteuid(0)
        assert sorted(each.name for each in reader_folder.iterdir()) == before
    assert (row.cell, row.text) == (cell, "Ha.")
