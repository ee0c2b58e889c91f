"""What the grammars of a study's own tools do not enforce."""

from collections.abc import Sequence

from charprobe_lite.eval.study.grid import Task
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.published_scenarios import StubScenario
from charprobe_lite.runtime.tool_schemas import left_out


def unenforced_keywords(spec: StudySpec, tasks: Sequence[Task]) -> list[str]:
    """A line for every tool of a scenario whose schema says more than its grammar enforces.

    Raises BadInput naming file, scenario and tool for a schema without a grammar.
    """
    items = {task.item.id: task.item for task in tasks if task.cell.grammar == "on"}
    lines = []
    for item in items.values():
        place = f"{spec.scenarios}: scenario {item.id}"
        for tool in item.tools() if isinstance(item, StubScenario) else ():
            with bad_input(place, BadInput):
                words = ", ".join(left_out(tool))
            if words:
                lines.append(f"{place}: tool {tool.name}: the grammar does not enforce {words}")
    return lines
