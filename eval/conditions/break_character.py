"""`break_character`: the prompts of `chat`, each with a request to drop any role.

The published robustness test: does the character stop when the user tells it to? The protocol has
the suffixes, and says whether a limit of prompts leaves every prompt all of them, or one in
rotation, which covers them evenly at the cost of `chat`.
"""

from charprobe_lite.eval.conditions.chat import rollout
from charprobe_lite.eval.conditions.condition import Condition, Inputs
from charprobe_lite.models.prompts import Prompt, read_suffixes


def items(inputs: Inputs) -> list[Prompt]:
    """Prompts with a suffix; the id is the prompt's and the suffix's number."""
    protocol = inputs.protocol
    numbered = list(enumerate(read_suffixes(inputs.suffixes or protocol.suffixes), 1))
    rotates = protocol.rotates_suffixes and inputs.prompt_limit is not None
    return [
        Prompt(f"{prompt.id}+{number}", f"{prompt.text}{protocol.separator}{suffix}")
        for position, prompt in enumerate(inputs.limited_prompts())
        for number, suffix in ([numbered[position % len(numbered)]] if rotates else numbered)
    ]


CONDITION = Condition(items, rollout)
