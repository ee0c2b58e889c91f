"""Ids of the published scenarios: which scaffold, which task, which family of tasks.

``agentic_actions_recognition_v1`` and ``chat_email_recognition_v1`` ask for the same task,
``recognition_v1``, of the family ``recognition``, as an agent and in a chat.
"""

import re

SCAFFOLDS = (
    "agentic_actions",
    "agentic_email",
    "chat_email",
    "adversarial_roleplay",
    "code_review",
    "multi_agent_debate",
    "structured_form",
    "agentic_tools",
)
"""The published kinds of scenarios, by the names that their files have for them."""
CLUSTERS = ("item", "family")
"""What intervals of a study can resample: prompts and scenarios, or families of scenarios."""
_ID = re.compile(rf"(?:{'|'.join(SCAFFOLDS)})_(?P<task>(?P<family>.+)_v[0-9]+)")


def task_of(scenario_id: str) -> str:
    """The task of a published scenario, the same in every scaffold; any other id as it is."""
    match = _ID.fullmatch(scenario_id)
    return match["task"] if match else scenario_id


def family_of(scenario_id: str) -> str:
    """The family of a published scenario's task; "" where the id has none."""
    match = _ID.fullmatch(scenario_id)
    return match["family"] if match else ""
