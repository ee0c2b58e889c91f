"""How long the longest of some turns can become, so that a context need not be longer."""

from collections.abc import Iterable
from pathlib import Path

from charprobe_lite.runtime.backend import Request
from charprobe_lite.runtime.llama import Model

STEP = 256
"""llama.cpp's own step: it pads the cells that attention reads to as many."""


def longest_turn(path: Path, requests: Iterable[Request], *, double_bos: bool = False) -> int:
    """Tokens of the longest of these prompts with its whole reply, rounded up to `STEP`.

    ``path`` is a GGUF model, whose weights are not loaded. Raises BadInput for a file that
    llama.cpp cannot load, and for a chat template that fails.
    """
    model = Model(path, vocabulary_only=True)
    try:
        lengths = [
            len(model.tokenize(model.render(request.messages), double_bos=double_bos))
            + request.max_tokens
            for request in requests
        ]
    finally:
        model.close()
    longest = max(lengths, default=0) + 2  # a reply ends one token before the context does
    return -(-longest // STEP) * STEP
