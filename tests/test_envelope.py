"""The interval of the base stage's macro-F1, where every text counts for all personas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import f1_score

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.scores.cells import score_study
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import Labels
from charprobe_lite.eval.stats.envelope import (
    effective_size,
    envelope_difference,
    macro_f1_envelope,
)
from charprobe_lite.eval.texts.scores import score_texts
from charprobe_lite.models.personas import NEUTRAL, PERSONAS


def shared(predicted: list[str], personas: list[str], repeats: int = 1) -> Labels:
    """Texts with these predictions; every ``repeats`` of them answer one prompt."""
    rows = [
        (persona, label, f"prompt-{n // repeats}")
        for n, label in enumerate(predicted)
        for persona in personas
    ]
    return Labels.of(rows, shared=True)


def test_the_value_is_scikit_learns_macro_f1_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    labels = shared(rng.choice([*PERSONAS, NEUTRAL], 40).tolist(), list(PERSONAS))
    expected = f1_score(
        labels.true, labels.predicted, labels=PERSONAS, average="macro", zero_division=0
    )
    assert macro_f1_envelope(labels).value == pytest.approx(expected)


def test_labels_that_did_not_occur_may_be_as_frequent_as_n_texts_leave_possible() -> None:
    estimate = macro_f1_envelope(shared([NEUTRAL] * 24, list(PERSONAS)))
    # all ten together at most p with (1 - p)^24 = 0.025, F1 = 2 (p / 10) / (1 + p) of each
    share = 1 - 0.025 ** (1 / 24)
    assert (estimate.value, estimate.low) == (0, 0)
    assert estimate.high == pytest.approx(0.2 * share / (1 + share), rel=0.05)


def test_the_lower_end_is_that_of_the_prior_against_the_label() -> None:
    estimate = macro_f1_envelope(shared(["humor"] * 9 + [NEUTRAL] * 11, ["humor"]))
    share = beta.ppf(0.025, 9, 11 + 2)
    assert estimate.low == pytest.approx(2 * share / (1 + share), rel=0.02)
    assert estimate.value == pytest.approx(2 * 9 / (20 + 9))


def test_texts_of_one_prompt_count_as_one() -> None:
    predicted = ["humor", "sarcasm", *[NEUTRAL] * 8]
    once = macro_f1_envelope(shared(predicted, list(PERSONAS)))
    five = [label for label in predicted for _ in range(5)]
    assert macro_f1_envelope(shared(five, list(PERSONAS), 5)) == once
    many = macro_f1_envelope(shared(five, list(PERSONAS)))
    assert once.low < many.low < many.high < once.high
    # Kish: (6 + 2)^2 / (6^2 + 2^2)
    assert effective_size([6, 2]) == pytest.approx(1.6)


@pytest.mark.parametrize("neutral", [0.1, 0.5, 0.95])
def test_it_covers_the_truth_where_resampled_texts_do_not(neutral: float) -> None:
    chances = [*[(1 - neutral) / 10] * 10, neutral]
    truth = np.mean([2 * p / (1 + 10 * p) for p in chances[:-1]])
    covered = 0
    for seed in range(100):
        drawn = np.random.default_rng(seed).choice([*PERSONAS, NEUTRAL], 12, p=chances)
        estimate = macro_f1_envelope(shared(drawn.tolist(), list(PERSONAS)))
        covered += estimate.low <= truth <= estimate.high
    assert covered >= 92


def base_and_full() -> list[Row]:
    base, full = (Cell("kit", stage, "chat", "Q8_0") for stage in ("base", "full"))
    labels = [*PERSONAS[:3], *[NEUTRAL] * 9]
    rows = [Row(base, None, f"p-{n}", 0, 0, "x", False, "x", y, {}) for n, y in enumerate(labels)]
    return rows + [
        Row(full, persona, f"p-{n}", 0, 0, "x", False, "x", persona, {})
        for persona in PERSONAS
        for n in range(12)
    ]


def test_it_is_the_interval_of_base_stage_cells_alone() -> None:
    rows = base_and_full()
    scores = score_study(rows, list(dict.fromkeys(row.cell for row in rows)), PERSONAS, 0)
    base, full = scores.by_cell
    expected = macro_f1_envelope(scores.labels[base.cell])
    assert (base.macro_f1_interval, base.macro_f1_ci) == ("envelope", expected.ends)
    assert base.macro_f1 == pytest.approx(expected.value)
    assert full.macro_f1_interval == "clusters"
    assert full.macro_f1_ci == pytest.approx((0.025 ** (1 / 12), 1))  # no miss in 12 prompts
    [step] = scores.comparison.stages
    assert step.levels[0] == expected
    # the difference is paired and resampled: not the envelope's width
    assert step.change.high - step.change.low < expected.high - expected.low


def test_base_stage_rows_of_a_file_have_it_with_and_without_prompts() -> None:
    records = [
        {"stage": row.cell.stage, "persona": row.persona, "prediction": row.prediction}
        for row in base_and_full()
    ]
    plain = score_texts(records).set_index("stage")
    prompts = [{**record, "item": f"p-{n % 12}"} for n, record in enumerate(records)]
    clustered = score_texts(prompts).set_index("stage")
    assert dict(plain["interval"]) == {"base": "envelope", "full": "rows"}
    assert dict(clustered["interval"]) == {"base": "envelope", "full": "cluster"}
    for name in ("ci_low", "ci_high"):
        assert plain.loc["base", name] == clustered.loc["base", name]


def test_the_distances_to_the_ends_of_two_add_up_like_deviations() -> None:
    change = envelope_difference(Estimate(0.06, 0.03, 0.1), Estimate(0.02, 0.01, 0.06))
    assert change.value == pytest.approx(0.04)
    assert change.low == pytest.approx(0.04 - np.hypot(0.03, 0.04))
    assert change.high == pytest.approx(0.04 + np.hypot(0.04, 0.01))


def test_a_step_between_two_cells_of_the_base_stage_has_it_too() -> None:
    chat, email = (Cell("kit", "base", name, "Q8_0") for name in ("chat", "chat_email"))
    rows = [
        Row(cell, None, f"p-{n}", 0, 0, "x", False, "x", label, {})
        for cell, labels in ((chat, [*PERSONAS[:2]]), (email, [*PERSONAS[:4]]))
        for n, label in enumerate([*labels, *[NEUTRAL] * 8])
    ]
    scores = score_study(rows, [chat, email], PERSONAS, 0)
    [step] = scores.comparison.steps
    assert step.change == envelope_difference(*(step.levels[n] for n in (1, 0)))


def test_a_text_of_the_base_stage_is_right_for_one_persona_at_most() -> None:
    cell = Cell("kit", "base", "chat", "Q8_0")
    rows = [Row(cell, None, f"p-{n}", 0, 0, "x", False, "x", PERSONAS[0], {}) for n in range(12)]
    [base] = score_study(rows, [cell], PERSONAS, 0).by_cell
    # all 12 prompts alike, each right for one of ten personas
    assert base.detection_rate == pytest.approx(0.1)
    assert base.ci == pytest.approx((0.1 * 0.025 ** (1 / 12), 0.1))
