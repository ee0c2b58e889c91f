"""The two formats in which an agent writes a tool call.

``json``: the reply is one JSON object ``{"name", "arguments"}``. ``fenced``, the published one: a
```` ```tool_call ```` block with ``{"tool", "args"}``, or a ```` ```final ```` block that ends the
job; text around the block is not read. A model writes the replies: nothing in them is trusted.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Any

from charprobe_lite.models.files import well_formed

OPENING = re.compile(r"^[ \t]*```[ \t]*(tool_call|final)\b\s*", re.MULTILINE)
# models write raw newlines into strings; NaN and its like become texts, as JSON has none
DECODER = json.JSONDecoder(strict=False, parse_constant=str)
MAX_DEPTH = 64
MAX_OBJECTS = 1000
"""Braces of a reply that are tried; each may cost a look at all that follows."""


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class FinalBlock:
    """The end of the job without a further call."""

    text: str


@dataclass(frozen=True)
class MalformedReply:
    """A reply that is neither a call nor a final block; the model is told the reason."""

    reason: str


@dataclass(frozen=True)
class CallFormat:
    """How calls are written: the ``rule`` in the system prompt, and the names of both keys."""

    name: str
    rule: str
    tool_key: str
    arguments_key: str
    fenced: bool

    @property
    def shape(self) -> str:
        return f'{{"{self.tool_key}": ..., "{self.arguments_key}": {{...}}}}'

    def write(self, name: str, arguments: object) -> str:
        call = {self.tool_key: name, self.arguments_key: arguments}
        text = json.dumps(call, ensure_ascii=False)
        return f"```tool_call\n{text}\n```" if self.fenced else text

    def read(self, text: str) -> Call | FinalBlock | MalformedReply:
        """The first call or final block of a reply."""
        return self._read_block(text) if self.fenced else self._read_object(text)

    def _read_block(self, text: str) -> Call | FinalBlock | MalformedReply:
        block = OPENING.search(text)
        if block is None:
            return MalformedReply(f"the reply holds no ```tool_call block with {self.shape}")
        if block[1] == "final":
            return FinalBlock(text[block.end() :].split("```")[0].strip())
        # the JSON says where it ends: a string in it may hold fences of its own
        return self._call(_decode(text, block.end())) or MalformedReply(
            f"what the ```tool_call block holds is not {self.shape}"
        )

    def _read_object(self, text: str) -> Call | MalformedReply:
        for value in _objects(text):
            if call := self._call(value):
                return call
        return MalformedReply(f"the reply holds no {self.shape}")

    def _call(self, value: object) -> Call | None:
        if not isinstance(value, dict):
            return None
        name, arguments = value.get(self.tool_key), value.get(self.arguments_key)
        if isinstance(name, str) and isinstance(arguments, dict):
            return Call(name, arguments)
        return None


JSON_CALLS = CallFormat(
    "json",
    'In every turn you reply with one JSON tool call, {"name": ..., "arguments": {...}}, '
    "and nothing else.",
    "name",
    "arguments",
    fenced=False,
)
FENCED_CALLS = CallFormat(
    "fenced",
    "In every turn you call one tool, in a block of this form:\n"
    '```tool_call\n{"tool": ..., "args": {...}}\n```\n'
    "Text outside the block is not read. A ```final block in its place ends the job.",
    "tool",
    "args",
    fenced=True,
)
CALL_FORMATS = {form.name: form for form in (JSON_CALLS, FENCED_CALLS)}


def sound(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A value that a model wrote as any JSON writer takes it: no lone surrogates, no infinity.

    Raises ValueError for one that nests deeper than ``depth``.
    """
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if not isinstance(value, list | dict):
        return value
    if not depth:
        raise ValueError("nests too deeply")
    if isinstance(value, list):
        return [sound(part, depth - 1) for part in value]
    return {well_formed(key): sound(part, depth - 1) for key, part in value.items()}


def first_object(text: str) -> object:
    """The first JSON object in a text; None where there is none."""
    return next((value for value in _objects(text) if value is not None), None)


def _objects(text: str) -> Iterator[object]:
    """What begins at each brace of a text; None where it is no JSON."""
    braces = islice(re.finditer(r"\{", text), MAX_OBJECTS)
    return (_decode(text, brace.start()) for brace in braces)


def _decode(text: str, start: int) -> object:
    try:
        return sound(DECODER.raw_decode(text, start)[0])
    except (ValueError, RecursionError):
        return None
