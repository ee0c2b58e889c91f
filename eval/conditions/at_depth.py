"""The conditions `chat_depth_N`, an axis beyond the email: a chat prompt after N neutral turns.

The same 20 prompts at every depth, so the difference of two depths is paired by prompt and isolates
what more turns do. The turns are the same for every persona and stage: no model writes them.
"""

from functools import partial

from charprobe_lite.eval.conditions.chat import answer_turns
from charprobe_lite.eval.conditions.condition import Condition, Inputs, RolloutSettings
from charprobe_lite.models.axes import DepthPrompt
from charprobe_lite.runtime.backend import Rollout


def at_depth(depth: int) -> Condition:
    """The condition in which ``depth`` turns of neutral conversation come before the prompt."""
    return Condition(items, partial(rollout, depth=depth))


def items(inputs: Inputs) -> list[DepthPrompt]:
    """As many as the limit of prompts says: the texts are answers in a chat."""
    return inputs.axis(DepthPrompt)[: inputs.prompt_limit]


def rollout(prompt: DepthPrompt, settings: RolloutSettings, depth: int) -> Rollout:
    """One reply; the text is the answer to the prompt."""
    clean = settings.protocol.clean_answer
    return (yield from answer_turns(prompt.messages(depth), settings.max_tokens, clean))
