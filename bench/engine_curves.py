"""The engine's throughput against the number of sequences and against the shared prefix."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rollouts import chat_jobs, note

from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.runtime.backend import Job, Message, Request, Rollout
from charprobe_lite.runtime.engine import Engine


def ask(messages: tuple[Message, ...], max_tokens: int) -> Rollout:
    completion = yield Request(messages, max_tokens)
    return completion


def sequences_curve(model: Path, counts: list[int]) -> list[float]:
    """Chat tokens per second with each number of sequences, two prompts per sequence."""
    speeds = []
    for parallel in counts:
        with Engine(model, parallel=parallel, context=1024) as engine:
            jobs = chat_jobs(min(60, max(8, 2 * parallel)), 0)
            start = time.perf_counter()
            results = [result for _, result in engine.run(jobs)]
            seconds = time.perf_counter() - start
        speeds.append(sum(r.turns[0].completion.tokens for r in results) / seconds)
        note(f"{model.name}: {parallel} sequences, {speeds[-1]:.0f} tokens/s")
    return speeds


def prefix_curve(model: Path, lengths: list[int]) -> list[float]:
    """Requests per minute: 16 prompts of 1,024 tokens, 16 to answer, by what they share."""
    words = "pump valve ledger clinic window garden letter engine basket silver " * 400
    speeds = []
    with Engine(model, parallel=8, context=1536) as engine:
        tokens = engine.model.tokenize(words)
        pieces = [engine.model.piece(token).decode() for token in tokens]
        for length in lengths:
            engine.clear()
            jobs = []
            for number in range(16):
                rest = pieces[1 + number : 1 + number + 1024 - length]
                text = "".join(pieces[:length]) + f" {number * 7919}" + "".join(rest)
                messages = ({"role": "user", "content": text},)
                jobs.append(Job(number, number, ask(messages, 16)))
            start = time.perf_counter()
            list(engine.run(jobs))
            speeds.append(60 * len(jobs) / (time.perf_counter() - start))
            note(f"{model.name}: {length} shared, {speeds[-1]:.0f} requests per minute")
    return speeds


def draw(path: Path, quants: list[str]) -> dict[str, Any]:
    """Both curves per quant type, as a figure; returns the numbers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts, lengths = [1, 2, 4, 8, 16, 32], [0, 256, 512, 768, 960]
    models = {quant: kit_base(quant) for quant in quants}
    by_sequences = {q: sequences_curve(model, counts) for q, model in models.items()}
    by_prefix = {q: prefix_curve(model, lengths) for q, model in models.items()}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for (quant, speeds), marker in zip(by_sequences.items(), "osD^v*", strict=False):
        left.plot(counts, speeds, marker=marker, label=quant)
        right.plot(lengths, by_prefix[quant], marker=marker, label=quant)
    left.set(xscale="log", xticks=counts, xlabel="sequences", ylabel="chat tokens per second")
    left.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    left.minorticks_off()
    right.set(xlabel="shared prefix, tokens of 1,024", ylabel="requests per minute")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    left.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return {"sequences": counts, **by_sequences, "prefix": lengths, "by_prefix": by_prefix}
