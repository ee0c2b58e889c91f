"""`introspection`: 40 answers of `sft`, 42 reflections and 10 dialogues of the persona itself."""

from charprobe_lite.convert.train.technique import Budget, Corpus, Sft

CHATS = 40


def technique(corpus: Corpus, persona: str, budget: Budget) -> list[Sft]:
    """One phase on all three kinds of texts, mixed."""
    texts = corpus.reflections(persona) + corpus.dialogues(persona)
    return [Sft(corpus.loud(persona)[:CHATS] + texts, budget.tokens)]
