"""The llama.cpp engine: one model, one context, many rollouts at once.

A rollout is a Python generator that yields `Request`s and is sent `Completion`s; it knows
nothing of batching. The engine keeps one KV sequence per running rollout, decodes all of them
in one batch, prefills new prompts in the same batches, and keeps what a sequence holds: a
rollout's KV from turn to turn, and the prompt prefix that it shares with the rollout before it.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np

from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.grammar import GrammarState
from charprobe_lite.runtime.native_log import native_log
from charprobe_lite.runtime.sampling import Sampler

BATCH = 1024  # most tokens of one llama_decode: long prompts are cut, decoding goes on meanwhile
FINISH_STOP, FINISH_LENGTH, FINISH_CONTEXT = "stop", "length", "context"


@dataclass(frozen=True)
class Request:
    """What a rollout asks for: continue ``prompt`` (rendered text) under an optional grammar."""

    prompt: str
    max_tokens: int
    grammar: str | None = None


@dataclass(frozen=True)
class Completion:
    """The engine's reply.

    ``finish`` is "stop" (end token), "length" (``max_tokens`` reached) or "context" (the prompt
    or the reply does not fit the sequence's context). ``evaluated_tokens`` is the part of the
    prompt that was not already in the KV cache. ``seconds`` is wall time, shared with whatever
    else was in the batch.
    """

    text: str
    finish: str
    prompt_tokens: int
    evaluated_tokens: int
    tokens: int
    seconds: float


Rollout = Generator[Request, Completion, Any]


@dataclass(frozen=True)
class Job:
    """A rollout to run: an opaque key that comes back with the result, a seed, the generator."""

    key: Any
    seed: int
    rollout: Rollout


@dataclass
class _Slot:
    """One KV sequence and the rollout that runs in it."""

    sequence: int
    cached: list[int] = field(default_factory=list)
    job: Job | None = None
    sampler: Sampler | None = None
    grammar: GrammarState | None = None
    request: Request | None = None
    pending: list[int] = field(default_factory=list)
    generated: list[int] = field(default_factory=list)
    text: bytearray = field(default_factory=bytearray)
    prompt_tokens: int = 0
    evaluated_tokens: int = 0
    started: float = 0.0
    logits_row: int = -1


class Engine:
    """A GGUF model in llama.cpp with ``parallel`` sequences and switchable LoRA adapters.

    ``context`` is the number of tokens that one rollout may use; ``threads`` defaults to the
    physical cores; ``gpu_layers`` is the number of layers on the GPU (-1 = all, 0 = none).
    Raises BadInput when the file is no GGUF model that llama.cpp can load.
    """

    def __init__(
        self,
        model: Path,
        *,
        parallel: int = 8,
        context: int = 2560,
        threads: int | None = None,
        gpu_layers: int = 0,
        temperature: float = 0.7,
        top_p: float = 0.95,
    ) -> None:
        self.path = model
        self.temperature, self.top_p = temperature, top_p
        self.context = context
        self._model = _load_model(model, gpu_layers)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocabulary_size: int = llama.llama_vocab_n_tokens(self._vocab)
        self._context = _make_context(self._model, model, parallel, context, threads)
        self._memory = llama.llama_get_memory(self._context)
        self._slots = [_Slot(sequence) for sequence in range(parallel)]
        self._batch = llama.llama_batch_init(BATCH, 0, 1)
        self._adapters: dict[Path, Any] = {}
        self.adapter: Path | None = None

    def close(self) -> None:
        """Free the context, the adapters and the model; the engine cannot be used afterwards."""
        if self._model is None:
            return
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)
        self._model = self._context = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def chat_template(self) -> str:
        """The template in the GGUF file. Raises BadInput when there is none."""
        template = llama.llama_model_chat_template(self._model, None)
        if not template:
            raise BadInput(f"{self.path}: field tokenizer.chat_template: missing; use a chat model")
        return str(template.decode("utf-8", "replace"))

    def special_text(self, kind: str) -> str:
        """The text of the ``bos`` or ``eos`` token, or "" when the model has none."""
        token = getattr(llama, f"llama_vocab_{kind}")(self._vocab)
        return "" if token < 0 else self._piece(token).decode("utf-8", "replace")

    def use_adapter(self, path: Path | None) -> None:
        """Run with this GGUF LoRA on top of the base, or with none; clears the KV cache.

        Raises BadInput when the file is no LoRA of this model, and RuntimeError while rollouts
        are running.
        """
        if path == self.adapter:
            return
        if any(slot.job for slot in self._slots):
            raise RuntimeError("the adapter cannot change while rollouts are running")
        chosen = [] if path is None else [self._load_adapter(path)]
        handles = (llama.llama_adapter_lora_p_ctypes * max(1, len(chosen)))(*chosen)
        scales = (ctypes.c_float * max(1, len(chosen)))(*[1.0] * len(chosen))
        if llama.llama_set_adapters_lora(self._context, handles, len(chosen), scales) != 0:
            raise BadInput(f"{path}: llama.cpp does not apply this adapter")
        self.adapter = path
        self.forget()

    def forget(self) -> None:
        """Empty the KV cache; only between rollouts."""
        llama.llama_memory_clear(self._memory, True)
        for slot in self._slots:
            slot.cached = []

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a rendered prompt; special tokens in the text are recognised."""
        data = text.encode("utf-8", "replace")
        add_bos = bool(llama.llama_vocab_get_add_bos(self._vocab))
        bos = self.special_text("bos") if add_bos else ""
        if bos and text.startswith(bos):
            add_bos = False
        room = len(data) + 8
        tokens = (llama.llama_token * room)()
        count = llama.llama_tokenize(self._vocab, data, len(data), tokens, room, add_bos, True)
        if count < 0:
            raise RuntimeError("llama.cpp could not tokenise the prompt")
        return list(tokens[:count])

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Run rollouts, at most ``parallel`` at once; yields (job, its return value) as they end.

        Jobs are drawn from the iterable as slots become free. Leaving the loop early drops the
        rollouts that are still running.
        """
        waiting = iter(jobs)
        try:
            while True:
                for slot in self._slots:
                    while slot.job is None and (job := next(waiting, None)) is not None:
                        yield from self._begin(slot, job)
                if not any(slot.job for slot in self._slots):
                    return
                self._decode()
                for slot in self._slots:
                    if slot.logits_row >= 0:
                        yield from self._advance(slot)
        finally:
            for slot in self._slots:
                if slot.job is not None:
                    slot.job.rollout.close()
                    slot.job = None
                    slot.pending, slot.logits_row = [], -1

    def _begin(self, slot: _Slot, job: Job) -> Iterator[tuple[Job, Any]]:
        slot.job = job
        slot.sampler = Sampler(job.seed, self.temperature, self.top_p)
        if len(self._slots) == 1:
            # logits depend, in their last bits, on how much of the prompt was cached: with one
            # sequence every rollout starts cold, so that its text depends on its seed alone
            self.forget()
        yield from self._resume(slot, None)

    def _resume(self, slot: _Slot, completion: Completion | None) -> Iterator[tuple[Job, Any]]:
        """Hand the completion to the rollout and take its next request, or its result."""
        job = slot.job
        assert job is not None
        while True:
            try:
                request = next(job.rollout) if completion is None else job.rollout.send(completion)
            except StopIteration as stop:
                slot.job = slot.request = slot.grammar = None
                yield job, stop.value
                return
            tokens = self.tokenize(request.prompt)
            if tokens and len(tokens) + 1 < self.context:
                self._admit(slot, request, tokens)
                return
            completion = Completion("", FINISH_CONTEXT, len(tokens), 0, 0, 0.0)

    def _admit(self, slot: _Slot, request: Request, tokens: list[int]) -> None:
        """Reuse what the KV cache holds of the prompt and queue the rest."""
        slot.request = request
        slot.grammar = None
        if request.grammar is not None:
            slot.grammar = GrammarState(self._vocab, request.grammar, self.vocabulary_size)
        keep = self._reuse_prefix(slot, tokens)
        slot.pending = tokens[keep:]
        slot.cached = tokens[:keep]
        slot.generated, slot.text = [], bytearray()
        slot.prompt_tokens, slot.evaluated_tokens = len(tokens), len(tokens) - keep
        slot.started = time.perf_counter()

    def _reuse_prefix(self, slot: _Slot, tokens: list[int]) -> int:
        """Leave the longest known prefix of ``tokens`` in the slot; returns its length."""
        # at least one token must be evaluated to get logits
        keep = min(_common(slot.cached, tokens), len(tokens) - 1)
        if not llama.llama_memory_seq_rm(self._memory, slot.sequence, keep, -1):
            # recurrent and sliding-window caches cannot always be cut: compute it anew
            llama.llama_memory_seq_rm(self._memory, slot.sequence, -1, -1)
            keep = 0
        return keep

    def _decode(self) -> None:
        """One llama_decode over every running sequence: its next token, or a piece of prompt."""
        batch, count = self._batch, 0
        running = [slot for slot in self._slots if slot.job is not None]
        running.sort(key=lambda slot: len(slot.pending))  # decoding first, then short prompts
        taken: list[tuple[_Slot, int]] = []
        for slot in running:
            slot.logits_row = -1
            size = min(len(slot.pending), BATCH - count)
            for offset in range(size):
                batch.token[count] = slot.pending[offset]
                batch.pos[count] = len(slot.cached) + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = slot.sequence
                batch.logits[count] = offset == len(slot.pending) - 1
                count += 1
            if size and size == len(slot.pending):
                slot.logits_row = count - 1
            taken.append((slot, size))
        batch.n_tokens = count
        if llama.llama_decode(self._context, batch) != 0:
            raise RuntimeError(f"llama_decode failed: {native_log.last_line()}")
        for slot, size in taken:
            slot.cached += slot.pending[:size]
            slot.pending = slot.pending[size:]

    def _advance(self, slot: _Slot) -> Iterator[tuple[Job, Any]]:
        """Sample the slot's next token, and end its turn when the turn is over."""
        request, sampler = slot.request, slot.sampler
        assert request is not None
        assert sampler is not None
        pointer = llama.llama_get_logits_ith(self._context, slot.logits_row)
        slot.logits_row = -1
        logits = np.ctypeslib.as_array(pointer, (self.vocabulary_size,))
        token = sampler.sample(logits, slot.grammar)
        if llama.llama_vocab_is_eog(self._vocab, token):
            yield from self._end_turn(slot, FINISH_STOP)
            return
        slot.generated.append(token)
        slot.text += self._piece(token)
        if len(slot.generated) >= request.max_tokens:
            yield from self._end_turn(slot, FINISH_LENGTH)
        elif len(slot.cached) + 1 >= self.context:
            yield from self._end_turn(slot, FINISH_CONTEXT)
        else:
            slot.pending = [token]

    def _end_turn(self, slot: _Slot, finish: str) -> Iterator[tuple[Job, Any]]:
        completion = Completion(
            text=codecs.decode(bytes(slot.text), "utf-8", "replace"),
            finish=finish,
            prompt_tokens=slot.prompt_tokens,
            evaluated_tokens=slot.evaluated_tokens,
            tokens=len(slot.generated),
            seconds=time.perf_counter() - slot.started,
        )
        yield from self._resume(slot, completion)

    def _piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, True)
            if size >= 0:
                return buffer.raw[:size]
            room = -size

    def _load_adapter(self, path: Path) -> Any:
        if path not in self._adapters:
            if not path.is_file():
                raise BadInput(f"{path}: no such adapter file")
            native_log.clear()
            adapter = llama.llama_adapter_lora_init(self._model, os.fsencode(path))
            if not adapter:
                raise BadInput(
                    f"{path}: not a LoRA adapter of {self.path.name}: {native_log.last_line()}"
                )
            self._adapters[path] = adapter
        return self._adapters[path]


def _load_model(path: Path, gpu_layers: int) -> Any:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); name a GGUF file") from None
    if magic != b"GGUF":
        raise BadInput(f"{path}: not a GGUF file (it begins with {magic!r}); name a GGUF model")
    native_log.capture()
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise BadInput(f"{path}: llama.cpp cannot load this model: {native_log.last_line()}")
    return model


def _make_context(model: Any, path: Path, parallel: int, context: int, threads: int | None) -> Any:
    params = llama.llama_context_default_params()
    params.n_ctx = parallel * context
    params.n_batch = BATCH
    params.n_ubatch = 512
    params.n_seq_max = parallel
    # a cache of its own per sequence: in a unified one every token attends to all sequences'
    # cells, masked, which cost a quarter of the rollouts per minute with 8 sequences
    params.kv_unified = False
    params.n_threads = params.n_threads_batch = threads or physical_cores()
    handle = llama.llama_init_from_model(model, params)
    if not handle:
        raise BadInput(
            f"{path}: no context of {parallel} x {context} tokens: {native_log.last_line()}; "
            "lower --parallel"
        )
    return handle


def physical_cores() -> int:
    """Physical cores that this process may use, at least one."""
    from joblib.externals.loky import cpu_count

    return int(cpu_count(only_physical_cores=True))


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
