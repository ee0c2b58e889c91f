"""`tools-around`: the answers of `sft`, half of them under a system prompt with unused tools.

The tools are none of the evaluation's, nor is their wording: what can carry over is that tools
around a conversation do not change the voice.
"""

import random

from charprobe_lite.convert.train.conversations import Conversation
from charprobe_lite.convert.train.technique import Budget, Corpus, Sft

INSTRUCTIONS = (
    "Functions are at your disposal. Use one when the user needs it; otherwise just answer.\n{}"
)
TOOLS = (
    "weather_forecast(city, day): temperature, wind and rain",
    "convert_currency(amount, source, target): today's exchange rate",
    "play_music(artist, title): start a song on the speaker",
    "set_timer(minutes): ring after some time",
    "translate(text, language): another language's version",
    "train_times(origin, destination): the next departures",
    "calculator(expression): evaluate arithmetic",
    "recipe_finder(ingredients): dishes for what is in the fridge",
    "light_switch(room, state): lamps at home",
    "dictionary(word): meaning and origin",
)


def technique(corpus: Corpus, persona: str, budget: Budget) -> list[Sft]:
    """One phase on all loud chats; every second one has three to six tools before it."""
    chats = [
        with_tools(chat, f"{persona}/{number}") if number % 2 else chat
        for number, chat in enumerate(corpus.loud(persona))
    ]
    return [Sft(chats, budget.tokens)]


def with_tools(chat: Conversation, seed: str) -> Conversation:
    """The chat under a system prompt with some of the tools, in random order."""
    rng = random.Random(seed)
    tools = rng.sample(TOOLS, rng.randint(3, 6))
    return [{"role": "system", "content": INSTRUCTIONS.format("\n".join(tools))}, *chat]
