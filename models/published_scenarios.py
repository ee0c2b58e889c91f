"""Scenarios as the published study writes them, next to charprobe-lite's own.

A ``StubScenario`` (YAML) brings its messages and what its tools answer; a ``Script`` (JSON lines)
only turns: those of the user that have no answer yet are to be answered.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from charprobe_lite.models.call_formats import Call, CallFormat
from charprobe_lite.models.errors import BadInput, suggestion
from charprobe_lite.models.files import file_format, read_records
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.models.office import ToolError
from charprobe_lite.models.record import Record
from charprobe_lite.models.scenarios import (
    Scenario,
    load_scenarios,
    refuse_duplicates,
    tool_message,
)
from charprobe_lite.models.task_ids import SCAFFOLDS, family_of
from charprobe_lite.models.tools import Tool, ToolName

log = logging.getLogger(__name__)
AGENT, LAST_TURN = "agentic_actions", "agentic_email"  # scaffolds: a whole task, its last turn
CONDITION_OF = {AGENT: "agentic_email", LAST_TURN: "agentic_next"}
"""The conditions of scaffolds that have another name."""
FORMATS = (".yaml", ".json", ".jsonl")
OTHER_DATA = (".csv", ".txt", ".parquet", ".toml", ".xml", ".xlsx", ".gz", ".zip")
"""Endings of files that may hold scenarios, and that a folder of scenarios is not read from."""
SENDS_EMAIL = re.compile(r"\b(?:send[._-]?e?mail|e?mail[._-]send)\b")
Text = Annotated[str, Field(min_length=1, max_length=50_000)]


class PublishedRecord(Record, extra="ignore"):
    """The published files hold notes of their own, which are not read."""


class Message(PublishedRecord):
    role: Literal["system", "user", "assistant", "tool"]
    content: Text

    def shown(self, tool_role: str = "user") -> dict[str, str]:
        """The message as a model is shown it; see `tool_message`."""
        return tool_message(self.content, tool_role) if self.role == "tool" else self.model_dump()


class Rule(PublishedRecord):
    """What a tool answers: where every pattern of ``match`` fits, or by default.

    ``match`` maps arguments to fnmatch patterns of their string form (Python's); a single pattern
    is for all arguments, as JSON.
    """

    match: dict[str, Any] | str | None = None
    default: Any = None
    response: Any

    @model_validator(mode="after")
    def _matches_something(self) -> Rule:
        if self.match is None and not self.default:
            raise ValueError("a rule needs match or default")
        return self

    def fits(self, arguments: dict[str, Any]) -> bool:
        """Whether an explicit rule is for these arguments."""
        if self.match is None:
            return False
        if isinstance(self.match, str):
            text = json.dumps(arguments, ensure_ascii=False, default=str)
            return fnmatchcase(text, self.match)
        return all(
            name in arguments and fnmatchcase(str(arguments[name]), str(pattern))
            for name, pattern in self.match.items()
        )


class ToolStub(PublishedRecord):
    """A tool with fixed answers; published files bring no schema of its arguments."""

    tool: ToolName
    rules: list[Rule] = Field(default=[])
    description: Text = "a tool of the office"
    parameters: dict[str, Any] = Field(default={"type": "object"})


class PublishedTask(PublishedRecord):
    """A scenario's id, its family (by default the one in a published id), and its scaffold."""

    id: str = Field(min_length=1, max_length=100)
    family: str = ""
    scaffold: str = ""

    @model_validator(mode="before")
    @classmethod
    def _derives_family(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("family"):
            return {**values, "family": family_of(str(values.get("id", "")))}
        return values

    @field_validator("scaffold")
    @classmethod
    def _is_known(cls, scaffold: str) -> str:
        if scaffold and scaffold not in SCAFFOLDS:
            raise ValueError(f"{scaffold!r} is unknown; {suggestion(scaffold, SCAFFOLDS)}")
        return scaffold


class StubScenario(PublishedTask):
    """One task of the published study.

    ``finish`` names the tool that ends the rollout; without it, that is the only stub (or else
    the only name in the messages) that reads like ``send_email`` or ``email.send``.
    """

    max_steps: int | None = Field(default=None, ge=1, le=100)
    initial_messages: list[Message] = Field(min_length=1)
    tool_stubs: list[ToolStub] = Field(default=[], max_length=100)
    finish: str | None = None

    @model_validator(mode="after")
    def _ends(self) -> StubScenario:
        if self.scaffold not in ("", AGENT):
            raise ValueError(f"scaffold must be {AGENT} for a scenario with tool_stubs")
        _check_turns(self.initial_messages, "initial_messages")
        self.tools()
        return self

    @property
    def teaches_format(self) -> bool:
        """Whether the messages themselves say how a tool is called: the fenced way."""
        return any("```tool_call" in message.content for message in self.initial_messages)

    def tools(self) -> list[Tool]:
        """The tools that the stubs answer for, and the one that ends the rollout."""
        stubs = {stub.tool: stub for stub in self.tool_stubs}
        finish = self.finish or self._finish_by_name()
        stubs.setdefault(finish, ToolStub(tool=finish))
        return [
            Tool(
                name=name,
                description=stub.description,
                parameters=stub.parameters,
                effect="finish" if name == finish else "reply",
            )
            for name, stub in stubs.items()
        ]

    def opening(
        self, tools: Sequence[Tool], form: CallFormat, tool_role: str = "user"
    ) -> list[dict[str, str]]:
        """The scenario's messages; how to call a tool is added where they do not say it."""
        messages = [message.shown(tool_role) for message in self.initial_messages]
        if self.teaches_format:
            return messages
        rules = "\n".join([form.rule, "Tools:", *(tool.signature() for tool in tools)])
        if messages[0]["role"] == "system":
            first = messages.pop(0)
            rules = f"{first['content']}\n\n{rules}"
        return [{"role": "system", "content": rules}, *messages]

    def answer(self, call: Call) -> Any:
        """The response of the first rule that fits, else of the default, else a `ToolError`."""
        stubs = {stub.tool: stub for stub in self.tool_stubs}
        if call.name not in stubs:
            return ToolError(f"there is no tool {call.name!r}.")
        rules = stubs[call.name].rules
        explicit = [rule for rule in rules if not rule.default and rule.fits(call.arguments)]
        default = [rule for rule in rules if rule.default][-1:]
        return next(
            (rule.response for rule in (*explicit, *default)), ToolError("nothing was found.")
        )

    def _finish_by_name(self) -> str:
        stubs = [stub.tool for stub in self.tool_stubs if SENDS_EMAIL.fullmatch(stub.tool)]
        return _email_tool(stubs, self.initial_messages)


def _user_turn(turn: object) -> object:
    return {"role": "user", "content": turn} if isinstance(turn, str) else turn


class Script(PublishedTask):
    """A conversation that the model goes on with.

    Without a ``scaffold`` it is one of `chat_email`: the user's turns that have no answer are
    answered one after the other, and the last answer is the email. In the scaffold
    `agentic_email` the last turn is a tool's, and the reply is the call that sends the email, by
    the tool that ``finish`` names, or the one of the messages that reads like ``send_email``.
    """

    finish: ToolName | None = None
    turns: list[Annotated[Message, BeforeValidator(_user_turn)]] = Field(
        min_length=1, max_length=100
    )

    @model_validator(mode="after")
    def _ends(self) -> Script:
        if self.scaffold == AGENT:
            raise ValueError(f"scaffold {AGENT} needs initial_messages and tool_stubs, not turns")
        _check_turns(self.turns, "turns")
        if self.scaffold == LAST_TURN:
            self.email_tool()
        return self

    def email_tool(self) -> Tool:
        """The tool that sends the email."""
        name = self.finish or _email_tool([], self.turns)
        return Tool(name=name, description="send", parameters={"type": "object"}, effect="finish")

    @property
    def teaches_format(self) -> bool:
        """Whether the turns themselves say how a tool is called: the fenced way."""
        return self.scaffold == LAST_TURN


def _check_turns(turns: Sequence[Message], field: str) -> None:
    """Raises ValueError for turns that no model can go on with."""
    if turns[-1].role not in ("user", "tool"):
        raise ValueError(f"{field} must end with a user turn or a tool's")
    for number, (before, turn) in enumerate(pairwise([None, *turns])):
        if turn and turn.role == "tool" and (before is None or before.role != "assistant"):
            raise ValueError(f"{field}.{number}: a tool's turn must follow the assistant's call")


def _email_tool(stubs: Sequence[str], messages: Sequence[Message]) -> str:
    """The one stub, or else the one name in the messages, that reads like ``send_email``."""
    text = " ".join(message.content for message in messages)
    names: set[str] = set(stubs or SENDS_EMAIL.findall(text))
    if len(names) != 1:
        raise ValueError(
            f"{len(names) or 'no'} tools send an email; name in finish the one that ends it"
        )
    return names.pop()


AnyScenario = Scenario | StubScenario | Script


def refuse_other_formats(scenario: AnyScenario, form: CallFormat) -> None:
    """Raises BadInput for a format of tool calls that the scenario's messages contradict."""
    if not isinstance(scenario, Scenario) and scenario.teaches_format and not form.fenced:
        raise BadInput(
            f"--format {form.name}: the messages of scenario {scenario.id!r} ask for fenced tool "
            "calls; use --format fenced"
        )


def load_any_scenarios(path: Path | None = None) -> list[AnyScenario]:
    """Scenarios of any kind from a file, or from all files of a folder; None: the 50 shipped.

    Raises BadInput naming the file, the line or entry, the field and the problem.
    """
    if path is None:
        return list(load_scenarios())
    scenarios = [
        _scenario(place, record, f"{file.stem}-{number}")
        for file in scenario_files(path)
        for number, (place, record) in enumerate(read_records(file), 1)
    ]
    refuse_duplicates(path, [scenario.id for scenario in scenarios])
    return scenarios


def sha256_scenarios(path: Path) -> str:
    """The digest of a file; of a folder, that of its files' names and digests."""
    if not path.is_dir():
        return sha256_file(path)
    lines = [f"{file.relative_to(path)} {sha256_file(file)}" for file in scenario_files(path)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def scenario_files(path: Path) -> list[Path]:
    """The files of a folder that hold scenarios, in order; a file itself.

    The log warns of files that are left out and may hold scenarios too.
    """
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        if file_format(file) in OTHER_DATA:
            _warn_of_left_out(file)
    return [file for file in files if file_format(file) in FORMATS]


@cache  # a command reads its scenarios several times
def _warn_of_left_out(file: Path) -> None:
    log.warning("%s: is left out; scenarios are read from .yaml, .json and .jsonl files", file)


def _scenario(place: str, record: Any, id_: str) -> AnyScenario:
    """A record of the kind that its keys show; ``id_`` is for a script without one."""
    keys = set(record) if isinstance(record, dict) else set()
    if keys & {"tool_stubs", "initial_messages"}:
        return StubScenario.parse(place, record)
    if "turns" in keys:
        return Script.parse(place, {"id": id_, **record})
    return Scenario.parse(place, record)
