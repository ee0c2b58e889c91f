from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.sampling import Sampler, Sampling


def frequencies(
    sampler: Sampler, logits: Any, mask: Any = None, seen: Any = None, n: int = 4000
) -> Any:
    counts = Counter(sampler.sample(logits, mask, seen) for _ in range(n))
    return np.array([counts[token] / n for token in range(len(logits))])


def test_tokens_are_drawn_at_the_temperature() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    expected = np.array([0.5, 0.3, 0.2]) ** (1 / 0.7)
    drawn = frequencies(Sampler(1, Sampling(0.7, 1.0)), logits)
    assert drawn == pytest.approx(expected / expected.sum(), abs=0.03)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    drawn = frequencies(Sampler(1, Sampling(1.0, 0.75)), logits)
    assert drawn == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)


def test_a_flat_distribution_that_the_nucleus_nearly_fills_is_sampled_whole() -> None:
    # one token holds a third of the weight, 20,000 others share the rest in tiny pieces
    logits = np.full(20_001, np.log(1e-4), dtype=np.float32)
    logits[7] = 0
    drawn = [Sampler(seed, Sampling(1.0, 0.95)).sample(logits) for seed in range(400)]
    assert 100 < drawn.count(7) < 180
    assert len(set(drawn)) > 200


def test_temperature_zero_takes_the_likeliest() -> None:
    assert Sampler(1, Sampling(0.0, 0.95)).sample(np.array([0.1, 2.0, 1.0], dtype=np.float32)) == 1


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits = np.random.default_rng(0).normal(size=500).astype(np.float32)
    one, two = Sampler(7, Sampling(0.7, 0.95)), Sampler(7, Sampling(0.7, 0.95))
    assert [one.sample(logits) for _ in range(20)] == [two.sample(logits) for _ in range(20)]


def test_a_mask_renormalises_the_models_distribution_before_the_nucleus() -> None:
    logits = np.log(np.array([0.6, 0.3, 0.08, 0.02], dtype=np.float32))
    mask = np.array([False, True, True, True])
    sampler = Sampler(1, Sampling(1.0, 0.9))
    # 3/4, 1/5 and 1/20 of what is admitted; the nucleus of 0.9 leaves the last one out
    drawn = frequencies(sampler, logits, mask)
    assert drawn == pytest.approx([0, 0.3 / 0.38, 0.08 / 0.38, 0], abs=0.03)


def test_a_token_outside_the_free_nucleus_is_reachable_when_the_grammar_demands_it() -> None:
    logits = np.log(np.array([0.98, 0.01, 0.01], dtype=np.float32))
    assert Sampler(1, Sampling(1.0, 0.5)).sample(logits, np.array([False, False, True])) == 2


def test_a_mask_that_admits_nothing_is_bad_input() -> None:
    with pytest.raises(BadInput):
        Sampler(1, Sampling(0.7, 0.95)).sample(np.zeros(3, np.float32), np.zeros(3, np.bool_))


def test_logits_that_are_no_numbers_are_bad_input() -> None:
    with pytest.raises(BadInput, match="not numbers"):
        Sampler(1, Sampling(0.7, 0.95)).sample(np.array([np.nan, 1.0], dtype=np.float32))


def expected_distribution(logits: Any, seen: Any, sampling: Sampling) -> Any:
    """The distribution by transformers' processors, in the order of vLLM's sampler."""
    torch = pytest.importorskip("torch")
    from transformers import generation

    scores = torch.tensor(logits)[None]
    prompt = torch.tensor(np.flatnonzero(seen))[None]
    penalty = generation.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
    steps = [penalty, generation.TemperatureLogitsWarper(sampling.temperature)]
    steps += [generation.MinPLogitsWarper(sampling.min_p)] if sampling.min_p else []
    steps += [generation.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    steps += [generation.TopPLogitsWarper(sampling.top_p)]
    for step in steps:
        scores = step(prompt, scores)
    return scores.softmax(-1)[0].numpy()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(0.7, 0.95, repetition_penalty=1.1),
        Sampling(0.7, 0.95, repetition_penalty=1.8),
        Sampling(1.0, 1.0, min_p=0.2),
        Sampling(1.0, 1.0, top_k=3),
        Sampling(1.3, 0.8, top_k=6, min_p=0.05, repetition_penalty=1.4),
        Sampling(0.7, 0.6, top_k=4, repetition_penalty=0.8),
        Sampling(2.5, 0.7, top_k=9, min_p=0.3),
    ],
)
def test_every_option_cuts_and_weighs_as_vllm_and_transformers_do(sampling: Sampling) -> None:
    random = np.random.default_rng(5)
    for seed in range(4):
        logits = (2 * random.normal(size=12)).astype(np.float32)
        seen = random.random(12) < 0.4
        expected = expected_distribution(logits, seen, sampling)
        drawn = frequencies(Sampler(seed, sampling), logits, seen=seen)
        assert not drawn[expected == 0].any()
        assert drawn == pytest.approx(expected, abs=0.03)


def test_the_penalty_counts_for_the_likeliest_token_too() -> None:
    logits = np.array([2.0, 1.9, -1.0], dtype=np.float32)
    seen = np.array([True, False, True])
    assert Sampler(0, Sampling(0, 1, repetition_penalty=1.1)).sample(logits, None, seen) == 1
