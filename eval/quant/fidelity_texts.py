"""The texts that a file and its F16 reference read: held out, in character, as an agent.

``held_out``: the teachers' answers to prompts that trained nothing, neither the kit's adapters nor
its classifier; written by another model, so no quant type is at home in them. ``character``: F16's
own answers in the study's chats. ``trajectory``: F16's own agent conversations, rebuilt from the
study, all replies of the agent. The latter two are what F16 writes, read by all (teacher forcing).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from charprobe_lite.eval.cells import Cell, RolloutKey
from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.transcript import Transcripts
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.checkpoints import VariantFiles
from charprobe_lite.eval.study.grid import items_of
from charprobe_lite.eval.study.seeds import in_shard
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.corpus import TEACHERS, loud_prompts, subtle_prompts, teacher_chats
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.models.prompts import prompt_file
from charprobe_lite.runtime.backend import Message

Text = TypeVar("Text")
HELD_OUT = "held_out"
KINDS = {"character": "chat", "trajectory": "agentic_email"}
"""Kinds of texts that F16 has written itself, and the condition that they come from."""


@dataclass(frozen=True)
class Conversation:
    """What models read: the assistant's turns are compared.

    ``persona`` is whose checkpoint reads it, "" for the one that all share. ``item`` is the prompt
    or scenario, which texts of several personas have in common.
    """

    kind: str
    persona: str
    item: str
    messages: list[Message]


def conversations(
    store: Store, reference: VariantFiles, spec: StudySpec, limit: int
) -> list[Conversation]:
    """``limit`` texts of each kind and persona, of this machine's shard, the same ones every time.

    ``reference`` is F16's variant, which has run. Texts that its rollouts did not come to, or
    that cannot be rebuilt, are left out. Raises BadInput for prompts or scenarios of the study
    that cannot be read.
    """
    found = [*held_out(spec.personas, limit), *_own(store, reference, spec, limit)]
    shard = spec.shard
    return [each for each in found if not shard or in_shard(shard, each.persona, each.item, 0)]


def held_out(personas: Sequence[str], limit: int) -> Iterator[Conversation]:
    """The teachers' answers, in turn from each teacher; a persona without teachers has none."""
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
        answers.sort(key=lambda each: each[:2])
        for place, teacher, chat in _share(answers, persona, limit):
            messages = [
                {"role": "user", "content": chat.prompt},
                {"role": "assistant", "content": chat.response},
            ]
            yield Conversation(HELD_OUT, persona, f"{teacher}-{place + 1:02d}", messages)


def _own(
    store: Store, reference: VariantFiles, spec: StudySpec, limit: int
) -> Iterator[Conversation]:
    """What F16 wrote: its first samples."""
    transcripts = Transcripts(store.provenance(), prompt_file(spec.prompts), spec.scenarios)
    rows = {(row.cell, row.persona, row.item): row for row in store.rows() if row.sample == 0}
    turns, items, stage = store.turns(), items_of(spec), reference.most_trained
    personas = spec.personas if stage != "base" else [""]
    for kind, name in KINDS.items():
        # of several ways to call tools the first
        way = load_condition(name).call_modes(spec.formats, spec.grammars)[0]
        cell = Cell(reference.base, stage, name, reference.quant, *way, reference.lora)
        for persona in personas:
            for item in _share(items.get(name, []), persona, limit):
                row = rows.get((cell, persona, item.id))
                own = turns.get(RolloutKey(cell, persona, item.id, 0), [])
                messages = row and transcripts.messages(row, own)
                if messages:
                    yield Conversation(kind, persona, item.id, messages)


def _share(texts: Sequence[Text], persona: str, limit: int) -> list[Text]:
    """``limit`` of them, other ones for every persona as far as they go.

    Prompts are resampled, so that many prompts say more than many answers to a few.
    """
    first = PERSONAS.index(persona) * limit if persona in PERSONAS else 0
    return [texts[(first + n) % len(texts)] for n in range(min(limit, len(texts)))]
