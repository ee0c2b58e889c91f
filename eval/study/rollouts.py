"""How a task of the grid becomes a rollout."""

from collections.abc import Callable
from dataclasses import replace

from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.condition import RolloutSettings
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.study.grid import Task
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Rollout


def beginner(spec: StudySpec) -> Callable[[Task], Rollout]:
    """How a task becomes a rollout."""
    settings = RolloutSettings(
        spec.max_tokens,
        spec.steps,
        load_tools(),
        protocol=load_protocol(spec.protocol),
        tool_role=spec.tool_role,
    )

    def begin(task: Task) -> Rollout:
        rules = load_condition(task.cell.condition)
        rollout = rules.rollout(task.item, settings.for_cell(task.cell, task.persona))
        return _seeded(rollout, task.seed) if spec.seeds == "request" else rollout

    return begin


def _seeded(rollout: Rollout, seed: int) -> Rollout:
    """The rollout with every request drawn from this seed, as vLLM does with a seed."""
    try:
        request = next(rollout)
        while True:
            request = rollout.send((yield replace(request, seed=seed)))
    except StopIteration as stop:
        return stop.value
    finally:
        rollout.close()
