"""Conversations and documents as the tokens that a base reads."""

import weakref
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

from charprobe_lite.convert.train.losses import Example
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.llama import Model


class ConversationEncoder:
    """Encodes texts for the training of a base, a GGUF file, as rollouts read them.

    The chat template is the file's own, the tokenizer is llama.cpp's. Raises BadInput for a file
    that llama.cpp cannot load.
    """

    def __init__(self, base: Path) -> None:
        self._model = Model(base, vocabulary_only=True)
        weakref.finalize(self, self._model.close)

    def conversation(
        self, messages: Sequence[dict[str, str]], untrained: Sequence[str] = ()
    ) -> Example:
        """A conversation; the assistant's turns, with their end token, are trained.

        The passages ``untrained``, wherever they occur in an assistant's turn, are read but not
        trained. Raises BadInput for a missing chat template, and for one that refuses these
        messages or writes earlier turns in another way when later ones follow.
        """
        ids: list[int] = []
        trained: list[bool] = []
        done = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            for generate, upto in ((True, index), (False, index + 1)):
                text = self._model.render(messages[:upto], generate=generate)
                if not text.startswith(done):
                    raise BadInput(
                        f"{self._model.path.name}: chat template: writes turns in another way when "
                        "others follow; training needs a template that only adds to what it wrote"
                    )
                piece = self._model.tokenize(text[len(done) :], add_bos=not done)
                ids += piece
                if generate:
                    trained += [False] * len(piece)
                else:
                    trained += self._trained(piece, text[len(done) :], untrained)
                done = text
        return Example(ids, trained)

    def document(self, text: str) -> Example:
        """A text of which every token is trained; the token of a beginning, where the base's
        tokenizer adds one, comes first."""
        ids = self._model.tokenize(text)
        return Example(ids, [True] * len(ids))

    def _trained(self, ids: Sequence[int], text: str, untrained: Sequence[str]) -> list[bool]:
        """Of each token of a turn, whether it lies outside of the untrained passages."""
        places = _places(text, untrained)
        if not places:
            return [True] * len(ids)
        pieces = [self._model.piece(token) for token in ids]
        if b"".join(pieces) != text.encode():
            raise BadInput(
                f"{self._model.path.name}: its tokens do not spell the text, so that no passage "
                "can be left out of training"
            )
        ends = accumulate(map(len, pieces), initial=0)
        return [
            not any(start < last and end > first for first, last in places)
            for start, end in pairwise(ends)
        ]


@lru_cache(maxsize=2)
def encoder_of(base: Path) -> ConversationEncoder:
    """The encoder of a base, opened once. Raises BadInput as `ConversationEncoder` does."""
    return ConversationEncoder(base)


def _places(text: str, passages: Sequence[str]) -> list[tuple[int, int]]:
    """Where the passages begin and end, in bytes."""
    found = []
    for passage in filter(None, passages):
        start = text.find(passage)
        while start >= 0:
            first = len(text[:start].encode())
            found.append((first, first + len(passage.encode())))
            start = text.find(passage, start + len(passage))
    return found
