"""Single rollouts: prompts and scenarios, one of them run on an engine, turn by turn."""

from dataclasses import dataclass
from pathlib import Path

from charprobe_lite.eval.cells import RecordedTurn
from charprobe_lite.eval.conditions import condition_names, load_condition
from charprobe_lite.eval.conditions.condition import Condition, Inputs, Item, RolloutSettings
from charprobe_lite.eval.conditions.transcript import replay
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.protocols.outcome import Outcome
from charprobe_lite.eval.protocols.protocol import Protocol
from charprobe_lite.models.call_formats import CALL_FORMATS
from charprobe_lite.models.catalogue import STAGES
from charprobe_lite.models.defaults import MAX_STEPS, MAX_TOKENS
from charprobe_lite.models.errors import BadInput, require_known, require_least, spelled
from charprobe_lite.models.prompts import Prompt, load_prompts, prompt_file
from charprobe_lite.models.published_scenarios import (
    AnyScenario,
    Script,
    StubScenario,
    load_any_scenarios,
    refuse_other_formats,
)
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Job, Message
from charprobe_lite.runtime.engine import Engine


@dataclass(frozen=True)
class RolloutRecord:
    """One finished rollout.

    ``text`` is the answer or the body of the email, None where the rollout ended without one;
    ``forced`` marks an email that the grammar demanded on the last step. ``turns`` has each reply
    with the tool call in it and the output of the tool; ``messages`` the conversation as the
    model saw it (role and content), its last reply included.
    """

    condition: str
    item: str
    seed: int
    outcome: Outcome
    text: str | None
    forced: bool
    turns: list[RecordedTurn]
    messages: list[Message]


@spelled("argument")
def prompts(path: str | Path | None = None) -> list[Prompt]:
    """Prompts for chat conditions: the shipped ones, or those of a file.

    ``path`` is a text file with one prompt per line; JSON, JSON lines, YAML, CSV or parquet with a
    ``prompt`` in each row or in the layout of Pure-Dove; or "pure-dove", which fetches that data
    set. Raises BadInput for a file that cannot be used.
    """
    return load_prompts(prompt_file(None if path is None else str(path)))


@spelled("argument")
def scenarios(path: str | Path | None = None) -> list[AnyScenario]:
    """Office tasks for email conditions: the shipped ones, or those of a file or folder.

    ``path`` holds scenarios of this project (JSON lines) or of the published study (YAML). Raises
    BadInput for a file that cannot be used.
    """
    return load_any_scenarios(None if path is None else Path(path))


@spelled("argument")
def rollout(
    engine: Engine,
    condition: str,
    item: Item | str,
    *,
    seed: int = 0,
    persona: str | None = None,
    max_tokens: int = MAX_TOKENS,
    steps: int = MAX_STEPS,
    format: str = "json",
    grammar: bool = True,
    protocol: str = "lite",
) -> RolloutRecord:
    """Run one item of a condition, alone on the engine; the same seed gives the same rollout.

    ``item`` is a scenario or a prompt (a plain text is one too); `break_character` adds its first
    suffix to a prompt. ``persona`` is only for `prompted_email`, which describes it to the model.
    ``max_tokens`` limits each reply, ``steps`` the replies of an agent; ``format`` and ``grammar``
    say how an agent writes tool calls, ``protocol`` how its loop goes and how the text is cleaned
    (options that it has defaults for, such as ``format``, are given here). Do not call it while the
    engine runs other rollouts. Raises BadInput for an unknown name, a number out of range, and for
    an item that the condition does not take; RuntimeError for a closed engine.
    """
    require_least(seed=(seed, 0), max_tokens=(max_tokens, 1), steps=(steps, 1))
    record = _condition(condition, persona)
    require_known("--format", format, CALL_FORMATS)
    rules = load_protocol(protocol)
    item = Prompt("prompt", item) if isinstance(item, str) else item
    item = _item(condition, record, item, rules)
    if record.calls_tools and isinstance(item, StubScenario | Script):
        refuse_other_formats(item, CALL_FORMATS[format])
    mode = "on" if grammar else "off"
    settings = RolloutSettings(
        *(max_tokens, steps, load_tools()),
        persona=persona,
        format=format,
        grammar=mode,
        protocol=rules,
    )
    engine.clear()  # logits depend, in their last bits, on the cached part of the prompt
    [(_, result)] = engine.run([Job(item.id, seed, record.rollout(item, settings))])
    turns = [
        RecordedTurn(
            *(turn.completion.text, turn.completion.finish, turn.tool, turn.arguments),
            *(turn.output, turn.completion.tokens),
        )
        for turn in result.turns
    ]
    messages = replay(record.rollout(item, settings), turns) or []
    return RolloutRecord(
        condition, item.id, seed, result.outcome, result.text, result.forced, turns, messages
    )


def _condition(name: str, persona: str | None) -> Condition:
    require_known("--condition", name, condition_names())
    condition = load_condition(name)
    if condition.stages and not set(condition.stages) & set(STAGES):
        raise BadInput(f"--condition {name}: runs no model")
    if condition.stages and persona not in condition.personas:
        names = tuple(condition.personas)
        raise BadInput(f"--persona {persona}: {name} describes one of {', '.join(names)}")
    return condition


def _item(name: str, condition: Condition, item: Item, protocol: Protocol) -> Item:
    if not isinstance(item, Item):
        raise BadInput(f"--item {item!r}: is no prompt and no scenario; see prompts, scenarios")
    if isinstance(item, Prompt):
        kind, inputs = "a prompt", Inputs([item], [], prompt_limit=1, protocol=protocol)
    else:
        kind, inputs = "this kind of scenario", Inputs([], [item])
    items = condition.items(inputs)
    # conditions with scenarios of their own may not pass over the one that was given
    if not items or not isinstance(items[0], type(item)):
        raise BadInput(f"--item {item.id}: {name} does not take {kind}")
    return items[0]
