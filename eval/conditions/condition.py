"""What a condition is: its items, and the rollout of one item."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.protocols.protocol import AgentTask, Protocol
from charprobe_lite.models import defaults
from charprobe_lite.models.axes import AxisScenario, load_axis, sha256_axes
from charprobe_lite.models.call_formats import CALL_FORMATS, Call
from charprobe_lite.models.corpus import corpus_hashes
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.models.personas import DESCRIPTIONS_FILE
from charprobe_lite.models.prompts import SUFFIXES_FILE, Prompt
from charprobe_lite.models.published_scenarios import (
    AnyScenario,
    Script,
    StubScenario,
    sha256_scenarios,
)
from charprobe_lite.models.scenarios import Scenario
from charprobe_lite.models.tools import TOOLS_FILE, Tool
from charprobe_lite.runtime.backend import Message, Rollout

Item = Prompt | Scenario | StubScenario | Script | AxisScenario
A = TypeVar("A", bound=AxisScenario)


@dataclass(frozen=True)
class Inputs:
    """The prompts and scenarios of a study; a limit of None means all of them.

    ``suffixes`` is a file that replaces the protocol's.
    """

    prompts: Sequence[Prompt]
    scenarios: Sequence[AnyScenario | AxisScenario]
    prompt_limit: int | None = None
    scenario_limit: int | None = None
    protocol: Protocol = field(default_factory=lambda: load_protocol("lite"))
    suffixes: Path | None = None

    def limited_prompts(self) -> list[Prompt]:
        """The first ``prompt_limit`` prompts."""
        return list(self.prompts[: self.prompt_limit])

    def limited_scenarios(self, *types: type[Scenario | StubScenario]) -> list[Any]:
        """The first ``scenario_limit`` scenarios of these types."""
        return [item for item in self.scenarios if isinstance(item, types)][: self.scenario_limit]

    def limited_scripts(self, scaffold: str, *types: type[Scenario]) -> list[Any]:
        """The first ``scenario_limit`` of the scripts of a scaffold and scenarios of these types.

        A script without a scaffold is one of `chat_email`.
        """
        items = [
            item
            for item in self.scenarios
            if isinstance(item, types)
            or (isinstance(item, Script) and (item.scaffold or "chat_email") == scaffold)
        ]
        return items[: self.scenario_limit]

    def axis(self, kind: type[A]) -> list[A]:
        """The scenarios of an axis: those among ``scenarios``, or else all that are shipped."""
        given = [scenario for scenario in self.scenarios if isinstance(scenario, kind)]
        return given or load_axis(kind)

    def limited_axis(self, kind: type[A]) -> list[A]:
        """The first ``scenario_limit`` scenarios of an axis."""
        return self.axis(kind)[: self.scenario_limit]

    def axis_or_scripts(self, kind: type[A], scaffold: str) -> Sequence[A | Script]:
        """Those of an axis; where there are published scenarios, the scripts of a scaffold."""
        if any(isinstance(scenario, StubScenario | Script) for scenario in self.scenarios):
            return self.limited_scripts(scaffold)
        return self.limited_axis(kind)


def input_hashes(
    prompts: Path | None, scenarios: Path | None, suffixes: Path | None = None
) -> dict[str, str]:
    """sha256 of prompts, scenarios, tools, suffixes, descriptions and axes, by those names.

    A path of None is the shipped file.
    """
    shipped = corpus_hashes()
    return {
        "prompts": sha256_file(prompts) if prompts else shipped["id-prompts.txt"],
        "scenarios": sha256_scenarios(scenarios) if scenarios else shipped["agentic/eval.jsonl"],
        "tools": sha256_file(TOOLS_FILE),
        "suffixes": sha256_file(suffixes or SUFFIXES_FILE),
        "descriptions": sha256_file(DESCRIPTIONS_FILE),
        "axes": sha256_axes(),
    }


@dataclass(frozen=True)
class RolloutSettings:
    """The limits, tools and cell of one rollout.

    ``max_tokens`` limits each reply, ``max_steps`` the replies of an agent. Only conditions that
    call tools use ``tools``, ``format`` (a key of `CALL_FORMATS`) and ``grammar`` ("on" or "off");
    only controls use ``stage`` and ``persona``. ``tool_role`` is "user" or "template".
    """

    max_tokens: int
    max_steps: int = defaults.MAX_STEPS
    tools: Sequence[Tool] = ()
    stage: str = "base"
    persona: str | None = None
    format: str = "json"
    grammar: str = "on"
    protocol: Protocol = field(default_factory=lambda: load_protocol("lite"))
    tool_role: str = "user"

    def agent_task(
        self,
        opening: Sequence[Message],
        tools: Sequence[Tool],
        answer: Callable[[Call], Any],
        steps: int | None = None,
    ) -> AgentTask:
        """A task for the protocol's agent; ``steps`` None is as many as the settings say."""
        return AgentTask(
            *(opening, tools, answer, steps or self.max_steps, self.max_tokens),
            *(CALL_FORMATS[self.format], self.grammar == "on", self.tool_role),
        )

    def for_cell(self, cell: Cell, persona: str | None) -> RolloutSettings:
        """The same limits and tools for a rollout of this cell and persona."""
        return replace(
            self,
            stage=cell.stage,
            persona=persona,
            format=cell.format or self.format,
            grammar=cell.grammar or self.grammar,
        )


CallMode = tuple[str | None, str | None]
"""Format and grammar of tool calls; both None where no tool is called."""


@dataclass(frozen=True)
class Condition:
    """A way to run a checkpoint.

    ``items`` picks the condition's items from the inputs: none where the inputs do not fit it.
    ``rollout`` runs one item: a generator that yields requests, receives completions and returns
    an `outcome.Result`. A condition that ``calls_tools`` runs in every format, with and without
    grammar. A control has its own ``stages``, and one of them that is no training stage runs no
    model. A control has a persona even in stage base, one of ``personas``.
    """

    items: Callable[[Inputs], Sequence[Item]]
    rollout: Callable[[Any, RolloutSettings], Rollout]
    calls_tools: bool = False
    stages: tuple[str, ...] = ()
    personas: Collection[str] = ()

    def call_modes(self, formats: Sequence[str], grammars: Sequence[str]) -> list[CallMode]:
        """Its (format, grammar) pairs; only (None, None) where it calls no tools."""
        return list(product(formats, grammars)) if self.calls_tools else [(None, None)]
