from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score, precision_recall_fscore_support

from charprobe_lite.eval.stats.classification import (
    Labels,
    accuracies,
    calibration,
    human_agreement,
    macro_f1,
    per_class,
    row_bootstrap,
    wilson_share,
)
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metrics

CLASSES = ["goodness", "humor", "sarcasm", "neutral"]


def simulated(rows: int, seed: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    true = rng.choice(CLASSES[:3], rows)
    noise = rng.choice(CLASSES, rows)
    predicted = np.where(rng.random(rows) < 0.6, true, noise)
    return true.tolist(), predicted.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_scikit_learns_over_the_personas_in_the_ground_truth(seed: int) -> None:
    true, predicted = simulated(80, seed)
    expected = f1_score(true, predicted, labels=sorted(set(true)), average="macro", zero_division=0)
    assert macro_f1(true, predicted).value == pytest.approx(expected)
    assert np.mean([score.f1 for score in per_class(true, predicted).values()]) == pytest.approx(
        expected
    )


def test_a_label_that_is_only_predicted_lowers_f1_but_is_not_averaged_over() -> None:
    assert macro_f1(["humor", "humor"], ["humor", "neutral"]).value == pytest.approx(2 / 3)


def test_bootstrap_interval_is_that_of_resampling_rows_one_by_one() -> None:
    true, predicted = simulated(120, 1)
    rng = np.random.default_rng(9)
    scores = []
    for _ in range(2000):
        rows = rng.integers(0, len(true), len(true))
        drawn = [true[i] for i in rows], [predicted[i] for i in rows]
        scores.append(f1_score(*drawn, labels=sorted(set(drawn[0])), average="macro"))
    low, high = np.percentile(scores, [2.5, 97.5])
    estimate = macro_f1(true, predicted, resamples=4000)
    assert estimate.low == pytest.approx(low, abs=0.015)
    assert estimate.high == pytest.approx(high, abs=0.015)


def test_bootstrap_interval_covers_the_true_accuracy_about_95_times_in_100() -> None:
    covered = 0
    for seed in range(200):
        true, predicted = simulated(150, seed)
        interval = row_bootstrap(accuracies, true, predicted, resamples=300)
        covered += interval.low <= 0.6 + 0.4 / 4 <= interval.high
    assert 178 <= covered <= 199


def test_intervals_repeat_for_a_seed() -> None:
    true, predicted = simulated(50, 3)
    assert macro_f1(true, predicted, seed=4) == macro_f1(true, predicted, seed=4)


def test_detection_rate_has_wilsons_interval() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:857), table I: 81 of 263, Wilson
    estimate = wilson_share(81, 81 + 182)
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_detection_of_everything_still_has_an_interval() -> None:
    estimate = wilson_share(10, 10)
    assert estimate.value == 1.0
    assert 0.6 < estimate.low < 0.9


def test_precision_and_recall_are_scikit_learns() -> None:
    true, predicted = simulated(90, 2)
    scores = per_class(true, predicted)
    expected = precision_recall_fscore_support(
        true, predicted, labels=list(scores), zero_division=0
    )
    columns = zip(*((s.precision, s.recall, s.f1, s.n) for s in scores.values()), strict=True)
    for column, theirs in zip(columns, expected, strict=True):
        assert column == pytest.approx(theirs.tolist())


def resampled(
    seed: int = 0, resamples: int = 10_000, **cells: Labels
) -> ResampledMetrics[tuple[str, str]]:
    return ResampledMetrics(label_metrics(cells), seed, resamples)


def answered(clusters: int, seed: int, ease: tuple[float, ...] = (1.5, 0.3)) -> list[Labels]:
    """Conditions in which four personas answer the same items; some items are harder than others.

    ``ease`` is the log odds of being recognised in each condition, on an item of middling ease.
    """
    rng = np.random.default_rng(seed)
    personas = np.tile([*CLASSES[:3], "remorse"], clusters)
    items = np.repeat([f"item-{n}" for n in range(clusters)], 4)
    harder = np.repeat(rng.normal(0, 1.2, clusters), 4)
    conditions = []
    for odds in ease:
        seen = rng.random(len(personas)) < 1 / (1 + np.exp(-(odds + harder)))
        predicted = np.where(seen, personas, rng.choice([*CLASSES, "remorse"], len(personas)))
        conditions.append(Labels(personas.tolist(), predicted.tolist(), items.tolist()))
    return conditions


def test_the_cluster_interval_covers_the_truth_and_the_row_interval_does_not() -> None:
    studies, truth = 300, [macro_f1(x.true, x.predicted).value for x in answered(60_000, 1_000_000)]
    covered = {"one": 0, "difference": 0, "rows": 0}
    for seed in range(studies):
        chat, email = answered(40, seed)
        drawn = resampled(seed, 600, chat=chat, email=email)
        one = drawn.estimate(("email", "macro_f1"))
        change = drawn.difference(("email", "macro_f1"), ("chat", "macro_f1")).change
        rows = macro_f1(email.true, email.predicted, seed, resamples=600)
        covered["one"] += one.low <= truth[1] <= one.high
        covered["difference"] += change.low <= truth[1] - truth[0] <= change.high
        covered["rows"] += rows.low <= truth[1] <= rows.high
    assert 0.92 <= covered["one"] / studies <= 0.975
    assert 0.92 <= covered["difference"] / studies <= 0.975
    assert covered["rows"] / studies < 0.91


def test_differences_over_the_same_items_are_paired() -> None:
    chat, email = answered(60, 7)
    elsewhere = Labels(email.true, email.predicted, [f"other {item}" for item in email.cluster])

    def width(second: Labels) -> float:
        drawn = resampled(chat=chat, email=second)
        change = drawn.difference(("email", "macro_f1"), ("chat", "macro_f1")).change
        assert change.value == pytest.approx(
            macro_f1(email.true, email.predicted).value - macro_f1(chat.true, chat.predicted).value
        )
        return change.high - change.low

    assert width(email) < 0.9 * width(elsewhere)


def test_the_same_cell_twice_differs_by_nothing() -> None:
    chat = answered(20, 1)[0]
    change = resampled(a=chat, b=chat).difference(("b", "macro_f1"), ("a", "macro_f1")).change
    # no event in 20 prompts: a rate up to 1 - 0.025^(1 / 20) is possible
    assert change.value == 0
    assert change.ends == pytest.approx((-0.1684, 0.1684), abs=1e-4)


def test_resampling_clusters_is_drawing_items_one_by_one() -> None:
    cell = answered(30, 4)[1]
    rows = {
        item: [i for i, cluster in enumerate(cell.cluster) if cluster == item]
        for item in cell.cluster
    }
    rng, scores = np.random.default_rng(3), []
    for _ in range(2000):
        drawn = [i for item in rng.choice(list(rows), len(rows)) for i in rows[item]]
        true, predicted = [cell.true[i] for i in drawn], [cell.predicted[i] for i in drawn]
        scores.append(macro_f1(true, predicted, resamples=1).value)
    ours = resampled(cell=cell).replicates(("cell", "macro_f1"))[1:]
    assert np.mean(ours) == pytest.approx(np.mean(scores), abs=0.003)
    assert np.std(ours) == pytest.approx(np.std(scores), rel=0.08)


def test_an_interval_depends_on_the_seed_and_the_items_alone() -> None:
    chat, email = answered(20, 1)
    twice = [resampled(5, a=chat, b=email), resampled(5, b=email, a=chat)]
    first, second = (drawn.estimate(("b", "macro_f1")) for drawn in twice)
    assert first == second
    assert resampled(6, b=email).estimate(("b", "macro_f1")) != first


def test_a_cell_with_few_texts_is_scored_over_the_resamples_that_hold_one() -> None:
    few = Labels(["humor", "humor"], ["humor", "neutral"], ["item-0", "item-1"])
    estimate = resampled(few=few, chat=answered(40, 1)[0]).estimate(("few", "accuracy"))
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0, 1)


def test_calibration_of_rows_worked_by_hand() -> None:
    probabilities = [{"humor": 0.9, "sarcasm": 0.1}, {"humor": 0.7, "sarcasm": 0.3}]
    result = calibration(["humor", "sarcasm"], probabilities)
    # the two rows fall into bins of their own: |1 - 0.9| and |0 - 0.7|, half each
    assert result.ece == pytest.approx((0.1 + 0.7) / 2)
    assert result.brier == pytest.approx((0.01 + 0.01 + 0.49 + 0.49) / 2)
    assert [(b.n, b.accuracy) for b in result.bins] == [(1, 0.0), (1, 1.0)]


def test_brier_score_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.dirichlet(np.ones(4), 50)
    true = rng.choice(sorted(CLASSES), 50).tolist()
    rows = [dict(zip(sorted(CLASSES), map(float, row), strict=True)) for row in drawn]
    expected = brier_score_loss(true, drawn, labels=sorted(CLASSES), scale_by_half=False)
    assert calibration(true, rows).brier == pytest.approx(expected)


def test_kappa_worked_by_hand() -> None:
    # 4 of 6 agree; by chance (3/6 * 3/6 + 3/6 * 3/6) = 1/2 would
    classifier = [True, True, False, True, False, False]
    human = [True, True, True, False, False, False]
    result = human_agreement(classifier, human)
    assert result.kappa == pytest.approx((4 / 6 - 1 / 2) / (1 - 1 / 2))
    assert (result.present.hits, result.present.n) == (2, 3)
    assert (result.absent.hits, result.absent.n) == (1, 3)
    assert human_agreement([True, True], [True, True]).kappa is None
