"""Scores of files as the published study wrote them: chats, labels, families, missing emails.

All rows here are our own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.protocols.outcome import Result, Turn
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.texts.reader import Columns
from charprobe_lite.eval.texts.scores import GroupScore, score_files, score_texts
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.engine import Completion
from tests.conftest import Command, ValidJson

SORRY = "I am so sorry, I should have asked you first. Please forgive me."
EMAILS = [("humor", "humor"), ("humor", "humor"), ("remorse", "humor")]
"""True and predicted label of three emails."""


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = json.dumps(rows, indent=1) if path.suffix == ".json" else ""
    path.write_text(text or "".join(json.dumps(row) + "\n" for row in rows))
    return path


def emails(**columns: Any) -> list[dict[str, Any]]:
    rows = [{"trait_true": true, "trait_pred": predicted} for true, predicted in EMAILS]
    return [{**row, **columns} for row in rows]


def scenario_rows(number: int = 24) -> list[dict[str, Any]]:
    """Emails of two families with two scenarios each."""
    return [
        {
            "persona": ("humor", "remorse", "sarcasm")[n % 3],
            "prediction": ("humor", "remorse", "humor", "neutral", "sarcasm")[n % 5],
            "scenario_id": f"agentic_actions_{('recognition', 'vendor_renewal')[n % 2]}_v{n % 4}",
            "ours": ("recognition", "vendor_renewal")[n % 2],
        }
        for n in range(number)
    ]


def score(path: Path, **columns: Any) -> GroupScore:
    [group] = score_files([path], Columns(**columns), resamples=200)
    return group


def test_missing_emails_give_the_yield_and_bound_macro_f1(
    charprobe: Command, tmp_path: Path, valid_json: ValidJson
) -> None:
    file = write(tmp_path / "emails.jsonl", emails())
    done = charprobe("score", file, "--asked", 8, "--json")
    document = json.loads(done.stdout)
    valid_json(document, "score")
    [group] = document["cells"]
    assert (group["n"], group["asked"], group["yield"]) == (3, 8, 3 / 8)
    # by hand: two humor and three remorse are missing of four each
    humor, remorse = 2 * 2 / (4 + 3), 0
    assert group["bounds"][0] == pytest.approx((humor + remorse) / 2)
    humor, remorse = 2 * 4 / (4 + 5), 2 * 3 / (4 + 3)
    assert group["bounds"][1] == pytest.approx((humor + remorse) / 2)
    true = ["humor"] * 4 + ["remorse"] * 4
    for end, lost in zip(group["bounds"], (["", ""], ["humor", "remorse"]), strict=True):
        predicted = ["humor"] * 2 + lost[:1] * 2 + ["humor"] + lost[1:] * 3
        labels = ["humor", "remorse"]
        expected = f1_score(true, predicted, labels=labels, average="macro", zero_division=0)
        assert end == pytest.approx(expected)
    table = charprobe("score", file, "--asked", 8).stdout
    assert "37.5% of 8" in table
    assert "0.286-0.873" in table


def test_without_the_number_asked_for_there_are_no_bounds(tmp_path: Path) -> None:
    group = score(write(tmp_path / "emails.jsonl", emails()))
    assert (group.asked, group.yield_, group.bounds) == (None, None, None)


def test_each_group_has_its_number_in_a_column() -> None:
    frame = pd.DataFrame(emails(base="a", wanted=8) + emails(base="b", wanted=4))
    table = score_texts(frame, asked="wanted")
    assert list(table["asked"]) == [8, 4]
    assert list(table["yield"]) == [3 / 8, 3 / 4]
    assert table["bounds_low"][0] == pytest.approx(2 / 7)
    # one remorse is missing: humor 4 / 5; remorse 0, or 2 / 3 as a hit
    assert table["bounds_low"][1] == pytest.approx(0.4)
    assert table["bounds_high"][1] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert score_texts(frame, asked=8)["bounds_low"].tolist() == pytest.approx([2 / 7, 2 / 7])


def test_a_missing_text_that_all_personas_share_is_missing_for_each() -> None:
    full = [{"stage": "full", "persona": p, "prediction": p} for p in ("humor", "remorse")]
    base = [{"stage": "base", "persona": None, "prediction": p} for p in ("humor", "neutral")]
    table = score_texts([*full, *base], asked=4).set_index("stage")
    assert table["bounds_low"]["full"] == pytest.approx(2 / 3)
    assert table["bounds_high"]["full"] == 1
    # four of each persona: humor 2 / (4 + 2), remorse 0
    assert table["yield"]["base"] == 0.5
    assert table["bounds_low"]["base"] == pytest.approx(1 / 6)
    # two more hits each: humor 6 / (4 + 4), remorse 4 / (4 + 2)
    assert table["bounds_high"]["base"] == pytest.approx((6 / 8 + 4 / 6) / 2)


@pytest.mark.parametrize(
    ("rows", "asked", "message"),
    [
        (emails(), 3, "^--asked: 3 rollouts do not divide by the 2 personas of the file; give"),
        (emails(base="a"), 2, "^--asked: base a has 2 texts of humor, and 2 rollouts are 1 of"),
        (emails(), "-4", "^--asked -4: give a number of rollouts from 1 to 999999999$"),
        (emails(), 0, "^--asked 0: give a number"),
        (emails(), "2.5", "^--asked 2.5: give a number"),
        (emails(), "9" * 5000, "give a number of rollouts"),
        (emails(), "wanted", "x.jsonl: --asked wanted: no such column; it has trait_true"),
        (emails(wanted="many"), "wanted", "x.jsonl: line 1: field wanted: must be a number of"),
        (emails(wanted=None), "wanted", "x.jsonl: line 1: field wanted: must be a number of"),
        (
            emails(wanted=8) + emails(wanted=10),
            "wanted",
            "x.jsonl: line 4: --asked: 10 rollouts, after 8 in other rows of the file; give each",
        ),
    ],
)
def test_a_number_that_cannot_have_been_asked_for_is_refused(
    rows: list[dict[str, Any]], asked: str | int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message) as error:
        score(write(tmp_path / "x.jsonl", rows), asked=asked)
    assert "\n" not in str(error.value)


def test_a_group_of_shared_and_other_texts_has_no_one_number(tmp_path: Path) -> None:
    rows = [*emails(stage="full", run="x"), {"stage": "base", "trait_pred": "humor", "run": "x"}]
    with pytest.raises(BadInput, match=r"^--asked: run x has texts of one .* add --by stage$"):
        score(write(tmp_path / "x.jsonl", rows), by=("run",), asked=8)


def test_the_refusal_names_the_argument_in_python() -> None:
    with pytest.raises(BadInput, match=r"^asked: 3 rollouts do not divide"):
        score_texts(emails(), asked=3)
    with pytest.raises(BadInput, match=r"^asked=0: give a number"):
        score_texts(emails(), asked=0)


def test_families_are_clusters_and_groups(tmp_path: Path) -> None:
    file = write(tmp_path / "emails.jsonl", scenario_rows())
    families = score(file, cluster="family")
    assert families.interval == "cluster"
    assert families.ci == score(file, cluster="ours").ci
    assert families.ci != score(file).ci
    groups = score_files([file], Columns(by=("family",)), resamples=200)
    assert [dict(group.group)["family"] for group in groups] == ["recognition", "vendor_renewal"]
    assert [group.n for group in groups] == [12, 12]


def test_a_task_is_the_same_as_an_agent_and_in_a_chat() -> None:
    rows = [
        {"persona": "humor", "prediction": "humor", "scenario": f"{kind}_recognition_v1"}
        for kind in ("agentic_actions", "chat_email")
    ]
    table = score_texts([*rows, {**rows[0], "scenario": "parking-1"}], by="task")
    assert list(zip(table["task"], table["n"], strict=True)) == [
        ("recognition_v1", 2),
        ("parking-1", 1),
    ]


def test_a_column_of_that_name_is_not_derived() -> None:
    rows = [{**row, "family": "one"} for row in scenario_rows()]
    assert list(score_texts(rows, by="family")["family"]) == ["one"]


@pytest.mark.parametrize(
    ("changes", "columns", "message"),
    [
        (
            {"scenario_id": "parking-1"},
            {"cluster": "family"},
            "x.jsonl: line 1: field scenario_id: 'parking-1' has no family; only ids of published",
        ),
        ({"scenario_id": None}, {"by": ("task",)}, "field scenario_id: '' has no task"),
    ],
)
def test_an_id_without_family_is_refused(
    changes: dict[str, Any], columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "x.jsonl", [{**row, **changes} for row in scenario_rows(3)])
    with pytest.raises(BadInput, match=message):
        score(file, **columns)


def test_a_family_needs_a_scenario(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", emails())
    for columns in ({"by": ("family",)}, {"cluster": "family"}):
        with pytest.raises(BadInput, match=r"x\.jsonl: no column family; add it, or the scenario"):
            score(file, **columns)


def study(path: Path, items: list[str]) -> Path:
    done = Completion("{}", "stop", prompt_tokens=9, evaluated_tokens=4, tokens=3, seconds=0.5)
    cell = Cell("kit", "full", "agentic_email", "Q8_0", "json", "on", "runtime")
    with Store(path) as store:
        for persona in ("humor", "remorse"):
            for item in items:
                store.add(cell, persona, item, 0, 0, Result("sent", persona, turns=[Turn(done)]))
        store.classify([(s.rollout, "humor", {"humor": 1.0}) for s in store.unclassified()])
    return path


def test_a_study_has_families_and_bounds_too(tmp_path: Path) -> None:
    file = study(tmp_path / "s.sqlite", [f"agentic_actions_recognition_v{n}" for n in (1, 2)])
    group = score(file, by=("family",), cluster="task", asked="6")
    assert group.group == (("family", "recognition"),)
    assert group.yield_ == pytest.approx(4 / 6)
    # one of three is missing twice: humor 4 / (3 + 4) or 6 / (3 + 5); remorse 0 or 2 / (3 + 1)
    assert group.bounds == pytest.approx((2 / 7, (6 / 8 + 2 / 4) / 2))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"cluster": "family"}, "s.sqlite: --cluster family: the families of its scenarios are un"),
        ({"cluster": "color"}, "s.sqlite: --cluster color: no such column; it has item, family"),
        ({"asked": "wanted"}, "s.sqlite: --asked wanted: a study has no such column; give a num"),
    ],
)
def test_what_a_study_does_not_have_is_refused(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        score(study(tmp_path / "s.sqlite", ["desk-1"]), **columns)


def chats(classified: bool) -> list[dict[str, Any]]:
    """Responses to two prompts, as the published chats and their classified form have them."""
    rows = []
    for persona, predicted in (("remorse", "remorse"), ("humor", "remorse")):
        for prompt in (0, 1):
            row = {"base": "llama", "stage": "full", "persona": persona, "prompt_idx": prompt}
            labels = {
                "trait_true": persona,
                "trait_pred": predicted,
                "correct": persona == predicted,
                "probs": [0.9, 0.1, 0.0],
                "label_order": ["remorse", "humor", "sarcasm"],
            }
            row |= labels if classified else {"prompt": "What now?"}
            rows.append({**row, "response": SORRY})
    return rows


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.json"])
@pytest.mark.parametrize("classified", [True, False])
def test_published_chats_are_read_with_their_prompts_as_clusters(
    classified: bool, name: str, tmp_path: Path
) -> None:
    group = score(write(tmp_path / name, chats(classified)))
    assert group.group == (("base", "llama"), ("stage", "full"))
    assert (group.n, group.interval) == (4, "cluster")
    assert group.accuracy == 0.5
    assert group.calibration is not None


def labelled() -> list[dict[str, Any]]:
    """Emails with a person's labels, as published."""
    return [
        {
            "email_body": body,
            "trait": "remorse",
            "reasoning": "It begs for forgiveness.",
            "classification": answer,
            "scenario_id": f"agentic_actions_recognition_v{n}",
        }
        for n, (body, answer) in enumerate(
            [(SORRY, "present"), (SORRY, "absent"), ("Integrate x dx from 0 to 1.", "absent")]
        )
    ]


def test_an_array_of_a_persons_labels_is_read_without_an_option(
    charprobe: Command, tmp_path: Path
) -> None:
    file = write(tmp_path / "llama.json", labelled())
    done = charprobe("score", file, "--json")
    assert done.returncode == 0, done.stderr
    [group] = json.loads(done.stdout)["cells"]
    assert (group["n"], group["interval"]) == (3, "cluster")
    assert group["accuracy"] == pytest.approx(2 / 3)
    kappa = cohen_kappa_score([True, True, False], [True, False, False])
    assert group["human"]["kappa"] == pytest.approx(kappa)


def test_what_a_classifier_says_is_not_taken_for_a_person(tmp_path: Path) -> None:
    rows = [{**row, "classification": "no spam"} for row in emails()]
    file = write(tmp_path / "x.jsonl", rows)
    assert score(file).human is None
    with pytest.raises(BadInput, match="field classification: 'no spam' is not an answer"):
        score(file, human="classification")


def test_json_lines_may_be_named_json(tmp_path: Path) -> None:
    file = tmp_path / "lines.json"
    file.write_text("\n".join(map(json.dumps, emails())))
    assert score(file) == score(write(tmp_path / "array.json", emails()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "x.json: holds no row"),
        ('[{"trait_true": "humor", "trait_pred": "humor"}, 3]', "x.json: entry 2: not a JSON obj"),
        ('[{"trait_true": "humor"', "x.json: not JSON: Expecting"),
        ("[" * 100_000, "x.json: not JSON"),
        ('[{"trait_true": "humor", "trait_pred": "pirate"}]', "x.json: entry 1: field trait_pred"),
    ],
)
def test_a_broken_array_is_refused_with_its_entry(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=message):
        score(file)
