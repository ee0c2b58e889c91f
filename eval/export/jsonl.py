"""JSON lines: an object per rollout, with its turns."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from charprobe_lite.eval.export import ExportFormat
from charprobe_lite.eval.export.records import records
from charprobe_lite.eval.store.reader import Study


def write(study: Study, target: Path, _: Any = None) -> None:
    """A JSON object a line; ``turns`` has each reply, its tool call and the tool's output."""
    with target.open("w", encoding="utf-8") as file:
        for record, turns in zip(records(study), study.turns, strict=True):
            # escaped, as a model may have written what is no Unicode text
            file.write(json.dumps({**record, "turns": [asdict(turn) for turn in turns]}) + "\n")


FORMAT = ExportFormat(write)
