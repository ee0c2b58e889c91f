"""From a study of techniques to its entry: effects, contrasts, curves, equal strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.stats.bootstrap import Floats
from charprobe_lite.eval.stats.contrasts import Contrast, contrast, with_family
from charprobe_lite.eval.stats.matched import value_at
from charprobe_lite.eval.stats.metrics import ResampledMetrics
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.provenance import headline_instrument
from charprobe_lite.eval.store.reader import open_study
from charprobe_lite.eval.techniques.completeness import (
    missing_labels,
    missing_rollouts,
    of_begun_adapters,
    rollouts_of_adapter,
)
from charprobe_lite.eval.techniques.entry import (
    ContrastReading,
    CurvePoint,
    Entry,
    Interval,
    Reading,
    TechniqueCounts,
    TechniqueReading,
    Unmatched,
    Untested,
    Verdict,
    interval_of,
)
from charprobe_lite.eval.techniques.grid import CHAT
from charprobe_lite.eval.techniques.outcomes import (
    BASE,
    Point,
    resample_outcomes,
    rows_by_instrument,
    technique_of,
)
from charprobe_lite.eval.techniques.registration import (
    Plan,
    detectable_before,
    read_departures,
    read_plan,
    registered_at,
)
from charprobe_lite.eval.techniques.trainings import WHOLE
from charprobe_lite.models.errors import bad_input
from charprobe_lite.models.quant_types import KV_DEFAULT

FEWEST_REACHED = 0.95
"""The share of resamples that must reach a strength for an interval of what is there."""
Differences = Mapping[str, Contrast | None]
"""Each planned contrast by its technique; None where one side has no text of some persona."""


@dataclass(frozen=True)
class _Outcome:
    """One outcome by one instrument, over all points of a study."""

    resampled: ResampledMetrics[Point]
    plan: Plan
    name: str

    def point(self, technique: str, percent: int, condition: str, outcome: str = "") -> Point:
        return Point(technique, percent, condition, outcome or self.name)

    def has(self, *points: Point) -> bool:
        """Whether each has a text of every persona."""
        return all(point in self.resampled for point in points)

    def level(self, point: Point) -> Interval | None:
        return interval_of(self.resampled.estimate(point)) if self.has(point) else None

    def effect(self, technique: str, percent: int, condition: str) -> Contrast | None:
        """The level minus the base's."""
        after, base = self.point(technique, percent, condition), self.point(BASE, 0, condition)
        return contrast(self.resampled, {after: 1, base: -1}) if self.has(after, base) else None

    def difference(self, technique: str) -> Contrast | None:
        """The effect minus the reference's after all of the training; the base cancels."""
        after, reference = (
            self.point(name, WHOLE, self.plan.primary)
            for name in (technique, self.plan.reference or "")
        )
        if not self.has(after, reference):
            return None
        return contrast(self.resampled, {after: 1, reference: -1})

    def percents(self, technique: str) -> list[int]:
        """Where the technique's curve has points, from the base on."""
        found = {
            point.percent
            for point in self.resampled.metrics
            if point.technique == technique
            and self.has(
                self.point(technique, point.percent, CHAT, "detection"),
                self.point(technique, point.percent, self.plan.primary),
            )
        }
        return sorted(found)

    def path(self, technique: str) -> list[tuple[str, int]]:
        """The base, then the technique's points in the order of training."""
        return [(BASE, 0), *((technique, percent) for percent in self.percents(technique))]

    def matched(self, technique: str) -> tuple[Floats, list[Point]] | None:
        """The effect at the plan's strength, (1 + resamples,), and what it depends on."""
        path, primary = self.path(technique), self.plan.primary
        chats = [self.point(*place, CHAT, "detection") for place in path]
        texts = [self.point(*place, primary) for place in path]
        if len(path) < 2 or not self.has(*chats, *texts):
            return None
        x, y = (
            np.stack([self.resampled.replicates(point) for point in points])
            for points in (chats, texts)
        )
        return value_at(x, y - y[0], self.plan.strength), [*chats, *texts]

    def matched_interval(self, values: Floats, points: Sequence[Point]) -> Interval | None:
        """None where too few resamples reach the strength for an interval that means something."""
        if not np.isfinite(values[0]) or _reached(values) < FEWEST_REACHED:
            return None
        return interval_of(self.resampled.interval(values, points))

    def unmatched(self, technique: str, values: Floats | None) -> Unmatched | None:
        """Why a technique has no effect at the plan's strength, None where it has."""
        chat, base = (
            self.point(BASE, 0, *which)
            for which in ((CHAT, "detection"), (self.plan.primary, self.name))
        )
        if not self.has(chat, base):
            return "no text of the base"
        if values is None:
            return "no text of it"
        if not np.isfinite(values[0]):
            return "not reached"
        return "few resamples" if _reached(values) < FEWEST_REACHED else None


def study_entry(path: Path) -> Entry:
    """The entry of a study that `techniques run` made. Raises BadInput."""
    study = open_study(path)
    plan = read_plan(path, study.provenance)
    headline = headline_instrument(study.provenance)
    with Store(path, readonly=True) as store:
        labels = {name: store.labels(name) for name in plan.instruments if name != headline}
    planned = _planned(study.rows, plan)
    readings = []
    by_instrument = rows_by_instrument(planned, headline, labels)
    for instrument, rows in by_instrument.items():
        if instrument in plan.instruments:
            begun = of_begun_adapters(rows, plan)
            resampled = resample_outcomes(begun, plan.personas, plan.seed)
            readings += [
                _reading(_Outcome(resampled, plan, outcome), instrument)
                for outcome in plan.outcomes
            ]
    conditions = {name: set[str]() for name in (CHAT, plan.primary)}
    for row in planned:
        conditions.get(row.cell.condition, set()).add(row.item)
    hashes = {k: v for k, v in study.provenance.items() if k.startswith("sha256 ")}
    # what is noted in a study, anyone can have written
    with bad_input(path, ValidationError):
        return Entry(
            schema="charprobe-lite/techniques-entry/1",
            name=path.stem[:200],
            version=version("charprobe-lite"),
            plan=plan,
            registered=registered_at(study.provenance),
            detectable_before=detectable_before(study.provenance),
            left=read_departures(path, study.provenance, len(study.rows)),
            missing=(*missing_rollouts(planned, plan), *missing_labels(by_instrument, plan)),
            scenarios=len(conditions[plan.primary]),
            prompts=len(conditions[CHAT]),
            sha256={name: str(v) for name, v in hashes.items() if " adapter " not in name},
            counts=[_counts(name, planned, plan, readings) for name in plan.techniques],
            readings=readings,
        )


def _planned(rows: Sequence[Row], plan: Plan) -> list[Row]:
    """The rows that the plan names: others that a later grid added are no part of its tests."""
    return [
        row
        for row in rows
        if row.cell.kv_type == KV_DEFAULT
        and technique_of(row.cell)[0] in (BASE, *plan.techniques)
        and row.persona in (None, *plan.personas)
        and row.cell.train_seed in (None, *plan.train_seeds)
        and row.cell.condition in plan.conditions
        and _is_point(plan, *technique_of(row.cell))
    ]


def _is_point(plan: Plan, technique: str, percent: int) -> bool:
    points = plan.points.get(technique)
    return points is None or str(percent) in points


def _reading(outcome: _Outcome, instrument: str) -> Reading:
    plan, levels = outcome.plan, {}
    for condition in plan.conditions:
        if (level := outcome.level(outcome.point(BASE, 0, condition))) is not None:
            levels[condition] = level
    differences = {name: outcome.difference(name) for name in plan.contrasted}
    return Reading(
        instrument=instrument,
        outcome=outcome.name,
        base=levels,
        techniques=[_technique_reading(outcome, name) for name in plan.techniques],
        contrasts=_contrasts(outcome, differences),
        untested=tuple(_untested(differences)),
    )


def _technique_reading(outcome: _Outcome, name: str) -> TechniqueReading:
    effects = {}
    for condition in outcome.plan.conditions:
        found = outcome.effect(name, WHOLE, condition)
        if found and (interval := interval_of(found.change)):
            effects[condition] = interval
    matched = outcome.matched(name)
    return TechniqueReading(
        technique=name,
        level=outcome.level(outcome.point(name, WHOLE, outcome.plan.primary)),
        effect=effects.get(outcome.plan.primary),
        effects=effects,
        matched=outcome.matched_interval(*matched) if matched else None,
        reached=_reached(matched[0]) if matched else 0.0,
        unmatched=outcome.unmatched(name, matched[0] if matched else None),
        curve=[point for place in outcome.path(name) if (point := _curve_point(outcome, *place))],
    )


def _curve_point(outcome: _Outcome, name: str, percent: int) -> CurvePoint | None:
    chat = outcome.level(outcome.point(name, percent, CHAT, "detection"))
    levels = {
        condition: level
        for condition in outcome.plan.conditions
        if condition != CHAT
        and (level := outcome.level(outcome.point(name, percent, condition))) is not None
    }
    if chat is None:
        return None
    return CurvePoint(share=outcome.plan.share(name, percent), chat=chat, outcome=levels)


def _contrasts(outcome: _Outcome, differences: Differences) -> list[ContrastReading]:
    """The contrasts with the reference that the study has texts of, corrected for all planned."""
    found = {
        name: difference
        for name, difference in differences.items()
        if difference and _is_tested(difference)
    }
    size = len(outcome.plan.contrasted)
    family = with_family(list(found.values()), size, outcome.plan.alpha) if found else []
    readings = []
    for name, each in zip(found, family, strict=True):
        interval = interval_of(each.change)
        if interval and each.p_holm is not None and each.detectable is not None:
            readings.append(
                ContrastReading(
                    technique=name,
                    difference=interval,
                    p=each.p,
                    p_holm=each.p_holm,
                    error=each.error,
                    freedom=each.freedom,
                    detectable=each.detectable,
                    matched=_matched_difference(outcome, name),
                    fewest=each.fewest,
                )
            )
    return readings


def _untested(differences: Differences) -> list[Untested]:
    """The planned contrasts that some persona has too few texts for: none where there is none."""
    return [
        Untested(
            technique=name,
            fewest=difference.fewest if difference else 0,
            empty=difference.empty if difference else 1.0,
        )
        for name, difference in differences.items()
        if not (difference and _is_tested(difference))
    ]


def _is_tested(difference: Contrast) -> bool:
    return difference.is_testable and difference.p == difference.p


def _matched_difference(outcome: _Outcome, name: str) -> Interval | None:
    sides = [outcome.matched(each) for each in (name, outcome.plan.reference or "")]
    if sides[0] is None or sides[1] is None:
        return None
    values = sides[0][0] - sides[1][0]
    return outcome.matched_interval(values, [*sides[0][1], *sides[1][1]])


def _reached(values: Floats) -> float:
    return float(np.isfinite(values[1:]).mean())


def _counts(
    name: str, rows: Sequence[Row], plan: Plan, readings: Sequence[Reading]
) -> TechniqueCounts:
    own = [
        row
        for row in rows
        if technique_of(row.cell) == (name, WHOLE) and row.cell.condition == plan.primary
    ]
    return TechniqueCounts(
        technique=name,
        adapters=len({(row.persona, row.cell.train_seed) for row in own}),
        rollouts=len(own),
        texts=sum(row.text is not None for row in own),
        verdict=_verdict(name, plan, readings),
        planned=len(plan.personas)
        * len(plan.train_seeds)
        * rollouts_of_adapter(rows, plan)[plan.primary],
    )


def _verdict(name: str, plan: Plan, readings: Sequence[Reading]) -> Verdict:
    """Whether every instrument shows the same difference of the first outcome."""
    if plan.reference is None:
        return "no contrast"
    if name == plan.reference:
        return "reference"
    primary = [reading for reading in readings if reading.outcome == plan.outcomes[0]]
    found = [c for reading in primary for c in reading.contrasts if c.technique == name]
    if any(each.technique == name for reading in primary for each in reading.untested):
        return "too few texts"
    signs = {np.sign(c.difference.estimate) for c in found if c.p_holm <= plan.alpha}
    shown = [c for c in found if c.p_holm <= plan.alpha]
    if len(shown) < len(plan.instruments) or len(signs) != 1:
        return "not shown"
    return "more" if signs.pop() > 0 else "less"
