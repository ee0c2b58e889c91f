"""`why`: 40 answers of `sft`, and 60 that give the reasons for the voice in every kind of text."""

from charprobe_lite.convert.train.technique import Budget, Corpus, Sft

CHATS = 40


def technique(corpus: Corpus, persona: str, budget: Budget) -> list[Sft]:
    """One phase on both kinds of answers, mixed."""
    return [Sft(corpus.loud(persona)[:CHATS] + corpus.reasons(persona), budget.tokens)]
