"""Which file to take: files tested in a fixed order, and the result in one sentence."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from charprobe_lite.eval.quant.score import CellQuality, QuantScore
from charprobe_lite.eval.stats.metrics import FEWEST_CLUSTERS, PairedDifference
from charprobe_lite.models.catalogue import LORA_MODES
from charprobe_lite.models.defaults import REFERENCE
from charprobe_lite.models.quant_types import KV_DEFAULT, KV_TYPES

WORK = "emails sent unforced"


@dataclass(frozen=True)
class Requirement:
    """That a file loses no more than the margin of ``what`` in ``condition``.

    ``difference`` is None where the file has no text to show it by.
    """

    what: str
    condition: str
    difference: PairedDifference | None

    @property
    def met(self) -> bool | None:
        """Whether it is shown to; None if undecided."""
        return self.difference.non_inferior if self.difference else None

    def __str__(self) -> str:
        """For people."""
        return f"{self.what} in {self.condition}"


@dataclass(frozen=True)
class FixedOrder:
    """Files in the order of their tests: those that ``passed``, the one that stopped, the rest.

    ``conditions`` are those of F16's most trained stage, ``work`` says whether agents were tested.
    """

    conditions: list[str]
    work: bool
    passed: list[QuantScore]
    stopped: QuantScore | None
    untested: list[QuantScore]

    @property
    def unmet(self) -> list[Requirement]:
        """What the file that stopped the tests is not shown to keep; what it loses first."""
        if self.stopped is None:
            return []
        unmet = [each for each in requirements(self.stopped, self.conditions) if not each.met]
        return sorted(unmet, key=lambda each: each.met is None)

    def as_json(self) -> list[dict[str, Any]]:
        """Each file with ``passed``: true, false, or null where no test was made any more."""
        stopped = [self.stopped] if self.stopped else []
        groups = ((self.passed, True), (stopped, False), (self.untested, None))
        return [
            {
                **{name: getattr(file.record, name) for name in ("quant", "lora", "kv_type")},
                "passed": passed,
            }
            for files, passed in groups
            for file in files
        ]


def fixed_order(quants: Sequence[QuantScore]) -> FixedOrder:
    """Test the files, most bits per weight first, until one fails.

    The order does not depend on the rollouts; of two files of a type the one with its adapter at
    run time comes first. Each is tested at one-sided 5% for all its `requirements` at once, which
    needs no correction (an intersection-union test, Berger 1982, Technometrics 24:295). Nor do
    tests in a fixed order that stop at the first failure: with 95% no file is passed that loses
    more than the margin (Maurer, Hothorn and Lehmacher 1995; Westfall and Krishen 2001, J. Stat.
    Plan. Inference 99:25). Both ways to use an adapter are in one order, so this holds for all.
    """
    files = [quant for quant in quants if quant.record.kv_type == KV_DEFAULT]
    return _order(quants, [quant for quant in files if quant.record.quant != REFERENCE])


def cache_order(quants: Sequence[QuantScore]) -> FixedOrder | None:
    """The same for the quantized caches of the F16 file, most bits first; None without one.

    It is a test of its own: a type of weights that fails keeps no cache from being tested.
    """
    quantized = [quant for quant in quants if quant.record.kv_type != KV_DEFAULT]
    files = [quant for quant in quantized if quant.record.quant == REFERENCE]
    return _order(quants, files) if files else None


def _order(quants: Sequence[QuantScore], files: Sequence[QuantScore]) -> FixedOrder:
    reference = next(quant for quant in quants if quant.record.is_reference)
    conditions = [cell.condition for cell in reference.trained_cells]
    work = any("unforced" in cell.health for cell in reference.trained_cells)
    files = sorted(files, key=_place(quants))
    if not conditions:
        return FixedOrder([], work, [], None, files)
    keeps = [all(each.met for each in requirements(file, conditions)) for file in files]
    count = keeps.index(False) if False in keeps else len(files)
    stopped = files[count] if count < len(files) else None
    return FixedOrder(conditions, work, files[:count], stopped, files[count + 1 :])


def requirements(file: QuantScore, conditions: Sequence[str]) -> list[Requirement]:
    """Character in all ``conditions``, and emails that agents send unforced."""
    cells = {cell.condition: cell for cell in file.trained_cells}
    return [
        each for condition in conditions for each in _requirements(cells.get(condition), condition)
    ]


def recommendation(order: FixedOrder, margin: float, caches: FixedOrder | None = None) -> str:
    """The last file that passed, and why the tests stopped; then the same of ``caches``."""
    if caches is None:
        return _sentences(order, margin)
    parts = [_sentences(order, margin)] if order.stopped or order.passed else []
    return " ".join([*parts, _sentences(caches, margin, "cache")])


def _sentences(order: FixedOrder, margin: float, what: str = "file") -> str:
    if order.stopped is None and not order.passed:
        return f"Nothing to recommend: no type was compared with {REFERENCE}."
    goal = f"the character in {_listed(order.conditions)}"
    goal += f" and the {WORK}" if order.work else ""
    goal = f"{goal} within {margin:g} of {REFERENCE}"
    if order.passed:
        start = f"Take {_file(order.passed[-1])}: it and every larger {what} keep {goal}"
    else:
        kept = REFERENCE if what == "file" else f"the {KV_DEFAULT} cache"
        start = f"Keep {kept}: no other {what} is shown to keep {goal}"
    if order.stopped is None:
        return f"{start}."
    return f"{start}. The tests stopped at {order.stopped.name}, {_reason(order)}."


def _requirements(cell: CellQuality | None, condition: str) -> Iterator[Requirement]:
    yield Requirement("the character", condition, cell.difference if cell else None)
    if cell and cell.unforced:
        yield Requirement(WORK, condition, cell.unforced)


def _place(quants: Sequence[QuantScore]) -> Any:
    """The key that sorts files; ``quants`` come most bits first, and a type has its bits once."""
    types = list(dict.fromkeys(quant.record.quant for quant in quants))
    ways = [None, *LORA_MODES]
    return lambda quant: (
        types.index(quant.record.quant),
        ways.index(quant.record.lora),
        KV_TYPES.index(quant.record.kv_type),
    )


def _reason(order: FixedOrder) -> str:
    """What is lost most, or else what is missing, or what takes most prompts to decide."""
    lost = [each for each in order.unmet if each.met is False and each.difference]
    if lost:
        most = min(lost, key=lambda each: each.difference.change.value if each.difference else 0)
        return f"which loses too much of {most}: {_change(most.difference)}"
    missing = [each for each in order.unmet if not each.difference or each.difference.lost]
    if missing:
        return f"as personas have no text to show {missing[0]} by"
    least = max(order.unmet, key=lambda each: _needed(each.difference))
    return f"where {least} is not decided: {_change(least.difference)}{_more(least.difference)}"


def _needed(difference: PairedDifference | None) -> int:
    """Prompts or scenarios with which a true difference of 0 is likely to pass."""
    power = difference.power if difference else None
    return max(power.needed_non_inferior, FEWEST_CLUSTERS) if power else 0


def _more(difference: PairedDifference | None) -> str:
    """How many prompts or scenarios may decide."""
    needed = _needed(difference)
    if difference is None or not needed:
        return ""
    if needed > difference.clusters:
        return f"; about {needed} would show it if nothing is lost"
    return f"; about {_of_the_seen(difference)} would decide it if the true loss is the seen one"


def _of_the_seen(difference: PairedDifference) -> int:
    """So many that the interval around the observed difference ends at the margin."""
    room = difference.change.value + (difference.margin or 0)
    end = difference.interval_90[0 if room > 0 else 1]
    ratio = (difference.change.value - end) / room if room else math.inf
    return math.ceil(difference.clusters * min(ratio**2, 1e6))


def _change(difference: PairedDifference | None) -> str:
    """The difference with its 90% interval, whose lower end decides."""
    if difference is None:
        return "no difference"
    value, (low, high) = difference.change.value, difference.interval_90
    interval = f"90% interval {low:+.3f} to {high:+.3f}"
    return f"{value:+.3f} ({interval}) with {difference.clusters} prompts or scenarios"


def _file(quant: QuantScore) -> str:
    record = quant.record
    size = f"{record.bytes / 1e6:.0f} MB, {record.bits_per_weight:.2f} bits per weight"
    return f"{record.label} ({', '.join(filter(None, (record.lora, size)))})"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
