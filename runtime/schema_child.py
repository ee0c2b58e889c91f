"""The process that tries the grammar of a tool's JSON schema: compiles it, and takes some steps."""

from __future__ import annotations

import json

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.models.limited_child import answer_requests
from charprobe_lite.runtime.grammar import SPELLING, GrammarState
from charprobe_lite.runtime.tool_schemas import tool_schema

MEMORY = 512 * 1024**2
STEPS = 40


def main() -> None:
    """Answer requests until there are none."""
    tokenizer = LLTokenizer("byte")

    def answer(tool: str, parameters: str) -> dict[str, bool]:
        _try(tool, parameters, tokenizer)
        return {"sound": True}

    answer_requests(answer, MEMORY)


def _try(tool: str, parameters: str, tokenizer: LLTokenizer) -> None:
    """Raises BadInput for a schema that llguidance refuses, at first or while a text is written."""
    found = tool_schema(tool, parameters)
    schema = json.dumps({"anyOf": [found.schema], "$defs": found.definitions})
    grammar = LLMatcher.grammar_from_json_schema(schema, overrides=SPELLING)
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    state = GrammarState(matcher, tokenizer.vocab_size)
    for step in range(STEPS):
        admitted = np.flatnonzero(state.mask())
        if matcher.is_error() or state.complete or not len(admitted):
            break
        matcher.consume_token(int(admitted[step % len(admitted)]))
    if matcher.is_error():
        problem = first_problem(matcher.get_error())
        raise BadInput(f"tool {tool}: no grammar for its schema: {problem}")
