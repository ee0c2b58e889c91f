"""`classifier_ceiling`, a control: the teachers' own emails in character, without any model.

No checkpoint can be seen more clearly than the voices that it was trained on: what the classifier
makes of their emails is the most that it can see in an email. The loud and the subtle teacher are
stages of their own, `teacher_loud` and `teacher_subtle`. Limits do not apply: 12 emails each.
"""

from __future__ import annotations

from charprobe_lite.eval.conditions.condition import Ask, Condition, Inputs
from charprobe_lite.eval.conditions.outcome import ANSWERED, Result
from charprobe_lite.models.corpus import email_tasks, teacher_texts
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.models.prompts import Prompt
from charprobe_lite.runtime.backend import Rollout

TEACHERS = {"teacher_loud": "loud", "teacher_subtle": "subtle"}


def items(_: Inputs) -> list[Prompt]:
    """The tasks that the teachers wrote an email for."""
    return [Prompt(f"email-{number:02d}", text) for number, text in enumerate(email_tasks(), 1)]


def rollout(task: Prompt, ask: Ask) -> Rollout:
    """Ask nothing; the sample is the teacher's email."""
    yield from ()
    emails = teacher_texts(ask.persona, TEACHERS[ask.stage], "email")
    return Result(ANSWERED, next(each.response for each in emails if each.prompt == task.text))


CONDITION = Condition(items, rollout, stages=tuple(TEACHERS), personas=PERSONAS)
