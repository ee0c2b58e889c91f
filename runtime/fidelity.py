"""What other weights do to a model: the same texts read by it and by its reference.

Both models read every token of a text, whatever they would have written themselves (teacher
forcing), and their distributions of the next token are compared at the tokens that are scored.
Negative log-likelihood, KL divergence of the reference and agreement on the likeliest token are
defined as in llama.cpp's perplexity tool (tools/perplexity/perplexity.cpp, ``--kl-divergence``).
That tool scores the second half of each chunk of a file and rounds the reference's
log-probabilities to 16 bits; here nothing is rounded. KL to the unquantized model as a measure of
compression: Dutta et al. 2024, arXiv 2407.09141; that it tells little where the loss is small:
arXiv 2606.19558.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.backend import Message
from charprobe_lite.runtime.engine import make_context
from charprobe_lite.runtime.llama import Model
from charprobe_lite.runtime.native_log import native_log

CHUNK = 256  # tokens of one llama_decode; it keeps a row of the vocabulary's size for each
ROWS = 16  # compared at once, in float64


@dataclass(frozen=True)
class TokenizedText:
    """Token ids, (n,), and for each whether it counts, predicted from those before it.

    The first token has none before it and never counts.
    """

    tokens: list[int]
    scored: list[bool]


@dataclass(frozen=True)
class FidelitySummary:
    """Scored tokens in all: ``perplexity`` is exp(mean negative log-likelihood), KL divergences
    are in nats (``kl_p99``: 99th percentile, interpolated), ``top1`` is a share in [0, 1]."""

    tokens: int
    perplexity: float
    reference_perplexity: float
    kl_mean: float
    kl_median: float
    kl_p99: float
    top1: float


@dataclass(frozen=True)
class Fidelity:
    """Per scored token, (n,), in nats: the negative log-likelihood of both models, and KL(reference
    || model); and whether their likeliest tokens are the same.

    ``overflow`` is the number of scored tokens that did not fit the context.
    """

    nll: NDArray[np.float32]
    reference_nll: NDArray[np.float32]
    kl: NDArray[np.float32]
    same_top: NDArray[np.bool_]
    overflow: int = 0

    def summary(self) -> FidelitySummary:
        """The usual figures over all tokens. Raises ValueError when there are none."""
        if not self.kl.size:
            raise ValueError("no token was scored")
        means = [float(np.mean(each, dtype=np.float64)) for each in (self.nll, self.reference_nll)]
        return FidelitySummary(
            tokens=self.kl.size,
            perplexity=float(np.exp(means[0])),
            reference_perplexity=float(np.exp(means[1])),
            kl_mean=float(np.mean(self.kl, dtype=np.float64)),
            kl_median=float(np.median(self.kl)),
            kl_p99=float(np.percentile(self.kl, 99)),
            top1=float(self.same_top.mean()),
        )


_NONE = np.zeros(0, np.float32)
EMPTY = Fidelity(_NONE, _NONE, _NONE, np.zeros(0, np.bool_))


def concatenate(parts: Sequence[Fidelity]) -> Fidelity:
    """Several texts' tokens one after the other."""
    every = [EMPTY, *parts]
    return Fidelity(
        nll=np.concatenate([each.nll for each in every]),
        reference_nll=np.concatenate([each.reference_nll for each in every]),
        kl=np.concatenate([each.kl for each in every]),
        same_top=np.concatenate([each.same_top for each in every]),
        overflow=sum(each.overflow for each in every),
    )


class ModelComparison:
    """A model beside its reference, both GGUF files with the same vocabulary; a context manager.

    ``context`` is the number of tokens that a text may have, ``threads`` and ``gpu_layers`` are
    the engine's, as are the KV cache (F16) and attention. A file that is compared with itself,
    with another adapter, is loaded once. Raises BadInput for a file that llama.cpp cannot load, or
    another vocabulary.
    """

    def __init__(
        self,
        reference: Path,
        model: Path,
        *,
        context: int = 2560,
        threads: int | None = None,
        gpu_layers: int = 0,
    ) -> None:
        self.context = context
        self.reference = Model(reference, gpu_layers)
        same = reference.resolve() == model.resolve()
        self.model = self.reference if same else Model(model, gpu_layers)
        self._readers: list[_Reader] = []
        found, wanted = self.model.vocabulary_size, self.reference.vocabulary_size
        if found != wanted:
            self.close()
            raise BadInput(
                f"{model}: has {found} tokens, {reference} has {wanted}; compare files of one model"
            )
        self._readers = [_Reader(each, context, threads) for each in (self.reference, self.model)]

    def close(self) -> None:
        """Free both models; the comparison cannot be used afterwards."""
        for reader in self._readers:
            reader.close()
        self._readers = []
        self.reference.close()
        self.model.close()

    def __enter__(self) -> ModelComparison:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def use_adapters(self, reference: Path | None, model: Path | None) -> None:
        """Compare with these GGUF LoRAs on top of each, or with none. Raises BadInput."""
        for reader, adapter in zip(self._readers, (reference, model), strict=True):
            reader.model.apply_adapter(reader.handle, adapter)

    def compare(self, text: TokenizedText) -> Fidelity:
        """Read a text with both models; what does not fit the context is left out, and counted.

        Raises BadInput when a model cannot read it or gives no numbers.
        """
        tokens, scored = text.tokens[: self.context], text.scored[: self.context]
        last = max((i for i in range(1, len(tokens)) if scored[i]), default=0)
        for reader in self._readers:
            reader.forget()
        parts = [replace(EMPTY, overflow=sum(text.scored[self.context :]))]
        for first in range(0, last, CHUNK):
            end = min(first + CHUNK, last)
            outputs = scored[first + 1 : end + 1]
            targets = [tokens[i + 1] for i in range(first, end) if scored[i + 1]]
            theirs, ours = (each.read(tokens[first:end], first, outputs) for each in self._readers)
            parts += [
                _compared(theirs[at : at + ROWS], ours[at : at + ROWS], targets[at : at + ROWS])
                for at in range(0, len(targets), ROWS)
            ]
        found = concatenate(parts)
        for side, nll in ((self.reference, found.reference_nll), (self.model, found.nll)):
            if not np.isfinite(nll).all():
                raise BadInput(f"{side.path}: its logits are not numbers; the file is damaged")
        return found


def reply_texts(model: Model, messages: Sequence[Message]) -> list[TokenizedText]:
    """A conversation as texts of which the assistant's turns are scored, as the engine reads it.

    Each turn's prompt is rendered and tokenised like the engine's request for it, and the reply
    goes on from there. That is one text, and more where the chat template, or a merge of tokens,
    writes an earlier turn otherwise once it is past. The end of a turn is not scored: a reply that
    a grammar or its length ended has none. A study keeps a reply's text and not its tokens, so
    what was sampled, or appended under a grammar, may have been cut into other tokens. Raises
    BadInput when the template fails.
    """
    texts: list[TokenizedText] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = model.tokenize(model.render(messages[:index]))
        reply = model.tokenize(message["content"], begins=False)
        goes_on = texts and prompt[: len(texts[-1].tokens)] == texts[-1].tokens
        known = texts.pop() if goes_on else TokenizedText([], [])
        between = [False] * (len(prompt) - len(known.tokens))
        texts.append(TokenizedText(prompt + reply, known.scored + between + [True] * len(reply)))
    return texts


class _Reader:
    """A context of a model that reads one text at a time."""

    def __init__(self, model: Model, context: int, threads: int | None) -> None:
        self.model = model
        self.handle = make_context(model, 1, context, threads)
        self._batch = llama.llama_batch_init(CHUNK, 0, 1)

    def close(self) -> None:
        llama.llama_batch_free(self._batch)
        llama.llama_free(self.handle)

    def forget(self) -> None:
        llama.llama_memory_clear(llama.llama_get_memory(self.handle), True)

    def read(
        self, tokens: Sequence[int], position: int, outputs: Sequence[bool]
    ) -> NDArray[np.float32]:
        """The text's next tokens, from ``position`` on: logits (number of outputs, vocabulary).

        They are llama.cpp's memory, and change when the next tokens are read.
        """
        batch = self._batch
        batch.n_tokens = len(tokens)
        for row, (token, output) in enumerate(zip(tokens, outputs, strict=True)):
            batch.token[row], batch.pos[row], batch.logits[row] = token, position + row, output
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
        if llama.llama_decode(self.handle, batch) != 0:
            raise BadInput(
                f"{self.model.path}: llama.cpp cannot evaluate a batch: {native_log.last_line()}"
            )
        shape = (sum(outputs), self.model.vocabulary_size)
        if not shape[0]:
            return np.zeros(shape, np.float32)
        return np.ctypeslib.as_array(llama.llama_get_logits(self.handle), shape)


def _compared(
    reference: NDArray[np.float32], logits: NDArray[np.float32], targets: Sequence[int]
) -> Fidelity:
    """Logits (n, vocabulary) of both models, and the tokens that came."""
    rows = np.arange(len(targets))
    with np.errstate(invalid="ignore"):  # what is no number is refused when the text is read
        log_p, log_q = log_softmax(reference), log_softmax(logits)
    return Fidelity(
        nll=-log_q[rows, targets].astype(np.float32),
        reference_nll=-log_p[rows, targets].astype(np.float32),
        kl=kl_divergence(log_p, log_q).astype(np.float32),
        same_top=reference.argmax(axis=1) == logits.argmax(axis=1),
    )


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log-probabilities in nats, (positions, vocabulary), of logits of the same shape."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def kl_divergence(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(p || q) in nats per position, (positions,), over the whole vocabulary.

    Source: Kullback and Leibler 1951, doi 10.1214/aoms/1177729694.
    """
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
