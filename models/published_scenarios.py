"""Scenarios as the published study writes them, next to charprobe-lite's own.

A ``StubScenario`` (YAML) brings its messages and what its tools answer; a ``Script`` (JSON lines)
only user turns, to be answered one after the other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from charprobe_lite.models.call_formats import Call, CallFormat
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_records
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.models.record import Record
from charprobe_lite.models.scenarios import Scenario, load_scenarios, refuse_duplicates
from charprobe_lite.models.tools import Tool, ToolName

SUFFIXES = (".yaml", ".yml", ".json", ".jsonl")
SENDS_EMAIL = re.compile(r"\b(?:send[._-]?e?mail|e?mail[._-]send)\b")
Text = Annotated[str, Field(min_length=1, max_length=50_000)]


class PublishedRecord(Record, extra="ignore"):
    """The published files hold notes of their own, which are not read."""


class Message(PublishedRecord):
    role: Literal["system", "user", "assistant"]
    content: Text


class Rule(PublishedRecord):
    """What a tool answers: where every pattern of ``match`` fits, or by default.

    ``match`` maps arguments to fnmatch patterns; a single pattern is for all arguments, as JSON.
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
        if self.match is None:
            return True
        if isinstance(self.match, str):
            return fnmatchcase(_text(arguments), self.match)
        return all(
            name in arguments and fnmatchcase(_text(arguments[name]), _text(pattern))
            for name, pattern in self.match.items()
        )


class ToolStub(PublishedRecord):
    """A tool with fixed answers; published files bring no schema of its arguments."""

    tool: ToolName
    rules: list[Rule] = Field(default=[])
    description: Text = "a tool of the office"
    parameters: dict[str, Any] = Field(default={"type": "object"})


class PublishedTask(PublishedRecord):
    id: str = Field(min_length=1, max_length=100)
    family: str = ""
    scaffold: str = ""


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
        if self.initial_messages[-1].role != "user":
            raise ValueError("initial_messages must end with a user turn")
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

    def refuse_other_formats(self, form: CallFormat) -> None:
        """Raises BadInput for a format that the messages contradict."""
        if self.teaches_format and not form.fenced:
            raise BadInput(
                f"--format {form.name}: the messages of scenario {self.id!r} ask for fenced tool "
                "calls; use --format fenced"
            )

    def opening(self, tools: Sequence[Tool], form: CallFormat) -> list[dict[str, str]]:
        """The scenario's messages; how to call a tool is added where they do not say it."""
        messages = [message.model_dump() for message in self.initial_messages]
        if self.teaches_format:
            return messages
        rules = "\n".join([form.rule, "Tools:", *(tool.signature() for tool in tools)])
        if messages[0]["role"] == "system":
            first = messages.pop(0)
            rules = f"{first['content']}\n\n{rules}"
        return [{"role": "system", "content": rules}, *messages]

    def answer(self, call: Call) -> str:
        stub = next((stub for stub in self.tool_stubs if stub.tool == call.name), None)
        if stub is None:
            return f"Error: there is no tool {call.name!r}."
        for rule in stub.rules:
            if rule.fits(call.arguments):
                return _text(rule.response)
        return "Error: nothing was found."

    def _finish_by_name(self) -> str:
        stubs = [stub.tool for stub in self.tool_stubs if SENDS_EMAIL.fullmatch(stub.tool)]
        text = " ".join(message.content for message in self.initial_messages)
        names: set[str] = set(stubs or SENDS_EMAIL.findall(text))
        if len(names) != 1:
            raise ValueError(
                f"{len(names) or 'no'} tools send an email; name in finish the one that ends it"
            )
        return names.pop()


def _user_turn(turn: object) -> object:
    return {"role": "user", "content": turn} if isinstance(turn, str) else turn


class Script(PublishedTask):
    """Turns to answer one after the other; the last answer is the email."""

    turns: list[Annotated[Message, BeforeValidator(_user_turn)]] = Field(
        min_length=1, max_length=100
    )

    @model_validator(mode="after")
    def _ends(self) -> Script:
        if self.turns[-1].role != "user":
            raise ValueError("turns must end with a user turn")
        return self


AnyScenario = Scenario | StubScenario | Script


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
    """The files of a folder that hold scenarios, in order; a file itself."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())


def _scenario(place: str, record: Any, id_: str) -> AnyScenario:
    """A record of the kind that its keys show; ``id_`` is for a script without one."""
    keys = set(record) if isinstance(record, dict) else set()
    if keys & {"tool_stubs", "initial_messages"}:
        return StubScenario.parse(place, record)
    if "turns" in keys:
        return Script.parse(place, {"id": id_, **record})
    return Scenario.parse(place, record)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
