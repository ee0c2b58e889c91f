"""What the model was shown: a study records replies only, and the conditions say the rest again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from charprobe_lite.eval.cells import RecordedTurn, Row
from charprobe_lite.eval.conditions import condition
from charprobe_lite.eval.conditions.condition import Ask, Inputs, Item
from charprobe_lite.models.call_formats import CALL_FORMATS
from charprobe_lite.models.catalogue import CONDITIONS, GRAMMARS
from charprobe_lite.models.corpus import corpus_hashes
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.models.personas import DESCRIPTIONS_FILE
from charprobe_lite.models.prompts import SUFFIXES_FILE, Prompt, load_prompts
from charprobe_lite.models.published_scenarios import load_any_scenarios, sha256_scenarios
from charprobe_lite.models.scenarios import tool_message
from charprobe_lite.models.tools import TOOLS_FILE, load_tools
from charprobe_lite.runtime.backend import Completion, Message, Rollout


def hashes(prompts: Path | None, scenarios: Path | None) -> dict[str, str]:
    """sha256 of what checkpoints are asked: prompts, scenarios, tools; None is the shipped file."""
    shipped = corpus_hashes()
    return {
        "prompts": sha256_file(prompts) if prompts else shipped["id-prompts.txt"],
        "scenarios": sha256_scenarios(scenarios) if scenarios else shipped["agentic/eval.jsonl"],
        "tools": sha256_file(TOOLS_FILE),
        "suffixes": sha256_file(SUFFIXES_FILE),
        "descriptions": sha256_file(DESCRIPTIONS_FILE),
    }


class Transcripts:
    """The conversations of a study's rollouts, from the files that it asked.

    ``provenance`` is the study's. ``strange`` names what it asked that is not at hand: "prompts",
    "scenarios" or a shipped file that has changed since. Raises BadInput for a file that cannot be
    read, or that is not the one that was asked.
    """

    def __init__(
        self,
        provenance: Mapping[str, Any],
        prompts: Path | None = None,
        scenarios: Path | None = None,
    ) -> None:
        inputs = Inputs(load_prompts(prompts), load_any_scenarios(scenarios))
        here = hashes(prompts, scenarios)
        self.strange = [
            name
            for name, digest in here.items()
            if provenance.get(f"sha256 {name}", digest) != digest
        ]
        for name, path in (("prompts", prompts), ("scenarios", scenarios)):
            if path and name in self.strange:
                raise BadInput(f"{path}: not the {name} that the study asked; name that file")
        self._items = {
            (name, item.id): item
            for name in CONDITIONS
            for item in condition(name).items(inputs)
            if not self._is_strange(item)
        }
        self._ask = Ask(
            _count(provenance, "max_tokens", 384),
            _count(provenance, "max_steps", 8),
            load_tools(),
        )

    def messages(self, row: Row, turns: Sequence[RecordedTurn]) -> list[Message] | None:
        """The whole conversation, the last reply included; None where it cannot be rebuilt.

        A text without a model is the answer to what its writer was asked.
        """
        item = self._items.get((row.cell.condition, row.item))
        if item is None or not _is_askable(row):
            return None
        if not turns:
            asked = {"role": "user", "content": item.text} if isinstance(item, Prompt) else None
            return (
                [asked, {"role": "assistant", "content": row.text}] if asked and row.text else None
            )
        rollout = condition(row.cell.condition).rollout
        return replayed(rollout(item, self._ask.of(row.cell, row.persona)), turns)

    def _is_strange(self, item: Item) -> bool:
        """Whether the study may have asked something else under this id."""
        needed = (
            ("prompts", "suffixes")
            if isinstance(item, Prompt)
            else ("scenarios", "tools", "descriptions")
        )
        return any(name in self.strange for name in needed)


def replayed(rollout: Rollout, turns: Sequence[RecordedTurn]) -> list[Message] | None:
    """The messages of a rollout that gets these replies; None if it asks for fewer."""
    try:
        request = next(rollout)
        messages = list(request.messages)
        for number, turn in enumerate(turns, 1):
            messages.append({"role": "assistant", "content": turn.text})
            if number < len(turns):
                known = len(request.messages) + 1
                request = rollout.send(Completion(turn.text, turn.finish, 0, 0, turn.tokens, 0))
                # a result as it was, where it was recorded
                came = [] if turn.output is None else [tool_message(turn.output)]
                messages += came or request.messages[known:]
    except StopIteration:
        return None
    finally:
        rollout.close()
    return messages


def recorded_messages(row: Row, turns: Sequence[RecordedTurn]) -> list[Message]:
    """What the study itself holds of a conversation: the replies, and what tools gave back."""
    messages: list[Message] = []
    for turn in turns:
        messages.append({"role": "assistant", "content": turn.text})
        if turn.output is not None:
            messages.append(tool_message(turn.output))
    if not turns and row.text is not None:
        messages.append({"role": "assistant", "content": row.text})
    return messages


def _is_askable(row: Row) -> bool:
    """Whether the condition is asked like this: anyone can have edited a study."""
    cell = row.cell
    if cell.condition not in CONDITIONS:
        return False
    asked = condition(cell.condition)
    fits = (cell.format, cell.grammar) in asked.ways([*CALL_FORMATS], GRAMMARS)
    return fits and (
        not asked.stages or (cell.stage in asked.stages and row.persona in asked.personas)
    )


def _count(provenance: Mapping[str, Any], name: str, usual: int) -> int:
    value = provenance.get(name)
    return value if type(value) is int and 0 < value <= 1000000 else usual
