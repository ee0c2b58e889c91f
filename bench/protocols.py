"""What a protocol alone changes: studies of the same checkpoints, prompts and scenarios, compared.

    charprobe-lite eval --persona all --stage base,full --limit 24,10 --study lite.sqlite \\
        --condition chat,chat_email,agentic_next,agentic_email
    charprobe-lite eval ... --protocol depth --study depth.sqlite
    python bench/protocols.py lite.sqlite depth.sqlite [MORE.sqlite ...]

For each stage and condition: macro-F1, yield and forced emails of the first study and of each
other one, and the difference with an interval from shared resamples of prompts and scenarios, over
the prompts, scenarios and personas that both have texts of.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.scores.gap import labels_of
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import Labels, shared_classes
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metrics
from charprobe_lite.eval.store.reader import open_study

Place = tuple[str, str]  # stage, condition


def places(path: Path) -> dict[Place, list[Row]]:
    found: dict[Place, list[Row]] = defaultdict(list)
    for row in open_study(path).rows:
        found[row.cell.stage, row.cell.condition].append(row)
    return found


def labels(rows: list[Row], personas: list[str]) -> Labels:
    """The classified texts of one cell."""
    return next(iter(labels_of(rows, personas).values()), Labels.of([]))


def compared(before: list[Row], after: list[Row], personas: list[str]) -> list[str]:
    """Macro-F1 of both, and their difference, over the items and personas that both have.

    Dashes where the two share no persona.
    """
    items = {row.item for row in before} & {row.item for row in after}
    sides = [
        labels([row for row in rows if row.item in items], personas) for rows in (before, after)
    ]
    if not (shared := shared_classes(sides)):
        return ["-"] * 3
    pair = {
        name: side.of_classes(shared) for name, side in zip(("before", "after"), sides, strict=True)
    }
    metrics = ResampledMetrics(label_metrics(pair))
    names = [("before", "macro_f1"), ("after", "macro_f1")]
    change = metrics.difference(names[1], names[0]).change
    return [*(shown(metrics.estimate(name)) for name in names), shown(change, "+")]


def shown(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.value:{sign}.2f} [{estimate.low:{sign}.2f}, {estimate.high:{sign}.2f}]"


def emails(rows: list[Row]) -> str:
    texts = [row for row in rows if row.text is not None]
    forced = sum(row.forced for row in texts)
    return f"{len(texts) / len(rows):.0%}" + (f", {forced} forced" if forced else "")


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    first, *others = map(Path, sys.argv[1:])
    before = places(first)
    personas = sorted({row.persona for rows in before.values() for row in rows if row.persona})
    for other in others:
        after = places(other)
        names = (first.stem, other.stem)
        print(f"| stage | condition | {' | '.join(names)} | texts | difference |")
        print("|---|---|---|---|---|---|")
        for place in (place for place in before if place in after):
            left, right, change = compared(before[place], after[place], personas)
            print(
                f"| {' | '.join(place)} | {left} | {right} "
                f"| {emails(before[place])} / {emails(after[place])} | {change} |"
            )


if __name__ == "__main__":
    main()
