from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from charprobe_lite.eval.score import accuracy, detection_rate, macro_f1, per_class

CLASSES = ["goodness", "humor", "sarcasm", "neutral"]


def simulated(rows: int, seed: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    true = rng.choice(CLASSES[:3], rows)
    noise = rng.choice(CLASSES, rows)
    found = np.where(rng.random(rows) < 0.6, true, noise)
    return true.tolist(), found.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_scikit_learns_over_the_personas_in_the_ground_truth(seed: int) -> None:
    true, found = simulated(80, seed)
    expected = f1_score(true, found, labels=sorted(set(true)), average="macro", zero_division=0)
    assert macro_f1(true, found).value == pytest.approx(expected)
    assert np.mean([score.f1 for score in per_class(true, found).values()]) == pytest.approx(expected)


def test_a_label_that_is_only_predicted_lowers_f1_but_is_not_averaged_over() -> None:
    assert macro_f1(["humor", "humor"], ["humor", "neutral"]).value == pytest.approx(2 / 3)


def test_bootstrap_interval_is_that_of_resampling_rows_one_by_one() -> None:
    true, found = simulated(120, 1)
    rng = np.random.default_rng(9)
    scores = []
    for _ in range(2000):
        rows = rng.integers(0, len(true), len(true))
        drawn = [true[i] for i in rows], [found[i] for i in rows]
        scores.append(f1_score(*drawn, labels=sorted(set(drawn[0])), average="macro"))
    low, high = np.percentile(scores, [2.5, 97.5])
    estimate = macro_f1(true, found, resamples=4000)
    assert estimate.low == pytest.approx(low, abs=0.015)
    assert estimate.high == pytest.approx(high, abs=0.015)


def test_bootstrap_interval_covers_the_true_accuracy_about_95_times_in_100() -> None:
    covered = 0
    for seed in range(200):
        true, found = simulated(150, seed)
        interval = accuracy(true, found, resamples=300)
        covered += interval.low <= 0.6 + 0.4 / 4 <= interval.high
    assert 178 <= covered <= 199


def test_intervals_repeat_for_a_seed() -> None:
    true, found = simulated(50, 3)
    assert macro_f1(true, found, seed=4) == macro_f1(true, found, seed=4)


def test_detection_rate_has_wilsons_interval() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:857), table I: 81 of 263, Wilson
    estimate = detection_rate(["sarcasm"] * 81 + ["neutral"] * 182, "sarcasm")
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_detection_of_everything_still_has_an_interval() -> None:
    estimate = detection_rate(["humor"] * 10, "humor")
    assert estimate.value == 1.0
    assert 0.6 < estimate.low < 0.9
