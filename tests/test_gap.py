"""Comparisons between the cells of a study, on rollouts with known labels."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.scores.cells import Scores, score_study, scores_by_quant
from charprobe_lite.eval.scores.gap import cluster_of
from charprobe_lite.eval.scores.terminal import (
    class_notes,
    conclusion,
    score_table,
    stage_table,
    waterfall_table,
)
from charprobe_lite.eval.stats.metrics import label_names

PERSONAS = ["humor", "sarcasm"]
FOUR = [*PERSONAS, "loving", "remorse"]
SCHEMA = Path(__file__).parent.parent / "docs" / "schemas" / "eval.json"
SCAFFOLD = "JSON + agent's rules + tools and lookups"
"""What the steps between an email and the last turn of an agent change, without the bridges."""


def answers(
    stage: str, condition: str, hits: int, items: int = 20, missing: int = 0, prefix: str = "item"
) -> list[Row]:
    """For each persona (none in the base stage) ``hits`` of ``items`` in its own voice."""
    cell = Cell("kit", stage, condition, "Q8_0")
    rows = []
    for persona in PERSONAS if stage != "base" else [None]:
        for n in range(items):
            label = None if n >= items - missing else persona if n < hits else "neutral"
            chances = {"humor": 0.1, "sarcasm": 0.1, "neutral": 0.1, label or "": 0.8}
            rows.append(
                Row(
                    cell,
                    persona,
                    f"{prefix}-{n}",
                    0,
                    n,
                    "sent" if label else "malformed",
                    False,
                    label,
                    label or None,
                    chances if label else None,
                )
            )
    return rows


def scored(rows: list[Row]) -> Scores:
    return score_study(rows, list(dict.fromkeys(row.cell for row in rows)), PERSONAS, 0)


def f1(hits: int, of: int) -> float:
    """A persona's F1 when nothing else is ever taken for it."""
    return 2 * hits / (of + hits)


def test_the_gap_falls_into_steps_that_add_up() -> None:
    rows = answers("full", "chat", 18, prefix="prompt") + answers("full", "chat_email", 14)
    rows += answers("full", "agentic_next", 10) + answers("full", "agentic_email", 8)
    steps = scored(rows).comparison.steps
    assert [step.cause for step in steps] == ["email form", SCAFFOLD, "loop", "total"]
    expected = [f1(hits, 20) for hits in (18, 14, 10, 8)]
    changes = [after - before for before, after in pairwise(expected)]
    assert [step.change.value for step in steps] == pytest.approx([*changes, sum(changes)])
    for step in steps:
        assert step.change.low <= step.change.value <= step.change.high


def test_a_condition_that_was_not_run_joins_its_step_to_the_next() -> None:
    rows = answers("full", "chat", 18) + answers("full", "agentic_next", 8)
    [step] = scored(rows).comparison.steps
    assert (step.before.condition, step.after.condition) == ("chat", "agentic_next")
    assert step.cause == f"email form + {SCAFFOLD}"
    assert scored(answers("full", "chat", 18)).comparison.steps == []


def test_stages_are_compared_within_a_condition() -> None:
    rows = answers("distillation", "chat", 10) + answers("full", "chat", 16)
    scores = scored(rows)
    [stage] = scores.comparison.stages
    assert stage.cause == "distillation to full"
    assert stage.change.value == pytest.approx(f1(16, 20) - f1(10, 20))
    document = scores.comparison.as_json()
    assert document["gap"] == document["ceilings"] == []
    assert document["stages"][0]["from"] == "distillation"
    assert document["stages"][0]["ci"] == (stage.change.low, stage.change.high)


def test_retention_is_the_share_of_what_the_classifier_can_see() -> None:
    rows = answers("base", "agentic_email", 0) + answers("full", "agentic_email", 8)
    assert scored(rows).comparison.retention == {}
    rows += answers("teacher_loud", "author_ceiling", 16, prefix="email")
    rows += answers("teacher_subtle", "author_ceiling", 9, prefix="email")
    scores = scored(rows)
    full = Cell("kit", "full", "agentic_email", "Q8_0")
    retention = scores.comparison.retention[full]
    assert retention.value == pytest.approx(f1(8, 20) / f1(16, 20))
    assert retention.low < retention.value < retention.high
    assert len(scores.comparison.ceilings) == 2
    assert [score.retention for score in scores.by_cell if score.retention] == [retention]


def test_a_ceiling_below_the_base_stage_gives_no_retention() -> None:
    base = [replace(row, prediction="humor") for row in answers("base", "chat_email", 0)]
    rows = base + answers("full", "chat_email", 9) + answers("teacher", "author_ceiling", 0)
    assert scored(rows).comparison.retention == {}


def test_missing_emails_bound_macro_f1_from_both_sides() -> None:
    scores = scored(answers("full", "agentic_email", 9, missing=5))
    [cell] = scores.by_cell
    assert (cell.n, cell.started) == (30, 40)
    assert cell.macro_f1 == pytest.approx(f1(9, 15))
    assert cell.bounds == pytest.approx((f1(9, 20), f1(14, 20)))


def test_base_samples_are_resampled_once_and_not_once_for_every_persona() -> None:
    base = [
        replace(row, prediction="humor" if n % 2 else "neutral")
        for n, row in enumerate(answers("base", "chat", 0))
    ]
    scores = scored(base)
    names = label_names(scores.labels.values())
    counts = scores.resampled.totals((base[0].cell, "macro_f1"))
    drawn = counts.reshape(-1, len(names), len(names))
    humor, sarcasm = (names.index(name) for name in PERSONAS)
    assert (drawn[:, humor] == drawn[:, sarcasm]).all()
    [cell] = scores.by_cell
    assert (cell.n, cell.calibration) == (20, None)
    # the published interval draws the two halves of a sample apart
    assert cell.macro_f1_ci != cell.macro_f1_ci_rows


def test_a_prompt_with_several_suffixes_is_one_cluster() -> None:
    rows = [
        replace(row, item=f"id-{number // 4}+{number % 4}")
        for persona in PERSONAS
        for number, row in enumerate(
            row for row in answers("full", "break_character", 8) if row.persona == persona
        )
    ]
    scores = scored(rows)
    assert set(scores.labels[rows[0].cell].cluster) == {f"id-{n}" for n in range(5)}
    humor = next(score for score in scores.by_persona if score.persona == "humor")
    # two of five prompts answered in character, always: five prompts, not twenty answers
    assert humor.ci is not None
    assert humor.ci_rows is not None
    assert humor.ci[1] - humor.ci[0] > 1.5 * (humor.ci_rows[1] - humor.ci_rows[0])


def test_comparisons_of_ones_own_are_paired_too() -> None:
    rows = answers("full", "chat_email", 14) + answers("full", "agentic_email", 14)
    scores = scored(rows)
    cells = [score.condition for score in scores.by_cell]
    assert cells == ["chat_email", "agentic_email"]
    chat, agent = dict.fromkeys(row.cell for row in rows)
    change = scores.resampled.difference((agent, "macro_f1"), (chat, "macro_f1")).change
    assert change.ends == pytest.approx((-0.1684, 0.1684), abs=1e-4)  # no event in 20 prompts


def test_published_versions_of_a_task_are_paired() -> None:
    def study(chat_id: str, agent_id: str) -> Scores:
        rows = answers("full", "chat_email", 14, prefix=chat_id)
        rows += answers("full", "agentic_email", 14, prefix=agent_id)
        return scored([replace(row, item=row.item.replace("-", "") + "_v1") for row in rows])

    ours, published = study("task", "task"), study("chat_email_task", "agentic_actions_task")
    clusters = [set(labels.cluster) for labels in published.labels.values()]
    assert clusters == [{f"task{n}_v1" for n in range(20)}] * 2
    [step], [same] = published.comparison.steps, ours.comparison.steps
    assert step.change.value == 0
    assert step.change.ends == pytest.approx((-0.1684, 0.1684), abs=1e-4)  # no event in 20 tasks
    assert step.change == same.change
    # a suffix of break_character is no part of the prompt's name, whatever the name is
    row = replace(answers("full", "break_character", 1, 1)[0], item="chat_email_task_v1+2")
    assert cluster_of(row) == "chat_email_task_v1"


def random_study(seed: int) -> list[Row]:
    """Two stages in two conditions and a ceiling; four personas, half of the texts misread."""
    rng = np.random.default_rng(seed)
    places = [("base", "chat"), ("base", "agentic_email"), ("full", "chat")]
    places += [("full", "agentic_email"), ("teacher", "author_ceiling")]
    rows = []
    for stage, condition in places:
        for persona in FOUR if stage != "base" else [None]:
            for item in range(6):
                own = persona and rng.random() < (0.9 if stage == "teacher" else 0.5)
                label = persona if own else str(rng.choice([*FOUR, "neutral"]))
                cell = Cell("kit", stage, condition, "Q8_0" if stage != "teacher" else None)
                rows.append(
                    Row(cell, persona, f"i-{item}", 0, 0, "sent", False, "x", label, {}),
                )
    return rows


def four_scored(rows: list[Row], personas: list[str]) -> Scores:
    return score_study(rows, list(dict.fromkeys(row.cell for row in rows)), personas, 0)


def estimates(scores: Scores) -> dict[object, tuple[float, float, float]]:
    """Every difference and retention, with its interval."""
    comparison = scores.comparison
    steps = {
        (step.before, step.after): step.change for step in (*comparison.steps, *comparison.stages)
    }
    return {
        place: (estimate.value, *estimate.ends)
        for place, estimate in {**steps, **comparison.retention}.items()
    }


@pytest.mark.parametrize("seed", range(8))
def test_a_persona_without_texts_on_one_side_is_left_out_on_both(seed: int) -> None:
    rows, lost = random_study(seed), FOUR[seed % 4]
    agent = Cell("kit", "full", "agentic_email", "Q8_0")
    dropped = [row for row in rows if (row.cell, row.persona) != (agent, lost)]
    others = [persona for persona in FOUR if persona != lost]
    by_hand = [row for row in rows if row.persona != lost]
    scores, expected = four_scored(dropped, FOUR), estimates(four_scored(by_hand, others))
    untouched = estimates(four_scored(rows, FOUR))
    for place, values in estimates(scores).items():
        touched = agent in place if isinstance(place, tuple) else place == agent
        # what does not see the cell stays as it was; what does is the comparison by hand
        assert values == pytest.approx((expected if touched else untouched)[place], abs=1e-12)
    comparison = scores.comparison
    for step in (*comparison.steps, *comparison.stages):
        assert step.personas == (others if agent in (step.before, step.after) else None)
    assert comparison.retention[agent].personas == others
    document = json.loads(json.dumps(scores.by_cell[3].as_json() | comparison.as_json()))
    assert document["retention"]["personas"] == others
    assert [entry.get("personas") for entry in document["stages"]] == [None, others]
    defs = json.loads(SCHEMA.read_text("utf-8"))["$defs"]
    for kind, entries in (
        ("step", document["gap"]),
        ("stage_step", document["stages"]),
        ("retention", [document["retention"]]),
    ):
        for entry in entries:
            jsonschema.validate(entry, {"$ref": f"#/$defs/{kind}", "$defs": defs})


def test_three_silent_agents_change_no_difference_and_are_named() -> None:
    # the three personas that fail are those that are never recognised
    def rows(condition: str, personas: list[str]) -> list[Row]:
        cell = Cell("kit", "full", condition, "Q8_0")
        return [
            Row(cell, p, f"i-{n}", 0, 0, "sent", False, "x", p if p == "humor" else "neutral", {})
            for p in personas
            for n in range(4)
        ]

    scores = four_scored(rows("chat", FOUR) + rows("agentic_email", ["humor"]), FOUR)
    assert [score.macro_f1 for score in scores.by_cell] == pytest.approx([1 / 4, 1])
    [step] = scores.comparison.steps
    assert step.change.value == 0
    # no event in 4 scenarios: 1 - 0.025^(1 / 4)
    assert step.change.ends == pytest.approx((-0.6024, 0.6024), abs=1e-4)
    assert step.personas == ["humor"]
    assert conclusion(scores).startswith(
        "1 of 4 personas (without sarcasm, loving, remorse), stage full: macro-F1 1.00 [0.40, 1.00]"
    )
    assert "too few to say: n = 4" in conclusion(scores)
    [note] = class_notes(scores)
    assert note.startswith(
        "* full agentic_email has no classified text of sarcasm, loving, remorse: left out"
    )
    _, change = waterfall_table(scores.waterfalls).columns[-2].cells
    assert change == "+0.000*"
    column = score_table(scores.by_cell, "").columns[-2]
    assert list(column.cells) == ["0.250", "1.000*"]


def test_cells_that_share_no_persona_are_not_compared() -> None:
    rows = answers("base", "chat", 3) + answers("full", "chat", 9)
    rows += answers("full", "agentic_email", 9) + answers("teacher", "author_ceiling", 19)
    chat, agent = (Cell("kit", "full", name, "Q8_0") for name in ("chat", "agentic_email"))
    silent = {chat: "humor", agent: "sarcasm"}
    scores = scored([row for row in rows if silent.get(row.cell) != row.persona or not row.persona])
    assert scores.comparison.steps == scores.comparison.as_json()["gap"] == []
    assert scores.comparison.retention[chat].personas == ["sarcasm"]
    assert class_notes(scores)[-1] == (
        "full chat to full agentic_email: not compared, as no persona has a classified text in both"
    )
    assert conclusion(scores).startswith(
        "2 personas, stage full: none has a text in both, so nothing is compared."
    )


def test_quant_types_and_ways_of_an_adapter_stand_apart() -> None:
    rows = [
        replace(row, cell=replace(row.cell, quant=quant, lora=lora))
        for quant in ("F16", "Q4_0")
        for stage, lora, hits in (
            ("base", None, 4),
            ("full", "runtime", 18),
            ("full", "merged", 12),
        )
        for condition in ("chat", "agentic_email")
        for row in answers(stage, condition, hits, prefix=condition)
    ]
    scores = scored(rows)
    by_quant = scores_by_quant(scores)
    assert list(by_quant) == ["F16", "Q4_0"]
    for quant, part in by_quant.items():
        assert {score.quant for score in part.by_cell} == {quant}
        ways = [(step.before.lora, step.after.lora) for step in part.comparison.stages]
        names = sorted((a or "-", b or "-") for a, b in ways)
        assert names == [("-", "merged"), ("-", "merged"), ("-", "runtime"), ("-", "runtime")]
        for table in (
            score_table(part.by_cell, ""),
            stage_table(part.comparison),
            waterfall_table(part.waterfalls),
        ):
            assert "lora" in [column.header for column in table.columns]
    lost = {(e["quant"], e["lora"]): e["value"] for e in scores.comparison.as_json()["stages"]}
    for quant in by_quant:
        assert lost[quant, "runtime"] > lost[quant, "merged"]
