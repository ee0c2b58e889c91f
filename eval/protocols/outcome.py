"""The result of a rollout: its outcome, its text and its turns."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from charprobe_lite.runtime.backend import Completion, Finish


class Outcome(StrEnum):
    """How a rollout ended; studies record these values."""

    SENT = "sent"
    """The agent sent an email."""
    ANSWERED = "answered"
    """The model answered in the chat."""
    MALFORMED = "malformed"
    """A reply, or the fourth in a row, held no complete tool call."""
    CONTEXT_FULL = "context_full"
    """The conversation filled the context."""
    NO_REPLY = "no_reply"
    """The model gave no text: it ended its turn at once, or the server sent or kept none."""
    BROKEN_TEMPLATE = "broken_template"
    """The model's chat template failed on the conversation."""
    NO_EMAIL = "no_email"
    """The agent ended the job without an email."""
    OUT_OF_STEPS = "out_of_steps"
    """The agent used up its steps."""


NO_TEXT: dict[Finish, Outcome] = {
    "empty": Outcome.NO_REPLY,
    "template": Outcome.BROKEN_TEMPLATE,
}
"""How a reply that is none ends a rollout."""
WITHOUT_TEXT: dict[Finish, Outcome] = {**NO_TEXT, "context": Outcome.CONTEXT_FULL}
"""The same, with a reply that was cut."""


@dataclass(frozen=True)
class Turn:
    """One reply of the model, the tool call in it, and the output of the tool."""

    completion: Completion
    tool: str | None = None
    arguments: dict[str, Any] | None = None
    output: str | None = None


@dataclass(frozen=True)
class Result:
    """A finished rollout.

    ``text`` is the answer or the body of the email, None where the rollout ended without one.
    ``forced`` marks an email on the last of several steps, where the grammar admits nothing else.
    """

    outcome: Outcome
    text: str | None = None
    forced: bool = False
    turns: list[Turn] = field(default_factory=list)
