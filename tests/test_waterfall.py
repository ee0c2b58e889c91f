"""`charprobe-lite score STUDY`: the waterfall of a stage; families of scenarios as clusters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.protocols.outcome import Result, Turn
from charprobe_lite.eval.report.study import report_study
from charprobe_lite.eval.scores.cells import score_study
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.reader import open_study
from charprobe_lite.models.corpus import corpus_hashes
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.runtime.engine import Completion
from tests.conftest import Command

PERSONAS = ("humor", "sarcasm")
SCHEMA = Path(__file__).parent.parent / "docs" / "schemas" / "score.json"
SHIPPED = corpus_hashes()["agentic/eval.jsonl"]
SCENARIOS = [scenario.id for scenario in load_scenarios()[:20]]
HITS = {"chat": 18, "chat_email": 14, "agentic_email": 8, "scenario_ceiling": 16}
"""Of 20 items of each persona."""
NOTHING = dict.fromkeys((*PERSONAS, "neutral"), 0.0)


def write_study(path: Path, scenarios: str | None = SHIPPED) -> Path:
    """Two personas in three conditions, their base stage and a ceiling."""
    done = Completion("{}", "stop", prompt_tokens=9, evaluated_tokens=4, tokens=3, seconds=0.5)
    with Store(path) as store:
        store.pin({"seed": 0} if scenarios is None else {"sha256 scenarios": scenarios})
        for condition, hits in HITS.items():
            trained = condition != "scenario_ceiling"
            for stage in ("base", "full") if trained else ("independent",):
                cell = Cell("kit", stage, condition, "Q8_0" if trained else None)
                for persona in PERSONAS if stage != "base" else [None]:
                    for n, scenario in enumerate(SCENARIOS):
                        item = f"id-{n}" if condition == "chat" else scenario
                        label = persona if persona and n < hits else "neutral"
                        store.add(
                            cell, persona, item, 0, 0, Result("sent", label, turns=[Turn(done)])
                        )
        store.classify(
            [
                (each.rollout, each.text, {**NOTHING, each.text: 1.0})
                for each in store.unclassified()
            ]
        )
    return path


def f1(condition: str) -> float:
    """Of either persona: nothing is taken for it but its own texts."""
    return 2 * HITS[condition] / (20 + HITS[condition])


def test_score_prints_the_waterfall_of_every_stage(charprobe: Command, tmp_path: Path) -> None:
    file = write_study(tmp_path / "s.sqlite")
    done = charprobe("score", file, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads(SCHEMA.read_text("utf-8")))
    base, full = document["waterfall"]
    assert (base["stage"], full["stage"]) == ("base", "full")
    assert [level["condition"] for level in full["levels"]] == list(HITS)[:3]
    expected = [f1(condition) for condition in HITS]
    assert [level["value"] for level in full["levels"]] == pytest.approx(expected[:3])
    assert [step["value"] for step in full["steps"]] == pytest.approx(
        [expected[1] - expected[0], expected[2] - expected[1]]
    )
    assert full["steps"][1]["cause"] == "JSON + agent's rules + tools and lookups + loop"
    assert full["total"]["value"] == pytest.approx(expected[2] - expected[0])
    [kept] = full["retention"]
    assert (kept["ceiling"], kept["stage"]) == ("scenario_ceiling", "independent")
    assert kept["value"] == pytest.approx(expected[2] / expected[3])  # the base stage has 0
    assert kept["ci"][0] < kept["value"] < kept["ci"][1]
    assert base["retention"] == []
    printed = charprobe("score", file).stdout
    for text in ("s.sqlite, from chat to agent", "email form", "total", "-0.376", "scenario_cei"):
        assert text in printed


def test_its_numbers_are_those_of_the_report_and_of_a_classified_export(
    charprobe: Command, tmp_path: Path
) -> None:
    file = write_study(tmp_path / "s.sqlite")
    document = json.loads(charprobe("score", file, "--json").stdout)
    recorded = report_study(file).scores.waterfalls
    assert document["waterfall"] == [
        {"study": str(file), **json.loads(json.dumps(fall.as_json()))} for fall in recorded
    ]
    charprobe("export", file, "-o", "s.jsonl")
    exported = json.loads(charprobe("score", "s.jsonl", "--json").stdout)
    assert exported["waterfall"] == []
    numbers = [{**cell, "train_seed": None} for cell in exported["cells"]]
    assert [n["macro_f1"] for n in numbers] == [c["macro_f1"] for c in document["cells"]]


def in_families(row: Row) -> Row:
    """The row as one of an item that is its scenario's family."""
    family = row.item.rpartition("-")[0] if row.cell.condition != "chat" else row.item
    return replace(row, item=family)


def test_families_of_shipped_scenarios_are_clusters_and_prompts_stay_items(
    charprobe: Command, tmp_path: Path
) -> None:
    file = write_study(tmp_path / "s.sqlite")
    rows = [in_families(row) for row in open_study(file).rows]
    report = report_study(file, cluster="family")
    assert report.conclusion.endswith(" Intervals resample families of scenarios.")
    scores = report.scores
    cells = [score.cell for score in scores.by_cell]
    expected, items = score_study(rows, cells, PERSONAS, 0), report_study(file).scores
    for score, by_hand, by_item in zip(
        scores.by_cell, expected.by_cell, items.by_cell, strict=True
    ):
        chat = score.condition == "chat"
        assert (score.macro_f1_ci == by_item.macro_f1_ci) == chat
        if chat or score.macro_f1_interval == "envelope":
            assert score.macro_f1_ci == by_hand.macro_f1_ci
        else:  # other names of clusters are drawn anew
            assert score.macro_f1_ci == pytest.approx(by_hand.macro_f1_ci, abs=0.05)
    document = json.loads(charprobe("score", file, "--cluster", "family", "--json").stdout)
    [full] = [fall for fall in document["waterfall"] if fall["stage"] == "full"]
    changes = {step.cause: list(step.change.ends) for step in scores.comparison.steps}
    assert full["total"]["ci"] == pytest.approx(changes["total"])
    by_family = json.loads(charprobe("score", file, "--by", "stage,family", "--json").stdout)
    families = {cell["family"] for cell in by_family["cells"]}
    assert families == {*(name.rpartition("-")[0] for name in SCENARIOS), ""}


def test_families_of_own_scenarios_come_from_their_file(charprobe: Command, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    shipped = [scenario.model_dump() for scenario in load_scenarios()[:20]]
    changed = [{**each, "family": f"pair-{n // 2}"} for n, each in enumerate(shipped)]
    own.write_text("".join(json.dumps(each) + "\n" for each in changed))
    file = write_study(tmp_path / "s.sqlite", sha256_file(own))
    for command in ("score", "report"):
        done = charprobe(command, file, "--cluster", "family")
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            f"charprobe-lite: {file}: --cluster family: the families of its scenarios are "
            "unknown; name their file with --scenarios"
        ]
    done = charprobe("score", file, "--cluster", "family", "--scenarios", own, "--json")
    assert done.returncode == 0, done.stderr
    pairs = report_study(file, cluster="family", scenarios=own).scores
    email = next(cell for cell in pairs.labels if cell.condition == "chat_email")
    assert len(set(pairs.labels[email].cluster)) == 10
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(changed[0]) + "\n")
    done = charprobe("score", file, "--cluster", "family", "--scenarios", other)
    assert f"--scenarios {other}: is not what {file} was run with; name that" in done.stderr


def test_a_quantization_study_is_not_resampled_by_family(
    charprobe: Command, tmp_path: Path
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("persona: humor\nquant: [F16, Q8_0]\ntexts: 4\n")
    done = charprobe("study", "run", grid, "--cluster", "family")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "charprobe-lite: --cluster family: not for a study with texts; leave it out"
    ]
