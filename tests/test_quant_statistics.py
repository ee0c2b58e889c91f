"""Metrics, differences and trends of simulated types of which the truth is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm, page_trend_test, spearmanr, ttest_1samp

from charprobe_lite.eval.quant.fidelity_score import weighted_quantiles
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.holm import holm
from charprobe_lite.eval.stats.metrics import (
    MarginTests,
    Metric,
    PairedDifference,
    ResampledMetrics,
    ratio,
)
from charprobe_lite.eval.stats.power import Power
from charprobe_lite.eval.stats.trend import (
    page_trend,
    rank_correlation,
    rank_interval,
    slope,
    standardised_slopes,
)
from tests.quant_records import BITS


@pytest.mark.parametrize(
    ("tests", "inner", "equivalent", "non_inferior"),
    [
        ((0.01, 0.99), (-0.02, 0.02), True, True),
        ((0.08, 0.9), (-0.04, 0.02), None, None),
        ((0.08, 0.9), (-0.02, 0.04), None, True),
        ((0.99, 0.01), (-0.2, -0.04), False, False),
        ((0.99, 0.01), (0.04, 0.2), False, True),
    ],
)
def test_a_verdict_is_that_of_the_family(
    tests: tuple[float, float],
    inner: tuple[float, float],
    equivalent: bool | None,
    non_inferior: bool | None,
) -> None:
    change, family = Estimate(sum(inner) / 2, *inner), MarginTests(*tests)
    alone = PairedDifference(change, inner, 0.03, 25, family)
    assert (alone.equivalent, alone.non_inferior) == (equivalent, non_inferior)
    of_many = replace(alone, p_holm=MarginTests(*(min(1, 10 * p) for p in tests)))
    assert (of_many.equivalent, of_many.non_inferior) == (None, non_inferior)


def test_fewer_than_ten_prompts_have_no_verdict() -> None:
    change, inner = Estimate(-1.0, -1.0, -1.0), (-1.0, -1.0)
    for tests in (MarginTests(0.001, 0.999), MarginTests(0.999, 0.001)):
        nine = PairedDifference(change, inner, 0.03, 9, tests)
        assert (nine.equivalent, nine.non_inferior) == (None, None)
        assert replace(nine, clusters=10).equivalent is (tests.equivalent < 0.5)
        assert replace(nine, clusters=10).non_inferior is False


def test_holms_correction_by_hand() -> None:
    # times 4, 3, 2 and 1 in order, each at least the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []


def test_p_values_are_those_of_a_t_test_where_the_bootstrap_is_normal() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1, 60)
    columns = np.column_stack([values, np.ones(60)])
    measured = ResampledMetrics({"x": ratio([f"i{n}" for n in range(60)], columns, 0, 1)})
    replicates = measured.replicates("x")
    for bound in (-0.2, 0.0, 0.1, 0.3, 0.5, -5.0):
        expected = ttest_1samp(values, bound, alternative="greater").pvalue
        found = measured.p_above(replicates, ["x"], bound)
        assert found == pytest.approx(expected, rel=0.12, abs=1e-6), bound


def test_a_p_value_is_the_level_of_the_interval_that_ends_at_the_margin() -> None:
    measured = ResampledMetrics(shares((0.8, 0.7), 40, 1), 1, resamples=4000)
    result = measured.difference(1, 0, margin=0.03)
    values = measured.replicates(1) - measured.replicates(0)
    low, high = result.interval_90
    for bound, sign in ((low, 1), (high, -1)):
        assert measured.p_above(sign * values, [1, 0], sign * bound) == pytest.approx(
            0.05, abs=0.01
        )


def test_files_without_a_single_other_label_have_the_p_value_of_no_event() -> None:
    columns = np.column_stack([np.ones(50), np.ones(50)])
    names = [f"i{n}" for n in range(50)]
    measured = ResampledMetrics({n: ratio(names, columns, 0, 1, 50) for n in (0, 1)}, resamples=50)
    result = measured.difference(1, 0, margin=0.03)
    assert result.p
    # 50 answers without an event: a rate of 3% gives that with 0.97^50
    assert result.p.equivalent == pytest.approx(binom.pmf(0, 50, 0.03))
    assert result.equivalent is None
    assert measured.difference(1, 0, margin=0.08).equivalent is True


@pytest.mark.parametrize("largest", [1.0, 0.1])
def test_a_share_without_an_event_has_the_p_value_of_its_interval(largest: float) -> None:
    columns = np.column_stack([np.full(20, largest), np.ones(20)])
    metric = replace(ratio([f"i{n}" for n in range(20)], columns, 0, 1, 20), largest=largest)
    measured = ResampledMetrics({"x": metric}, resamples=50)
    low = measured.interval(measured.replicates("x"), ["x"], 0.90).low
    # 20 answers, all of them hits: 5% of such studies have a share below 0.05^(1/20)
    assert low == pytest.approx(largest * 0.05 ** (1 / 20))
    assert measured.p_above(measured.replicates("x"), ["x"], low) == pytest.approx(0.05)


def test_power_by_hand() -> None:
    emails = Power(25, 0.085, 0.03)
    # 25 * (0.085 / 0.03)^2 = 200.7
    assert (emails.decidable, emails.needed) == (False, 201)
    # normal quantiles 1.645 (5%), 1.282 (two tests, 80%) and 0.842 (one test, 80%)
    assert emails.needed_equivalent == math.ceil(200.694 * ((1.64485 + 1.28155) / 1.64485) ** 2)
    assert emails.needed_non_inferior == math.ceil(200.694 * ((1.64485 + 0.84162) / 1.64485) ** 2)
    more = emails.with_clusters(100)
    assert (more.half_width, more.needed) == (pytest.approx(0.0425), 201)
    assert Power(40, 0.03, 0.03).needed == 40


def test_the_needed_number_has_the_promised_power() -> None:
    rng, sigma, margin = np.random.default_rng(1), 0.2, 0.05
    half_width = norm.ppf(0.95) * sigma / np.sqrt(30)
    n = Power(30, half_width, margin).needed_equivalent
    means = rng.normal(0, sigma / np.sqrt(n), 4000)
    reach = norm.ppf(0.95) * sigma / np.sqrt(n)
    assert np.mean(np.abs(means) + reach < margin) == pytest.approx(0.8, abs=0.03)


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

    assert 0.02 <= alarms([0.7] * 6, 400) <= 0.085
    assert alarms([0.85, 0.83, 0.8, 0.75, 0.7, 0.6], 40) >= 0.95


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


def test_the_rank_interval_is_bonett_and_wrights() -> None:
    interval = rank_interval(0.83, 12)
    assert [round(end, 2) for end in interval.ends] == [0.41, 0.96]
    assert rank_interval(-0.83, 12).ends == pytest.approx((-interval.high, -interval.low))
    perfect = rank_interval(1, 6)
    # half way from 1 to the next order of six, 1 - 12 / (6 * 35), lies 1 - 6 / 210
    z, error = np.arctanh(1 - 6 / 210), np.sqrt(1.5 / 3)
    assert perfect.ends == pytest.approx((np.tanh(z - 1.96 * error), 1), abs=1e-4)


def test_slopes_of_shares_by_hand() -> None:
    values = {16.0: 8, 8.0: 6, 4.0: 4}
    measured = ResampledMetrics(
        {
            bits: ratio(["a"] * 10, np.column_stack([np.arange(10) < hits, np.ones(10)]), 0, 1, 10)
            for bits, hits in values.items()
        },
        resamples=1,
    )
    loss = slope(measured, list(values), list(values))
    assert loss.loss.value == pytest.approx(0.2)
    # of F16's level of 0.8
    assert loss.proportion
    assert loss.proportion.value == pytest.approx(0.25)
    # over three equal steps the slope is half of last minus first: odds 8.5 / 2.5 and 4.5 / 6.5
    assert loss.log_odds
    assert loss.log_odds.value == pytest.approx((np.log(8.5 / 2.5) - np.log(4.5 / 6.5)) / 2)
    free = ResampledMetrics(falling({"x": 0.3}, 5, 0), resamples=1)
    names = [("x", quant) for quant in BITS]
    assert slope(free, names, list(BITS.values())).proportion is None


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
