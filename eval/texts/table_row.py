"""One row of a table of texts, as other people's tools write its fields."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charprobe_lite.eval.protocols.outcome import Outcome
from charprobe_lite.eval.texts.missing import MOST_ASKED, rollout_count
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import refuse_repeated
from charprobe_lite.models.task_ids import family_of, task_of

DERIVED = {"family": family_of, "task": task_of}
"""Groups and clusters that follow from a published scenario's id."""
PROBABILITIES, ORDER = "probs", "label_order"
HUMAN_ANSWERS = {
    **dict.fromkeys(("present", "true", "1", "1.0", "yes"), True),
    **dict.fromkeys(("absent", "false", "0", "0.0", "no"), False),
}
TOLERANCE = 0.01  # of a sum of eleven probabilities that were rounded to three digits
NUMPY_SCALAR = re.compile(r"np\.\w+\(([^()]*)\)")
NUMPY_ARRAY = re.compile(r"\A(?:np\.)?array\((.*?)(?:,\s*dtype=\S+)?\)\Z", re.DOTALL)


@dataclass(frozen=True)
class TableRow:
    """One row of a table, read field by field; a wrong field raises BadInput."""

    place: str
    values: Mapping[str, Any]

    def get(self, name: str | None) -> Any:
        """A column's value; None where it is empty, as each format writes it."""
        value = self.values.get(name) if name else None
        refuse_repeated(self.place, str(name), value)
        return None if value == "" or (isinstance(value, float) and math.isnan(value)) else value

    def error(self, name: str | None, problem: str) -> BadInput:
        """The problem of one field, with its place."""
        return BadInput(f"{self.place}: field {name}: {problem}")

    def ended_without_text(self, prediction: str | None, text: str | None) -> bool:
        """Whether this is a rollout, as `export` writes it, that ended without a text; the names
        are the columns of the two."""
        texts = self.get(prediction), self.get(text)
        outcome = self.get("outcome")
        return outcome not in (None, Outcome.ANSWERED, Outcome.SENT) and texts == (None, None)

    def string(self, name: str | None) -> str:
        """A column's value as text, "" where it is empty; 3.0 is 3, as pandas writes it."""
        value = self.get(name)
        return as_text(int(value) if isinstance(value, float) and value.is_integer() else value)

    def label(self, name: str | None, known: Collection[str]) -> str | None:
        """A label of ``known``."""
        value = self.string(name) or None
        if value is not None and value not in known:
            raise self.unknown_label(name, value, known)
        return value

    def unknown_label(self, name: str | None, label: str, known: Collection[str]) -> BadInput:
        """The error for a label that nothing can predict."""
        return self.error(
            name,
            f"{shortened(label)} is not a label; known are {', '.join(sorted(known))}: add it to "
            f"{ORDER}, or name its --classifier",
        )

    def human(self, name: str | None, label: str, known: Collection[str]) -> bool | None:
        """Whether a human saw the row's persona; a label there means that persona alone."""
        value = self.get(name)
        answer = str(value).strip().lower()
        if value is None or answer in HUMAN_ANSWERS:
            return HUMAN_ANSWERS.get(answer)
        if answer in known:
            return answer == label
        raise self.error(
            name,
            f"{shortened(value)} is not an answer; write present or absent, true or false, 1 or 0, "
            "yes or no",
        )

    def derived(self, name: str, column: str) -> str:
        """``name`` of `DERIVED`, from the scenario's id in ``column``."""
        return derive(name, as_text(self.get(column)), f"{self.place}: field {column}")

    def asked(self, asked: str | int | None) -> int | None:
        """The number itself, or that of the row in a column."""
        if not isinstance(asked, str):
            return asked
        number = rollout_count(self.get(asked))
        if number is None:
            raise self.error(asked, f"must be a number of rollouts from 1 to {MOST_ASKED}")
        return number

    def probabilities(self, order: Sequence[str] | None) -> dict[str, float] | None:
        """The probabilities of the labels in ``order``."""
        value = self._list(PROBABILITIES)
        if value is None:
            return None
        if order is None:
            raise self.error(ORDER, f"missing; it names the labels of {PROBABILITIES}")
        if ORDER in self.values and self.order() != order:
            raise self.error(ORDER, "differs from the first row's; use one order")
        numbers = isinstance(value, list) and all(type(p) in (int, float) for p in value)
        if not numbers or len(value) != len(order) or not all(0 <= p <= 1 for p in value):
            problem = (
                f"must be {len(order)} numbers from 0 to 1, one per label, not {shortened(value)}"
            )
            raise self.error(PROBABILITIES, problem)
        if abs(sum(value) - 1) > TOLERANCE:
            raise self.error(PROBABILITIES, f"sums to {sum(value):.3f}, not to 1")
        return dict(zip(order, map(float, value), strict=True))

    def order(self) -> list[str] | None:
        """The labels that `PROBABILITIES` belong to."""
        value = self._list(ORDER)
        if value is None:
            return None
        labels = isinstance(value, list) and all(isinstance(label, str) for label in value)
        if not labels or not value or len(set(value)) < len(value):
            raise self.error(ORDER, "must be a list of different labels")
        return list(value)

    def _list(self, name: str) -> Any:
        """A list; CSV holds it as text, in JSON or as pandas writes it."""
        value = self.values.get(name)
        value = value.tolist() if isinstance(value, np.ndarray) else self.get(name)
        return _parsed_list(value) if isinstance(value, str) else value


def derive(name: str, scenario: str, place: str) -> str:
    """``name`` of `DERIVED` of a published scenario. Raises BadInput for another id."""
    value = DERIVED[name](scenario)
    if not value:
        known = "only ids of published scenarios have one"
        raise BadInput(f"{place}: {shortened(scenario)} has no {name}; {known}")
    return value


def _parsed_list(text: str) -> Any:
    """A list that a CSV file holds, as JSON, Python or numpy writes it; else the text itself."""
    plain = NUMPY_SCALAR.sub(r"\1", NUMPY_ARRAY.sub(r"\1", text.strip())).replace("'", '"')
    for written in (plain, re.sub(r"(?<=[^\[\s,])\s+(?=[^\]\s,])", ", ", plain)):
        try:
            return json.loads(re.sub(r"(?<=\d)\.(?!\d)", ".0", written))
        except (ValueError, RecursionError):
            continue
    return text


def as_text(value: Any) -> str:
    """A value as text, "" for None."""
    return "" if value is None else str(value)


def shortened(value: Any) -> str:
    """A value in a message, 60 characters at most."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
