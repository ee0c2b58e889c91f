"""Statistics of techniques against scipy, numpy and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from charprobe_lite.eval.stats.bootstrap import Unit
from charprobe_lite.eval.stats.contrasts import Values, contrast, stratified_mean, with_family
from charprobe_lite.eval.stats.detectable import Spread, minimum_detectable, spread_of
from charprobe_lite.eval.stats.matched import value_at
from charprobe_lite.eval.stats.metrics import ResampledMetrics

SCENARIOS = [f"s{number}" for number in range(30)]


def paired_values(
    levels: dict[str, np.ndarray], units: dict[str, list[Unit | None]] | None = None
) -> ResampledMetrics[str]:
    """A metric per technique of one persona; ``levels`` are (adapters, scenarios)."""
    metrics = {}
    for name, array in levels.items():
        adapters = units[name] if units else [None] * len(array)
        rows = [
            (value, scenario, adapter)
            for adapter, row in zip(adapters, array, strict=True)
            for scenario, value in zip(SCENARIOS, row, strict=True)
        ]
        value, cluster, unit = (list(column) for column in zip(*rows, strict=True))
        values = Values(value, ["humor"] * len(rows), cluster, unit)
        metrics[name] = stratified_mean(values, ["humor"])
    return ResampledMetrics(metrics, seed=1)


def test_one_adapter_each_is_a_paired_bootstrap_over_scenarios() -> None:
    rng = np.random.default_rng(5)
    base = rng.uniform(0.2, 0.8, 30)
    why, sft = (np.clip(base + shift + rng.normal(0, 0.1, 30), 0, 1) for shift in (0.08, 0))
    found = contrast(paired_values({"why": why[None], "sft": sft[None]}), {"why": 1, "sft": -1})
    difference = why - sft
    assert found.change.value == pytest.approx(difference.mean())
    assert found.error == pytest.approx(difference.std(ddof=1) / np.sqrt(30), rel=0.03)
    assert found.freedom == 29
    expected = stats.ttest_1samp(difference, 0)
    assert found.p == pytest.approx(expected.pvalue, rel=0.6)  # far out in a tail
    ends = expected.confidence_interval()
    assert found.change.ends == pytest.approx((ends.low, ends.high), abs=0.01)


def test_training_seeds_widen_the_interval_by_the_variance_of_adapters() -> None:
    rng = np.random.default_rng(6)
    scenario = rng.normal(0.5, 0.1, 30)
    levels = {
        name: scenario + rng.normal(0, 0.08, 4)[:, None] + rng.normal(0, 0.02, (4, 30))
        for name in ("why", "sft")
    }
    units: dict[str, list[Unit | None]] = {
        name: [Unit(f"{name}/humor", str(seed)) for seed in range(4)] for name in levels
    }
    found = contrast(paired_values(levels, units), {"why": 1, "sft": -1})
    means = {name: array.mean(axis=1) for name, array in levels.items()}
    # scenarios cancel: what is left is the two-sample error of the adapters' means
    by_hand = np.sqrt(sum(mean.var(ddof=1) / 4 for mean in means.values()))
    assert found.error == pytest.approx(by_hand, rel=0.08)
    assert found.freedom == 3  # of the smaller group, as each adapter is one
    welch = (means["why"].mean() - means["sft"].mean()) / by_hand
    assert found.p == pytest.approx(2 * stats.t.sf(abs(welch), 3), abs=0.03)
    alone = contrast(paired_values(levels), {"why": 1, "sft": -1})
    assert alone.error < found.error / 3


def test_personas_weigh_alike_whatever_their_number_of_texts() -> None:
    values = Values(
        [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"], ["s0", "s1", "s2", "s0"], [None] * 4
    )
    resampled = ResampledMetrics({"x": stratified_mean(values, ["a", "b"])})
    assert resampled.replicates("x")[0] == 0.5
    none = stratified_mean(Values([0.0] * 8, ["a"] * 8, SCENARIOS[:8], [None] * 8), ["a"], True)
    high = ResampledMetrics({"x": none}).estimate("x").high
    assert high == pytest.approx(stats.beta.ppf(0.975, 1, 8))  # Clopper and Pearson's
    lacking = ResampledMetrics({"x": stratified_mean(values, ["a", "b", "c"])})
    assert "x" not in lacking


def independent_texts(counts: dict[str, int], seed: int) -> ResampledMetrics[str]:
    """Two techniques without a difference: so many coins of each persona, scenarios at random."""
    rng = np.random.default_rng(seed)
    metrics = {}
    for name in ("why", "sft"):
        strata = [persona for persona, count in counts.items() for _ in range(count)]
        scenarios = [s for count in counts.values() for s in rng.choice(25, count, replace=False)]
        coins = rng.integers(0, 2, len(strata)).astype(float).tolist()
        values = Values(coins, strata, [f"s{s}" for s in scenarios], [None] * len(strata))
        metrics[name] = stratified_mean(values, list(counts), is_share=True)
    return ResampledMetrics(metrics, seed, resamples=400)


def test_the_persona_with_the_fewest_scenarios_gives_the_freedom() -> None:
    few, weights = {"a": 22, "b": 22, "c": 6}, {"why": 1.0, "sft": -1.0}
    found = [contrast(independent_texts(few, seed), weights) for seed in range(60)]
    assert {(each.freedom, each.fewest, each.is_testable) for each in found} == {(5, 6, True)}
    # the error of a mean of three means, whose coins have a variance of 1/4
    by_hand = np.sqrt(2 * 0.25 * (1 / 22 + 1 / 22 + 1 / 6)) / 3
    assert np.mean([each.error for each in found]) == pytest.approx(by_hand, rel=0.1)
    covered = sum(each.change.low <= 0 <= each.change.high for each in found)
    assert covered >= stats.binom.ppf(0.001, 60, 0.95)


@pytest.mark.parametrize("count", [1, 3])
def test_a_persona_with_hardly_a_text_has_no_test(count: int) -> None:
    found = contrast(independent_texts({"a": 22, "b": 22, "c": count}, 0), {"why": 1, "sft": -1})
    assert found.fewest == count
    assert not found.is_testable
    # a side lacks the persona where none of its scenarios is drawn; both draw the same ones
    alone = (1 - count / 25) ** 25
    assert alone < found.empty < 2 * alone


def test_a_family_is_corrected_by_holm_and_says_what_it_can_detect() -> None:
    rng = np.random.default_rng(7)
    levels = {name: rng.uniform(0, 1, (1, 30)) for name in ("sft", "why", "dpo", "hq")}
    resampled = paired_values(levels)
    contrasts = [contrast(resampled, {n: 1, "sft": -1}) for n in ("why", "dpo", "hq")]
    family = with_family(contrasts, 3)
    raw = sorted(each.p for each in family)
    by_hand = [min(1, 3 * raw[0])]
    by_hand.append(max(by_hand[-1], min(1, 2 * raw[1])))
    by_hand.append(max(by_hand[-1], raw[2]))
    adjusted = sorted(each.p_holm for each in family if each.p_holm is not None)
    assert adjusted == pytest.approx(by_hand)
    for each in family:
        assert each.detectable == minimum_detectable(each.error, 29, 0.05 / 3)
    [alone] = with_family(contrasts[:1], 3)  # two are not there yet
    assert alone.p_holm == pytest.approx(min(1, 3 * alone.p))


@pytest.mark.parametrize(("freedom", "alpha"), [(29, 0.05), (24, 0.05 / 6), (200, 0.01)])
def test_the_detectable_difference_is_found_in_80_of_100(freedom: int, alpha: float) -> None:
    distance = minimum_detectable(1.0, freedom, alpha)
    critical = stats.t.ppf(1 - alpha / 2, freedom)
    power = stats.nct.sf(critical, freedom, distance)  # the exact test, noncentral t
    assert power == pytest.approx(0.8, abs=0.015)


def test_components_of_spread_by_hand() -> None:
    # rows 1 and 3, columns -1, 0, 1 around them, no rest
    array = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    assert spread_of(array) == Spread(1.0, 2.0, 0.0)
    assert spread_of(array[:1]) is None
    assert spread_of(np.array([[0.0, np.nan, 2.0], [2.0, 3.0, 4.0]])) == Spread(2.0, 2.0, 0.0)
    rng = np.random.default_rng(8)
    many = (
        rng.normal(0, 0.3, 400)[:, None]
        + rng.normal(0, 0.2, 500)[None, :]
        + rng.normal(0, 0.1, (400, 500))
    )
    found = spread_of(many)
    assert found is not None
    variances = (found.scenario, found.adapter, found.rest)
    assert np.sqrt(variances) == pytest.approx([0.2, 0.3, 0.1], rel=0.1)
    # these very adapters: the error of the mean of 400 x 500 from its parts
    assert found.error(500, 400, counts_adapters=False) == pytest.approx(
        np.sqrt(found.scenario / 500 + found.rest / 200_000)
    )


def test_differences_between_personas_are_no_luck_of_adapters() -> None:
    rng = np.random.default_rng(9)
    personas = [name for name in ("a", "b", "c") for _ in range(200)]
    level = np.repeat([0.0, 3.0, 9.0], 200)  # personas differ far more than their adapters
    many = (
        (level + rng.normal(0, 0.3, 600))[:, None]
        + rng.normal(0, 0.2, 300)[None, :]
        + rng.normal(0, 0.1, (600, 300))
    )
    found = spread_of(many, personas)
    assert found is not None
    variances = (found.scenario, found.adapter, found.rest)
    assert np.sqrt(variances) == pytest.approx([0.2, 0.3, 0.1], rel=0.1)
    # one adapter of each persona: the error is that of the means over them
    means = many[::200]
    single = spread_of(means, ["a", "b", "c"])
    assert single is not None
    by_hand = means.mean(axis=0).std(ddof=1) / np.sqrt(300)
    assert single.error(300, 3, counts_adapters=False) == pytest.approx(by_hand)


def simulated(spread: Spread, seed: int, shift: float) -> ResampledMetrics[str]:
    """Two techniques of three personas with three seeds each; ``why`` is better by ``shift``."""
    rng, metrics = np.random.default_rng(seed), {}
    for name in ("sft", "why"):
        level = shift if name == "why" else 0.0
        by_adapter = rng.normal(level, np.sqrt(spread.adapter / 2), (9, 1))
        by_scenario = rng.normal(0, np.sqrt(spread.scenario / 2), (1, 25))
        table = by_adapter + by_scenario + rng.normal(0, np.sqrt(spread.rest / 2), (9, 25))
        persona = [f"p{adapter // 3}" for adapter in range(9) for _ in range(25)]
        units = [Unit(f"{name}/p{n // 3}", f"{n % 3}") for n in range(9) for _ in range(25)]
        values = Values(table.ravel().tolist(), persona, SCENARIOS[:25] * 9, units)
        metrics[name] = stratified_mean(values, ["p0", "p1", "p2"])
    return ResampledMetrics(metrics, seed, resamples=300)


def test_the_forecast_difference_is_found_with_training_seeds() -> None:
    spread, alpha, weights = Spread(0.08, 0.02, 0.3), 0.05 / 6, {"why": 1.0, "sft": -1.0}
    shift = minimum_detectable(spread.error(25, 9), 6, alpha)
    found = [contrast(simulated(spread, seed, shift), weights) for seed in range(100)]
    assert {each.freedom for each in found} == {6}
    shown = sum(each.p <= alpha for each in found)
    assert shown >= stats.binom.ppf(0.01, 100, 0.8)


def test_a_level_is_read_where_the_curve_first_reaches_it() -> None:
    x = np.array([[0.1], [0.5], [0.8], [0.95]])
    y = np.array([[0.0], [0.2], [0.1], [0.4]])
    assert value_at(x, y, 0.8) == pytest.approx(np.interp(0.8, x[:, 0], y[:, 0]))
    assert value_at(x, y, 0.9) == pytest.approx(np.interp(0.9, x[:, 0], y[:, 0]))
    assert value_at(x, y, 0.3) == pytest.approx(0.1)
    assert np.isnan(value_at(x, y, 0.99)).all()
    assert value_at(x, y, 0.05) == pytest.approx(0.0)
    # three personas of 40 prompts, 108 of 120 detected: the mean is .9 but for rounding
    tie = np.mean([39 / 40, 38 / 40, 31 / 40])
    assert tie < 0.9
    assert value_at(np.array([[0.1], [tie]]), np.array([[0.0], [0.3]]), 0.9) == pytest.approx(0.3)
    # two curves at once; the second falls back after it has reached the level
    both = value_at(
        np.array([[0.0, 0.0], [0.4, 1.0], [0.8, 0.4]]),
        np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 7.0]]),
        0.6,
    )
    assert both == pytest.approx([1.5, 0.6])
