"""Metrics, differences and trends of simulated types of which the truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy.stats import page_trend_test, spearmanr

from charprobe_lite.eval.quant.fidelity_score import weighted_quantiles
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.metrics import Metric, PairedDifference, ResampledMetrics, ratio
from charprobe_lite.eval.stats.trend import page_trend, rank_correlation, slope, standardised_slopes
from tests.quant_records import BITS


@pytest.mark.parametrize(
    ("inner", "equivalent", "non_inferior"),
    [
        ((-0.02, 0.02), True, True),
        ((-0.04, 0.02), None, None),
        ((-0.02, 0.04), None, True),
        ((-0.2, -0.04), False, False),
        ((0.04, 0.2), False, True),
    ],
)
def test_two_one_sided_tests(
    inner: tuple[float, float], equivalent: bool | None, non_inferior: bool | None
) -> None:
    result = PairedDifference(Estimate(sum(inner) / 2, *inner), inner, 0.03)
    assert (result.equivalent, result.non_inferior) == (equivalent, non_inferior)


def shares(chances: Sequence[float], items: int, seed: int, per_item: int = 4) -> dict[int, Metric]:
    """A measure per type: hits in ``per_item`` answers to each item; some items are harder."""
    rng = np.random.default_rng(seed)
    harder = rng.normal(0, 0.8, items)
    names = [f"item-{n}" for n in range(items)]
    made = {}
    for number, chance in enumerate(chances):
        odds = np.log(chance / (1 - chance)) + harder
        hits = rng.binomial(per_item, 1 / (1 + np.exp(-odds)))
        values = np.column_stack([hits, np.full(items, per_item)])
        made[number] = ratio(names, values, 0, 1, items * per_item)
    return made


def truth(chance: float) -> float:
    harder = np.random.default_rng(0).normal(0, 0.8, 400_000)
    return float(np.mean(1 / (1 + np.exp(-np.log(chance / (1 - chance)) - harder))))


def test_intervals_cover_and_a_loss_at_the_margin_is_seldom_called_non_inferior() -> None:
    loss, studies = truth(0.8) - truth(0.6), 200
    covered = non_inferior = 0
    for seed in range(studies):
        measured = ResampledMetrics(shares((0.8, 0.6), 40, seed), seed, resamples=300)
        result = measured.difference(1, 0, margin=loss)
        covered += result.change.low <= -loss <= result.change.high
        non_inferior += result.non_inferior is True
    assert 0.91 <= covered / studies <= 0.985
    assert 0.01 <= non_inferior / studies <= 0.09


def test_pages_trend_is_scipys_where_nothing_is_tied() -> None:
    values = np.random.default_rng(3).normal(size=(20, 5)) + np.arange(5) / 4
    result, theirs = page_trend(values, [4.5, 5, 5.5, 8.5, 16]), page_trend_test(values)
    assert result is not None
    assert result.l == theirs.statistic
    assert result.p == pytest.approx(page_trend_test(values, method="asymptotic").pvalue)
    assert result.direction == "falls"
    rising = page_trend(values, [16, 8.5, 5.5, 5, 4.5])
    assert rising is not None
    assert (rising.direction, rising.z) == ("rises", pytest.approx(-result.z))


def test_the_trend_sees_a_planted_fall_and_seldom_one_in_noise() -> None:
    def alarms(chances: Sequence[float], studies: int) -> float:
        result = 0
        for seed in range(studies):
            rates = ResampledMetrics(shares(chances, 25, seed), resamples=1)
            values = np.column_stack([rates.by_cluster(n) for n in range(len(chances))])
            trend = page_trend(values, list(BITS.values()))
            result += trend is not None and trend.p < 0.05
        return result / studies

    assert 0.02 <= alarms([0.7] * 5, 400) <= 0.085
    assert alarms([0.85, 0.83, 0.75, 0.7, 0.6], 40) >= 0.95


def test_blocks_that_lack_a_type_are_left_out_of_the_trend() -> None:
    values = np.array([[3.0, 2, 1], [3, 2, 1], [np.nan, 1, 2]])
    result = page_trend(values, [16, 8, 4])
    assert result is not None
    assert (result.blocks, result.l) == (2, 2 * (9 + 4 + 1))
    assert page_trend(values[2:], [16, 8, 4]) is None
    level = page_trend(np.ones((9, 3)), [16, 8, 4])
    assert level is not None
    assert (level.p, level.direction) == (1, "level")


def falling(losses: Mapping[str, float], clusters: int, seed: int) -> dict[tuple[str, str], Metric]:
    """Two measures of other items each, with a known loss per halving, in deviations."""
    rng = np.random.default_rng(seed)
    made = {}
    for what, loss in losses.items():
        level = rng.normal(0, 0.8, clusters)
        names = [f"{what}-{n}" for n in range(clusters)]
        for quant, bits in BITS.items():
            values = level + rng.normal(0, 0.6, clusters) + loss * np.log2(bits)
            columns = np.column_stack([values, np.ones(clusters)])
            made[what, quant] = ratio(names, columns, 0, 1)
    return made


def ahead(losses: Mapping[str, float], seed: int) -> tuple[Estimate, Estimate, Estimate]:
    """Both standardised slopes and their difference."""
    measured = ResampledMetrics(falling(losses, 40, seed), seed, resamples=300)
    bits = list(BITS.values())
    names = [[(what, quant) for quant in BITS] for what in losses]
    first, second = (standardised_slopes(measured, series, bits) for series in names)
    slopes = (slope(measured, series, bits).standardised for series in names)
    return *slopes, measured.bootstrap.interval(first - second, names[0] + names[1])


def test_character_that_falls_twice_as_fast_is_found_to() -> None:
    character, capability, between = ahead({"character": 0.8, "capability": 0.4}, 1)
    assert character.value == pytest.approx(0.8, abs=0.15)
    assert capability.value == pytest.approx(0.4, abs=0.15)
    assert between.low > 0


def test_the_interval_between_slopes_covers_the_truth() -> None:
    covered = blamed = 0
    for seed in range(120):
        *_, twice = ahead({"character": 0.8, "capability": 0.4}, seed)
        *_, same = ahead({"character": 0.5, "capability": 0.5}, seed)
        covered += twice.low <= 0.4 <= twice.high
        blamed += not same.low <= 0 <= same.high
    assert covered / 120 >= 0.9
    assert 0 < blamed / 120 <= 0.1


def test_pseudo_values_of_a_share_are_the_items_own() -> None:
    measured = ResampledMetrics(shares([0.6], 12, 0), resamples=1)
    assert measured.pseudo_values(0) == pytest.approx(measured.by_cluster(0))


def test_rank_correlation_is_scipys_with_ties_too() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 4, (7, 5)).astype(float), rng.integers(0, 4, (7, 5)).astype(float)
    expected = [spearmanr(a[:, n], b[:, n]).statistic for n in range(5)]
    assert rank_correlation(a, b) == pytest.approx(expected)


def test_weighted_quantiles_are_numpys_of_texts_taken_several_times() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.exponential(size=size) for size in (5, 9, 1, 30)]
    weights = rng.integers(0, 3, (4, 250)).astype(np.float32)
    weights[0] += 1
    weights[:, 0] = 0  # a resample without any of these texts says nothing of them
    result = weighted_quantiles(parts, weights, (0.5, 0.99))
    assert np.isnan(result[:, 0]).all()
    for column in range(1, 250):
        drawn = np.concatenate(
            [np.tile(part, int(w)) for part, w in zip(parts, weights[:, column], strict=True)]
        )
        assert result[:, column] == pytest.approx(np.quantile(drawn, (0.5, 0.99)))
