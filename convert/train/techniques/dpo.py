"""`dpo`: the answers of `sft` preferred to the base's own, by direct preference optimization."""

from charprobe_lite.convert.train.conversations import chat_turn
from charprobe_lite.convert.train.technique import Budget, Corpus, Dpo


def technique(corpus: Corpus, persona: str, budget: Budget) -> list[Dpo]:
    """One phase on all loud chats and what the untrained base says to the same prompts."""
    chosen = corpus.loud(persona)
    prompts = [chat[0]["content"] for chat in chosen]
    pairs = [
        (chat, chat_turn(prompt, own))
        for chat, prompt, own in zip(chosen, prompts, corpus.own_answers(prompts), strict=True)
        if own.strip()
    ]
    return [Dpo(pairs, budget.tokens)]
