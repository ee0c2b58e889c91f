"""What OpenAI-compatible servers reply, each in its own way: texts, errors, reasons."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AliasPath, BaseModel, BeforeValidator, Field, ValidationError

from charprobe_lite.models.errors import first_problem, printable
from charprobe_lite.models.files import well_formed, without_surrogates

Count = Annotated[int, Field(ge=0, lt=2**53)]
CONTEXT_FULL = re.compile(
    r"context.?(length|size|window)|maximum model length|longer than the model"
    r"|context the overflows|max_new_tokens.{0,20} must be <="  # LM Studio; TGI
    r"|max_(seq|input|model)_len|max_num_tokens"  # TensorRT-LLM
    r"|(prompt|input) is too long|too many (input )?tokens",
    re.IGNORECASE,
)
"""How servers say that a prompt and its reply do not fit."""
NO_TEXT = ("content_filter", "tool_calls", "function_call")
"""Reasons to finish under which the text, if any, is not the reply."""
TRANSIENT = (408, 409, 429, *range(500, 600))
"""Status codes that may be gone in a moment, as the client library has them."""
REASON_KEYS = ("error", "message", "detail", "msg", "reason")
MAX_REASON = 300


def _joined(content: Any) -> Any:
    """The text of a message in parts, as some servers write it. Raises ValueError for others."""
    if not isinstance(content, list):
        return content
    if not all(isinstance(part, dict) for part in content):
        raise ValueError("has parts that are no objects")
    texts = [part.get("text") for part in content if part.get("type") == "text"]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("has a part of type text without a text")
    return "".join(texts)


class Reply(BaseModel):
    """The part of a chat completion that is read."""

    message: dict[str, Any] = Field(validation_alias=AliasPath("choices", 0, "message"))
    text: Annotated[str | None, BeforeValidator(_joined)] = Field(
        None, validation_alias=AliasPath("choices", 0, "message", "content")
    )
    finish: str | None = Field(None, validation_alias=AliasPath("choices", 0, "finish_reason"))
    prompt_tokens: Count = Field(0, validation_alias=AliasPath("usage", "prompt_tokens"))
    tokens: Count = Field(0, validation_alias=AliasPath("usage", "completion_tokens"))
    cached_tokens: Count | None = Field(
        None, validation_alias=AliasPath("usage", "prompt_tokens_details", "cached_tokens")
    )

    @property
    def is_empty(self) -> bool:
        """Whether it has no text: nothing but reasoning, or a call of the server's own."""
        is_other = self.finish in NO_TEXT or bool(self.message.get("tool_calls"))
        return is_other or not (self.text or "").strip()


@dataclass(frozen=True)
class Failure:
    """An error that a server wrote into a reply of status 200, or a reply without choices."""

    reason: str
    transient: bool

    @property
    def is_context_full(self) -> bool:
        """Whether the prompt does not fit."""
        return bool(CONTEXT_FULL.search(self.reason))


class NotAReply(ValueError):
    """What no OpenAI-compatible server writes; the text says what is wrong."""


def parse_json(text: str) -> Any:
    """The JSON value of a body, with lone surrogates replaced. Raises NotAReply."""
    try:
        return without_surrogates(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise NotAReply(first_problem(error)) from None


def parse_reply(text: str) -> Reply | Failure:
    """A chat completion, or the error in its place. Raises NotAReply for anything else."""
    value = parse_json(text)
    if isinstance(value, dict):
        choices = value.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        error = value.get("error") or (choice.get("error") if isinstance(choice, dict) else None)
        if error and not (isinstance(choice, dict) and choice.get("message")):
            code = error.get("code") if isinstance(error, dict) else None
            is_client = isinstance(code, int) and 400 <= code < 500 and code not in TRANSIENT
            return Failure(reason_in(error), transient=not is_client)
        if choices == []:
            return Failure("a reply without choices", transient=True)
    try:
        return Reply.model_validate(value)
    except ValidationError as error:
        raise NotAReply(first_problem(error)) from None


def reason_of(body: str) -> str:
    """The reason that the body of an error gives, in one line; "" where it has none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        is_page = body.lstrip().startswith("<")
        return "" if is_page else _line(body)
    return reason_in(value)


def reason_in(value: Any) -> str:
    """The first text among the fields that servers put a reason into."""
    return next((_line(text) for text in _texts(value) if text.strip()), "")


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth > 4:
        return
    elif isinstance(value, list):
        for entry in value[:4]:
            yield from _texts(entry, depth + 1)
    elif isinstance(value, dict):
        for key in REASON_KEYS:
            yield from _texts(value.get(key), depth + 1)


def _line(text: str) -> str:
    return printable(" ".join(well_formed(text).split()))[:MAX_REASON]
