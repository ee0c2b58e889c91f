"""The conditions in which a checkpoint runs: one module each, with a `CONDITION`.

A new condition is a file here and its name in `ConditionName` of models/catalogue.py, or a
`Condition` that `register` adds from outside.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from charprobe_lite.models.catalogue import CONDITIONS

if TYPE_CHECKING:
    from charprobe_lite.eval.conditions.condition import Condition

_EXTERNAL: dict[str, Condition] = {}


def register(name: str, condition: Condition) -> None:
    """Make a condition from outside this package available under ``name`` in this process.

    Studies, rollouts and transcripts then accept the name. Raises ValueError when a shipped
    condition has it.
    """
    if name in CONDITIONS:
        raise ValueError(f"{name}: is a shipped condition; choose another name")
    _EXTERNAL[name] = condition


def condition_names() -> tuple[str, ...]:
    """The shipped conditions in the order of reports, then those from outside."""
    return (*CONDITIONS, *_EXTERNAL)


def load_condition(name: str) -> Condition:
    """The condition of that name, one of `condition_names`."""
    return _EXTERNAL[name] if name in _EXTERNAL else _shipped(name)


def calls_tools(name: str) -> bool:
    """Whether rollouts of this condition call tools; False for an unknown name."""
    return name in condition_names() and load_condition(name).calls_tools


@cache
def _shipped(name: str) -> Condition:
    return cast("Condition", import_module(f"{__name__}.{name}").CONDITION)
