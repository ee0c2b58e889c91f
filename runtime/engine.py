"""The llama.cpp engine: one model, one context, many rollouts at once.

The engine keeps one KV sequence per running rollout, decodes all of them in one batch, and
prefills new prompts in the same batches. What a sequence holds is kept: a rollout's KV from turn
to turn, and the prompt prefix that it shares with the rollout before it. A prefix that several
sequences need is computed in one of them and copied to the others. Text that a grammar leaves no
choice about is appended without sampling.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np

from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.backend import (
    BackendOptions,
    Completion,
    Finish,
    Job,
    Request,
)
from charprobe_lite.runtime.grammar import Grammars, GrammarState
from charprobe_lite.runtime.llama import Model
from charprobe_lite.runtime.native_log import native_log
from charprobe_lite.runtime.sampling import Sampler

BATCH = 1024  # most tokens of one llama_decode: long prompts are cut, decoding goes on meanwhile
WORTH_COPYING = 64  # tokens; a copy moves the whole of a sequence's cache


@dataclass
class _Slot:
    """One KV sequence and the rollout that runs in it.

    ``cached`` are the tokens that the KV cache holds, ``pending`` those to evaluate next. While
    ``donor`` is set, the slot waits for ``shared`` tokens of its prompt to be in that slot.
    """

    sequence: int
    cached: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    donor: _Slot | None = None
    shared: int = 0
    job: Job | None = None
    sampler: Sampler | None = None
    grammar: GrammarState | None = None
    request: Request | None = None
    text: bytearray = field(default_factory=bytearray)
    prompt_tokens: int = 0
    evaluated_tokens: int = 0
    tokens: int = 0
    appended_tokens: int = 0
    started: float = 0.0
    logits_row: int = -1

    def release(self) -> None:
        """Forget the rollout; the KV cache stays for the next one."""
        self.job = self.request = self.grammar = self.sampler = self.donor = None
        self.pending, self.logits_row = [], -1


class Engine:
    """A GGUF model in llama.cpp with ``parallel`` sequences and switchable LoRA adapters.

    ``context`` is the number of tokens that one rollout may use; ``threads`` defaults to the
    physical cores; ``gpu_layers`` is the number of layers on the GPU (-1 = all, 0 = none).
    Raises BadInput when the file is no GGUF model that llama.cpp can load.
    """

    def __init__(
        self,
        path: Path,
        *,
        parallel: int = 8,
        context: int = 2560,
        threads: int | None = None,
        gpu_layers: int = 0,
        temperature: float = 0.7,
        top_p: float = 0.95,
    ) -> None:
        self.temperature, self.top_p = temperature, top_p
        self.context = context
        self.model = Model(path, gpu_layers)
        self._context = make_context(self.model, parallel, context, threads)
        self._memory = llama.llama_get_memory(self._context)
        self._slots = [_Slot(sequence) for sequence in range(parallel)]
        self._batch = llama.llama_batch_init(BATCH, 0, 1)
        self._grammars = Grammars(self.model.vocab, self.model.end_tokens)
        self.adapter: Path | None = None

    @classmethod
    def open(cls, path: Path, options: BackendOptions) -> Engine:
        """The engine as ``open_backend`` opens it."""
        return cls(
            path,
            parallel=options.parallel,
            context=options.context,
            threads=options.threads,
            gpu_layers=options.gpu_layers,
            temperature=options.temperature,
            top_p=options.top_p,
        )

    def close(self) -> None:
        """Free the context and the model; the engine cannot be used afterwards."""
        if self._context is None:
            return
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        self._context = None
        self.model.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def use_adapter(self, path: Path | None) -> None:
        """Run with this GGUF LoRA on top of the base, or with none; clears the KV cache.

        Raises BadInput when the file is no LoRA of this model, and RuntimeError while rollouts
        are running.
        """
        if path == self.adapter:
            return
        if any(slot.job for slot in self._slots):
            raise RuntimeError("the adapter cannot change while rollouts are running")
        self.model.apply_adapter(self._context, path)
        self.adapter = path
        self.forget()

    def forget(self) -> None:
        """Empty the KV cache; only between rollouts."""
        llama.llama_memory_clear(self._memory, True)
        for slot in self._slots:
            slot.cached = []

    def check(self, requests: Iterable[Request]) -> None:
        """Raises BadInput when the chat template or a grammar of ``requests`` cannot be used."""
        for request in requests:
            self.model.render(request.messages)
            if request.grammar:
                self._grammars.begin(request.grammar)

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Run rollouts, at most ``parallel`` at once; yields (job, its return value) as they end.

        Jobs are drawn from the iterable as slots become free. Leaving the loop early drops the
        rollouts that are still running. Raises BadInput when the model gives no numbers or a
        batch cannot be evaluated.
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
                    self._copy_prefix(slot)
                for slot in self._slots:
                    if slot.logits_row >= 0:
                        yield from self._advance(slot)
        finally:
            for slot in self._slots:
                if slot.job is not None:
                    slot.job.rollout.close()
                slot.release()

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
                slot.release()
                yield job, stop.value
                return
            tokens = self.model.tokenize(self.model.render(request.messages))
            slot.request = request
            slot.grammar = self._grammars.begin(request.grammar) if request.grammar else None
            forced = slot.grammar.take_forced() if slot.grammar else []
            if tokens and len(tokens) + len(forced) + 1 < self.context:
                self._admit(slot, tokens, forced)
                return
            completion = Completion("", "context", len(tokens), 0, 0, 0.0)

    def _admit(self, slot: _Slot, tokens: list[int], forced: list[int]) -> None:
        """Begin a turn: reuse what is known of its prompt and queue the rest."""
        slot.text, slot.tokens, slot.appended_tokens = bytearray(), 0, 0
        slot.started = time.perf_counter()
        self._reuse_prefix(slot, tokens)
        slot.prompt_tokens, slot.evaluated_tokens = len(tokens), len(slot.pending)
        self._append_forced(slot, forced)

    def _reuse_prefix(self, slot: _Slot, tokens: list[int]) -> None:
        """Keep the longest known prefix of the prompt, or wait for a longer one elsewhere."""
        known = min(_common(slot.cached, tokens), len(tokens) - 1)  # one must give the logits
        donor, shared = self._donor(slot, tokens)
        if donor and shared >= known + WORTH_COPYING:
            # what the slot holds will be replaced by the copy: nobody else may count on it
            slot.cached, slot.pending = [], tokens[shared:]
            slot.donor, slot.shared = donor, shared
            self._copy_prefix(slot)
            return
        self._cut(slot, known)
        slot.pending = tokens[len(slot.cached) :]

    def _donor(self, slot: _Slot, tokens: list[int]) -> tuple[_Slot | None, int]:
        """The other slot that has, or is computing, most of this prompt; and how much."""
        best, shared = None, 0
        for other in self._slots:
            if other is slot or other.donor:
                continue
            common = _common(tokens, other.cached)
            if common == len(other.cached):
                common += _common(tokens[common:], other.pending)
            if common > shared:
                best, shared = other, common
        return best, min(shared, len(tokens) - 1)

    def _copy_prefix(self, slot: _Slot) -> None:
        """Give a waiting slot its prefix as soon as its donor has computed it.

        Asked after every batch: a donor keeps its prompt at least until then. llama.cpp copies a
        sequence as a whole; what was not asked for is cut off again.
        """
        donor = slot.donor
        if donor is None or len(donor.cached) < slot.shared:
            return
        llama.llama_memory_seq_cp(self._memory, donor.sequence, slot.sequence, -1, -1)
        prefix = donor.cached[: slot.shared]
        slot.cached, slot.donor = list(donor.cached), None
        self._cut(slot, slot.shared)
        slot.pending = prefix[len(slot.cached) :] + slot.pending

    def _cut(self, slot: _Slot, length: int) -> None:
        """Keep the first ``length`` tokens of the slot's cache, or none where it cannot be cut."""
        if not llama.llama_memory_seq_rm(self._memory, slot.sequence, length, -1):
            # recurrent and sliding-window caches cannot always be cut: compute it anew
            llama.llama_memory_seq_rm(self._memory, slot.sequence, -1, -1)
            length = 0
        slot.cached = slot.cached[:length]

    def _decode(self) -> None:
        """One llama_decode over every running sequence: its next tokens, or a piece of prompt."""
        batch, count = self._batch, 0
        running = [slot for slot in self._slots if slot.job and not slot.donor]
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
            raise BadInput(
                f"{self.model.path}: llama.cpp cannot evaluate a batch: {native_log.last_line()}; "
                "lower --parallel or --context"
            )
        for slot, size in taken:
            slot.cached += slot.pending[:size]
            slot.pending = slot.pending[size:]

    def _advance(self, slot: _Slot) -> Iterator[tuple[Job, Any]]:
        """Sample the slot's next token, and end its turn when the turn is over."""
        assert slot.sampler is not None
        pointer = llama.llama_get_logits_ith(self._context, slot.logits_row)
        slot.logits_row = -1
        logits = np.ctypeslib.as_array(pointer, (self.model.vocabulary_size,))
        token = slot.sampler.sample(logits, slot.grammar.mask() if slot.grammar else None)
        if self.model.ends(token):
            yield from self._end_turn(slot, "stop")
            return
        self._append(slot, token)
        if slot.grammar:
            slot.grammar.accept(token)
            self._append_forced(slot, slot.grammar.take_forced())
        if finish := self._finish(slot):
            yield from self._end_turn(slot, finish)

    def _append(self, slot: _Slot, token: int) -> None:
        slot.pending.append(token)
        slot.text += self.model.piece(token)
        slot.tokens += 1

    def _append_forced(self, slot: _Slot, tokens: list[int]) -> None:
        """Append what the grammar leaves no choice about."""
        for token in tokens:
            self._append(slot, token)
        slot.appended_tokens += len(tokens)

    def _finish(self, slot: _Slot) -> Finish | None:
        """Why the turn ends here, or None when it goes on."""
        assert slot.request is not None
        if slot.grammar and slot.grammar.complete:
            return "stop"
        if slot.tokens >= slot.request.max_tokens:
            return "length"
        if slot.prompt_tokens + slot.tokens >= self.context:
            return "context"
        return None

    def _end_turn(self, slot: _Slot, finish: Finish) -> Iterator[tuple[Job, Any]]:
        slot.pending = []
        completion = Completion(
            text=codecs.decode(bytes(slot.text), "utf-8", "replace"),
            finish=finish,
            prompt_tokens=slot.prompt_tokens,
            evaluated_tokens=slot.evaluated_tokens,
            tokens=slot.tokens,
            seconds=time.perf_counter() - slot.started,
            appended_tokens=slot.appended_tokens,
        )
        yield from self._resume(slot, completion)


def make_context(model: Model, parallel: int, context: int, threads: int | None) -> Any:
    """A llama.cpp context of ``parallel`` sequences of ``context`` tokens, to be freed after use.

    K and V are kept as F16, and flash attention is llama.cpp's choice. Raises BadInput.
    """
    params = llama.llama_context_default_params()
    params.n_ctx = parallel * context
    params.n_batch = BATCH
    params.n_ubatch = 512
    params.n_seq_max = parallel
    # a cache of its own per sequence: in a unified one every token attends to all sequences'
    # cells, masked, which cost a quarter of the rollouts per minute with 8 sequences
    params.kv_unified = False
    params.n_threads = params.n_threads_batch = threads or physical_cores()
    handle = llama.llama_init_from_model(model.handle, params)
    if not handle:
        raise BadInput(
            f"{model.path}: no context of {parallel} x {context} tokens: "
            f"{native_log.last_line()}; lower --parallel"
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
