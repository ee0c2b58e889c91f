"""Chat templates, rendered in jinja2's sandbox because they come from untrusted GGUF files."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from charprobe_lite.models.errors import BadInput, bad_input

MAX_TEMPLATE = 200_000


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, which also refuses to build very large strings and numbers."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(v) if isinstance(v, str | list | tuple) else v for v in (left, right)]
        if operator == "**" or sizes[0] * sizes[1] > MAX_TEMPLATE:
            raise jinja2.TemplateError(f"{operator} gives too large a value")
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
    if len(source) > MAX_TEMPLATE:
        raise BadInput(f"chat template: {len(source)} characters; at most {MAX_TEMPLATE} are read")
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise
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
    with bad_input("chat template: fails on a chat", Exception):  # a template can raise anything
        return compiled.render(values, bos_token=bos, eos_token=eos)


def _raise(message: Any) -> None:
    raise jinja2.TemplateError(str(message))
