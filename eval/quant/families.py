"""Differences from F16 that are tested together, with Holm's correction."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from charprobe_lite.eval.quant.score import CHARACTER, QuantScore
from charprobe_lite.eval.stats.holm import holm
from charprobe_lite.eval.stats.metrics import MarginTests, PairedDifference


def with_holm(quants: Sequence[QuantScore]) -> list[QuantScore]:
    """The types with Holm's correction of their differences, over all types and conditions.

    Character is one family, and each share of the tool calls is one. So are the two verdicts: "the
    same" and "not the same" cannot both be wrong about one difference.
    """
    families: dict[str, list[PairedDifference]] = {}
    for name, difference in chain.from_iterable(map(_tested, quants)):
        families.setdefault(name, []).append(difference)
    adjusted = {name: iter(_adjusted(family)) for name, family in families.items()}

    def adjust(name: str, difference: PairedDifference | None) -> PairedDifference | None:
        return next(adjusted[name]) if difference and difference.p else difference

    return [
        replace(
            quant,
            cells=[
                replace(
                    cell,
                    difference=adjust(CHARACTER, cell.difference),
                    health={
                        name: replace(entry, difference=adjust(name, entry.difference))
                        for name, entry in cell.health.items()
                    },
                )
                for cell in quant.cells
            ],
        )
        for quant in quants
    ]


def alone(difference: PairedDifference) -> PairedDifference:
    """A difference that is a family by itself."""
    return replace(difference, p_holm=difference.p)


def _tested(quant: QuantScore) -> Iterator[tuple[str, PairedDifference]]:
    """The differences that have a verdict, with their families."""
    for cell in quant.cells:
        named = {CHARACTER: cell.difference}
        named |= {name: entry.difference for name, entry in cell.health.items()}
        yield from ((name, each) for name, each in named.items() if each and each.p)


def _adjusted(family: Sequence[PairedDifference]) -> list[PairedDifference]:
    tests = [difference.p for difference in family if difference.p]
    columns = holm([test.equivalent for test in tests]), holm([test.different for test in tests])
    return [
        replace(difference, p_holm=MarginTests(*pair))
        for difference, pair in zip(family, zip(*columns, strict=True), strict=True)
    ]
