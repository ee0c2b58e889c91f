"""An entry: the results of a comparison as one document, for a page and for a leaderboard.

Anyone can have written one, so every field is checked when it is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.techniques.grid import MOST_ADAPTERS
from charprobe_lite.eval.techniques.registration import Count, Departure, Plan, Share, Short
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_json
from charprobe_lite.models.record import Record

SCHEMA = "charprobe-lite/techniques-entry/1"
Unmatched = Literal["not reached", "few resamples", "no text of the base", "no text of it"]
"""Why a technique has no effect at equal strength: its curve stays below, too few resamples reach
the strength for an interval, or there is no text to draw the curve from."""
Verdict = Literal["more", "less", "not shown", "too few texts", "reference", "no contrast"]
"""Whether a technique's effect is shown to differ from the reference's."""


class Interval(Record):
    """A number with its 95% interval."""

    estimate: FiniteFloat
    ci: tuple[FiniteFloat, FiniteFloat]

    def __str__(self) -> str:
        low, high = self.ci
        return f"{self.estimate:.2f} [{low:.2f}, {high:.2f}]"

    @property
    def as_estimate(self) -> Estimate:
        """The same for a figure."""
        return Estimate(self.estimate, *self.ci)


class CurvePoint(Record):
    """Adapters on the way: the share of the budget that was trained, a mean over personas and
    seeds, detection in chat, and the outcome by condition."""

    share: Share
    chat: Interval
    outcome: Annotated[dict[Short, Interval], Field(max_length=100)]


class TechniqueReading(Record):
    """A technique by one outcome and instrument.

    ``level`` and ``effect`` (minus the base's) are of the primary condition after all of the
    training; ``effects`` of every condition. ``matched`` is the effect where detection in chat
    reaches the plan's strength, ``reached`` the share of resamples that do, ``unmatched`` why there
    is none.
    """

    technique: Short
    level: Interval | None
    effect: Interval | None
    effects: Annotated[dict[Short, Interval], Field(max_length=100)]
    matched: Interval | None
    reached: Share
    unmatched: Unmatched | None = None
    curve: Annotated[list[CurvePoint], Field(max_length=100)]


class ContrastReading(Record):
    """A technique's effect minus the reference's, with its tests; ``matched`` at equal strength.

    ``detectable`` is the smallest true difference that this precision finds in 80 of 100 studies.
    ``fewest`` is how many scenarios have a text of the persona that has the fewest, on either side.
    """

    technique: Short
    difference: Interval
    p: Share
    p_holm: Share
    error: FiniteFloat
    freedom: Count
    detectable: FiniteFloat
    matched: Interval | None
    fewest: Count | None = None


class Untested(Record):
    """A contrast without a test: ``fewest`` scenarios have a text of the persona with the fewest,
    and a share of the resamples, ``empty``, has none of some persona."""

    technique: Short
    fewest: Count
    empty: Share


class Reading(Record):
    """Everything by one outcome and instrument; ``base`` has the base's level by condition.

    ``untested`` are the planned contrasts that have too few texts of a persona for a test.
    """

    instrument: Short
    outcome: Short
    base: Annotated[dict[Short, Interval], Field(max_length=100)]
    techniques: Annotated[list[TechniqueReading], Field(max_length=1000)]
    contrasts: Annotated[list[ContrastReading], Field(max_length=1000)]
    untested: Annotated[tuple[Untested, ...], Field(max_length=1000)] = ()


class TechniqueCounts(Record):
    """What a technique's numbers are of, in the primary condition after all of the training.

    ``adapters`` are (persona, training seed) pairs; ``texts`` were sent of so many ``rollouts``, of
    which ``planned`` were to be made; None in entries of before it was recorded.
    """

    technique: Short
    adapters: Count
    rollouts: Count
    texts: Count
    verdict: Verdict
    planned: Count | None = None


class Entry(Record):
    """One comparison of techniques. ``missing`` has a line for each planned adapter that lacks
    rollouts, and for each planned instrument that lacks labels."""

    schema_: Literal["charprobe-lite/techniques-entry/1"] = Field(alias="schema")
    name: Short
    version: Short
    plan: Plan
    registered: Short | None
    detectable_before: FiniteFloat | None
    left: Annotated[list[Departure], Field(max_length=1000)]
    missing: Annotated[tuple[Short, ...], Field(max_length=2 * MOST_ADAPTERS)]
    scenarios: Count
    prompts: Count
    sha256: Annotated[dict[Short, Short], Field(max_length=100)]
    counts: Annotated[list[TechniqueCounts], Field(max_length=1000)]
    readings: Annotated[list[Reading], Field(max_length=100)]

    def as_json(self) -> dict[str, Any]:
        """The document."""
        return self.model_dump(mode="json", by_alias=True)


def interval_of(estimate: Estimate) -> Interval | None:
    """The estimate; None where there is no number."""
    low, high = estimate.ends
    if not all(
        value == value and abs(value) < float("inf") for value in (estimate.value, low, high)
    ):
        return None
    return Interval(estimate=estimate.value, ci=(low, high))


def read_entry(path: Path) -> Entry:
    """An entry that somebody made. Raises BadInput naming file and field."""
    document = read_json(path)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BadInput(f"{path}: field schema: is not {SCHEMA}; make it with --format json")
    return Entry.parse(path, document)
