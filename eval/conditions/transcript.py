"""Conversations of a study: it records replies only, and the conditions write the rest again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from charprobe_lite.eval.cells import RecordedTurn, Row
from charprobe_lite.eval.conditions import condition_names, load_condition
from charprobe_lite.eval.conditions.condition import Inputs, Item, RolloutSettings, input_hashes
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.protocols.protocol import Protocol
from charprobe_lite.models.axes import AxisScenario
from charprobe_lite.models.call_formats import CALL_FORMATS
from charprobe_lite.models.catalogue import GRAMMARS
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.prompts import Prompt, load_prompts
from charprobe_lite.models.published_scenarios import load_any_scenarios
from charprobe_lite.models.scenarios import tool_message
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Completion, Message, Rollout


class Transcripts:
    """The conversations of a study's rollouts, from its prompts and scenarios.

    ``provenance`` is the study's; a path of None is the shipped file. ``mismatches`` names the
    inputs that differ from the study's: "prompts", "scenarios" or a shipped file that has changed
    since. Raises BadInput for a file that cannot be read, or that is not the study's.
    """

    def __init__(
        self,
        provenance: Mapping[str, Any],
        prompts: Path | None = None,
        scenarios: Path | None = None,
    ) -> None:
        protocol = _protocol(provenance)
        inputs = Inputs(
            load_prompts(prompts, protocol.prompt_order),
            load_any_scenarios(scenarios),
            protocol=protocol,
        )
        self.mismatches = [
            name
            for name, digest in input_hashes(prompts, scenarios, protocol.suffixes).items()
            if provenance.get(f"sha256 {name}", digest) != digest
        ]
        for name, path in (("prompts", prompts), ("scenarios", scenarios)):
            if path and name in self.mismatches:
                raise BadInput(f"{path}: not the {name} of the study; name the file that it used")
        self._items = {
            (name, item.id): item
            for name in condition_names()
            for item in load_condition(name).items(inputs)
            if not self._differs(name, item)
        }
        self._settings = RolloutSettings(
            _count(provenance, "max_tokens", 384),
            _count(provenance, "max_steps", 8),
            load_tools(),
            protocol=protocol,
            tool_role="template" if provenance.get("tool_role") == "template" else "user",
        )

    def messages(self, row: Row, turns: Sequence[RecordedTurn]) -> list[Message] | None:
        """The conversation with its last reply; None where it cannot be rebuilt.

        A text without a model is the answer to its writer's task.
        """
        item = self._items.get((row.cell.condition, row.item))
        if item is None or not _fits(row):
            return None
        if turns:
            settings = self._settings.for_cell(row.cell, row.persona)
            rollout = load_condition(row.cell.condition).rollout(item, settings)
            return replay(rollout, turns, settings.tool_role)
        if isinstance(item, Prompt) and row.text:
            task = {"role": "user", "content": item.text}
            return [task, {"role": "assistant", "content": row.text}]
        return None

    def _differs(self, condition: str, item: Item) -> bool:
        """Whether the item under this id may be another one than the study's."""
        inputs = {"prompts", "suffixes"} if condition == "break_character" else {"prompts"}
        if isinstance(item, AxisScenario):
            inputs = {"axes"}
        elif not isinstance(item, Prompt):
            inputs = {"scenarios", "tools", "descriptions"}
        return not inputs.isdisjoint(self.mismatches)


def replay(
    rollout: Rollout, turns: Sequence[RecordedTurn], tool_role: str = "user"
) -> list[Message] | None:
    """The messages of a rollout that gets these replies; None if it requests fewer."""
    try:
        request = next(rollout)
        messages = list(request.messages)
        for number, turn in enumerate(turns, 1):
            messages.append({"role": "assistant", "content": turn.text})
            if number < len(turns):
                length = len(request.messages) + 1
                request = rollout.send(Completion(turn.text, turn.finish, 0, 0, turn.tokens, 0))
                # the tool's output of that time, where it was recorded
                output = [] if turn.output is None else [tool_message(turn.output, tool_role)]
                messages += output or request.messages[length:]
    except StopIteration:
        return None
    finally:
        rollout.close()
    return messages


def recorded_messages(row: Row, turns: Sequence[RecordedTurn]) -> list[Message]:
    """The part of a conversation that the study records: replies and outputs of tools."""
    messages: list[Message] = []
    for turn in turns:
        messages.append({"role": "assistant", "content": turn.text})
        if turn.output is not None:
            messages.append(tool_message(turn.output))
    if not turns and row.text is not None:
        messages.append({"role": "assistant", "content": row.text})
    return messages


def _fits(row: Row) -> bool:
    """Whether the condition can have this cell and persona: anyone can edit a study."""
    cell, condition = row.cell, load_condition(row.cell.condition)
    if (cell.format, cell.grammar) not in condition.call_modes([*CALL_FORMATS], GRAMMARS):
        return False
    return not condition.stages or (
        cell.stage in condition.stages and row.persona in condition.personas
    )


def _protocol(provenance: Mapping[str, Any]) -> Protocol:
    """The study's protocol; lite for a study of the time before there were others."""
    name = provenance.get("protocol", "lite")
    return load_protocol(name if isinstance(name, str) else "")


def _count(provenance: Mapping[str, Any], name: str, default: int) -> int:
    value = provenance.get(name)
    return value if type(value) is int and 0 < value <= 1000000 else default
