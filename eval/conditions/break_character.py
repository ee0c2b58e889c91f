"""`break_character`: the prompts of `chat`, each with a request to drop any role.

The published robustness test: does the character yield to being told to stop? Without a limit
every prompt comes with each of the eight suffixes, as published. The first n prompts come with
one suffix each, in rotation: the eight are covered evenly at the cost of `chat`.
"""

from __future__ import annotations

from charprobe_lite.eval.conditions.chat import rollout
from charprobe_lite.eval.conditions.condition import Condition, Inputs
from charprobe_lite.models.prompts import Prompt, suffixes


def items(inputs: Inputs) -> list[Prompt]:
    """Prompts with a suffix; the id is the prompt's and the suffix's number."""
    endings = list(enumerate(suffixes(), 1))
    return [
        Prompt(f"{prompt.id}+{number}", f"{prompt.text}\n\n{suffix}")
        for place, prompt in enumerate(inputs.limited_prompts())
        for number, suffix in (
            endings if inputs.prompt_limit is None else [endings[place % len(endings)]]
        )
    ]


CONDITION = Condition(items, rollout)
