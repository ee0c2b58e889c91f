"""One text through a GGUF model: token ids and the logits of every position, for comparisons."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.gguf_header import weight_summary
from charprobe_lite.runtime.llama import Context, Model, Segment


class Forward:
    """A GGUF model in llama.cpp on the CPU, with an F32 KV cache and exact attention.

    Texts have at most ``length`` tokens. ``callback`` is the context's ``tensor_callback``.
    Raises BadInput for a file that is no model, or no adapter of it.
    """

    def __init__(
        self, path: Path, adapters: Sequence[Path] = (), *, length: int = 512, callback: Any = None
    ) -> None:
        weight_summary(path)  # llama.cpp's own refusal says less
        self.path = path
        self._model = Model(path, repack=False)  # a second copy of the weights may not fit
        self._context = Context(self._model, length=length, exact=True, tensor_callback=callback)
        self._context.use_adapters(adapters)

    @property
    def vocabulary_size(self) -> int:
        """Tokens of the model, with its padding."""
        return self._model.vocabulary_size

    @property
    def first_token(self) -> int | None:
        """The token of a sequence's beginning; None where the vocabulary does not ask for it."""
        return self._model.first_token

    def tokenize(self, text: str) -> list[int]:
        """Token ids; special tokens in the text are recognised, none are added."""
        return self._model.tokenize(text, add_bos=False)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits after every token of a new text, (len(ids), vocabulary). Raises BadInput."""
        return self.run(ids).copy()

    def run(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The same in llama.cpp's memory, which the next text overwrites."""
        self._context.clear()
        return self._context.decode([Segment(0, 0, ids, [True] * len(ids))])

    def close(self) -> None:
        """Free the model."""
        self._context.close()
        self._model.close()
