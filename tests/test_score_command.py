"""`charprobe-lite score` as a user runs it, on files as others write them."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score, f1_score

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.protocols.outcome import Result, Turn
from charprobe_lite.eval.store.database import Store
from charprobe_lite.models.corpus import teacher_texts
from charprobe_lite.models.kit import kit_classifier
from charprobe_lite.runtime.classifier import Classifier
from charprobe_lite.runtime.engine import Completion
from tests.conftest import Command

ORDER = ["sarcasm", "humor", "remorse"]


def published(number: int = 60) -> list[dict[str, Any]]:
    """Rows as the published result files have them."""
    rows = []
    for n in range(number):
        true = ORDER[n % 3]
        predicted = true if n % 5 else ORDER[(n + 1) % 3]
        probs = [0.8 if label == predicted else 0.1 for label in ORDER]
        rows.append(
            {
                "base": "gemma" if n % 2 else "llama",
                "stage": "full",
                "trait_true": true,
                "trait_pred": predicted,
                "probs": probs,
                "label_order": ORDER,
                "email_body": f"Dear Tom, this is email {n}, with a comma.\nRegards",
                "hand_classification": ["present", "absent", ""][n % 7 % 3],
            }
        )
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def cells_of(charprobe: Command, *arguments: object) -> list[dict[str, Any]]:
    done = charprobe("score", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    cells: list[dict[str, Any]] = json.loads(done.stdout)["cells"]
    return cells


def test_published_files_are_read_as_they_are_in_every_format(
    charprobe: Command, tmp_path: Path
) -> None:
    rows = published()
    files = [write(tmp_path / f"results.{kind}", rows) for kind in ("jsonl", "csv", "parquet")]
    first, second, third = (cells_of(charprobe, file) for file in files)
    assert first == second == third
    assert [(cell["base"], cell["stage"], cell["n"]) for cell in first] == [
        ("llama", "full", 30),
        ("gemma", "full", 30),
    ]
    llama = [row for row in rows if row["base"] == "llama"]
    true, predicted = ([row[name] for row in llama] for name in ("trait_true", "trait_pred"))
    cell = first[0]
    assert cell["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert cell["interval"] == "rows"
    assert cell["ci"] == cell["ci_rows"]
    assert cell["ci"][0] < cell["macro_f1"] < cell["ci"][1]
    assert cell["per_persona"]["humor"]["n"] == true.count("humor")
    # always 0.8 sure: off by the distance to the accuracy
    assert cell["calibration"]["ece"] == pytest.approx(abs(cell["accuracy"] - 0.8))
    hits, human = [], []
    for row in llama:
        if row["hand_classification"]:
            hits.append(row["trait_pred"] == row["trait_true"])
            human.append(row["hand_classification"] == "present")
    assert cell["human"]["kappa"] == pytest.approx(cohen_kappa_score(hits, human))
    assert cell["human"]["present"]["n"] + cell["human"]["absent"]["n"] == len(human)


def test_columns_of_ones_own_and_texts_without_a_prediction(
    charprobe: Command, tmp_path: Path
) -> None:
    joke = "Why did the report cross the desk? To get to the other slide! Ha! I crack myself up."
    rows = [
        {"model": "m", "voice": "humor", "body": joke, "saw": "yes", "task": "a"},
        {"model": "m", "voice": "remorse", "body": "I am so sorry, forgive me.", "saw": "1"},
    ]
    rows[1]["task"] = "b"
    file = write(tmp_path / "own.csv", rows)
    options = ("--text", "body", "--label", "voice", "--by", "model", "--human", "saw")
    [cell] = cells_of(charprobe, file, *options, "--cluster", "task")
    assert (cell["model"], cell["n"], cell["interval"]) == ("m", 2, "cluster")
    assert cell["calibration"]["brier"] > 0
    assert cell["human"]["present"]["n"] == 2
    output = charprobe("score", file, *options)
    assert "macro-F1" in output.stdout
    assert "kappa" in output.stdout


def study(path: Path) -> Path:
    """Two personas and the base they share, on four scenarios."""
    done = Completion("{}", "stop", prompt_tokens=9, evaluated_tokens=4, tokens=3, seconds=0.5)
    with Store(path) as store:
        for stage, persona in (("base", ""), ("full", "humor"), ("full", "remorse")):
            cell = Cell("kit", stage, "agentic_email", "Q8_0")
            for item in range(4):
                email = Result("sent", f"{stage} {persona} {item}", turns=[Turn(done)])
                store.add(cell, persona, f"task-{item}", 0, item, email)
        store.classify(
            [
                (sample.rollout, label, {label: 0.9, "sarcasm": 0.1})
                for sample in store.unclassified()
                for label in [
                    "humor" if "humor" in sample.text or "base" in sample.text else "neutral"
                ]
            ]
        )
    return path


def test_a_study_and_what_a_human_marked_in_it(charprobe: Command, tmp_path: Path) -> None:
    file = study(tmp_path / "study.sqlite")
    names = {"base": "kit", "condition": "agentic_email", "quant": "Q8_0", "sample": 0}
    labels = [
        {**names, "stage": "full", "persona": "humor", "item": "task-0", "present": True},
        {**names, "stage": "full", "persona": "remorse", "item": "task-1", "present": True},
        {**names, "stage": "base", "persona": "humor", "item": "task-2", "present": False},
    ]
    marked = tmp_path / "labels.json"
    marked.write_text(json.dumps({"study": "study.sqlite", "labels": labels}))
    base, full = cells_of(charprobe, file, "--human", marked)
    assert (base["n"], full["n"]) == (4, 8)
    assert base["accuracy"] == 0.5
    assert full["interval"] == "cluster"
    assert base["human"]["absent"] == {"n": 1, "hits": 1}
    assert full["human"]["present"] == {"n": 2, "hits": 1}
    labels[0]["item"] = "task-9"
    marked.write_text(json.dumps({"labels": labels}))
    done = charprobe("score", file, "--human", marked)
    assert done.returncode == 2
    assert "labels.json: field labels.0: names 0 samples" in done.stderr


def test_a_row_without_its_cluster_is_refused_or_counted(
    charprobe: Command, tmp_path: Path
) -> None:
    rows = [{**row, "item": f"task {n // 6}"} for n, row in enumerate(published())]
    assert {c["interval"] for c in cells_of(charprobe, write(tmp_path / "a.csv", rows))} == {
        "cluster"
    }
    rows[8]["item"] = rows[10]["item"] = ""
    file = write(tmp_path / "b.csv", rows)
    done = charprobe("score", file, "--json")
    assert [cell["interval"] for cell in json.loads(done.stdout)["cells"]] == ["rows", "cluster"]
    [line] = done.stderr.splitlines()
    assert "base llama, stage full: 2 of 30 texts have no prompt or scenario, first" in line
    assert "resampled rows" in line
    done = charprobe("score", file, "--cluster", "item")
    assert (done.returncode, done.stdout) == (2, "")
    assert "field item: missing; --cluster needs the prompt or scenario of every row" in done.stderr


MINILM = kit_classifier("minilm")


def test_a_classifier_of_ones_own_reads_texts_that_have_labels_too(
    charprobe: Command, tmp_path: Path
) -> None:
    texts = [text.response for text in teacher_texts("humor", "loud", "email")[:6]]
    read = [prediction.label for prediction in Classifier(MINILM).classify(texts)]
    wrong = {"trait_true": "humor", "trait_pred": "sarcasm", "label_order": ORDER}
    rows = [{**wrong, "probs": [1, 0, 0], "email_body": text} for text in texts]
    file = write(tmp_path / "rows.jsonl", rows)
    [before], [after] = cells_of(charprobe, file), cells_of(charprobe, file, "--classifier", MINILM)
    assert (before["accuracy"], after["accuracy"]) == (0, read.count("humor") / 6)
    assert after["accuracy"] > 0
    with Store(tmp_path / "study.sqlite") as store:
        for n, text in enumerate(texts):
            cell = Cell("kit", "full", ("chat", "chat_email")[n % 2], "Q8_0")
            store.add(cell, "humor", f"id-{n // 2}", 0, n, Result("answered", text, turns=[]))
        labels = [(sample.rollout, "sarcasm", {"sarcasm": 1.0}) for sample in store.unclassified()]
        store.classify(labels)
    cells = cells_of(charprobe, tmp_path / "study.sqlite", "--classifier", MINILM)
    assert [cell["accuracy"] for cell in cells] == [
        read[first::2].count("humor") / 3 for first in (0, 1)
    ]
    assert all(cell["accuracy"] == 0 for cell in cells_of(charprobe, tmp_path / "study.sqlite"))


def test_options_that_cannot_apply_are_refused(charprobe: Command, tmp_path: Path) -> None:
    made = study(tmp_path / "made.sqlite")
    table = write(tmp_path / "rows.jsonl", published(6))
    bare = [{"trait_true": "humor", "trait_pred": "humor"}]
    (tmp_path / "marks.JSON").write_text('{"labels": []}')
    for arguments, said in (
        ((made, "--text", "body"), "made.sqlite: --text body: is for tables, this is a study"),
        ((made, "--label", "voice"), "made.sqlite: --label voice: is for tables"),
        ((made, "--prediction", "guess"), "made.sqlite: --prediction guess: is for tables"),
        (
            (made, "--human", "saw"),
            "made.sqlite: --human saw: is for tables, this is a study; name",
        ),
        ((made, "--scenarios", table), "--scenarios: names families; add --cluster family"),
        ((table, "--human", tmp_path / "marks.JSON"), "marks.JSON: is for a study"),
        (
            (table, "--prediction", "trait_pred", "--classifier", MINILM),
            "rows.jsonl: --prediction trait_pred: --classifier reads the texts again",
        ),
        (
            (write(tmp_path / "bare.jsonl", bare), "--classifier", MINILM),
            "bare.jsonl: no column email_body, text or response; name the texts for --classifier",
        ),
    ):
        done = charprobe("score", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert said in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1


def changed(tmp_path: Path, name: str, **fields: Any) -> Path:
    rows = published(6)
    rows[2] = {**rows[2], **fields}
    return write(tmp_path / f"{name}.jsonl", rows)


def bad_files(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"trait_true": "humor", "trait_pred": "humor"}\n{"trait_true":\n')
    wide = tmp_path / "wide.csv"
    wide.write_text("trait_true,trait_pred\nhumor,humor\nhumor,humor,humor\n")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    false = tmp_path / "false.parquet"
    false.write_text("no parquet")
    (tmp_path / "latin.csv").write_bytes(b"trait_true,trait_pred\nh\xfcmor,humor\n")
    with sqlite3.connect(tmp_path / "foreign.sqlite") as database:
        database.execute("CREATE TABLE songs (name)")
    good = changed(tmp_path, "good")
    (foreign := tmp_path / "own.csv").write_text("body,voice\nHa,humor\n")
    (twice := tmp_path / "twice.csv").write_text("text,text ,persona\nHa,Oh,humor\n")
    row = '{"persona": "humor", "text": "Ha"}'
    (key_twice := tmp_path / "key.jsonl").write_text(f'{row}\n{row[:-1]}, "persona": "loving"}}\n')
    (array := tmp_path / "array.json").write_text(f'[{row[:-1]}, "text": "Oh"}}]')
    return {
        "no such file": (["none.jsonl"], "none.jsonl: no such file"),
        "no study": (["foreign.sqlite"], "foreign.sqlite: schema version 0"),
        "broken line": ([broken], "broken.jsonl: line 2: not JSON"),
        "too many fields": ([wide], "wide.csv: line 3: has more fields"),
        "no row": ([empty], "empty.jsonl: holds no row"),
        "false parquet": ([false], "false.parquet: cannot be read as parquet"),
        "not UTF-8": (["latin.csv"], "latin.csv: cannot be read (not UTF-8 text)"),
        "unknown column": ([good, "--label", "trai"], "good.jsonl: --label trai: no such column"),
        "unknown group": ([good, "--by", "base,size"], "--by size: no such column"),
        "no label column": (
            [foreign],
            "own.csv: no column trait_true, persona or trait; name the true label with --label; it "
            "has body, voice",
        ),
        "no text column": (
            [foreign, "--label", "voice"],
            "own.csv: no column email_body, text or response; name the texts (or the predictions "
            "with --prediction) with --text; it has body, voice",
        ),
        "repeated column": ([twice], "twice.csv: line 2: field text: two columns have this name"),
        "repeated key": ([key_twice], "key.jsonl: line 2: field persona: is there twice"),
        "repeated key in an array": ([array], "array.json: field text: is there twice"),
        "no label": (
            [changed(tmp_path, "a", trait_true=None)],
            "a.jsonl: line 3: field trait_true: missing",
        ),
        "unknown prediction": (
            [changed(tmp_path, "b", trait_pred="pirate")],
            "b.jsonl: line 3: field trait_pred: 'pirate' is not a label",
        ),
        "nothing to score": (
            [changed(tmp_path, "c", trait_pred=None, email_body=None)],
            "c.jsonl: line 3: field trait_pred: missing",
        ),
        "probabilities that do not sum": (
            [changed(tmp_path, "d", probs=[0.5, 0.5, 0.5])],
            "d.jsonl: line 3: field probs: sums to 1.500",
        ),
        "probabilities that are none": (
            [changed(tmp_path, "e", probs=[0.5, float("nan"), "x"])],
            "e.jsonl: line 3: field probs: must be 3 numbers",
        ),
        "mixed label orders": (
            [changed(tmp_path, "f", label_order=ORDER[::-1])],
            "f.jsonl: line 3: field label_order: differs",
        ),
        "undecided human": (
            [changed(tmp_path, "g", hand_classification="perhaps")],
            "g.jsonl: line 3: field hand_classification: 'perhaps' is not an answer",
        ),
        "escape sequence": (
            [changed(tmp_path, "h", trait_pred="\x1b[2J\u202e")],
            r"'\x1b[2J\u202e' is not a label",
        ),
    }


def test_bad_files_get_one_line_with_file_line_and_field(
    charprobe: Command, tmp_path: Path
) -> None:
    for name, (arguments, message) in bad_files(tmp_path).items():
        done = charprobe("score", *arguments)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert done.returncode == 2, (name, done.stdout, done.stderr)
        assert len(lines) == 1, (name, done.stderr)
        assert message in lines[0], (name, lines[0])
        assert done.stdout == "", name


def test_a_group_name_cannot_steer_the_terminal(charprobe: Command, tmp_path: Path) -> None:
    rows = [{**row, "base": "\x1b[31m[bold]red"} for row in published(6)]
    done = charprobe("score", write(tmp_path / "hostile.jsonl", rows))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "[bold]red" in done.stdout
