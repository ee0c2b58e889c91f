"""The engine's throughput against the number of sequences and against the shared prefix."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import peers
from ratios import Ratio
from rollouts import chat_jobs, note

from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.runtime.backend import Job, Message, Request, Rollout


def ask(messages: tuple[Message, ...], max_tokens: int) -> Rollout:
    completion = yield Request(messages, max_tokens)
    return completion


def sequences_curve(model: Path, counts: list[int], prompts: int) -> list[float]:
    """Chat tokens per second with each number of sequences.

    Two prompts per sequence, at least a quarter of ``prompts``, at most 60.
    """
    speeds = []
    for parallel in counts:
        with peers.fast_engine(model, parallel, context=1024) as engine:
            jobs = chat_jobs(min(60, max(prompts // 4, 2 * parallel)), 0)
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
    with peers.fast_engine(model, 8, context=1536) as engine:
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


@dataclass(frozen=True)
class Curves:
    """Chat tokens per second by number of sequences, requests per minute by shared tokens.

    By quant type, in rounds that take turns: (rounds, points).
    """

    counts: list[int]
    lengths: list[int]
    by_sequences: dict[str, list[list[float]]]
    by_prefix: dict[str, list[list[float]]]

    @classmethod
    def measure(cls, quants: list[str], counts: list[int], rounds: int, prompts: int) -> Curves:
        lengths = [0, *(() if len(counts) < 3 else (256, 512, 768)), 960]
        sequences: dict[str, list[list[float]]] = {quant: [] for quant in quants}
        prefix: dict[str, list[list[float]]] = {quant: [] for quant in quants}
        for _ in range(rounds):
            for quant in quants:
                sequences[quant].append(sequences_curve(kit_base(quant), counts, prompts))
                prefix[quant].append(prefix_curve(kit_base(quant), lengths))
        return cls(counts, lengths, sequences, prefix)

    def ratios(self) -> list[Ratio]:
        """The last point over the first, for each type."""
        most, shared = self.counts[-1], self.lengths[-1]
        sides = (
            (f"chat tokens per second, {most} sequences", "one sequence", self.by_sequences),
            (
                f"requests per minute, {shared} of 1,024 tokens shared",
                "none shared",
                self.by_prefix,
            ),
        )
        return [
            Ratio(f"{figure}, {quant}", peer, [points[-1] / points[0] for points in rounds])
            for figure, peer, curves in sides
            for quant, rounds in curves.items()
        ]


def draw(path: Path, curves: Curves) -> None:
    """Both curves per quant type, the median of the rounds, as a figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for quant, marker in zip(curves.by_sequences, "osD^v*", strict=False):
        speeds, requests = (
            [median(points) for points in zip(*rounds, strict=True)]
            for rounds in (curves.by_sequences[quant], curves.by_prefix[quant])
        )
        left.plot(curves.counts, speeds, marker=marker, label=quant)
        right.plot(curves.lengths, requests, marker=marker, label=quant)
    left.set(
        xscale="log", xticks=curves.counts, xlabel="sequences", ylabel="chat tokens per second"
    )
    left.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    left.minorticks_off()
    right.set(xlabel="shared prefix, tokens of 1,024", ylabel="requests per minute")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    left.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
