"""Planned quantization studies: what their prompts and scenarios can decide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import t

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.cli.main import main
from charprobe_lite.eval.protocols.outcome import Result
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.records import ModelFile
from tests.conftest import ValidJson


def plan(file: Path, text: str, *options: str) -> str:
    file.write_text(text)
    done = CliRunner().invoke(main, ["study", "plan", str(file), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_a_study_that_has_not_run_is_forecast_from_the_kits(
    tmp_path: Path, valid_json: ValidJson
) -> None:
    text = "persona: all\nquant: F16,Q4_0\nlimit: {prompts: 6, scenarios: 25}\ntexts: 0\n"
    document = json.loads(plan(tmp_path / "grid.yaml", text, "--power", "--json"))
    valid_json(document, "study-plan")
    [power] = document["power"]
    assert power["margin"] == 0.03
    chat, emails = power["conditions"]
    # a quarter of the kit's prompts: twice its half-width of 0.032
    assert (chat["n"], chat["power"]["half_width"]) == (6, pytest.approx(0.064))
    # 24 * (0.032 / 0.03)^2 = 27.3
    assert (chat["power"]["decidable"], chat["power"]["needed"]) == (False, 28)
    # 25 * (0.068 / 0.03)^2 = 128.4; times ((1.645 + 1.282) / 1.645)^2 = 406.6
    assert (emails["condition"], emails["spread"]) == ("agentic_email", "typical")
    assert (emails["power"]["needed"], emails["power"]["needed_80"]) == (129, 407)
    # one persona answers a tenth as often
    one = plan(tmp_path / "one.yaml", text.replace("all", "humor"), "--power", "--json")
    [alone] = [entry["conditions"][1] for entry in json.loads(one)["power"]]
    assert alone["power"]["half_width"] == pytest.approx(0.068 * np.sqrt(10))
    shown = plan(tmp_path / "grid.yaml", text, "--power")
    assert "can equivalence within 0.03 be shown?" in shown
    assert "power" not in json.loads(plan(tmp_path / "grid.yaml", text, "--json"))


def test_the_rollouts_of_a_study_are_its_pilot(tmp_path: Path, valid_json: ValidJson) -> None:
    hits = {"F16": [1] * 16, "Q4_0": [1, 0, 1, 1] * 4}
    with Store(tmp_path / "grid.sqlite") as store:
        for quant, row in hits.items():
            cell = Cell("smollm2-135m", "full", "chat", quant, lora="runtime")
            store.add_file(ModelFile("smollm2-135m", quant, "runtime", 8, 1, {quant: 1}))
            for number, hit in enumerate(row):
                rollout = store.add(cell, "humor", f"p{number}", 0, 0, Result("answered", "x"))
                store.classify([(rollout, "humor" if hit else "neutral", {"humor": hit / 2})])
    text = (
        "persona: humor\nquant: F16,Q4_0\ncondition: [chat, code_review]\n"
        "limit: {prompts: 36}\ntexts: 0\nmargin: 0.1\n"
    )
    document = json.loads(plan(tmp_path / "grid.yaml", text, "--power", "--json"))
    valid_json(document, "study-plan")
    chat, other = document["power"][0]["conditions"]
    assert (chat["condition"], chat["measure"], chat["spread"], chat["n"]) == (
        *("chat", "character", "pilot"),
        36,
    )
    # a paired t interval of the pilot's 16 prompts, and 36 prompts narrow it by 4 / 6
    deviation = np.std(np.subtract(hits["Q4_0"], hits["F16"]), ddof=1)
    half_width = t.ppf(0.95, 15) * deviation / 4 * 4 / 6
    assert chat["power"]["half_width"] == pytest.approx(half_width, rel=0.1)
    needed = 36 * (chat["power"]["half_width"] / 0.1) ** 2
    assert chat["power"]["needed"] == pytest.approx(needed, abs=1)
    assert (other["spread"], other["power"]) == (None, None)
    assert "unknown; run a few as a pilot" in plan(tmp_path / "grid.yaml", text, "--power")


def test_a_study_that_compares_no_types_has_nothing_to_forecast(
    tmp_path: Path, valid_json: ValidJson
) -> None:
    text = "persona: humor\ncondition: chat\n"
    shown = plan(tmp_path / "grid.yaml", text, "--power")
    assert "grid.sqlite: no power to forecast; only a quantization study (key texts)" in shown
    document = json.loads(plan(tmp_path / "grid.yaml", text, "--power", "--json"))
    valid_json(document, "study-plan")
    assert document["power"][0]["conditions"] == []
