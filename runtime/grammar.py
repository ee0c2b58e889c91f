"""Grammars for replies: JSON schemas compiled by llguidance, and a grammar's state along a turn."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.llamacpp import lltokenizer_from_vocab
from numpy.typing import NDArray

from charprobe_lite.models.call_formats import JSON_CALLS, CallFormat
from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.models.tools import Tool
from charprobe_lite.runtime.backend import Grammar
from charprobe_lite.runtime.schema_trial import try_schema
from charprobe_lite.runtime.tool_schemas import tool_schema

# one spelling of every value, json.dumps's, so that all but the values themselves is forced
SPELLING = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allow_general_unicode_escapes": True,
}


FENCED_CALL = """\
start: "```tool_call\\n" call "\\n```"
call: %json {schema}
"""
FENCED = """\
start: ("```tool_call\\n" call | "```final\\n" FINAL) "\\n```"
call: %json {schema}
FINAL: /[^`]{{1,1000}}/
"""


def tool_call_grammar(
    tools: Sequence[Tool], form: CallFormat = JSON_CALLS, *, may_end: bool = True
) -> Grammar:
    """Admits one call of one of ``tools``, written as ``form`` has it.

    In the fenced format the reply may be a ```` ```final ```` block instead, if ``may_end``. Raises
    BadInput when a tool's schema cannot be turned into a grammar.
    """
    registry = json.dumps([[tool.name, tool.parameters] for tool in tools])
    return _tool_call_grammar(registry, form, may_end)


@lru_cache(maxsize=64)
def _tool_call_grammar(registry: str, form: CallFormat, may_end: bool) -> Grammar:
    calls: list[Any] = []
    definitions: dict[str, Any] = {}
    for name, parameters in json.loads(registry):
        try_schema(name, json.dumps(parameters))
        found = tool_schema(name, json.dumps(parameters))
        definitions |= found.definitions
        calls.append(
            {
                "type": "object",
                "properties": {form.tool_key: {"const": name}, form.arguments_key: found.schema},
                "required": [form.tool_key, form.arguments_key],
                "additionalProperties": False,
            }
        )
    schema = {"anyOf": calls} | ({"$defs": definitions} if definitions else {})
    grammar = Grammar(json.dumps(schema))
    if form.fenced:
        source = json.dumps({**schema, "x-guidance": SPELLING})
        grammar = Grammar((FENCED if may_end else FENCED_CALL).format(schema=source), "lark")
    if problem := LLMatcher.validate_grammar(_source(grammar)):
        raise BadInput(
            f"tools {', '.join(name for name, _ in json.loads(registry))}: no grammar "
            f"for their schemas: {first_problem(problem)}"
        )
    return grammar


def _source(grammar: Grammar) -> str:
    if grammar.notation == "lark":
        return str(LLMatcher.grammar_from_lark(grammar.source))
    return str(LLMatcher.grammar_from_json_schema(grammar.source, overrides=SPELLING))


class Grammars:
    """Compiles the grammars of one vocabulary, once each.

    ``vocab`` is llama.cpp's and must outlive this object; ``end_tokens`` end a turn, the first
    of them is the model's own end of sequence.
    """

    def __init__(self, vocab: Any, end_tokens: Sequence[int]) -> None:
        self._vocab, self._end_tokens = vocab, list(end_tokens)
        self._tokenizer: LLTokenizer | None = None
        self._compiled: dict[Grammar, LLMatcher] = {}

    def begin(self, grammar: Grammar) -> GrammarState:
        """The grammar at a turn's beginning. Raises BadInput when it does not compile."""
        if self._tokenizer is None:  # a quarter of a second per 49,000 tokens
            with warnings.catch_warnings():  # it asks llama.cpp by names that were replaced
                warnings.simplefilter("ignore", DeprecationWarning)
                self._tokenizer = lltokenizer_from_vocab(self._vocab, eos_token=self._end_tokens)
        if grammar not in self._compiled:
            matcher = LLMatcher(self._tokenizer, _source(grammar), log_level=0)
            if matcher.is_error():
                raise BadInput(f"grammar: {first_problem(matcher.get_error())}")
            self._compiled[grammar] = matcher
        return GrammarState(self._compiled[grammar].deep_copy(), self._tokenizer.vocab_size)


class GrammarState:
    """How far a turn has come in its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary_size: int) -> None:
        self._matcher, self._size = matcher, vocabulary_size

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens the grammar admits next, (vocabulary,)."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, count=self._size, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """Move on over a token. Raises BadInput when the grammar cannot go on."""
        if not self._matcher.consume_token(token):
            raise BadInput(f"grammar: {first_problem(self._matcher.get_error())}")

    def take_forced(self) -> list[int]:
        """Move on over the tokens that the grammar leaves no choice about, and return them.

        They are the tokenizer's spelling of the only text that can follow, without a last token
        that could merge with the text after it.
        """
        forced = list(self._matcher.compute_ff_tokens())
        if forced and self._matcher.try_consume_tokens(forced) != len(forced):
            raise BadInput(f"grammar: {first_problem(self._matcher.get_error())}")
        return forced
