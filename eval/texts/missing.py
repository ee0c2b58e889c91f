"""Rollouts that a file of texts does not hold: they were asked for and ended without a text."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from charprobe_lite.models.errors import BadInput

MOST_ASKED = 999_999_999


def asked_number(asked: str | int | None) -> int | None:
    """The number that ``asked`` is, None for a column or nothing. Raises BadInput."""
    if asked is None or not re.fullmatch(r"-?\d+(\.\d*)?", str(asked)):
        return None
    number = rollout_count(asked)
    if not number:
        raise BadInput(f"--asked {asked}: give a number of rollouts from 1 to {MOST_ASKED}")
    return number


def rollout_count(value: Any) -> int | None:
    """A number of rollouts, also as tables write it (500, "500", 500.0); None for all else."""
    text = str(value).removesuffix(".0")
    number = int(text) if text.isdecimal() and len(text) <= len(str(MOST_ASKED)) else 0
    return number if 1 <= number <= MOST_ASKED else None


def missing_by_persona(asked: int, true: Sequence[tuple[str, ...]], group: str) -> dict[str, int]:
    """How many of ``asked`` rollouts of a group have no text, by persona.

    ``true`` holds the personas of each text. The personas share ``asked`` evenly, or have all of it
    each if each text is scored against all of them, as in the base stage of a study. ``group`` is
    the group's name in messages. Raises BadInput for a number that cannot have been asked.
    """
    texts = Counter(persona for personas in true for persona in personas)
    shared = {len(personas) > 1 for personas in true}
    if len(shared) > 1:
        raise BadInput(
            f"--asked: {group} has texts of one persona and texts that all share; add --by stage"
        )
    share, rest = (asked, 0) if shared == {True} else divmod(asked, len(texts))
    if rest:
        raise BadInput(
            f"--asked: {asked} rollouts do not divide by the {len(texts)} personas of {group}; "
            f"give a multiple of {len(texts)}"
        )
    persona, most = texts.most_common(1)[0]
    if most > share:
        raise BadInput(
            f"--asked: {group} has {most} texts of {persona}, and {asked} rollouts are {share} of "
            "each persona; give the number that was asked for"
        )
    return {persona: share - number for persona, number in texts.items()}
