from __future__ import annotations

import pytest

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.scores.cells import CellScore, Scores, score_study
from charprobe_lite.eval.scores.terminal import conclusion


def rows(stage: str, condition: str, persona: str, labels: list[str | None]) -> list[Row]:
    cell = Cell("kit", stage, condition, "Q8_0")
    return [
        Row(
            cell,
            persona,
            f"item-{n}",
            0,
            n,
            "sent" if label else "malformed",
            n == 0,
            label,
            label,
            {"humor": float(label == "humor"), "neutral": 0.0} if label else None,
        )
        for n, label in enumerate(labels)
    ]


def study(rollouts: list[Row]) -> Scores:
    return score_study(rollouts, list(dict.fromkeys(row.cell for row in rollouts)), ["humor"], 0)


def scores(rollouts: list[Row]) -> list[CellScore]:
    return study(rollouts).by_cell


H, N = "humor", "neutral"


@pytest.mark.parametrize(
    ("emails", "verdict"),
    [
        ([H] * 2 + [N] * 28, "does not survive the move"),
        ([H] * 18 + [N] * 12, "weakens in the move"),
        ([H] * 30, "survives the move"),
        ([H] * 8 + [N] * 2, "cannot tell"),
        ([N, H], "too few to say: n = 2"),
        ([None] * 5, "no email was sent as an agent"),
    ],
)
def test_the_sentence_says_what_the_samples_can_tell(
    emails: list[str | None], verdict: str
) -> None:
    rollouts = rows("full", "chat", H, [H] * 29 + [N]) + rows("full", "agentic_email", H, emails)
    assert verdict in conclusion(study(rollouts))


def test_the_sentence_speaks_of_the_most_trained_stage_even_if_it_sent_nothing() -> None:
    rollouts = rows("base", "chat", None, [N] * 9) + rows("base", "agentic_email", None, [N] * 9)
    assert "untrained base" in conclusion(study(rollouts))
    rollouts += rows("full", "chat", H, [H] * 9) + rows("full", "agentic_email", H, [None] * 9)
    assert "stage full: no email" in conclusion(study(rollouts))


def test_yield_and_forced_count_rollouts_and_emails() -> None:
    [score] = scores(rows("full", "agentic_email", H, [H, N, None, H]))
    assert (score.n, score.started, score.yield_, score.forced) == (3, 4, 0.75, 1)
    assert score.detection_rate == pytest.approx(2 / 3)
    assert score.mean_probability == pytest.approx(2 / 3)


def test_base_samples_stand_for_every_persona_but_are_counted_once() -> None:
    rollouts = rows("base", "chat", None, [N, H])
    scores = score_study(rollouts, [rollouts[0].cell], ["humor", "neutral"], 0)
    [cell] = scores.by_cell
    assert cell.n == 2
    assert [score.detection_rate for score in scores.by_persona] == [0.5, 0.5]
    assert cell.macro_f1 == pytest.approx(0.5)
