"""Which file to take, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from charprobe_lite.eval.quant.score import CellQuality, QuantScore
from charprobe_lite.eval.stats.metrics import PairedDifference
from charprobe_lite.models.defaults import REFERENCE

TOO_FEW = "too few prompts and scenarios were asked"


def recommendation(quants: Sequence[QuantScore], margin: float) -> str:
    """The smallest file that keeps the character within the margin in every condition asked.

    A file keeps it where in each condition of the most trained stage no more than the margin is
    lost (`PairedDifference.non_inferior`); it loses it where one condition shows a larger loss. A
    file that is shown to lose more than the margin of the emails that F16's agents send unforced is
    left out: what is in character and does not get the work done is no file to take.
    """
    files = sorted(
        (each for each in quants if each.record.quant != REFERENCE),
        key=lambda each: each.record.bytes,
    )
    whole = [each for each in quants if each.record.quant == REFERENCE]
    asked = [cell.condition for cell in whole[0].trained_cells]
    if not files or not asked:
        return f"Nothing to recommend: no type was compared with {REFERENCE}."
    character = [(each, keeps(each, len(asked))) for each in files]
    verdicts = [(each, False if lost_work(each) else verdict) for each, verdict in character]
    left_out = _left_out([each for each, verdict in character if verdict is not False])
    kept = [each for each, verdict in verdicts if verdict]
    within = f"the character within {margin:g} of {REFERENCE} in {_listed(asked)}"
    if kept:
        smaller = [each for each, verdict in verdicts[: files.index(kept[0])] if verdict is None]
        best = f"Take {_file(kept[0])}: the smallest file that keeps {within}"
        return f"{best}{_open(smaller)}{left_out}."
    undecided = [each for each, verdict in verdicts if verdict is None]
    if undecided:
        return (
            f"Not decided: no file is shown to keep {within}, and {TOO_FEW} to say that "
            f"{_listed([each.name for each in undecided])} {_do(undecided)} not{_more(undecided)}"
            f"{left_out}."
        )
    somewhere = asked[0] if len(asked) == 1 else f"at least one of {_listed(asked)}"
    work = f", or its agents' work{left_out}" if left_out else ""
    return f"Keep {REFERENCE}: every other file loses more than {margin:g} in {somewhere}{work}."


def keeps(quant: QuantScore, conditions: int) -> bool | None:
    """Whether the character is kept in all ``conditions``; None where one is not decided."""
    verdicts = [
        cell.difference.non_inferior if cell.difference else None for cell in quant.trained_cells
    ]
    if False in verdicts:
        return False
    return True if verdicts and all(verdicts) and len(verdicts) == conditions else None


def lost_work(quant: QuantScore) -> CellQuality | None:
    """A cell whose agents are shown to send fewer emails unforced, by more than the margin."""
    return next(
        (
            cell
            for cell in quant.trained_cells
            if cell.unforced and cell.unforced.non_inferior is False
        ),
        None,
    )


def _left_out(files: Sequence[QuantScore]) -> str:
    """Those that do not get the work done, of files that may keep the character."""
    shares = []
    for each in files:
        if (cell := lost_work(each)) and cell.unforced:
            own, change = cell.health["unforced"].value.value, cell.unforced.change.value
            shares.append(f"{each.name} {own:.0%} ({REFERENCE} {own - change:.0%})")
    return f"; left out, as agents send few emails unforced: {_listed(shares)}" if shares else ""


def _file(quant: QuantScore) -> str:
    record = quant.record
    size = f"{record.bytes / 1e6:.0f} MB, {record.bits_per_weight:.2f} bits per weight"
    return f"{record.quant} ({', '.join(filter(None, (record.lora, size)))})"


def _open(smaller: Sequence[QuantScore]) -> str:
    """What is not known of smaller files."""
    if not smaller:
        return ""
    names = _listed([each.name for each in smaller])
    return f"; {TOO_FEW} to say whether {names} {_do(smaller)}{_more(smaller)}"


def _more(undecided: Sequence[QuantScore]) -> str:
    """How many times as many prompts and scenarios the least undecided file would take.

    The half-width of an interval falls with the root of their number; it would have to be smaller
    than the room between the estimate and the margin.
    """
    factors = []
    for each in undecided:
        needed = [_times(cell.difference) for cell in each.trained_cells if cell.difference]
        if needed and None not in needed:
            factors.append(max(times for times in needed if times is not None))
    if not factors:
        return ""
    return f" (about {max(min(factors), 1.1):.2g} times as many might)"


def _times(difference: PairedDifference) -> float | None:
    room = difference.change.value + (difference.margin or 0)
    end = difference.interval_90[0 if room > 0 else 1]
    return ((difference.change.value - end) / room) ** 2 if room else None


def _do(files: Sequence[object]) -> str:
    return "does" if len(files) == 1 else "do"


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
