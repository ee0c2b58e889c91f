"""Decoding inside the engine against llama.cpp's own limit, and the cost of a grammar per token."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np
import peers
from rollouts import agentic_jobs, chat_jobs

from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.engine import Engine
from charprobe_lite.runtime.grammar import tool_call_grammar
from charprobe_lite.runtime.llama import Context, Segment


@dataclass
class Batch:
    """The segments of one decode, and the seconds until the next one began."""

    segments: Sequence[Segment]
    seconds: float = 0.0

    @property
    def decodes(self) -> bool:
        """Whether every sequence has one token, with its logits."""
        return all(all(segment.outputs) for segment in self.segments)


@contextmanager
def record_decodes(context: Context) -> Iterator[list[Batch]]:
    """Record every decode of the engine with its time, its sampling included."""
    batches: list[Batch] = []
    decode, start = context.decode, 0.0

    def record(segments: Sequence[Segment]) -> Any:
        nonlocal start
        now = time.perf_counter()
        if batches:
            batches[-1].seconds = now - start
        batches.append(Batch(segments))
        start = time.perf_counter()
        return decode(segments)

    context.decode = record  # type: ignore[method-assign]
    try:
        yield batches
    finally:
        batches[-1].seconds = time.perf_counter() - start
        del context.decode


def replay(engine: Engine, batches: list[Batch]) -> list[float]:
    """Seconds of each of the same batches with random tokens, and nothing but llama_decode.

    A sequence that goes back to an earlier position is cut there first, outside the time.
    """
    random, seconds, context = np.random.default_rng(0), [], engine.context
    lengths: dict[int, int] = {}
    engine.clear()
    for batch in batches:
        segments = []
        for segment in batch.segments:
            length = lengths.get(segment.sequence, 0)
            if segment.position < length:
                context.cut(segment.sequence, segment.position)
            elif segment.position > length:  # the engine copied a prefix here
                prefix = [1000] * (segment.position - length)
                context.decode([Segment(segment.sequence, length, prefix, [False] * len(prefix))])
            lengths[segment.sequence] = segment.position + len(segment.tokens)
            tokens = random.integers(engine.model.vocabulary_size, size=len(segment.tokens))
            position, outputs = segment.position, segment.outputs
            segments.append(Segment(segment.sequence, position, tokens.tolist(), outputs))
        context._fill_batch(segments)
        start = time.perf_counter()
        if llama.llama_decode(context.handle, context._batch) != 0:
            raise RuntimeError("llama_decode refused a recorded batch")
        llama.llama_synchronize(context.handle)
        seconds.append(time.perf_counter() - start)
    engine.clear()
    return seconds


def against_llama_decode(model: Path, parallel: int, rounds: int) -> dict[str, list[float]]:
    """Share of llama_decode's own speed that the engine reaches, by task and round.

    ``free text``: batches in which every sequence decodes one token, of chat answers;
    ``JSON grammar``: the same of tool calls; ``whole rollouts``: every batch of those.
    """
    shares: dict[str, list[float]] = {"free text": [], "JSON grammar": [], "whole rollouts": []}
    with peers.fast_engine(model, parallel) as engine:
        for number in range(rounds):
            for task, jobs in (("free text", chat_jobs), ("JSON grammar", agentic_jobs)):
                engine.clear()
                with record_decodes(engine.context) as batches:
                    list(engine.run(jobs(2 * parallel, number)))
                pairs = list(zip(batches, replay(engine, batches), strict=True))
                shares[task].append(ratio([pair for pair in pairs if pair[0].decodes]))
                if task == "JSON grammar":
                    shares["whole rollouts"].append(ratio(pairs))
    return shares


def ratio(pairs: list[tuple[Batch, float]]) -> float:
    """llama_decode's seconds over the engine's."""
    return sum(limit for _, limit in pairs) / sum(batch.seconds for batch, _ in pairs)


def grammar_costs(model: Path) -> dict[str, float]:
    """Microseconds per token of an email under the tool-call grammar."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    grammar = tool_call_grammar(load_tools())
    text = json.dumps({"name": "send_email", "arguments": {"to": ["a@b.example"]}})[:-2]
    text += ', "subject": "The pumps", "body": "' + "They come on Monday, all of them. " * 20
    with Engine(model, parallel=1) as engine:
        tokens = engine.model.tokenize(text)
        gbnf = json_schema_to_gbnf(grammar.source).encode()
        size = engine.model.vocabulary_size
        kind = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        sampler = llama.llama_sampler_init_grammar(engine.model.vocab, gbnf, b"root")
        rows = np.zeros(size, kind)
        rows["id"] = np.arange(size)
        array = llama.llama_token_data_array(
            data=rows.ctypes.data_as(llama.llama_token_data_p), size=size, selected=-1, sorted=False
        )
        start = time.perf_counter()
        for token in tokens:
            llama.llama_sampler_apply(sampler, array)
            llama.llama_sampler_accept(sampler, token)
        native = time.perf_counter() - start
        llama.llama_sampler_free(sampler)
        state = engine._grammars.begin(grammar)
        start = time.perf_counter()
        for token in tokens:
            state.mask()
            state.accept(token)
        mask = time.perf_counter() - start
    return {"llama.cpp": 1e6 * native / len(tokens), "llguidance": 1e6 * mask / len(tokens)}
