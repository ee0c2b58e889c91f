"""Grammars for tool calls: JSON schemas to GBNF, and a grammar's state along one turn."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.models.tools import Tool

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def tool_call_grammar(tools: Sequence[Tool]) -> str:
    """GBNF that admits one call of one of ``tools``: ``{"name": ..., "arguments": {...}}``.

    Raises BadInput when a tool's schema cannot be turned into a grammar.
    """
    return _compile(json.dumps([[tool.name, tool.parameters] for tool in tools]))


@lru_cache(maxsize=64)
def _compile(registry: str) -> str:
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": parameters},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, parameters in json.loads(registry)
    ]
    try:
        return str(json_schema_to_gbnf(json.dumps({"oneOf": calls})))
    except Exception as error:  # the converter raises whatever the schema breaks in it
        raise BadInput(f"tool registry: no grammar for a schema: {first_problem(error)}") from None


class GrammarState:
    """Where one turn stands in a grammar. Raises BadInput when the GBNF does not parse."""

    def __init__(self, vocab: Any, gbnf: str, vocabulary_size: int) -> None:
        self._sampler = llama.llama_sampler_init_grammar(vocab, gbnf.encode(), b"root")
        if not self._sampler:
            raise BadInput("grammar: llama.cpp cannot parse it")
        self._size = vocabulary_size

    def __del__(self) -> None:
        if getattr(self, "_sampler", None):
            llama.llama_sampler_free(self._sampler)
            self._sampler = None

    def admits(self, token: int) -> bool:
        """Whether the grammar admits this token next."""
        one = np.zeros(1, _TOKEN_DATA)
        one["id"] = token
        self._apply(one)
        return bool(one["logit"][0] > -np.inf)

    def masked(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """``logits`` (vocabulary,) with minus infinity where the grammar admits nothing."""
        every = np.empty(self._size, _TOKEN_DATA)
        every["id"] = np.arange(self._size)
        every["logit"] = logits
        every["p"] = 0
        self._apply(every)
        return np.ascontiguousarray(every["logit"])

    def accept(self, token: int) -> None:
        """Move on over a token that was sampled."""
        llama.llama_sampler_accept(self._sampler, token)

    def _apply(self, tokens: NDArray[Any]) -> None:
        array = llama.llama_token_data_array(
            data=tokens.ctypes.data_as(ctypes.POINTER(llama.llama_token_data)),
            size=len(tokens),
            selected=-1,
            sorted=False,
        )
        llama.llama_sampler_apply(self._sampler, ctypes.byref(array))
