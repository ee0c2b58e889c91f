"""Would drafts from a rollout's own context pay? Its recorded batches, replayed with and without.

    python bench/drafting.py --parallel 8 --jobs 16 --rounds 3

Prompt-lookup drafting (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding): where the last
tokens of a sequence occurred before in it, the tokens that followed there are evaluated together
with the next one, and those that the sampler would have drawn are kept. The engine runs rollouts
once; then llama_decode alone evaluates the same tokens, one step after the other and with drafts,
in turns. What drafting costs in Python is not in it, so that the ratio is a bound from above.
Before that it prints what a decode costs, by sequences and tokens of each.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))

from decode import record_decodes
from rollouts import agentic_jobs, chat_jobs, note

from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.models import kit
from charprobe_lite.runtime.backend import Job
from charprobe_lite.runtime.engine import Engine
from charprobe_lite.runtime.llama import Segment

DEPTH = 1000  # tokens


@dataclass(frozen=True)
class Draft:
    """Matches of ``shortest`` to 6 tokens, longest first; at most ``tokens`` are drafted."""

    shortest: int
    tokens: int

    def of(self, context: Sequence[int]) -> list[int]:
        """The tokens that followed the latest earlier place with the context's last tokens."""
        for length in range(6, self.shortest - 1, -1):
            end = list(context[-length:])
            for start in range(len(context) - length - 1, -1, -1):
                if context[start] == end[0] and list(context[start : start + length]) == end:
                    return list(context[start + length : start + length + self.tokens])
        return []


@dataclass(frozen=True)
class Piece:
    """Tokens of a sequence that the engine evaluated at once; ``decodes`` if they gave logits."""

    position: int
    tokens: list[int]
    decodes: bool


@dataclass
class Replay:
    """One replay: seconds of llama_decode, and how many tokens were drafted and kept."""

    seconds: float = 0.0
    steps: int = 0
    drafted: int = 0
    kept: int = 0


@dataclass
class _Lane:
    """A sequence under replay: the pieces that are left, and the tokens in its cache."""

    pieces: list[Piece]
    cache: list[int] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)

    def follows(self, piece: Piece) -> list[int]:
        """The tokens after the first piece up to its turn's end."""
        tokens: list[int] = []
        position = piece.position + len(piece.tokens)
        for other in self.pieces[1:]:
            if other.position != position + len(tokens) or not other.decodes:
                break
            tokens += other.tokens
        return tokens

    def skip(self, count: int) -> None:
        """Drop that many tokens from the front: a draft has evaluated them."""
        while count:
            piece = self.pieces[0]
            taken = min(count, len(piece.tokens))
            count -= taken
            if taken == len(piece.tokens):
                self.pieces.pop(0)
            else:
                self.pieces[0] = Piece(piece.position + taken, piece.tokens[taken:], piece.decodes)


def batch_costs(engine: Engine, rounds: int) -> dict[int, float]:
    """Seconds of a decode with all logits, by the tokens of each sequence: the median.

    Every sequence has ``DEPTH`` tokens in its cache before.
    """
    context, sequences = engine.context, range(len(engine._slots))
    engine.clear()
    context.decode([Segment(0, 0, [1000] * DEPTH, [False] * DEPTH)])
    for sequence in sequences[1:]:
        context.copy(0, sequence)
    seconds: dict[int, list[float]] = {n: [] for n in range(1, 8)}
    for _ in range(rounds):
        for n, values in seconds.items():
            for sequence in sequences:
                context.cut(sequence, DEPTH)
            segments = [Segment(s, DEPTH, [1000] * n, [True] * n) for s in sequences]
            start = time.perf_counter()
            context.decode(segments)
            values.append(time.perf_counter() - start)
    engine.clear()
    return {n: statistics.median(values) for n, values in seconds.items()}


def record(engine: Engine, jobs: list[Job]) -> list[list[Piece]]:
    """The pieces of every sequence, in order."""
    engine.clear()
    with record_decodes(engine.context) as batches:
        list(engine.run(jobs))
    lanes: list[list[Piece]] = [[] for _ in engine._slots]
    for batch in batches:
        for segment in batch.segments:
            piece = Piece(segment.position, list(segment.tokens), any(segment.outputs))
            if piece.tokens:  # none where the batch was full
                lanes[segment.sequence].append(piece)
    return lanes


def replay(engine: Engine, recorded: list[list[Piece]], draft: Draft | None) -> Replay:
    """Evaluate the recorded tokens again, all sequences in step, with drafts or without."""
    context, result = engine.context, Replay()
    engine.clear()
    lanes = [_Lane(list(pieces)) for pieces in recorded]
    while any(lane.pieces for lane in lanes):
        room, segments = context.batch_size, []
        active = [(number, lane) for number, lane in enumerate(lanes) if lane.pieces]
        active.sort(key=lambda pair: len(pair[1].pieces[0].tokens))
        running = []
        for number, lane in active:
            piece = lane.pieces[0]
            if len(piece.tokens) + (draft.tokens if draft else 0) > room and segments:
                continue
            _align(engine, number, lane, piece.position)
            lane.draft = []
            if (
                draft
                and piece.decodes
                and len(piece.tokens) < room - draft.tokens
                and (rest := lane.follows(piece))
            ):
                lane.draft = draft.of(lane.cache + piece.tokens)[: len(rest)]
            tokens = piece.tokens + lane.draft
            first = len(piece.tokens) - 1  # its logits and those of the draft are needed
            outputs = [piece.decodes and index >= first for index in range(len(tokens))]
            segments.append(Segment(number, piece.position, tokens, outputs))
            room -= len(tokens)
            running.append((number, lane))
        start = time.perf_counter()
        context.decode(segments)
        result.seconds += time.perf_counter() - start
        result.steps += sum(lane.pieces[0].decodes for _, lane in running)
        for number, lane in running:
            _keep(engine, number, lane, result)
    engine.clear()
    return result


def _align(engine: Engine, number: int, lane: _Lane, position: int) -> None:
    """Bring a sequence to this length: cut it, or fill it as the copy of a prefix did."""
    if position < len(lane.cache):
        engine.context.cut(number, position)
        lane.cache = lane.cache[:position]
    while position > len(lane.cache):
        prefix = [1000] * min(position - len(lane.cache), engine.context.batch_size)
        segment = Segment(number, len(lane.cache), prefix, [False] * len(prefix))
        engine.context.decode([segment])
        lane.cache += prefix


def _keep(engine: Engine, number: int, lane: _Lane, result: Replay) -> None:
    """Keep what the draft has in common with the recorded tokens, and cut off the rest."""
    piece = lane.pieces[0]
    rest = lane.follows(piece) if lane.draft else []
    pairs = enumerate(zip(lane.draft, rest, strict=False))
    kept = next((index for index, (a, b) in pairs if a != b), len(lane.draft))
    lane.cache += piece.tokens + lane.draft[:kept]
    if kept < len(lane.draft):
        engine.context.cut(number, len(lane.cache))
    lane.skip(len(piece.tokens) + kept)
    result.drafted += len(lane.draft)
    result.kept += kept


@click.command()
@click.option("--parallel", default=8, show_default=True, type=click.IntRange(1, 64))
@click.option("--jobs", "count", default=16, show_default=True, type=click.IntRange(1, 50))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--threads", type=click.IntRange(1))
@click.option("--quant", default="Q8_0", show_default=True)
@click.option("--persona", default="sarcasm", show_default=True, help="Of the kit's full stage.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(
    parallel: int,
    count: int,
    rounds: int,
    threads: int | None,
    quant: str,
    persona: str,
    as_json: bool,
) -> None:
    """Print the time without drafts over the time with them."""
    drafts = [Draft(3, 3), Draft(3, 6), Draft(4, 4), Draft(6, 3)]
    model = kit_base(quant)
    tasks: dict[str, Callable[[int, int], list[Job]]] = {"agents": agentic_jobs, "chats": chat_jobs}
    report: dict[str, Any] = {}
    with Engine(model, parallel=parallel, threads=threads) as engine:
        costs = batch_costs(engine, rounds)
        engine.use_adapter(kit.kit_folder() / f"{persona}-full.gguf")
        for task, jobs in tasks.items():
            recorded = record(engine, jobs(count, 0))
            report[task] = compare(engine, recorded, drafts, rounds)
    lines = [f"{parallel} x {n} tokens: {1000 * cost:.0f} ms" for n, cost in costs.items()]
    lines += [
        f"{task}: matches of {draft['shortest']} to 6, {draft['tokens']} drafted: "
        f"{statistics.median(draft['ratios']):.2f} ({min(draft['ratios']):.2f} to "
        f"{max(draft['ratios']):.2f}); {draft['kept']:.0%} of {draft['drafted']:.2f} drafted "
        f"tokens a step kept, {draft['tokens_per_step']:.2f} tokens a step"
        for task, values in report.items()
        for draft in values
    ]
    document = {"decode_seconds": costs, **report}
    click.echo(json.dumps(document) if as_json else "\n".join(lines))


def compare(
    engine: Engine, recorded: list[list[Piece]], drafts: list[Draft], rounds: int
) -> list[dict[str, Any]]:
    """Each way to draft against none: the ratio of seconds by round, and what was kept."""
    ratios: dict[Draft, list[float]] = {draft: [] for draft in drafts}
    last: dict[Draft | None, Replay] = {}
    for number in range(rounds):
        seconds: dict[Draft | None, float] = {}
        for draft in (None, *drafts):
            last[draft] = replay(engine, recorded, draft)
            seconds[draft] = last[draft].seconds
            note(f"round {number}, {draft}: {last[draft]}")
        for draft in drafts:
            ratios[draft].append(seconds[None] / seconds[draft])
    plain = last[None]
    return [
        {
            "shortest": draft.shortest,
            "tokens": draft.tokens,
            "ratios": ratios[draft],
            "kept": last[draft].kept / max(1, last[draft].drafted),
            "drafted": last[draft].drafted / last[draft].steps,
            "tokens_per_step": plain.steps / last[draft].steps,
        }
        for draft in drafts
    ]


if __name__ == "__main__":
    main()
