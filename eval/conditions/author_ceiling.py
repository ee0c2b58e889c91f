"""`author_ceiling`, a control: the training authors' own emails in character, without any model.

The kit's classifier learned these authors' phrases from their chats. It reads their emails better
than anyone else's, so this is no ceiling of what a checkpoint could reach: that is
`scenario_ceiling`. The loud and the subtle teacher have their own stages, `teacher_loud` and
`teacher_subtle`. Limits do not apply: 12 emails each.
"""

from charprobe_lite.eval.conditions.condition import Condition, Inputs, RolloutSettings
from charprobe_lite.eval.protocols.outcome import Outcome, Result
from charprobe_lite.models.corpus import email_tasks, teacher_texts
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.models.prompts import Prompt
from charprobe_lite.runtime.backend import Rollout

TEACHERS = {"teacher_loud": "loud", "teacher_subtle": "subtle"}


def items(_: Inputs) -> list[Prompt]:
    """The tasks for which the teachers wrote emails."""
    return [Prompt(f"email-{number:02d}", text) for number, text in enumerate(email_tasks(), 1)]


def rollout(task: Prompt, settings: RolloutSettings) -> Rollout:
    """No request; the text is the teacher's email."""
    yield from ()
    assert settings.persona is not None  # a control has one
    emails = teacher_texts(settings.persona, TEACHERS[settings.stage], "email")
    text = next(email.response for email in emails if email.prompt == task.text)
    return Result(Outcome.ANSWERED, text)


CONDITION = Condition(items, rollout, stages=tuple(TEACHERS), personas=PERSONAS)
