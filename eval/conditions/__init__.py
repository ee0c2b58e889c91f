"""How a checkpoint is asked: one module per condition, each with a `CONDITION`.

A new condition is a file here and its name in `CONDITIONS` of models/catalogue.py.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from charprobe_lite.eval.conditions.condition import Condition


def condition(name: str) -> Condition:
    """The condition of that name in the catalogue."""
    return cast("Condition", import_module(f"{__name__}.{name}").CONDITION)
