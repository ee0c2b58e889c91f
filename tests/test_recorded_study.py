"""A quantization study that an earlier version recorded, with what that version printed of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from charprobe_lite.eval.cli.main import main
from charprobe_lite.eval.quant.records import score_recorded_study
from charprobe_lite.eval.store.database import Store

RECORDED = Path(__file__).parent / "data" / "recorded"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return Path(shutil.copy(RECORDED / "study.sqlite", tmp_path))


def printed(*arguments: object) -> Any:
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def expected(name: str) -> Any:
    """What the earlier version printed; it wrote "" for what does not apply to a cell."""

    def parse(values: dict[str, Any]) -> dict[str, Any]:
        cell = ("quant", "format", "grammar", "lora")
        return {k: None if k in cell and v == "" else v for k, v in values.items()}

    return json.loads((RECORDED / name).read_text("utf-8"), object_hook=parse)


def same(values: Any) -> Any:
    return json.loads(json.dumps(values))


def test_the_study_file_says_what_is_done_and_would_run_nothing_again(study: Path) -> None:
    [status] = printed("study", "status", study)["studies"]
    assert (status["rollouts"], status["done"], status["missing"]) == (12, 12, 0)
    assert [cell["unlabelled"] for cell in status["cells"]] == [0, 0, 0, 0]


def test_its_scores_are_the_same_numbers(study: Path) -> None:
    """All but intervals and verdicts, whose estimators have changed since."""
    cells, earlier = printed("score", study)["cells"], expected("score.json")["cells"]
    for cell, known in zip(cells, earlier, strict=True):
        names = known.keys() - {"ci", "ci_cluster"}
        assert {k: cell[k] or None for k in names} == {k: known[k] or None for k in names}
    with Store(study, readonly=True) as store:
        findings = score_recorded_study(store, ["sarcasm", "humor"])
    assert findings
    quants, recorded = same(findings.as_json())["quants"], expected("quant-study.json")["quants"]
    for quant, known in zip(quants, recorded, strict=True):
        names = known.keys() - {"health", "cells", "difference", "fidelity"}
        assert {k: quant[k] for k in names} == {k: known[k] for k in names}
        for name, health in known["health"].items():
            assert quant["health"][name]["estimate"] == health["estimate"]


def test_it_is_reported_and_exported(study: Path, tmp_path: Path) -> None:
    report = printed("report", study, "-o", tmp_path / "report")
    assert Path(report["page"]).stat().st_size > 100_000
    assert {Path(figure).stem for figure in report["figures"]} >= {"personas", "quant-size"}
    assert printed("export", study, "-o", tmp_path / "rows.jsonl")["rollouts"] == 12
