"""What every benchmark ends in: a figure as a ratio to a named peer, with its spread.

A ratio is taken in one run, in which both sides take turns, so that it says more than two numbers
of different days or machines.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """Ours over the peer's: one value per round, none where it was not measured.

    ``missing`` says then what would be needed, in one line.
    """

    figure: str
    peer: str
    values: list[float] = field(default_factory=list)
    missing: str = ""

    @property
    def text(self) -> str:
        """The median, with the lowest and the highest of several rounds."""
        if not self.values:
            return "not measured"
        middle = f"{statistics.median(self.values):.3g}"
        ends = [f"{end(self.values):.3g}" for end in (min, max)]
        return middle if len(self.values) == 1 else f"{middle} ({ends[0]} to {ends[1]})"


def by_round(figure: str, peer: str, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio of each round."""
    return Ratio(figure, peer, [a / b for a, b in zip(ours, theirs, strict=True)])


def from_json(documents: Sequence[dict[str, Any]]) -> list[Ratio]:
    """Of documents with further keys, too."""
    names = {item.name for item in fields(Ratio)}
    return [Ratio(**{k: v for k, v in each.items() if k in names}) for each in documents]


def lines(ratios: Sequence[Ratio]) -> Iterator[str]:
    """A line each, for people."""
    for ratio in ratios:
        why = f" ({ratio.missing})" if ratio.missing else ""
        yield f"{ratio.figure}, over {ratio.peer}: {ratio.text}{why}"


class Records:
    """The last recorded ratios, in a JSON file: by part, with machine, date and command."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self.parts = json.loads(path.read_text("utf-8"))

    def ratios(self, part: str) -> dict[tuple[str, str], Ratio]:
        """Of a part, by figure and peer."""
        documents = self.parts.get(part, {}).get("ratios", [])
        return {(ratio.figure, ratio.peer): ratio for ratio in from_json(documents)}

    def record(self, part: str, ratios: Sequence[Ratio], **condition: Any) -> None:
        """Replace a part's ratios; one that was not measured now keeps its old value."""
        old = self.parts.get(part, {})
        conditions = {key: value for key, value in old.items() if key != "ratios"}
        dated = {(each["figure"], each["peer"]): each for each in old.get("ratios", [])}
        rows = []
        for ratio in ratios:
            last = dated.get((ratio.figure, ratio.peer))
            if ratio.values or last is None or not last["values"]:
                rows.append(asdict(ratio))
            else:
                rows.append({"recorded": conditions, **last})
        self.parts[part] = {**condition, "ratios": rows}
        self.path.write_text(json.dumps(self.parts, indent=1) + "\n", "utf-8")
