"""The sentences that drove the classifier: their weights, and how the report shades them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.report import WrittenReport
from charprobe_lite.eval.report.occlusion import occlude, occlude_study, split
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.reader import open_study
from charprobe_lite.models import kit
from charprobe_lite.models.catalogue import KIT_INSTRUMENTS
from charprobe_lite.models.errors import BadInput
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

    classifier = Classifier.kit()
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
    from charprobe_lite.runtime.instruments import kit_files

    cell = Cell("smollm2-135m", "full", "chat", "Q8_0")
    path = write_study(tmp_path / "s.sqlite", [(cell, "humor", "a", chat("Ha. Ho."), "humor")])
    with Store(path) as store:
        files = kit_files("ensemble")
        store.note({f"sha256 {role}": sha256_file(file) for role, file in files.items()})
        store.note({"instrument": "ensemble"})
    done = charprobe("report", path, "--occlusion", "all", "--json")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    valid_json(written, "report")
    assert Path(written["page"]) == tmp_path / "s-report" / "report.html"
    assert all(Path(file).is_file() for file in written["figures"] + written["tables"])
    page = Path(written["page"]).read_text("utf-8")
    assert re.search(r"\[\[4,-?\d\.\d+\],\[3,-?\d\.\d+\]\]", page)  # UTF-16 lengths and weights
    with Store(path) as store:
        store.note({"sha256 ngram": "0" * 64})
    done = charprobe("report", path, "--occlusion", "1")
    assert done.returncode == 2
    assert "ngrams.npz: is not the ngram that read" in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_instrument_of_a_study_can_be_occluded_and_another_file_is_refused(
    tmp_path: Path,
) -> None:
    from charprobe_lite.runtime.instruments import kit_files

    cell = Cell("smollm2-135m", "full", "chat", "Q8_0")
    path = write_study(tmp_path / "s.sqlite", [(cell, "humor", "a", chat("Ha. Ho."), "humor")])
    for name in KIT_INSTRUMENTS:
        hashes = {role: kit.sha256_file(file) for role, file in kit_files(name).items()}
        with Store(path) as store:
            store.note({"instrument": name, **{f"sha256 {r}": h for r, h in hashes.items()}})
        assert [s.text for s in occlude_study(open_study(path), None, None)[0]] == ["Ha. ", "Ho."]
    with Store(path) as store:
        store.note({"instrument": "modernbert", "sha256 classifier": "0" * 64})
    with pytest.raises(BadInput, match="is not the classifier of"):
        occlude_study(open_study(path), None, None)
    with Store(path) as store:
        store.note({"instrument": "ngram"})
    with pytest.raises(BadInput, match=r"--classifier: .* was read by the kit's ngram; leave it"):
        occlude_study(open_study(path), None, tmp_path)
