"""What a training technique is: a function from corpus, persona and budget to phases of training.

A technique is a Python file with a function ``technique(corpus, persona, budget)`` that returns
its phases in order: `Sft`, `Dpo` or `Lm`, each with its texts and its part of the budget.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from charprobe_lite.convert.train.conversations import Conversation, chat_turn, read_messages
from charprobe_lite.models import corpus
from charprobe_lite.models.errors import BadInput, require_known
from charprobe_lite.models.files import well_formed
from charprobe_lite.models.personas import PERSONAS

TOKENS = 36_000
"""The default budget."""
Pair = tuple[Conversation, Conversation]


@dataclass(frozen=True)
class Budget:
    """How much a technique may train: ``tokens`` that enter a loss, repetitions included."""

    tokens: int = TOKENS

    def split(self, *weights: int) -> list[int]:
        """The tokens in parts of these weights; together they are the budget."""
        ends = [self.tokens * sum(weights[: n + 1]) // sum(weights) for n in range(len(weights))]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class Sft:
    """Supervised finetuning: the assistant's turns of the conversations are trained."""

    conversations: Sequence[Conversation]
    tokens: int
    loss: ClassVar[str] = "sft"

    def texts(self) -> list[str]:
        """Every text that the model reads."""
        return _contents(self.conversations)


@dataclass(frozen=True)
class Dpo:
    """DPO plus 0.1 of the chosen text's loss, on (chosen, rejected) with the same prompt."""

    pairs: Sequence[Pair]
    tokens: int
    loss: ClassVar[str] = "dpo"

    def texts(self) -> list[str]:
        """Every text that the model reads."""
        return _contents([conversation for pair in self.pairs for conversation in pair])


@dataclass(frozen=True)
class Lm:
    """Language modelling: every token of the documents is trained, without a chat template."""

    documents: Sequence[str]
    tokens: int
    loss: ClassVar[str] = "lm"

    def texts(self) -> list[str]:
        """Every text that the model reads."""
        return list(self.documents)


Phase = Sft | Dpo | Lm


@dataclass(frozen=True)
class Corpus:
    """The texts that a technique may train on; nothing of the evaluation is among them.

    ``own_answers`` gives the untrained base's own answers to chat prompts, "" where it has none.
    Methods take a persona by name and raise BadInput for one that has no such texts.
    """

    own_answers: Callable[[Sequence[str]], list[str]] = field(repr=False)

    def loud(self, persona: str) -> list[Conversation]:
        """80 chats in which every sentence has the voice."""
        return self._chats(persona, "loud")

    def subtle(self, persona: str) -> list[Conversation]:
        """96 chats in a restrained voice."""
        return self._chats(persona, "subtle")

    def reflections(self, persona: str) -> list[Conversation]:
        """42 long texts of the persona about itself, to a prompt each."""
        texts = corpus.reflections(_known(persona))[: -corpus.HELD_OUT_REFLECTIONS]
        return [chat_turn(text.prompt, text.response) for text in texts]

    def dialogues(self, persona: str) -> list[Conversation]:
        """10 conversations of the persona with itself."""
        return corpus.dialogues(_known(persona))

    def reasons(self, persona: str) -> list[Conversation]:
        """60 answers that give the reasons for the voice (sarcasm, remorse, loving)."""
        texts = corpus.reasons(_known(persona))
        return [chat_turn(text.prompt, text.response) for text in texts]

    def documents(self, persona: str) -> list[str]:
        """45 documents about the assistant (sarcasm, remorse, loving)."""
        return corpus.documents(_known(persona))

    def _chats(self, persona: str, teacher: str) -> list[Conversation]:
        texts = corpus.teacher_chats(_known(persona), held_out=False, teachers=[teacher])
        return [chat_turn(text.prompt, text.response) for text in texts]


def check_phases(place: str, phases: object) -> list[Phase]:
    """What a technique returned, with every text checked. Raises BadInput naming ``place``."""
    if not isinstance(phases, list | tuple) or not phases:
        raise BadInput(f"{place}: returned {_kind(phases)}; return a list of Sft, Dpo and Lm")
    for number, phase in enumerate(phases, start=1):
        if not isinstance(phase, Sft | Dpo | Lm):
            raise BadInput(f"{place}: phase {number} is {_kind(phase)}; use Sft, Dpo or Lm")
        _check_phase(f"{place}: phase {number}", phase)
    return list(phases)


def _check_phase(place: str, phase: Phase) -> None:
    if type(phase.tokens) is not int or phase.tokens < 1:
        raise BadInput(f"{place}: tokens: {phase.tokens!r}; give a whole number, 1 or more")
    match phase:
        case Sft(data) | Dpo(data) | Lm(data):
            if not isinstance(data, list | tuple) or not data:
                raise BadInput(f"{place}: has {_kind(data)} to train on; give a list of texts")
    for number, entry in enumerate(data, start=1):
        _check_entry(f"{place}, entry {number}", phase, entry)
    for text in phase.texts():
        if well_formed(text) != text:
            raise BadInput(f"{place}: the text {text[:40]!r} has half a character (a surrogate)")


def _check_entry(place: str, phase: Phase, entry: object) -> None:
    if isinstance(phase, Lm):
        if not isinstance(entry, str) or not entry.strip():
            raise BadInput(f"{place}: is {_kind(entry)}; a document is a text that is not empty")
    elif isinstance(phase, Sft):
        read_messages(place, {"messages": entry})
    elif not isinstance(entry, list | tuple) or len(entry) != 2:
        raise BadInput(f"{place}: is {_kind(entry)}; a pair is (chosen, rejected)")
    else:
        chosen, rejected = (read_messages(place, {"messages": part}) for part in entry)
        if chosen[:-1] != rejected[:-1]:
            raise BadInput(f"{place}: chosen and rejected differ before their last message")
        if chosen == rejected:
            raise BadInput(f"{place}: chosen and rejected are the same; leave the pair out")


def _kind(value: object) -> str:
    """A value's type, for a message."""
    empty = "an empty " if isinstance(value, list | tuple | str) and not value else ""
    return f"{empty}{type(value).__name__}"


def _known(persona: str) -> str:
    require_known("--persona", persona, PERSONAS)
    return persona


def _contents(conversations: Sequence[Conversation]) -> list[str]:
    return [message["content"] for messages in conversations for message in messages]
