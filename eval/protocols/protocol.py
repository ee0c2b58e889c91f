"""What a protocol is: all that a study does in its own way, and where that is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from charprobe_lite.models.call_formats import Call, CallFormat
from charprobe_lite.models.scenarios import tool_message
from charprobe_lite.models.tools import Tool, finish_tool
from charprobe_lite.runtime.backend import Grammar, Message, Request, Rollout


@dataclass(frozen=True)
class Fact:
    """One thing that a protocol fixes, in words, and where it is from."""

    topic: str
    text: str
    source: str


@dataclass(frozen=True)
class AgentTask:
    """What an agent is asked to do.

    ``answer`` is what a tool gives for a call: a value of JSON or an `office.ToolError`. The agent
    has ``steps`` replies of at most ``max_tokens``; ``grammar`` constrains them to calls in
    ``call_format``. ``tool_role`` is "user" or "template": who speaks a tool's output.
    """

    opening: Sequence[Message]
    tools: Sequence[Tool]
    answer: Callable[[Call], Any]
    steps: int
    max_tokens: int
    call_format: CallFormat
    grammar: bool
    tool_role: str = "user"

    @property
    def finish(self) -> Tool:
        """The tool that sends the email."""
        return finish_tool(self.tools)

    def request(self, messages: Sequence[Message], grammar: Grammar | None) -> Request:
        """The agent's next turn."""
        return Request(tuple(messages), self.max_tokens, grammar)

    def exchange(self, reply: str, output: str) -> list[Message]:
        """The agent's reply and a tool's output, as the next request shows them."""
        return [{"role": "assistant", "content": reply}, tool_message(output, self.tool_role)]


@dataclass(frozen=True)
class Protocol:
    """How a study asks, reads and scores.

    ``conditions`` are those of a study that names none, ``defaults`` other values of its spec, by
    the names that options have: an option that is given overrides one. ``run_agent`` is the full
    tool loop, ``send_email`` the last turn alone; ``write_output`` writes a tool's value as text.
    ``clean_answer`` and ``clean_email`` make the text that is classified out of a reply in a chat,
    or to a request for an email. The ``suffixes`` of `break_character` follow a prompt after
    ``separator``, one in rotation under a limit of prompts, or all of them after every prompt.
    ``prompt_order`` is that of Pure-Dove's rows, and ``interval`` what the headline interval
    resamples.
    """

    name: str
    summary: str
    facts: Sequence[Fact]
    conditions: tuple[str, ...]
    defaults: Mapping[str, Any]
    run_agent: Callable[[AgentTask], Rollout]
    send_email: Callable[[AgentTask], Rollout]
    write_output: Callable[[Any], str]
    clean_answer: Callable[[str], str]
    clean_email: Callable[[str], str]
    suffixes: Path
    separator: str
    rotates_suffixes: bool
    prompt_order: Literal["shuffled", "file"]
    interval: Literal["clusters", "rows"]
