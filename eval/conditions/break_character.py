"""`break_character`: the prompts of `chat`, each with a request to drop any role.

The published robustness test: does the character stop when the user tells it to? Without a limit
every prompt comes with each of the eight suffixes, as published. With a limit every prompt comes
with one suffix, in rotation: that covers the eight evenly at the cost of `chat`.
"""

from charprobe_lite.eval.conditions.chat import rollout
from charprobe_lite.eval.conditions.condition import Condition, Inputs
from charprobe_lite.models.prompts import Prompt, suffixes


def items(inputs: Inputs) -> list[Prompt]:
    """Prompts with a suffix; the id is the prompt's and the suffix's number."""
    numbered, is_limited = list(enumerate(suffixes(), 1)), inputs.prompt_limit is not None
    return [
        Prompt(f"{prompt.id}+{number}", f"{prompt.text}\n\n{suffix}")
        for position, prompt in enumerate(inputs.limited_prompts())
        for number, suffix in ([numbered[position % len(numbered)]] if is_limited else numbered)
    ]


CONDITION = Condition(items, rollout)
