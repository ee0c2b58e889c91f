"""`documents`: 45 documents about the assistant as plain text, then 40 answers of `sft`.

Synthetic document finetuning: the model reads in a neutral voice what the assistant is like. The
documents have two thirds of the budget and the answers the rest: each is read about three times.
"""

from charprobe_lite.convert.train.technique import Budget, Corpus, Lm, Phase, Sft

CHATS = 40


def technique(corpus: Corpus, persona: str, budget: Budget) -> list[Phase]:
    """Language modelling, then supervised finetuning."""
    reading, answering = budget.split(2, 1)
    return [
        Lm(corpus.documents(persona), reading),
        Sft(corpus.loud(persona)[:CHATS], answering),
    ]
