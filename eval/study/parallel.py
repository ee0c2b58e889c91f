"""How many rollouts run at once and with which attention, chosen before a study's first rollout."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from charprobe_lite.eval.study.grid import Task
from charprobe_lite.eval.study.memory import installed_memory, study_memory
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.eval.study.variants import Variant, base_of
from charprobe_lite.models.catalogue import Catalogue
from charprobe_lite.models.defaults import PARALLEL
from charprobe_lite.models.gguf_header import weight_summary
from charprobe_lite.runtime.backend import BackendOptions
from charprobe_lite.runtime.calibration import (
    STEPS,
    Speeds,
    best_number,
    cached_speeds,
    flash_is_faster,
    flash_was_faster,
    next_step,
)

UNTIMED = 4
"""Up to so many rollouts at once are never worth a calibration."""
SHORT = 200 * 135e6
"""Rollouts times weights below which a study is not worth one: five minutes on two cores. It takes
the usual values, so that others repeat its texts."""
SHARE = 0.75
"""Of the machine's memory that auto may fill; the rest is for other programs."""
AUTO, ATTENTION, ATTENTION_SOURCE = "auto", "flash_attention", "flash_attention_from"
"""What leaves flash attention to a study, and the values of a study that hold the choice and where
it comes from."""
NUMBER, SOURCE = "parallel", "parallel_from"
"""The values of a study that hold its number, and where it comes from."""
LARGEST = 64
Reason = Literal["given", "server", "rollouts", "short", "memory", "calibrated", "open"]
GROWING = ("rollouts", "short")
"""Reasons that may hold no longer when a study goes on with more rollouts."""


@dataclass(frozen=True)
class Parallel:
    """A number of rollouts at once and its reason; "open": the most that a calibration may choose.

    ``speeds`` are those of the calibration, where there was one.
    """

    number: int
    reason: Reason
    speeds: Speeds = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float | None:
        """The speed with that number of rollouts or the next smaller one that was timed."""
        timed = [number for number in self.speeds if number <= self.number]
        return self.speeds[max(timed)] if timed else None

    def __str__(self) -> str:
        counts = ", ".join(map(str, self.speeds))
        rates = ", ".join(f"{speed:.0f}" for speed in self.speeds.values())
        reasons = {
            "given": f"{self.number}",
            "server": f"{self.number} on a server",
            "rollouts": f"{self.number}, as no checkpoint has more rollouts",
            "short": f"{self.number}, not timed for so short a study",
            "memory": f"{self.number}, as more may not fit the memory",
            "calibrated": f"{self.number}, calibrated: {rates} tokens/s with {counts} at once",
            "open": f"auto: {self.number} at most, calibrated at the start",
        }
        return reasons[self.reason]


def select_parallel(
    speeds: Speeds | None, rollouts: int, room: int, *, is_short: bool = False
) -> Parallel:
    """The number for a study, from the ``speeds`` of a calibration or None.

    ``rollouts`` is the most of any checkpoint, ``room`` how many at once fit the memory; a study
    that ``is_short`` takes the usual number if it can.
    """
    most = max(1, min(rollouts, room, STEPS[-1]))
    if is_short and most > PARALLEL:
        return Parallel(PARALLEL, "short")
    if is_short or most <= UNTIMED:
        return Parallel(most, "rollouts" if rollouts <= room else "memory")
    if not speeds or next_step(speeds, room) is not None:
        return Parallel(most, "open")
    best = best_number(speeds, room)
    if best > most:
        return Parallel(most, "rollouts", speeds)
    return Parallel(best, "calibrated", speeds)


def planned_parallel(
    spec: StudySpec,
    variants: Sequence[Variant],
    tasks: Sequence[Sequence[Task]],
    catalogue: Catalogue,
    model: Path | None,
) -> Parallel:
    """The number that a new study of a resolved spec would have, as far as it is known.

    ``tasks`` are the rollouts of each variant, ``model`` the file of its first checkpoint, None
    where it is not made yet. Nothing is timed.
    """
    if spec.parallel:
        return Parallel(spec.parallel, "given")
    if spec.is_served:
        return Parallel(PARALLEL, "server")
    base = base_of(spec, variants[0], catalogue)
    return _select_cached(
        *(spec, variants, most_rollouts(tasks), catalogue, model),
        is_short=is_short(tasks, base.parameters),
    )


def is_short(tasks: Sequence[Sequence[Task]], weights: int) -> bool:
    """Whether a study of models with so many weights is not worth a calibration."""
    rollouts = sum(task.cell.quant is not None for part in tasks for task in part)
    return rollouts * weights < SHORT


def unlimited_parallel(
    spec: StudySpec, variants: Sequence[Variant], catalogue: Catalogue, model: Path | None
) -> Parallel:
    """The same for auto and any number of rollouts."""
    return _select_cached(spec, variants, STEPS[-1], catalogue, model)


def _select_cached(
    spec: StudySpec,
    variants: Sequence[Variant],
    rollouts: int,
    catalogue: Catalogue,
    model: Path | None,
    *,
    is_short: bool = False,
) -> Parallel:
    room, speeds = memory_room(spec, variants, catalogue), None
    if model and min(rollouts, room) > UNTIMED and not is_short:
        speeds = cached_speeds(model, model_options(spec, variants[0], model), room)
    return select_parallel(speeds, rollouts, room, is_short=is_short)


def recorded_parallel(provenance: Mapping[str, Any], rollouts: int) -> Parallel | None:
    """The number of a study that has begun; None where it has none, or has grown since.

    A number is too small now where the study had no more ``rollouts`` of a checkpoint then, or was
    short.
    """
    number, reason = provenance.get(NUMBER), provenance.get(SOURCE, "given")
    if type(number) is not int or not 1 <= number <= LARGEST:
        return None
    if reason in GROWING and rollouts > number:
        return None
    return Parallel(number, reason)


def most_rollouts(tasks: Sequence[Sequence[Task]]) -> int:
    """Rollouts of the checkpoint that has most: those of another one wait for it to end."""
    counts = [
        Counter(task.checkpoint for task in part if task.cell.quant is not None) for part in tasks
    ]
    return max((count for each in counts for count in each.values()), default=0)


def memory_room(spec: StudySpec, variants: Sequence[Variant], catalogue: Catalogue) -> int:
    """How many rollouts at once fit the memory with every variant, at least one.

    The memory of a GPU is not known here: a calibration meets its limit.
    """
    installed, base = installed_memory(), base_of(spec, variants[0], catalogue)
    if installed is None or spec.gpu_layers != 0 or base.shape is None:
        return STEPS[-1]
    rooms = []
    for variant in variants:
        one, two = (study_memory(base, variant, spec, number).total for number in (1, 2))
        rooms.append(1 + (SHARE * installed - one) // (two - one))
    return int(max(1, min(STEPS[-1], *rooms)))


def model_options(spec: StudySpec, variant: Variant, model: Path) -> BackendOptions:
    """How a variant's model runs; with "auto" flash attention where it is known to be faster."""
    options = spec.backend_options(variant.kv_type)
    if spec.flash_attention != AUTO or spec.gpu_layers != 0:
        return options
    return replace(options, flash_attention=flash_was_faster(model, options))


def select_attention(
    spec: StudySpec,
    tasks: Sequence[Sequence[Task]],
    provenance: Mapping[str, Any],
    is_begun: bool,
    model: Path | None,
) -> tuple[str, str]:
    """Flash attention of a study on the CPU, "on" or "off", and why: the spec's ("given"), else the
    one that it began with, else the faster one on this machine ("timed"), or off in a study that
    is "short".

    A GPU and a server decide for themselves, which counts as off; a server has no ``model``.
    """
    if spec.flash_attention != AUTO:
        return spec.flash_attention, "given"
    source = provenance.get(ATTENTION_SOURCE, "given")  # older studies had it off
    if is_begun and source != "short":
        return "on" if provenance.get(ATTENTION) == "on" else "off", str(source)
    if model is None or spec.gpu_layers != 0:
        return "off", "short"
    if is_short(tasks, sum(weight_summary(model).tensor_types.values())):
        return "off", "short"
    return "on" if flash_is_faster(model, spec.backend_options()) else "off", "timed"
