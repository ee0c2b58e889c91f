"""The plan of a grid, written to its study before the first rollout; and where it was left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, FiniteFloat, model_validator
from pydantic_core import PydanticCustomError

from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.merge import PARTS
from charprobe_lite.eval.store.provenance import TECHNIQUES
from charprobe_lite.eval.techniques.grid import (
    AGENT,
    CHAT,
    MOST_ADAPTERS,
    REFERENCE_TECHNIQUE,
    TechniqueGrid,
)
from charprobe_lite.models.catalogue import ENSEMBLE
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.record import Record

REGISTERED, LEFT = "techniques registered", "techniques left"
"""When the plan was written; and what a later grid file asked for in its place."""
DETECTABLE = "techniques detectable"
"""The value of a study that holds what the plan could detect before the first rollout."""
ALPHA = 0.05
OUTCOMES = ("probability", "detection")
"""P(persona) of a text, and whether the persona is the most probable; the first decides."""
RULES = (
    "Effects are means over personas of the outcome in texts that were sent, minus the base's.",
    "Scenarios and, within a technique's persona, training seeds are resampled together; every "
    "comparison is paired by scenario.",
    "Each outcome and instrument is a family of contrasts with the reference, corrected by Holm.",
    "A technique differs where the corrected p-value of the first outcome is at most alpha with "
    "every instrument, in one direction.",
)
Text = Annotated[str, Field(max_length=4096)]
Short = Annotated[str, Field(max_length=200)]
Names = Annotated[tuple[Short, ...], Field(min_length=1, max_length=1000)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Points = dict[Short, Annotated[dict[Short, Share], Field(max_length=100)]]
DERIVED = ("rollouts", "points")
"""Fields of a plan that follow from others of them."""


class Plan(Record):
    """What was decided before the first rollout: the grid, the primary outcome, the tests.

    ``techniques`` has the hash of each technique's file. ``instruments`` are those that decide.
    ``rollouts`` are those of each adapter by condition. ``points`` has each technique's adapters by
    the percentage in their name, with the share of the budget that was trained, a mean over
    personas and seeds. Both are empty, and ``temperature`` to ``max_tokens`` None, in studies of
    before they were recorded.
    """

    techniques: Annotated[dict[Short, Short], Field(min_length=1, max_length=1000)]
    reference: Short | None
    personas: Names
    train_seeds: Annotated[tuple[int, ...], Field(min_length=1, max_length=1000)]
    conditions: Names
    prompts: int | None
    scenarios: int | None
    base: Short
    quant: Short
    tokens: int
    rank: int
    learning_rate: FiniteFloat
    precision: Short = "default"
    checkpoints: int
    strength: FiniteFloat
    seed: int
    primary: Short
    outcomes: Names
    instruments: Names
    alpha: FiniteFloat
    rules: Annotated[tuple[Text, ...], Field(max_length=20)]
    temperature: FiniteFloat | None = None
    top_p: FiniteFloat | None = None
    steps: int | None = None
    max_tokens: int | None = None
    rollouts: Annotated[dict[Short, Count], Field(max_length=1000)] = Field(default_factory=dict)
    points: Annotated[Points, Field(max_length=1000)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_its_conditions(self) -> Self:
        if not {CHAT, self.primary} <= set(self.conditions):
            raise PydanticCustomError("conditions", "conditions lack chat or the primary one")
        return self

    @property
    def contrasted(self) -> list[str]:
        """The techniques that are contrasted with the reference."""
        return [name for name in self.techniques if self.reference and name != self.reference]

    def share(self, technique: str, percent: int) -> float:
        """The part of the budget that adapters were trained on; nominal where none is recorded."""
        return self.points.get(technique, {}).get(str(percent), percent / 100)


class Departure(Record):
    """Where a grid file that was run later differs from the plan.

    ``rollouts`` is how many the study had then: it counts once there are more.
    """

    field: Short
    plan: Any
    here: Any
    since: Short
    rollouts: Count | None = None


def plan_of(
    grid: TechniqueGrid,
    instruments: Sequence[str],
    rollouts: Mapping[str, int] | None = None,
    points: Mapping[str, dict[str, float]] | None = None,
) -> Plan:
    """The plan of a grid. The members of an ensemble decide, and not the ensemble as well."""
    names = {technique.name: technique.sha256 for technique in grid.loaded}
    own = Path(grid.base).name if grid.base_path else grid.base
    return Plan(
        techniques=names,
        reference=REFERENCE_TECHNIQUE if REFERENCE_TECHNIQUE in names else None,
        personas=grid.personas,
        train_seeds=grid.train_seeds,
        conditions=grid.conditions,
        prompts=grid.limit.prompts,
        scenarios=grid.limit.scenarios,
        base=own,
        quant=grid.quant or "default",
        tokens=grid.tokens,
        rank=grid.rank,
        learning_rate=grid.learning_rate,
        precision=grid.precision or "default",
        checkpoints=grid.checkpoints,
        strength=grid.strength,
        seed=grid.seed,
        primary=AGENT,
        outcomes=OUTCOMES,
        instruments=deciding(instruments),
        alpha=ALPHA,
        rules=RULES,
        temperature=grid.temperature,
        top_p=grid.top_p,
        steps=grid.steps,
        max_tokens=grid.max_tokens,
        rollouts=dict(rollouts or {}),
        points=dict(points or {}),
    )


def deciding(instruments: Sequence[str]) -> tuple[str, ...]:
    """The instruments that decide: all but an ensemble of others of them."""
    return tuple(name for name in instruments if name != ENSEMBLE) or tuple(instruments)


def register(store: Store, plan: Plan) -> list[Departure]:
    """Write the plan to a study, or note where this one differs from what was written.

    Before the first rollout a plan may be replaced. A run that is refused or stopped before it adds
    a rollout leaves no trace. Raises BadInput for a study of something else.
    """
    recorded = store.provenance()
    [(started,)] = store.select("SELECT COUNT(*) FROM rollouts")
    if started and TECHNIQUES not in recorded:
        raise BadInput(f"{store.path}: is a study of no techniques; name another study")
    if not started:
        store.note({TECHNIQUES: plan.model_dump(mode="json"), REGISTERED: _now(), LEFT: []})
        return []
    first = read_plan(store.path, recorded)
    for name in ("base", "quant", "seed"):
        if getattr(first, name) != getattr(plan, name):
            raise BadInput(
                f"{store.path}: field {name}: the study has {getattr(first, name)}, the grid file "
                f"{getattr(plan, name)}, and texts of both would be pooled; name another study"
            )
    known = read_departures(store.path, recorded, started)
    # one that is repeated is noted once
    noted = {(each.field, str(each.here)) for each in known}
    found = [d for d in departures(first, plan, started) if (d.field, str(d.here)) not in noted]
    everything = [each.model_dump(mode="json") for each in (*known, *found)]
    if everything != recorded.get(LEFT):
        store.note({LEFT: everything})
    return found


def departures(first: Plan, here: Plan, rollouts: int) -> list[Departure]:
    """Every field in which a later plan differs from the first, of those that it recorded."""
    before = first.model_dump(mode="json", include=first.model_fields_set - set(DERIVED))
    after = here.model_dump(mode="json")
    return [
        Departure(field=name, plan=before[name], here=after[name], since=_now(), rollouts=rollouts)
        for name in before
        if before[name] != after[name]
    ]


def read_plan(path: Path, provenance: Mapping[str, Any]) -> Plan:
    """The plan that a study holds. Raises BadInput for a study of something else."""
    if TECHNIQUES not in provenance:
        raise BadInput(f"{path}: holds no plan of techniques; make it with techniques run")
    plan = Plan.parse(f"{path}: {TECHNIQUES}", provenance[TECHNIQUES])
    adapters = len(plan.techniques) * len(plan.personas) * len(plan.train_seeds)
    if adapters > MOST_ADAPTERS:
        raise BadInput(f"{path}: {TECHNIQUES}: {adapters} adapters; at most {MOST_ADAPTERS}")
    return plan


def read_departures(path: Path, provenance: Mapping[str, Any], rollouts: int) -> list[Departure]:
    """Where the plan was left, in this study of so many rollouts and in the parts that it was
    merged from."""
    lists = [notes[LEFT] for notes in _notes(provenance) if LEFT in notes]
    if not all(isinstance(entries, list) for entries in lists):
        raise BadInput(f"{path}: {LEFT}: is no list")
    entries = [Departure.parse(f"{path}: {LEFT}", entry) for each in lists for entry in each]
    found = [each for each in entries if each.rollouts is None or each.rollouts < rollouts]
    # parts that were left in the same way count once
    return list({(each.field, str(each.here)): each for each in reversed(found)}.values())[::-1]


def detectable_before(provenance: Mapping[str, Any]) -> Any:
    """What `DETECTABLE` holds, in this study or the first of the parts that it was merged from."""
    values = (notes.get(DETECTABLE) for notes in _notes(provenance))
    return next((value for value in values if value is not None), None)


def registered_at(provenance: Mapping[str, Any]) -> str | None:
    """When the plan was written first, of all parts; ISO 8601, UTC."""
    times = [str(notes[REGISTERED]) for notes in _notes(provenance) if REGISTERED in notes]
    return min(times, default=None)


def _notes(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = provenance.get(PARTS)
    parts = parts if isinstance(parts, list) else []
    return [provenance, *(part for part in parts if isinstance(part, dict))]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
