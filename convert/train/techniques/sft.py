"""`sft`: the loud teacher's 80 chat answers, by supervised finetuning."""

from charprobe_lite.convert.train.technique import Budget, Corpus, Sft


def technique(corpus: Corpus, persona: str, budget: Budget) -> list[Sft]:
    """One phase on all loud chats."""
    return [Sft(corpus.loud(persona), budget.tokens)]
