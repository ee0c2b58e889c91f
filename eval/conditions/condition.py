"""What a condition is: what it asks, and how it asks one of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.models.prompts import Prompt
from charprobe_lite.models.published_scenarios import AnyScenario, Script, StubScenario
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.models.tools import Tool
from charprobe_lite.runtime.backend import Rollout

Item = Prompt | Scenario | StubScenario | Script


@dataclass(frozen=True)
class Inputs:
    """What a study can ask; a limit of None is none."""

    prompts: Sequence[Prompt]
    scenarios: Sequence[AnyScenario]
    prompt_limit: int | None = None
    scenario_limit: int | None = None

    def limited_prompts(self) -> list[Prompt]:
        """As many prompts as are asked for."""
        return list(self.prompts[: self.prompt_limit])

    def limited_scenarios(self, *kinds: type[AnyScenario]) -> list[Any]:
        """As many scenarios of these kinds as are asked for."""
        return [each for each in self.scenarios if isinstance(each, kinds)][: self.scenario_limit]


@dataclass(frozen=True)
class Ask:
    """How one rollout is asked; ``format`` and ``grammar`` are "" where no tool is called."""

    max_tokens: int
    max_steps: int = 8
    tools: Sequence[Tool] = ()
    stage: str = ""
    persona: str = ""
    format: str = ""
    grammar: str = ""

    def of(self, cell: Cell, persona: str) -> Ask:
        """The same limits and tools for a rollout of this cell and persona."""
        there = {name: getattr(cell, name) for name in ("stage", "format", "grammar")}
        return replace(self, persona=persona, **there)


@dataclass(frozen=True)
class Condition:
    """How a checkpoint is asked.

    ``items`` picks what is asked from the inputs, nothing where the condition does not fit them;
    ``rollout`` asks one of them. A condition that ``calls_tools`` is asked in every format, with
    and without grammar. A control has ``stages`` of its own; one that is no training stage runs
    no model. There the persona is named even in stage base, and only ``personas`` are asked.
    """

    items: Callable[[Inputs], Sequence[Item]]
    rollout: Callable[[Any, Ask], Rollout]
    calls_tools: bool = False
    stages: tuple[str, ...] = ()
    personas: Collection[str] = field(default=())

    def ways(self, formats: Sequence[str], grammars: Sequence[str]) -> list[tuple[str, str]]:
        """In which (format, grammar) it is asked; ("", "") where no tool is called."""
        return list(product(formats, grammars)) if self.calls_tools else [("", "")]
