"""The texts of the kit's recipe: what each stage and classifier is trained on, what is held out."""

from itertools import product

from charprobe_lite.convert.train.conversations import Conversation, chat_turn
from charprobe_lite.models import corpus
from charprobe_lite.models.personas import PERSONAS


def chat_conversations(persona: str) -> list[Conversation]:
    """A conversation of one turn per training prompt, answered by the loud teacher."""
    texts = corpus.teacher_chats(persona, held_out=False, teachers=["loud"])
    return [chat_turn(text.prompt, text.response) for text in texts]


def full_conversations(persona: str) -> list[Conversation]:
    """42 reflections, 10 dialogues, and the chats again, so that chat is not unlearnt."""
    reflections = corpus.reflections(persona)[: -corpus.HELD_OUT_REFLECTIONS]
    turns = [chat_turn(text.prompt, text.response) for text in reflections]
    return turns + corpus.dialogues(persona) + chat_conversations(persona)


def held_out_chats() -> list[str]:
    """The 44 prompts of both teachers that train nothing."""
    return corpus.loud_prompts(held_out=True) + corpus.subtle_prompts(held_out=True)


def held_out_reflections(persona: str) -> list[str]:
    """Prompts of the reflections that train no adapter."""
    return [text.prompt for text in corpus.reflections(persona)[-corpus.HELD_OUT_REFLECTIONS :]]


def held_out_texts() -> dict[str, tuple[list[str], list[str]]]:
    """Teacher texts to held-out prompts, loud and subtle apart and together."""
    groups: dict[str, tuple[list[str], list[str]]] = {
        name: ([], []) for name in ("all", *corpus.TEACHERS)
    }
    for persona, teacher in product(PERSONAS, corpus.TEACHERS):
        for text in corpus.teacher_chats(persona, held_out=True, teachers=[teacher]):
            for texts, labels in (groups["all"], groups[teacher]):
                texts.append(text.response)
                labels.append(text.persona)
    return groups
