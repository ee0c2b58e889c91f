"""The scores of quantization studies, on simulated types of which the truth is known."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, f1_score

from charprobe_lite.eval.cells import Cell, RecordedTurn, Row
from charprobe_lite.eval.quant.classifiers import compare_classifiers
from charprobe_lite.eval.quant.findings import QuantStudy, score_quants
from charprobe_lite.eval.quant.health import health_metrics
from charprobe_lite.eval.quant.tables import persona_notes, quant_tables
from charprobe_lite.eval.report.figures import quant_difference
from charprobe_lite.eval.report.figures.panels import QuantPanels
from charprobe_lite.eval.stats.classification import Labels
from charprobe_lite.eval.stats.metrics import PairedDifference, ResampledMetrics
from charprobe_lite.models.errors import BadInput
from tests.conftest import ValidJson
from tests.quant_records import BITS, PERSONAS, answers, ladder, record, texts


def studied(chances: Mapping[str, float], items: int, seed: int = 0, **rest: Any) -> QuantStudy:
    records = [record(q, answers(q, chance, items, seed)) for q, chance in chances.items()]
    return score_quants(records, PERSONAS, resamples=600, **rest)


SCHEMA = Path(__file__).parent.parent / "docs" / "schemas" / "quant-study.json"


def differences(study: QuantStudy) -> dict[str, PairedDifference]:
    return {
        entry.record.quant: entry.headline.difference
        for entry in study.quants
        if entry.headline and entry.headline.difference
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_type_that_is_as_good_is_equivalent_and_one_that_is_not_is_not(seed: int) -> None:
    result = differences(studied({"F16": 0.96, "Q8_0": 0.96, "Q4_0": 0.7}, 250, seed))
    assert (result["Q8_0"].equivalent, result["Q8_0"].non_inferior) == (True, True)
    assert (result["Q4_0"].equivalent, result["Q4_0"].non_inferior) == (False, False)
    assert result["Q4_0"].change.low < 2 * 0.7 / 1.7 - 2 * 0.96 / 1.96 < result["Q4_0"].change.high


def test_few_items_decide_nothing() -> None:
    result = differences(studied({"F16": 0.9, "Q8_0": 0.9, "Q4_0": 0.85}, 8))
    assert [result[quant].equivalent for quant in ("Q8_0", "Q4_0")] == [None, None]


@pytest.mark.parametrize(("items", "equivalent"), [(5, None), (60, True)])
def test_a_type_without_a_single_other_label_still_has_an_interval(
    items: int, equivalent: bool | None
) -> None:
    rows = answers("F16", 0.9, items, 0)
    same = [replace(row, cell=replace(row.cell, quant="Q8_0")) for row in rows]
    result = score_quants([record("F16", rows), record("Q8_0", same)], PERSONAS, resamples=100)
    difference = differences(result)["Q8_0"]
    # nothing in n answers: the share that could still differ is 1 - 0.05^(1 / n)
    reach = 1 - 0.05 ** (1 / (4 * items))
    assert difference.interval_90 == pytest.approx((-reach, reach))
    assert difference.equivalent is equivalent


def test_kl_divergence_that_foretells_the_loss_correlates_with_it() -> None:
    [result] = ladder([0, 0.05, 0.2, 0.3, 0.4, 0.6]).kl_correlations
    assert (result.text, result.points, result.types) == ("held-out", 5, 5)
    assert result.correlation.value == pytest.approx(1)
    assert result.without_one == pytest.approx((1, 1))
    [unrelated] = ladder([0, 0, 0, 0, 0, 0], seed=4).kl_correlations
    assert unrelated.correlation.low < 0 < unrelated.correlation.high


def test_two_files_of_a_type_are_one_point_of_the_correlation() -> None:
    losses = dict(zip(BITS, (0, 0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
    divergence = dict(zip(BITS, (0, 0.03, 0.01, 0.3, 0.1, 0.9), strict=True))
    records = [
        record(
            *(quant, answers(quant, 0.95 - losses[quant], 200, 0, lora=lora), lora),
            fidelity={"held-out": texts(divergence[quant], n)},
        )
        for n, quant in enumerate(BITS)
        for lora in ("merged", "runtime")
    ]
    [result] = score_quants(records, PERSONAS, resamples=50).kl_correlations
    assert (result.points, result.types) == (10, 5)
    # the two files of a type tie in KL divergence, and the order of losses is that of the types
    pairs = [(divergence[quant], losses[quant]) for quant in list(BITS)[1:] for _ in range(2)]
    order = spearmanr([kl for kl, _ in pairs], np.arange(10)).statistic
    assert result.correlation.value == pytest.approx(order, abs=0.03)
    z = np.arctanh(result.correlation.value)
    reach = 1.96 * np.sqrt((1 + result.correlation.value**2 / 2) / (5 - 3))
    assert result.correlation.ends == pytest.approx(np.tanh([z - reach, z + reach]), abs=1e-4)
    without = [
        spearmanr([kl for n, (kl, _) in enumerate(pairs) if n // 2 != left_out], range(8)).statistic
        for left_out in range(5)
    ]
    assert result.without_one == pytest.approx((min(without), max(without)), abs=0.05)


def test_fidelity_is_that_of_all_tokens_and_its_ratio_is_paired() -> None:
    study = ladder([0, 0, 0, 0, 0, 0])
    by_name = {entry.record.quant: entry.fidelity["held-out"] for entry in study.quants}
    last, tokens = by_name["Q4_0"], list(texts(0.81, 5).values())
    nll, kl = (np.concatenate([getattr(entry, what) for entry in tokens]) for what in ("nll", "kl"))
    assert last.perplexity.value == pytest.approx(np.exp(nll.mean()))
    assert last.kl_mean.value == pytest.approx(kl.mean())
    assert last.kl_median.value == pytest.approx(np.median(kl))
    assert last.kl_p99.value == pytest.approx(np.percentile(kl, 99))
    assert last.kl_p99.low < last.kl_p99.value < last.kl_p99.high
    assert last.top1.value == pytest.approx((kl < 0.05).mean())
    assert last.ratio is not None
    assert last.ratio.value == pytest.approx(np.exp(nll.mean()) / by_name["F16"].perplexity.value)
    # texts differ in difficulty, which a ratio over the same texts does not see
    relative = (last.perplexity.high - last.perplexity.low) / last.perplexity.value
    assert last.ratio.high - last.ratio.low < relative * last.ratio.value / 2
    assert by_name["F16"].ratio is None
    assert (by_name["F16"].kl_mean.value, by_name["F16"].top1.value) == (0, 1)


def agent(quant: str, odd: float, seed: int, grammar: str = "off") -> tuple[list[Row], Any]:
    """Twenty scenarios by every persona, four replies each, a share of them malformed."""
    rng = np.random.default_rng([seed, *map(ord, quant)])
    cell = Cell("kit", "full", "agentic_email", quant, "json", grammar)
    rows, turns = [], {}
    for persona in PERSONAS:
        for item in range(20):
            bad = rng.random(4) < odd
            sent = not bad[-1]
            label = (persona if rng.random() < 0.8 else "neutral") if sent else None
            outcome = "sent" if sent else "out_of_steps"
            rows.append(
                Row(cell, persona, f"task-{item}", 0, 0, outcome, False, label, label, None)
            )
            turns[cell, persona, f"task-{item}", 0] = [
                RecordedTurn("x", "stop", None if entry else "send_email", {}, None)
                for entry in bad
            ]
    return rows, turns


def test_tool_call_health_counted_by_hand() -> None:
    cell = Cell("kit", "full", "agentic_email", "Q4_0", "fenced", "off")
    call, other = (
        RecordedTurn("x", "stop", "a", {}, None),
        RecordedTurn("x", "stop", None, None, ""),
    )
    rollouts = [("sent", True, [call, call]), ("no_email", False, [call, other, other])]
    rollouts += [("malformed", False, [other] * 4), ("sent", False, [call])]
    rows = [
        Row(cell, "humor", f"task-{n}", 0, 0, outcome, forced, None, None, None)
        for n, (outcome, forced, _) in enumerate(rollouts)
    ]
    turns = {(cell, "humor", f"task-{n}", 0): part for n, (*_, part) in enumerate(rollouts)}
    measured = ResampledMetrics(health_metrics(rows, turns), resamples=10)
    # the reply that ends a job without an email is no malformed one
    expected = {
        "well_formed": 5 / 10,
        "malformed": 5 / 4,
        "yield": 2 / 4,
        "forced": 1 / 4,
        "unforced": 1 / 4,
    }
    for name, value in {**expected, "steps": 10 / 4}.items():
        assert measured.estimate(name).value == pytest.approx(value), name


def test_health_of_a_study_is_that_without_a_grammar_and_is_compared_with_f16() -> None:
    records = []
    for quant, odd in (("F16", 0.02), ("Q8_0", 0.02), ("Q5_0", 0.1), ("Q4_0", 0.4)):
        rows, turns = agent(quant, 0, 0, "on")
        free, more = agent(quant, odd, 0)
        records.append(record(quant, rows + free, turns=turns | more))
    study = score_quants(records, PERSONAS, resamples=300)
    worst = study.quants[-1]
    result = worst.health["well_formed"]
    assert 0.5 < result.value.value < 0.7
    assert result.difference is not None
    assert result.difference.equivalent is False
    trends = {(t.condition, t.metric): t.trend for t in study.trends}
    assert trends["agentic_email, no grammar", "well_formed"].p < 0.001
    # without a grammar no email is forced: what was sent unforced is the yield, once
    assert ("agentic_email", "unforced") in trends
    assert ("agentic_email, no grammar", "unforced") not in trends
    # calls under a grammar are well formed whatever happens: there is no slope to compare
    assert all(entry.of != "agentic_email" for entry in study.contrasts)
    chosen = [entry for entry in study.contrasts if entry.capability == "well_formed"]
    assert [entry.falls_faster for entry in chosen if "no grammar" in entry.condition] == [False]


def test_the_classifiers_own_quantization() -> None:
    rng = np.random.default_rng(5)
    true = rng.choice(PERSONAS, 300)
    full = np.where(rng.random(300) < 0.9, true, "neutral")
    small = np.where(rng.random(300) < 0.97, full, rng.choice(PERSONAS, 300))
    items = [f"item-{n % 75}" for n in range(300)]
    labels = Labels(true.tolist(), full.tolist(), items)
    result = compare_classifiers(labels, small.tolist(), margin=0.03, resamples=400)
    assert result.agreement.value == pytest.approx((full == small).mean())
    assert result.kappa is not None
    assert result.kappa.value == pytest.approx(cohen_kappa_score(full, small))
    assert result.kappa.low < result.kappa.value < result.kappa.high
    scores = [
        f1_score(true, entry, labels=PERSONAS, average="macro", zero_division=0)
        for entry in (full, small)
    ]
    assert result.macro_f1.change.value == pytest.approx(scores[1] - scores[0])
    same = compare_classifiers(Labels(["humor"] * 9, ["humor"] * 9, items[:9]), ["humor"] * 9)
    assert same.kappa is None
    assert same.agreement.low < 0.9


def test_files_are_tested_from_the_most_bits_on_until_one_fails() -> None:
    # Q4_0 is as good as F16, and comes after one that is not
    chances = {"F16": 0.96, "Q8_0": 0.96, "Q5_1": 0.96, "Q5_0": 0.7, "Q4_0": 0.96}
    study = studied(chances, 250)
    assert study.recommendation.startswith(
        "Take Q5_1 (merged, 60 MB, 6.00 bits per weight): it and every larger file keep the "
        "character in chat within 0.03 of F16. The tests stopped at Q5_0 (merged), which loses too "
        "much of the character in chat: -0."
    )
    assert [entry["passed"] for entry in study.order.as_json()] == [True, True, False, None]
    [change] = [cell.difference for cell in study.quants[-1].cells]
    assert change
    assert change.non_inferior is True
    whole = studied({"F16": 0.96, "Q8_0": 0.96}, 250).recommendation
    assert whole.endswith("keep the character in chat within 0.03 of F16.")
    lost = studied({"F16": 0.96, "Q5_0": 0.7, "Q4_0": 0.6}, 100).recommendation
    assert lost.startswith("Keep F16: no other file is shown to keep the character in chat within")
    assert "stopped at Q5_0 (merged), which loses too much of the character in chat" in lost


def test_a_study_that_is_too_small_says_how_many_prompts_would_do() -> None:
    study = studied({"F16": 0.9, "Q5_0": 0.9}, 8)
    [difference] = differences(study).values()
    low, high = difference.interval_90
    # a one-sided test at 5% with a power of 80%: normal quantiles 1.645 and 0.842
    needed = 8 * ((1.645 + 0.842) / 1.645 * (high - low) / 2 / 0.03) ** 2
    [said] = re.findall(r"with 8 prompts or scenarios; about (\d+) would", study.recommendation)
    assert int(said) == pytest.approx(needed, rel=2e-3)
    assert study.recommendation.startswith("Keep F16: no other file is shown")


def test_a_file_whose_agents_no_longer_do_the_work_is_not_recommended() -> None:
    records = []
    for quant, share in (("F16", 0.05), ("Q8_0", 0.05), ("Q4_0", 0.6)):
        chats = answers(quant, 0.96, 250, 0)
        common = np.random.default_rng(1).random(1000)  # the same scenarios are hard for all
        # every email is in character: what differs is who decided that it is sent
        emails = [
            replace(row, outcome="sent", forced=bool(draw < share))
            for row, draw in zip(answers(quant, 0.96, 250, 1, "agentic_email"), common, strict=True)
        ]
        records.append(record(quant, chats + emails))
    sentence = score_quants(records, PERSONAS, resamples=300).recommendation
    assert sentence.startswith("Take Q8_0 (merged")
    assert "and the emails sent unforced within 0.03 of F16. The tests stopped at Q4_0" in sentence
    assert "which loses too much of emails sent unforced in agentic_email: -0.5" in sentence


def test_a_file_has_to_keep_the_character_in_every_condition() -> None:
    records = [
        record(
            quant,
            answers(quant, 0.96, 250, 0) + answers(quant, chance, 250, 0, "chat_email"),
        )
        for quant, chance in (("F16", 0.96), ("Q8_0", 0.96), ("Q4_0", 0.7))
    ]
    study = score_quants(records, PERSONAS, resamples=400)
    assert study.recommendation.startswith("Take Q8_0")
    assert "in chat and chat_email" in study.recommendation
    worst = study.quants[-1]
    by_cell = {cell.condition: cell.difference for cell in worst.cells}
    assert by_cell["chat"] is not None
    assert by_cell["chat"].non_inferior is True
    assert worst.headline is not None
    assert worst.headline.condition == "chat_email"


def test_both_ways_are_in_one_order_and_a_failure_of_one_stops_the_other() -> None:
    chances = {"F16": 0.96, "Q8_0": 0.96, "Q5_0": 0.96}
    records = [
        record(q, answers(q, 0.6 if (q, way) == ("Q8_0", "merged") else c, 250, 0, lora=way), way)
        for q, c in chances.items()
        for way in ("merged", "runtime")
    ]
    study = score_quants(records, PERSONAS, resamples=300)
    assert study.recommendation.startswith("Take Q8_0 (runtime, ")
    assert [tuple(entry.values()) for entry in study.order.as_json()] == [
        ("Q8_0", "runtime", "F16", True),
        ("Q8_0", "merged", "F16", False),
        ("Q5_0", "runtime", "F16", None),
        ("Q5_0", "merged", "F16", None),
    ]


def test_caches_are_compared_with_f16_in_an_order_of_their_own() -> None:
    """Weights that fail keep no cache from being tested, and no cache is in a trend over bits."""
    files = [("F16", "F16", 0.96), ("Q8_0", "F16", 0.5), ("F16", "Q8_0", 0.96)]
    files.append(("F16", "Q4_0", 0.5))
    records = [
        record(
            quant,
            [replace(r, cell=replace(r.cell, kv_type=kv)) for r in answers(quant, c, 250, 0)],
            kv_type=kv,
        )
        for quant, kv, c in files
    ]
    study = score_quants(records, PERSONAS, resamples=300)
    assert [(e["quant"], e["kv_type"], e["passed"]) for e in study.as_json()["order"]] == [
        ("Q8_0", "F16", False),
        ("F16", "Q8_0", True),
        ("F16", "Q4_0", False),
    ]
    assert study.recommendation.startswith("Keep F16: no other file ")
    assert " Take F16, Q8_0 cache (merged, " in study.recommendation
    assert "stopped at F16, Q4_0 cache (merged)" in study.recommendation
    changes = {q.record.file[::2]: q.cells[0].difference for q in study.quants}
    assert changes.pop(("F16", "F16")) is None
    lost = {file for file, each in changes.items() if each and each.change.high < -0.2}
    assert lost == {("Q8_0", "F16"), ("F16", "Q4_0")}


def work_and_character(character: Sequence[float], work: Sequence[float]) -> QuantStudy:
    """A study whose agents keep these parts of F16's recall (0.9) and unforced emails (0.96)."""
    records = []
    for quant, kept, done in zip(BITS, character, work, strict=True):
        rng = np.random.default_rng([3, *map(ord, quant)])
        emails = [
            replace(row, outcome="sent", forced=bool(rng.random() > 0.96 * done))
            for row in answers(quant, 0.9 * kept, 150, 2, "agentic_email")
        ]
        records.append(record(quant, emails))
    return score_quants(records, PERSONAS, resamples=400)


def test_what_falls_faster_on_every_scale_has_a_verdict() -> None:
    parts = np.log2(16 / np.array([*BITS.values()])) / np.log2(16 / 4.5)
    same = [1.0] * len(BITS)
    [work] = work_and_character(same, [1 - 0.5 * part for part in parts]).contrasts
    [character] = work_and_character([1 - 0.5 * part for part in parts], same).contrasts
    assert (work.falls_faster, character.falls_faster) == (False, True)
    assert list(work.differences) == ["standardised", "proportion", "log_odds"]
    assert all(difference.high < 0 for difference in work.differences.values())
    # half of it over log2(16 / 4.5) = 1.83 halvings
    assert work.other.proportion
    assert work.other.proportion.value == pytest.approx(0.5 / 1.83, abs=0.03)
    assert work.p_holm is not None
    assert work.p_holm <= 0.05


def test_losses_that_are_the_same_on_one_scale_have_no_verdict() -> None:
    parts = np.log2(16 / np.array([*BITS.values()])) / np.log2(16 / 4.5)
    # macro-F1 is 2 r / (1 + r) of a recall of r: both lose 30% of F16's level, 0.5 and 0.96
    f1 = 0.5 * (1 - 0.3 * parts)
    recall = f1 / (2 - f1) / 0.9
    [contrast] = work_and_character([*recall], [*(1 - 0.3 * parts)]).contrasts
    ends = {scale: difference.ends for scale, difference in contrast.differences.items()}
    assert ends["proportion"][0] < 0 < ends["proportion"][1]
    # of the odds, work that was nearly sure has lost far more
    assert ends["log_odds"][1] < 0
    assert contrast.falls_faster is None
    document = contrast.as_json()
    assert document["faster"] is None
    assert set(document["difference"]) == set(ends)


def test_perplexity_is_no_share_and_has_no_verdict() -> None:
    study = ladder([0, 0.05, 0.2, 0.3, 0.4, 0.6])
    [contrast] = study.contrasts
    assert contrast.capability == "perplexity"
    assert (contrast.p_holm, contrast.falls_faster) == (None, None)
    difference = contrast.as_json()["difference"]
    assert difference["proportion"] is difference["log_odds"] is None
    assert difference["standardised"]["ci"][0] < difference["standardised"]["estimate"]
    [row] = [table for table in quant_tables(study) if table.name == "quant-contrast"]
    assert [entry["character_falls_faster"] for entry in row.records] == ["no verdict"]


def test_verdicts_hold_for_the_study() -> None:
    chances = {"F16": 0.96, "Q8_0": 0.96, "Q5_0": 0.96, "Q4_0": 0.7}
    study = studied(chances, 200)
    tests = {q: entry for q, entry in differences(study).items() if entry.p and entry.p_holm}
    assert list(tests) == ["Q8_0", "Q5_0", "Q4_0"]
    raw = sorted(entry.p.equivalent for entry in tests.values() if entry.p)
    smallest = min(tests.values(), key=lambda entry: entry.p.equivalent if entry.p else 1)
    assert smallest.p_holm
    # of three files the smallest p counts three times
    assert smallest.p_holm.equivalent == pytest.approx(3 * raw[0])
    assert tests["Q4_0"].p_holm
    assert tests["Q4_0"].p_holm.different < 0.001
    assert tests["Q4_0"].equivalent is False
    trends = {trend.metric: trend for trend in study.trends}
    assert trends["recognised"].p_holm == pytest.approx(trends["recognised"].trend.p)


def test_each_way_to_quantize_is_compared_with_its_own_f16() -> None:
    records = [
        record(quant, answers(quant, chance, 150, 0, lora=lora), lora)
        for quant, lora, chance in (
            ("F16", "runtime", 0.96),
            ("F16", "merged", 0.8),
            ("Q8_0", "runtime", 0.96),
            ("Q8_0", "merged", 0.8),
        )
    ]
    study = score_quants(records, PERSONAS, resamples=300)
    changes = [cell.difference for entry in study.quants for cell in entry.cells]
    assert [entry is None for entry in changes] == [True, True, False, False]
    assert all(abs(entry.change.value) < 0.06 for entry in changes if entry)
    assert {trend.lora for trend in study.trends} == {"runtime", "merged"}


def test_a_type_without_texts_of_a_persona_is_compared_over_the_others() -> None:
    rows = {quant: answers(quant, 1, 12, 0) for quant in ("F16", "Q8_0", "Q4_0")}
    # F16 misses a persona that sends no email with Q4_0
    rows["F16"] = [
        replace(row, prediction="neutral" if row.persona == "humor" else row.persona)
        for row in rows["F16"]
    ]
    rows["Q4_0"] = [row for row in rows["Q4_0"] if row.persona != "humor"]
    study = score_quants([record(q, part) for q, part in rows.items()], PERSONAS, resamples=100)
    better, same = (differences(study)[quant] for quant in ("Q8_0", "Q4_0"))
    assert (better.change.value, same.change.value) == (0.25, 0)
    assert "personas" not in better.as_json()
    assert same.as_json()["personas"] == PERSONAS[1:]
    # the same over three personas is not the same
    assert (same.equivalent, same.non_inferior) == (None, None)
    assert study.recommendation.startswith("Take Q8_0")
    [note] = persona_notes(study)
    assert note.startswith(f"* Q4_0 (merged), chat: minus F16 over {', '.join(PERSONAS[1:])};")
    defs = json.loads(SCHEMA.read_text("utf-8"))["$defs"]
    entry = json.loads(json.dumps(same.as_json()))
    jsonschema.validate(entry, {"$ref": "#/$defs/difference", "$defs": defs})
    panels: QuantPanels[Any] = QuantPanels(study, "macro-F1", {})
    columns = {row["quant"]: row["personas"] for row in quant_difference.records(panels)}
    assert columns == {"Q8_0": "all", "Q4_0": ", ".join(PERSONAS[1:])}
    others = [[row for row in part if row.persona != "humor"] for part in rows.values()]
    by_hand = score_quants(list(map(record, rows, others)), PERSONAS[1:], resamples=100)
    assert same.change == differences(by_hand)["Q4_0"].change


def test_a_persona_that_neither_type_has_a_text_of_is_named_and_decides_nothing() -> None:
    rows = {quant: answers(quant, 1, 60, 0) for quant in ("F16", "Q4_0")}
    records = [record(q, [r for r in part if r.persona != "humor"]) for q, part in rows.items()]
    study = score_quants(records, PERSONAS, 0.1, resamples=100)
    [difference] = differences(study).values()
    assert difference.as_json()["personas"] == PERSONAS[1:]
    assert difference.equivalent is difference.non_inferior is True
    apart = [
        record(quant, [row for row in part if (row.persona == "humor") == (quant == "F16")])
        for quant, part in rows.items()
    ]
    assert differences(score_quants(apart, PERSONAS, resamples=100)) == {}


def test_one_persona_is_measured_by_its_detection_rate() -> None:
    records = [
        record(quant, [row for row in answers(quant, 0.9, 40, 0) if row.persona == "humor"])
        for quant in ("F16", "Q4_0")
    ]
    document = score_quants(records, ["humor"], resamples=100).as_json()
    assert [list(entry["difference"] or {}) for entry in document["quants"]] == [
        [],
        ["detection_rate"],
    ]


def test_the_document_has_the_promised_fields_and_is_json(valid_json: ValidJson) -> None:
    document = ladder([0, 0.05, 0.2, 0.3, 0.4, 0.6], items=20).as_json()
    document = json.loads(json.dumps(document, allow_nan=False))
    more = {"instrument": "ensemble", "study": "s.sqlite", "report": None}
    valid_json({**document, **more}, "quant-study")
    first, last = document["quants"][0], document["quants"][-1]
    assert first["quant"] == "F16"
    assert first["difference"] is None
    difference = last["difference"]["macro_f1"]
    assert set(difference) == {"estimate", "ci", "equivalent", "p", "p_holm", "power"}
    assert difference["power"]["n"] == 20
    assert set(difference["p_holm"]) == {"equivalent", "different"}
    assert last["cells"][0]["difference"] == last["difference"]
    assert last["cells"][0]["macro_f1"] < first["cells"][0]["macro_f1"]
    assert (last["bits_per_weight"], last["tensor_types"]) == (4.5, {"Q4_0": 9, "F32": 1})
    assert last["kl_mean"] == last["fidelity"]["held-out"]["kl_mean"]["estimate"]
    wanted = ("lora", "bytes", "tokens_per_second", "perplexity", "kl_median", "kl_p99", "top1")
    assert all(name in last for name in (*wanted, "peak_bytes", "health"))


def test_a_study_without_f16_is_refused_in_one_line() -> None:
    with pytest.raises(BadInput, match="--quant: F16 is missing"):
        studied({"Q8_0": 0.9, "Q4_0": 0.8}, 5)
