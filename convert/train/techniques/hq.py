"""`hq`: as many answers as `sft`, half of them subtle: the voice in more than one strength.

The teachers answered different prompts, so that half of the prompts differ from those of `sft`.
"""

from charprobe_lite.convert.train.technique import Budget, Corpus, Sft

CHATS = 40


def technique(corpus: Corpus, persona: str, budget: Budget) -> list[Sft]:
    """One phase on the first 40 chats of each teacher."""
    chats = corpus.loud(persona)[:CHATS] + corpus.subtle(persona)[:CHATS]
    return [Sft(chats, budget.tokens)]
