"""The texts that a file and its F16 reference read: held out, in character, as an agent.

``held_out``: the teachers' answers to prompts that trained nothing, neither the kit's adapters nor
its classifier; another model wrote them, so they favour no quant type. ``character``: F16's answers
in the study's chats. ``trajectory``: F16's agent conversations, rebuilt from the study, with all
replies of the agent. F16 writes the latter two, and all types read them (teacher forcing).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from charprobe_lite.eval.cells import Cell, RolloutKey
from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.transcript import Transcripts
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.checkpoints import VariantFiles
from charprobe_lite.eval.study.grid import in_shard, items_of
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.corpus import TEACHERS, loud_prompts, subtle_prompts, teacher_chats
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.models.prompts import prompt_file
from charprobe_lite.runtime.backend import Message

Text = TypeVar("Text")
HELD_OUT = "held_out"
KINDS = {"character": "chat", "trajectory": "agentic_email"}
"""Kinds of texts that F16 writes, and the condition that they come from."""


@dataclass(frozen=True)
class Conversation:
    """A text that models read; the assistant's turns are compared.

    ``persona`` names the checkpoint that reads it, None the shared one. ``item`` is the prompt or
    scenario, which texts of different personas have in common.
    """

    kind: str
    persona: str | None
    item: str
    messages: list[Message]


def conversations(
    store: Store, reference: VariantFiles, spec: StudySpec, limit: int
) -> list[Conversation]:
    """``limit`` texts of each kind and persona, of this machine's shard, the same ones every time.

    ``reference`` is F16's variant, which has run. Texts are left out where its rollout is missing
    or cannot be rebuilt. Raises BadInput for prompts or scenarios of the study that cannot be read.
    """
    texts = [*held_out(spec.personas, limit), *_reference_texts(store, reference, spec, limit)]
    shard = spec.shard
    return [text for text in texts if not shard or in_shard(shard, text.persona, text.item, 0)]


def held_out(personas: Sequence[str], limit: int) -> Iterator[Conversation]:
    """The teachers' answers, alternating between teachers; none for a persona without teachers."""
    prompts = {
        teacher: read(held_out=True)
        for teacher, read in zip(TEACHERS, (loud_prompts, subtle_prompts), strict=True)
    }
    for persona in filter(PERSONAS.__contains__, personas):
        answers = [
            (prompts[teacher].index(chat.prompt), teacher, chat)
            for teacher in TEACHERS
            for chat in teacher_chats(persona, held_out=True, teachers=[teacher])
        ]
        answers.sort(key=lambda answer: answer[:2])
        for position, teacher, chat in _share(answers, persona, limit):
            messages = [
                {"role": "user", "content": chat.prompt},
                {"role": "assistant", "content": chat.response},
            ]
            yield Conversation(HELD_OUT, persona, f"{teacher}-{position + 1:02d}", messages)


def _reference_texts(
    store: Store, reference: VariantFiles, spec: StudySpec, limit: int
) -> Iterator[Conversation]:
    """F16's first samples."""
    transcripts = Transcripts(store.provenance(), prompt_file(spec.prompts), spec.scenarios)
    rows = {(row.cell, row.persona, row.item): row for row in store.rows() if row.sample == 0}
    turns, items, stage = store.turns(), items_of(spec), reference.most_trained
    personas: Sequence[str | None] = spec.personas if stage != "base" else [None]
    for kind, name in KINDS.items():
        # of the ways to call tools the first
        mode = load_condition(name).call_modes(spec.formats, spec.grammars)[0]
        cell = Cell(
            *(reference.base, stage, name, reference.quant, *mode, reference.lora),
            train_seed=reference.train_seed,
        )
        for persona in personas:
            for item in _share(items.get(name, []), persona, limit):
                row = rows.get((cell, persona, item.id))
                replies = turns.get(RolloutKey(cell, persona, item.id, 0), [])
                messages = row and transcripts.messages(row, replies)
                if messages:
                    yield Conversation(kind, persona, item.id, messages)


def _share(texts: Sequence[Text], persona: str | None, limit: int) -> list[Text]:
    """``limit`` texts, different ones for every persona while they last.

    Prompts are resampled, so many prompts tell more than many answers to a few.
    """
    first = PERSONAS.index(persona) * limit if persona in PERSONAS else 0
    return [texts[(first + n) % len(texts)] for n in range(min(limit, len(texts)))]
