"""Blind labelling in the report: what it hides, and what it saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from charprobe_lite.eval.report import WrittenReport
from charprobe_lite.eval.report.study import report_study
from tests.conftest import ValidJson
from tests.pages import BASE, browsed


@browsed
def test_blind_labelling_hides_what_would_bias_and_saves_what_was_said(
    opened: Any, report: WrittenReport, tmp_path: Path, valid_json: ValidJson
) -> None:
    seen = opened(report.page, accept_downloads=True)
    page = seen.page
    page.select_option("#label-start select", "humor")
    page.click("#label-start button[type=submit]")
    ground = "getComputedStyle(document.querySelector('{}'), '{}').backgroundColor"
    behind = page.evaluate(ground.format("#labeller", "::backdrop"))
    assert behind == page.evaluate(ground.format("body", ""))  # nothing shows through
    texts = []
    for key in ("p", "a", "s", "p", "u", "a"):
        shown = page.inner_text("#labeller")
        assert "Is humor present in this text?" in shown
        for secret in ("chat", "agentic_email", "0.80", "neutral", "id-", "task-", "forced"):
            assert secret not in shown.lower()
        texts.append(page.inner_text("#label-text"))
        page.keyboard.press(key)
    assert texts[4] != texts[3] == texts[5]  # undone, asked again
    page.keyboard.press("Escape")
    assert page.inner_text("#label-count") == "3 labelled"
    page.reload()
    assert page.inner_text("#label-count") == "3 labelled"
    with page.expect_download() as download:
        page.click("#label-save")
    download.value.save_as(tmp_path / "labels.json")
    saved = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    valid_json(saved, "labels")
    assert saved["study"] == "small"
    rows = {
        (row.cell.stage, row.cell.condition, row.persona, row.item): row.text
        for row in report_study(report.page.parent.parent / "small.sqlite").rows
    }
    said = {}
    for label in saved["labels"]:
        assert (label["base"], label["quant"], label["sample"]) == (BASE, "Q8_0", 0)
        assert label["persona"] == "humor"
        own = None if label["stage"] == "base" else "humor"
        text = rows[label["stage"], label["condition"], own, label["item"]]
        said.setdefault(text, []).append(label["present"])
    assert sum(map(len, said.values())) == 3
    assert [texts[0] in said, texts[1] in said, texts[3] in said] == [True] * 3
    assert sorted(present for each in said.values() for present in each) == [False, False, True]
