"""The llama.cpp engine: one model, one context, many rollouts at once.

The engine keeps one KV sequence per running rollout, decodes all of them in one batch, and
prefills new prompts in the same batches. The cache of a sequence is kept: a rollout's from turn
to turn, and the prompt prefix that it shares with the rollout before it. A prefix that several
sequences need is computed in one of them and copied to the others. Text that a grammar leaves no
choice about is appended without sampling.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models import defaults
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import KV_DEFAULT
from charprobe_lite.runtime.backend import Completion, Finish, Job, Request
from charprobe_lite.runtime.grammar import Grammars, GrammarState
from charprobe_lite.runtime.llama import Context, FileVersion, Model, Segment, file_version
from charprobe_lite.runtime.sampling import Sampler, Sampling

log = logging.getLogger(__name__)
WORTH_COPYING = 64  # tokens; a copy moves all of a sequence's cache


@dataclass
class _Slot:
    """One KV sequence and the rollout that runs in it.

    ``cache`` are the tokens in the KV cache, ``queue`` those to evaluate next. While ``donor`` is
    set, the slot waits until that slot has computed the first ``prefix_length`` tokens of its
    prompt. ``logits``, (vocabulary,), predict the next token once the queue is evaluated. ``seen``
    (same) marks the tokens of prompt and reply where repetition is penalized.
    """

    sequence: int
    cache: list[int] = field(default_factory=list)
    queue: list[int] = field(default_factory=list)
    donor: _Slot | None = None
    prefix_length: int = 0
    job: Job | None = None
    sampler: Sampler | None = None
    grammar: GrammarState | None = None
    request: Request | None = None
    text: bytearray = field(default_factory=bytearray)
    prompt_tokens: int = 0
    evaluated_tokens: int = 0
    tokens: int = 0
    appended_tokens: int = 0
    start: float = 0.0
    logits: NDArray[np.float32] | None = None
    seen: NDArray[np.bool_] | None = None

    def release(self) -> None:
        """Forget the rollout; the KV cache stays for the next one."""
        self.job = self.request = self.grammar = self.sampler = self.donor = self.logits = None
        self.queue = []


class Engine(AbstractContextManager["Engine"]):
    """A GGUF model in llama.cpp that runs up to ``parallel`` rollouts at once.

    ``path`` is the GGUF file, the other arguments are those of ``BackendOptions``. A context
    manager, with a LoRA adapter that can be switched between rollouts. With one sequence, a
    rollout's text depends on its seed alone; with several, logits differ in their last bits with
    the batch. Raises BadInput when llama.cpp cannot load the file or has no room for the context.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        parallel: int = defaults.PARALLEL,
        context: int = defaults.CONTEXT,
        threads: int | None = None,
        gpu_layers: int = 0,
        kv_type: str = KV_DEFAULT,
        flash_attention: bool = False,
        temperature: float = defaults.TEMPERATURE,
        top_p: float = defaults.TOP_P,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        bos: str = "single",
    ) -> None:
        self.sampling = Sampling(temperature, top_p, top_k, min_p, repetition_penalty)
        self._double_bos = bos == "double"
        self.context_length = context
        self.model = Model(Path(path), gpu_layers)
        self.context = Context(
            self.model,
            length=context,
            sequences=parallel,
            threads=threads,
            kv_type=kv_type,
            flash_attention=flash_attention,
        )
        self._slots = [_Slot(sequence) for sequence in range(parallel)]
        self._grammars = Grammars(self.model.vocab, self.model.end_tokens)
        self._adapter: FileVersion | None = None
        self._said: set[str] = set()  # what was wrong with the template, once each

    def close(self) -> None:
        """Free the context and the model; the engine then refuses with RuntimeError."""
        self.context.close()
        self.model.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def takes_system(self) -> bool:
        """Whether the model's chat template writes system prompts."""
        self.context.require_open()
        return self.model.takes_system

    @property
    def adapter(self) -> Path | None:
        """The LoRA on top of the base."""
        return self._adapter and self._adapter[0]

    def use_adapter(self, path: Path | None) -> None:
        """Run with this GGUF LoRA on top of the base, or with none; clears the KV cache.

        Raises BadInput when the file is no LoRA of this model, and RuntimeError while rollouts
        are running.
        """
        self.context.require_open()
        file = file_version(path) if path else None
        if file == self._adapter:
            return
        if any(slot.job for slot in self._slots):
            raise RuntimeError("the adapter cannot change while rollouts are running")
        self.context.use_adapters([path] if path else [])
        self._adapter = file
        self.clear()

    def clear(self) -> None:
        """Empty the KV cache; only between rollouts."""
        self.context.clear()
        for slot in self._slots:
            slot.cache = []

    def check(self, requests: Iterable[Request]) -> None:
        """Raises BadInput when the chat template or a grammar of ``requests`` cannot be used."""
        self.context.require_open()
        for request in requests:
            self.model.render(request.messages)
            if request.grammar:
                self._grammars.begin(request.grammar)

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Run rollouts, at most ``parallel`` at once; yields (job, its return value) as they end.

        Jobs are drawn from the iterable as slots become free. Leaving the loop early drops the
        rollouts that are still running. Raises BadInput when the model's logits are not numbers
        or llama.cpp cannot evaluate a batch.
        """
        self.context.require_open()
        queue = iter(jobs)
        try:
            while True:
                for slot in self._slots:
                    while slot.job is None and (job := next(queue, None)) is not None:
                        yield from self._begin(slot, job)
                if not any(slot.job for slot in self._slots):
                    return
                self._decode()
                for slot in self._slots:
                    self._copy_prefix(slot)
                for slot in self._slots:
                    if slot.logits is not None:
                        yield from self._advance(slot, slot.logits)
        finally:
            for slot in self._slots:
                if slot.job is not None:
                    slot.job.rollout.close()
                slot.release()

    def _begin(self, slot: _Slot, job: Job) -> Iterator[tuple[Job, Any]]:
        slot.job = job
        slot.sampler = Sampler(job.seed, self.sampling)
        if len(self._slots) == 1:
            # logits depend, in their last bits, on how much of the prompt was cached: with one
            # sequence every rollout starts cold, so that its text depends on its seed alone
            self.clear()
        yield from self._resume(slot, job, None)

    def _resume(
        self, slot: _Slot, job: Job, completion: Completion | None
    ) -> Iterator[tuple[Job, Any]]:
        """Hand the completion to the rollout and take its next request, or its result."""
        while True:
            try:
                request = next(job.rollout) if completion is None else job.rollout.send(completion)
            except StopIteration as stop:
                slot.release()
                yield job, stop.value
                return
            try:
                text = self.model.render(request.messages)
            except BadInput as error:  # it passed for the first turn
                if str(error) not in self._said:
                    self._said.add(str(error))
                    log.warning("%s", error)
                completion = Completion("", "template", 0, 0, 0, 0.0)
                continue
            tokens = self.model.tokenize(text, double_bos=self._double_bos)
            slot.request = request
            if request.seed is not None:
                slot.sampler = Sampler(request.seed, self.sampling)
            slot.grammar = self._grammars.begin(request.grammar) if request.grammar else None
            forced_tokens = slot.grammar.take_forced() if slot.grammar else []
            if tokens and len(tokens) + len(forced_tokens) + 1 < self.context_length:
                self._begin_turn(slot, tokens, forced_tokens)
                return
            completion = Completion("", "context", len(tokens), 0, 0, 0.0)

    def _begin_turn(self, slot: _Slot, tokens: list[int], forced_tokens: list[int]) -> None:
        """Keep the prompt's longest prefix in the slot's cache, or wait for a longer one."""
        slot.text, slot.tokens, slot.appended_tokens = bytearray(), 0, 0
        slot.start = time.perf_counter()
        length = min(_common(slot.cache, tokens), len(tokens) - 1)  # one must give the logits
        donor, donor_length = self._donor(slot, tokens)
        if donor and donor_length >= length + WORTH_COPYING:
            # the copy will replace the slot's cache: no other slot may count on it
            slot.cache, slot.queue = [], tokens[donor_length:]
            slot.donor, slot.prefix_length = donor, donor_length
            self._copy_prefix(slot)
        else:
            self._cut(slot, length)
            slot.queue = tokens[len(slot.cache) :]
        slot.prompt_tokens, slot.evaluated_tokens = len(tokens), len(slot.queue)
        if self.sampling.repetition_penalty != 1:
            slot.seen = np.zeros(self.model.vocabulary_size, np.bool_)
            slot.seen[tokens] = True
        self._append_forced(slot, forced_tokens)

    def _donor(self, slot: _Slot, tokens: list[int]) -> tuple[_Slot | None, int]:
        """The other slot that has, or is computing, most of this prompt; and how much."""
        donor, length = None, 0
        for other in self._slots:
            if other is slot or other.donor:
                continue
            common = _common(tokens, other.cache)
            if common == len(other.cache):
                common += _common(tokens[common:], other.queue)
            if common > length:
                donor, length = other, common
        return donor, min(length, len(tokens) - 1)

    def _copy_prefix(self, slot: _Slot) -> None:
        """Give a waiting slot its prefix as soon as its donor has computed it.

        Called after every batch: a donor keeps its prompt at least until then. llama.cpp copies
        entire sequences; the rest is cut off again.
        """
        donor = slot.donor
        if donor is None or len(donor.cache) < slot.prefix_length:
            return
        self.context.copy(donor.sequence, slot.sequence)
        prefix = donor.cache[: slot.prefix_length]
        slot.cache, slot.donor = list(donor.cache), None
        self._cut(slot, slot.prefix_length)
        slot.queue = prefix[len(slot.cache) :] + slot.queue

    def _cut(self, slot: _Slot, length: int) -> None:
        """Keep the first ``length`` tokens of the slot's cache, or none where it cannot be cut."""
        slot.cache = slot.cache[: self.context.cut(slot.sequence, length)]

    def _decode(self) -> None:
        """One decode over every running sequence: its next tokens, or a piece of its prompt."""
        slots = [slot for slot in self._slots if slot.job and not slot.donor]
        slots.sort(key=lambda slot: len(slot.queue))  # decoding first, then short prompts
        segments, room = [], self.context.batch_size
        for slot in slots:
            tokens = slot.queue[:room]
            room -= len(tokens)
            # the last token of a queue gives the logits
            outputs = [index == len(slot.queue) for index in range(1, len(tokens) + 1)]
            segments.append(Segment(slot.sequence, len(slot.cache), tokens, outputs))
        rows = iter(self.context.decode(segments))
        for slot, segment in zip(slots, segments, strict=True):
            slot.cache += segment.tokens
            slot.queue = slot.queue[len(segment.tokens) :]
            slot.logits = next(rows) if any(segment.outputs) else None

    def _advance(self, slot: _Slot, logits: NDArray[np.float32]) -> Iterator[tuple[Job, Any]]:
        """Sample the slot's next token, and end its turn when the turn is over."""
        assert slot.sampler is not None
        slot.logits = None
        mask = slot.grammar.mask() if slot.grammar else None
        token = slot.sampler.sample(logits, mask, slot.seen)
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
        slot.queue.append(token)
        slot.text += self.model.piece(token)
        slot.tokens += 1
        if slot.seen is not None:
            slot.seen[token] = True

    def _append_forced(self, slot: _Slot, tokens: list[int]) -> None:
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
        if slot.prompt_tokens + slot.tokens >= self.context_length:
            return "context"
        return None

    def _end_turn(self, slot: _Slot, finish: Finish) -> Iterator[tuple[Job, Any]]:
        assert slot.job is not None
        slot.queue = []
        completion = Completion(
            text=slot.text.decode("utf-8", "replace"),
            finish=finish,
            prompt_tokens=slot.prompt_tokens,
            evaluated_tokens=slot.evaluated_tokens,
            tokens=slot.tokens,
            seconds=time.perf_counter() - slot.start,
            appended_tokens=slot.appended_tokens,
        )
        yield from self._resume(slot, slot.job, completion)


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(left), len(right)))
