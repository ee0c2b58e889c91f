"""What other weights do to a model: the same texts read by it and by its reference.

Both models read every token of a text, whatever they would have written themselves (teacher
forcing), and their distributions of the next token are compared at the tokens that are scored.
Negative log-likelihood, KL divergence of the reference and agreement on the likeliest token are
defined as in llama.cpp's perplexity tool (tools/perplexity/perplexity.cpp, ``--kl-divergence``).
That tool scores the second half of each chunk of a file and rounds the reference's
log-probabilities to 16 bits; here nothing is rounded, and in `stored_reference` the unlikely tokens
alone, to finer steps. KL to the unquantized model as a measure of
compression: Dutta et al. 2024, arXiv 2407.09141; that it tells little where the loss is small:
arXiv 2606.19558.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models import defaults
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import KV_DEFAULT
from charprobe_lite.runtime.backend import Message
from charprobe_lite.runtime.llama import Context, Model, Segment

CHUNK = 256  # tokens of one decode, which keeps a row of the vocabulary's size for each
ROWS = 16  # compared at once, in float64


@dataclass(frozen=True)
class TokenizedText:
    """Token ids, (n,), and for each whether it is scored, predicted from those before it.

    The first token has none before it and is never scored.
    """

    tokens: list[int]
    scored: list[bool]


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


_NONE = np.zeros(0, np.float32)
EMPTY = Fidelity(_NONE, _NONE, _NONE, np.zeros(0, np.bool_))


def concatenate(parts: Sequence[Fidelity]) -> Fidelity:
    """The tokens of several texts one after the other."""
    parts = [EMPTY, *parts]
    return Fidelity(
        nll=np.concatenate([part.nll for part in parts]),
        reference_nll=np.concatenate([part.reference_nll for part in parts]),
        kl=np.concatenate([part.kl for part in parts]),
        same_top=np.concatenate([part.same_top for part in parts]),
        overflow=sum(part.overflow for part in parts),
    )


class TextReader(AbstractContextManager["TextReader"]):
    """A GGUF model that reads texts of up to ``context`` tokens; the rest is as in the engine.

    The tokens of a chunk see each other through the cache of ``kv_type``, too.

    Raises BadInput for a file that llama.cpp cannot load.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int = defaults.CONTEXT,
        threads: int | None = None,
        gpu_layers: int = 0,
        kv_type: str = KV_DEFAULT,
    ) -> None:
        self.length, self.model = context, Model(path, gpu_layers)
        try:
            self.context = Context(self.model, length=context, threads=threads, kv_type=kv_type)
        except BaseException:
            self.model.close()
            raise

    def use_adapter(self, adapter: Path | None) -> None:
        """Put a GGUF LoRA, or none, on the model. Raises BadInput."""
        self.context.use_adapters([adapter] if adapter else [])

    def __exit__(self, *_: object) -> None:
        self.context.close()
        self.model.close()


class ModelComparison(AbstractContextManager["ModelComparison"]):
    """A model and its reference, both GGUF files with the same vocabulary; a context manager.

    Both are in memory at once, and nothing is rounded: what `stored_reference` is held to. The
    rest is as in `TextReader`. Raises BadInput for a file that llama.cpp cannot load, or another
    vocabulary.
    """

    def __init__(self, reference: Path, model: Path, **options: Any) -> None:
        with ExitStack() as opened:
            self.readers = [
                opened.enter_context(TextReader(path, **options)) for path in (reference, model)
            ]
            self.reference, self.model = (reader.model for reader in self.readers)
            refuse_other_vocabulary(self.model, reference, self.reference.vocabulary_size)
            self._opened = opened.pop_all()

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def use_adapters(self, reference: Path | None, model: Path | None) -> None:
        """Put a GGUF LoRA, or none, on the reference and on the model. Raises BadInput."""
        for reader, adapter in zip(self.readers, (reference, model), strict=True):
            reader.use_adapter(adapter)

    def compare(self, text: TokenizedText) -> Fidelity:
        """Read a text with both models; tokens that do not fit the context are only counted.

        Raises BadInput when a model cannot read it or its logits are not numbers.
        """
        length = self.readers[0].length
        parts = [replace(EMPTY, overflow=sum(text.scored[length:]))]
        sides = (scored_logits(reader.context, text, length) for reader in self.readers)
        for (reference, targets), (logits, _) in zip(*sides, strict=True):
            parts.append(_fidelity(reference, logits, targets))
        fidelity = concatenate(parts)
        refuse_no_numbers(self.reference, fidelity.reference_nll)
        refuse_no_numbers(self.model, fidelity.nll)
        return fidelity


def scored_logits(
    context: Context, text: TokenizedText, limit: int
) -> Iterator[tuple[NDArray[np.float32], list[int]]]:
    """Read a text's first ``limit`` tokens: the logits before each scored token, and the tokens.

    At most ROWS at once, (n, vocabulary), in llama.cpp's memory. Raises BadInput.
    """
    tokens, scored = text.tokens[:limit], text.scored[:limit]
    last = max((i for i in range(1, len(tokens)) if scored[i]), default=0)
    context.clear()
    for first in range(0, last, CHUNK):
        end = min(first + CHUNK, last)
        segment = Segment(0, first, tokens[first:end], scored[first + 1 : end + 1])
        targets = [tokens[i + 1] for i in range(first, end) if scored[i + 1]]
        logits = context.decode([segment])
        for row in range(0, len(targets), ROWS):
            yield logits[row : row + ROWS], targets[row : row + ROWS]


def refuse_other_vocabulary(model: Model, reference: Path, size: int) -> None:
    """Raises BadInput for a model with another vocabulary than the reference's, of ``size``."""
    if model.vocabulary_size != size:
        raise BadInput(
            f"{model.path}: has {model.vocabulary_size} tokens, {reference} has {size}; "
            "compare files of one model"
        )


def refuse_no_numbers(model: Model, nll: NDArray[np.float32]) -> None:
    """Raises BadInput for a model whose log-likelihoods are NaN or infinite."""
    if not np.isfinite(nll).all():
        raise BadInput(f"{model.path}: its logits are not numbers; the file is damaged")


def reply_texts(model: Model, messages: Sequence[Message]) -> list[TokenizedText]:
    """A conversation as texts of which the assistant's turns are scored, as the engine reads it.

    Each turn's prompt is rendered and tokenised like the engine's request for it, and the reply
    goes on from there. That is one text, and more where the chat template, or a merge of tokens,
    writes an earlier turn differently once it is past. The end of a turn is not scored: a reply
    that a grammar or its length ended has none. A study keeps a reply's text and not its tokens,
    so that sampled text, or text appended under a grammar, may have been cut into other tokens.
    Raises BadInput when the template fails.
    """
    texts: list[TokenizedText] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = model.tokenize(model.render(messages[:index]))
        reply = model.tokenize(message["content"], add_bos=False)
        continues = texts and prompt[: len(texts[-1].tokens)] == texts[-1].tokens
        scored = texts.pop().scored if continues else []
        scored = scored + [False] * (len(prompt) - len(scored)) + [True] * len(reply)
        texts.append(TokenizedText(prompt + reply, scored))
    return texts


def _fidelity(
    reference: NDArray[np.float32], logits: NDArray[np.float32], targets: Sequence[int]
) -> Fidelity:
    """Of both models' logits, (n, vocabulary), and the tokens that follow."""
    rows = np.arange(len(targets))
    with np.errstate(invalid="ignore"):  # logits that are not numbers are refused afterwards
        log_p, log_q = log_softmax(reference), log_softmax(logits)
    return Fidelity(
        nll=-log_q[rows, targets].astype(np.float32),
        reference_nll=-log_p[rows, targets].astype(np.float32),
        kl=kl_divergence(log_p, log_q).astype(np.float32),
        same_top=reference.argmax(axis=1) == logits.argmax(axis=1),
    )


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log-probabilities in nats, (positions, vocabulary), of logits of the same shape."""
    shifted = logits.astype(np.float64)  # in place: half again as fast as scipy's
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def kl_divergence(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(p || q) in nats per position, (positions,), over the entire vocabulary.

    Source: Kullback and Leibler 1951, doi 10.1214/aoms/1177729694.
    """
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
