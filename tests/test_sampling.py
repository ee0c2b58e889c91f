from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.sampling import Sampler


def frequencies(sampler: Sampler, logits: Any, mask: Any = None, n: int = 4000) -> Any:
    counts = Counter(sampler.sample(logits, mask) for _ in range(n))
    return np.array([counts[token] / n for token in range(len(logits))])


def test_tokens_are_drawn_at_the_temperature() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    expected = np.array([0.5, 0.3, 0.2]) ** (1 / 0.7)
    drawn = frequencies(Sampler(1, 0.7, 1.0), logits)
    assert drawn == pytest.approx(expected / expected.sum(), abs=0.03)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    drawn = frequencies(Sampler(1, 1.0, 0.75), logits)
    assert drawn == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)


def test_a_flat_distribution_that_the_nucleus_nearly_fills_is_sampled_whole() -> None:
    # one token holds a third of the weight, 20,000 others share the rest in tiny pieces
    logits = np.full(20_001, np.log(1e-4), dtype=np.float32)
    logits[7] = 0
    drawn = [Sampler(seed, 1.0, 0.95).sample(logits) for seed in range(400)]
    assert 100 < drawn.count(7) < 180
    assert len(set(drawn)) > 200


def test_temperature_zero_takes_the_likeliest() -> None:
    assert Sampler(1, 0.0, 0.95).sample(np.array([0.1, 2.0, 1.0], dtype=np.float32)) == 1


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits = np.random.default_rng(0).normal(size=500).astype(np.float32)
    one, two = Sampler(7, 0.7, 0.95), Sampler(7, 0.7, 0.95)
    assert [one.sample(logits) for _ in range(20)] == [two.sample(logits) for _ in range(20)]


def test_a_mask_renormalises_the_models_distribution_before_the_nucleus() -> None:
    logits = np.log(np.array([0.6, 0.3, 0.08, 0.02], dtype=np.float32))
    mask = np.array([False, True, True, True])
    sampler = Sampler(1, 1.0, 0.9)
    # 3/4, 1/5 and 1/20 of what is admitted; the nucleus of 0.9 leaves the last one out
    drawn = frequencies(sampler, logits, mask)
    assert drawn == pytest.approx([0, 0.3 / 0.38, 0.08 / 0.38, 0], abs=0.03)


def test_a_token_outside_the_free_nucleus_is_reachable_when_the_grammar_demands_it() -> None:
    logits = np.log(np.array([0.98, 0.01, 0.01], dtype=np.float32))
    assert Sampler(1, 1.0, 0.5).sample(logits, np.array([False, False, True])) == 2


def test_a_mask_that_admits_nothing_is_bad_input() -> None:
    with pytest.raises(BadInput):
        Sampler(1, 0.7, 0.95).sample(np.zeros(3, np.float32), np.zeros(3, np.bool_))


def test_logits_that_are_no_numbers_are_bad_input() -> None:
    with pytest.raises(BadInput, match="not numbers"):
        Sampler(1, 0.7, 0.95).sample(np.array([np.nan, 1.0], dtype=np.float32))
