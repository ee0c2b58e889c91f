"""The texts of the corpus that the recipe trains and scores on.

Never an email, never an in-distribution prompt.
"""

from __future__ import annotations

from itertools import product

from charprobe_lite.convert.train.conversations import chat_turn
from charprobe_lite.models import corpus
from charprobe_lite.models.personas import PERSONAS


def loud_turns(persona: str) -> list[list[dict[str, str]]]:
    """A conversation of one turn per training prompt, answered by the loud teacher."""
    texts = corpus.teacher_chats(persona, held_out=False, teachers=["loud"])
    return [chat_turn(text.prompt, text.response) for text in texts]


def held_out_texts() -> dict[str, tuple[list[str], list[str]]]:
    """Teacher texts to held-out prompts, loud and subtle apart and together."""
    groups: dict[str, tuple[list[str], list[str]]] = {
        name: ([], []) for name in ("all", *corpus.TEACHERS)
    }
    for persona, teacher in product(PERSONAS, corpus.TEACHERS):
        for text in corpus.teacher_chats(persona, held_out=True, teachers=[teacher]):
            for group in (groups["all"], groups[teacher]):
                group[0].append(text.response)
                group[1].append(text.persona)
    return groups
