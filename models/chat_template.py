"""Chat templates, rendered in jinja2's sandbox because they come from untrusted GGUF files.

A template may use what transformers gives it (apply_chat_template): ``raise_exception``, loop
controls, ``{% generation %}`` and a ``tojson`` that writes plain JSON. ``strftime_now`` is left
out, so that a prompt does not depend on the day: Llama's template then writes its fixed date. A
template that insists on it gets that date, too.
"""

import json
from collections.abc import Callable, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from charprobe_lite.models.errors import BadInput, bad_input, first_problem

MAX_TEMPLATE = 200_000
MAX_INDENT = 100
DATE = date(2024, 7, 26)
QUESTION = {"role": "user", "content": "Hello."}
MARK = "A-system-prompt."


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, which also refuses to build very large strings and numbers."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(v) if isinstance(v, str | list | tuple) else v for v in (left, right)]
        if operator == "**" or sizes[0] * sizes[1] > MAX_TEMPLATE:
            raise jinja2.TemplateError(f"{operator} gives too large a value")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """``{% generation %}`` marks what an assistant wrote, for training; it is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int) and indent > MAX_INDENT:
        raise jinja2.TemplateError(f"indent {indent} gives too large a value")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators and tuple(separators),
        sort_keys=sort_keys,
    )


@lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
    if len(source) > MAX_TEMPLATE:
        raise BadInput(f"chat template: {len(source)} characters; at most {MAX_TEMPLATE} are read")
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = _to_json
    if "strftime_now is defined" not in source:
        environment.globals["strftime_now"] = DATE.strftime
    with bad_input("chat template: does not compile", jinja2.TemplateError, RecursionError):
        return environment.from_string(source)


def render_chat(
    template: str,
    messages: Sequence[dict[str, str]],
    *,
    generate: bool = True,
    bos: str = "",
    eos: str = "",
) -> str:
    """The conversation as the model's own template writes it.

    ``messages`` are ``{"role", "content"}``; with ``generate`` the text ends where the
    assistant's turn begins. Raises BadInput when the template fails on these messages.
    """
    compiled = _compile(template)
    values = {"messages": list(messages), "add_generation_prompt": generate, "tools": None}
    try:
        return compiled.render(values, bos_token=bos, eos_token=eos)
    except MemoryError:
        raise BadInput("chat template: needs too much memory") from None
    except Exception as error:  # a template can raise anything
        problem = first_problem(error) or type(error).__name__
        raise BadInput(f"chat template: fails on a chat: {problem}") from None


def fold_system(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The messages with a system prompt before the text of the first user turn."""
    first, *rest = messages
    if first["role"] != "system" or not rest or rest[0]["role"] != "user":
        return list(messages)
    content = f"{first['content']}\n\n{rest[0]['content']}"
    return [{**rest[0], "content": content}, *rest[1:]]


def takes_system(render: Callable[[Sequence[dict[str, str]]], str]) -> bool:
    """Whether a template writes a system prompt; some refuse it, and some leave it out.

    ``render`` writes a conversation by the template, or raises BadInput.
    """
    try:
        return MARK in render([{"role": "system", "content": MARK}, QUESTION])
    except BadInput:
        return False


def _raise(message: Any) -> None:
    raise jinja2.TemplateError(str(message))
