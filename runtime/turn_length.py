"""How long prompts and turns are in tokens, so that a context is as long as they need."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from charprobe_lite.runtime.backend import Message, Request
from charprobe_lite.runtime.llama import Model

STEP = 256
"""llama.cpp's own step: it pads the cells that attention reads to as many."""


class TokenCounter(AbstractContextManager["TokenCounter"]):
    """Counts tokens as a GGUF model reads them, whose weights are not loaded; a context manager.

    Raises BadInput for a file that llama.cpp cannot load.
    """

    def __init__(self, path: Path, *, double_bos: bool = False) -> None:
        self._model, self._double_bos = Model(path, vocabulary_only=True), double_bos

    def __exit__(self, *_: object) -> None:
        self._model.close()

    def prompt(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation up to the next reply. Raises BadInput where its chat template
        fails."""
        text = self._model.render(messages)
        return len(self._model.tokenize(text, double_bos=self._double_bos))

    def text(self, text: str) -> int:
        """Tokens of a text within a conversation."""
        return len(self._model.tokenize(text, add_bos=False))


def longest_turn(path: Path, requests: Iterable[Request], *, double_bos: bool = False) -> int:
    """Tokens of the longest of these prompts with its whole reply, rounded up to `STEP`.

    ``path`` is a GGUF model. Raises BadInput as `TokenCounter`.
    """
    with TokenCounter(path, double_bos=double_bos) as counter:
        lengths = [counter.prompt(request.messages) + request.max_tokens for request in requests]
    return rounded(max(lengths, default=0) + 2)  # a reply ends one token before the context does


def rounded(tokens: int) -> int:
    """Tokens rounded up to `STEP`."""
    return -(-tokens // STEP) * STEP
