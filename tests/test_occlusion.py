"""The sentences that drove the classifier: their weights, and how the report shades them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.report import WrittenReport
from charprobe_lite.eval.report.occlusion import occlude, split
from charprobe_lite.eval.store.database import Store
from charprobe_lite.models import kit
from tests.conftest import Command, ValidJson
from tests.pages import browsed, chat, write_study


@browsed
def test_sentences_that_drove_the_decision_are_shaded_and_numbered(
    opened: Any, report: WrittenReport
) -> None:
    seen = opened(report.page)
    page = seen.page
    page.select_option("[name=shaded]", "1")
    assert seen.shown() == 1
    page.click("#samples tbody button")
    marks = page.locator("#sample .said mark")
    assert [mark.get_attribute("class") for mark in marks.all()] == ["for3", "for1", "against3"]
    assert [mark.inner_text() for mark in page.locator("#sample .said mark sup").all()] == [
        *("+.40", "+.05", "\u2212.30"),
    ]


def test_a_sentence_weighs_what_its_label_loses_without_it() -> None:
    from charprobe_lite.runtime.classifier import Classifier

    classifier = Classifier(kit.kit_folder() / "classifier", kit.load_kit().classifier_file)
    text = "Oh, brilliant. Another meeting about meetings!  The room is booked for three."
    whole = classifier.classify([text])[0]
    sentences = occlude(classifier, text, whole.label)
    assert sentences is not None
    assert [each.text for each in sentences] == [
        *("Oh, brilliant. ", "Another meeting about meetings!  ", "The room is booked for three."),
    ]
    without = classifier.classify(["Oh, brilliant. The room is booked for three."])[0]
    expected = whole.probabilities[whole.label] - without.probabilities[whole.label]
    assert sentences[1].weight == pytest.approx(expected)
    assert occlude(classifier, "No. " * 101, whole.label) is None


@pytest.mark.parametrize(
    "text",
    ["", "no end", "...", "." * 200_000, "a\n\n b.c d?!\u201d  e", " . \n", "x" * 9 + ".\u3000y"],
)
def test_sentences_joined_are_the_text_again(text: str) -> None:
    assert "".join(split(text)) == text
    assert all(split(text))


def test_the_command_shades_and_says_what_it_wrote(
    charprobe: Command, tmp_path: Path, valid_json: ValidJson
) -> None:
    from charprobe_lite.models.kit import sha256_file

    cell = Cell("smollm2-135m", "full", "chat", "Q8_0")
    path = write_study(tmp_path / "s.sqlite", [(cell, "humor", "a", chat("Ha. Ho."), "humor")])
    with Store(path) as store:
        file = kit.kit_folder() / "classifier" / kit.load_kit().classifier_file
        store.note({"sha256 classifier": sha256_file(file)})
    done = charprobe("report", path, "--occlusion", "all", "--json")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    valid_json(written, "report")
    assert Path(written["page"]) == tmp_path / "s-report" / "report.html"
    assert all(Path(file).is_file() for file in written["figures"] + written["tables"])
    page = Path(written["page"]).read_text("utf-8")
    assert re.search(r"\[\[4,-?\d\.\d+\],\[3,-?\d\.\d+\]\]", page)  # UTF-16 lengths and weights
    with Store(path) as store:
        store.note({"sha256 classifier": "0" * 64})
    done = charprobe("report", path, "--occlusion", "1")
    assert done.returncode == 2
    assert "is not the classifier of" in done.stderr
