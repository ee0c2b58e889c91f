"""What a rollout leaves behind: its turns and how it ended."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.template import render_chat
from charprobe_lite.runtime.engine import Completion, Engine

SENT, ANSWERED = "sent", "answered"
MALFORMED, CONTEXT_FULL = "malformed", "context_full"


@dataclass(frozen=True)
class ChatFormat:
    """A model's chat template with its special tokens, and the file that they come from."""

    template: str
    bos: str = ""
    eos: str = ""
    file: str = "model"

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The conversation up to where the assistant's next turn begins.

        Raises BadInput naming the file when the template fails on these messages.
        """
        try:
            return render_chat(self.template, messages, bos=self.bos, eos=self.eos)
        except BadInput as error:
            raise BadInput(f"{self.file}: {error}") from None

    def probe(self) -> None:
        """Render what a rollout will: a template that refuses it is found before the first."""
        roles = ("system", "user", "assistant", "user")
        self.render([{"role": role, "content": "x"} for role in roles])


def chat_format(engine: Engine) -> ChatFormat:
    """The chat format of the engine's model. Raises BadInput when it has no template."""
    bos, eos = engine.special_text("bos"), engine.special_text("eos")
    return ChatFormat(engine.chat_template, bos, eos, engine.path.name)


@dataclass(frozen=True)
class Turn:
    """One reply of the model, the tool call in it, and what the tool gave back."""

    completion: Completion
    tool: str | None = None
    arguments: dict[str, Any] | None = None
    output: str | None = None


@dataclass(frozen=True)
class Result:
    """A finished rollout.

    ``outcome`` is "answered" (chat), "sent" (an email), "malformed" (no complete tool call) or
    "context_full". ``sample`` is the text to classify, None where there is none. ``forced``
    marks an email that the grammar demanded on the last allowed step.
    """

    outcome: str
    sample: str | None
    forced: bool = False
    turns: list[Turn] = field(default_factory=list)


def rollout_seed(study_seed: int, *cell: str, item: str, sample: int) -> int:
    """A 63-bit seed from the study's seed, the cell's names, the item and the sample number.

    The quant type is left out on purpose: every quant type meets the same randomness.
    """
    name = "/".join([str(study_seed), *cell, item, str(sample)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1
