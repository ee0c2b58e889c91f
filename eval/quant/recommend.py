"""Which file to take, in one sentence."""

import math
from collections.abc import Sequence

from charprobe_lite.eval.quant.score import CellQuality, QuantScore
from charprobe_lite.eval.stats.metrics import PairedDifference
from charprobe_lite.models.defaults import REFERENCE

TOO_FEW = "too few prompts and scenarios were asked"


def recommendation(quants: Sequence[QuantScore], margin: float) -> str:
    """The smallest file that keeps the character within the margin in every condition.

    A file keeps it where no condition of the most trained stage loses more than the margin
    (`PairedDifference.non_inferior`); it loses it where one condition shows a larger loss. A file
    is left out if it is shown to lose more than the margin of the emails that F16's agents send
    unforced: an agent in character that does not do its job is no use.
    """
    files = sorted(
        (quant for quant in quants if quant.record.quant != REFERENCE),
        key=lambda quant: quant.record.bytes,
    )
    reference = next(quant for quant in quants if quant.record.quant == REFERENCE)
    conditions = [cell.condition for cell in reference.trained_cells]
    if not files or not conditions:
        return f"Nothing to recommend: no type was compared with {REFERENCE}."
    candidates = [file for file in files if keeps_character(file, len(conditions)) is not False]
    left_out = _left_out(candidates)
    candidates = [file for file in candidates if not loses_emails(file)]
    best = next((file for file in candidates if keeps_character(file, len(conditions))), None)
    goal = f"the character within {margin:g} of {REFERENCE} in {_listed(conditions)}"
    if best:
        smaller = candidates[: candidates.index(best)]
        names = _listed([file.name for file in smaller])
        doubt = f"; {TOO_FEW} to say whether {names} {_do(smaller)}{_more(smaller)}"
        take = f"Take {_file(best)}: the smallest file that keeps {goal}"
        return f"{take}{doubt if smaller else ''}{left_out}."
    if candidates:
        return (
            f"Not decided: no file is shown to keep {goal}, and {TOO_FEW} to say that "
            f"{_listed([file.name for file in candidates])} {_do(candidates)} not"
            f"{_more(candidates)}{left_out}."
        )
    place = conditions[0] if len(conditions) == 1 else f"at least one of {_listed(conditions)}"
    emails = f", or its agents' work{left_out}" if left_out else ""
    return f"Keep {REFERENCE}: every other file loses more than {margin:g} in {place}{emails}."


def keeps_character(quant: QuantScore, conditions: int) -> bool | None:
    """Whether the character is kept in all ``conditions``; None if one is undecided."""
    differences = [cell.difference for cell in quant.trained_cells]
    verdicts = [difference and difference.non_inferior for difference in differences]
    if False in verdicts:
        return False
    return True if verdicts and all(verdicts) and len(verdicts) == conditions else None


def loses_emails(quant: QuantScore) -> CellQuality | None:
    """A cell whose agents are shown to send fewer emails unforced, by more than the margin."""
    for cell in quant.trained_cells:
        if cell.unforced and cell.unforced.non_inferior is False:
            return cell
    return None


def _left_out(files: Sequence[QuantScore]) -> str:
    """Of files that may keep the character, those whose agents send too few emails."""
    shares = []
    for file in files:
        if (cell := loses_emails(file)) and cell.unforced:
            share, change = cell.health["unforced"].value.value, cell.unforced.change.value
            shares.append(f"{file.name} {share:.0%} ({REFERENCE} {share - change:.0%})")
    return f"; left out, as agents send few emails unforced: {_listed(shares)}" if shares else ""


def _file(quant: QuantScore) -> str:
    record = quant.record
    size = f"{record.bytes / 1e6:.0f} MB, {record.bits_per_weight:.2f} bits per weight"
    return f"{record.quant} ({', '.join(filter(None, (record.lora, size)))})"


def _more(undecided: Sequence[QuantScore]) -> str:
    """How many times as many prompts and scenarios the least undecided file would take.

    The half-width of an interval falls with the root of their number; it would have to be smaller
    than the room between the estimate and the margin.
    """
    factors = [
        max((_times(cell.difference) for cell in cells if cell.difference), default=math.inf)
        for cells in (file.trained_cells for file in undecided)
    ]
    least = min(factors, default=math.inf)
    return f" (about {max(least, 1.1):.2g} times as many might)" if least < math.inf else ""


def _times(difference: PairedDifference) -> float:
    room = difference.change.value + (difference.margin or 0)
    end = difference.interval_90[0 if room > 0 else 1]
    return ((difference.change.value - end) / room) ** 2 if room else math.inf


def _do(files: Sequence[object]) -> str:
    return "does" if len(files) == 1 else "do"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
