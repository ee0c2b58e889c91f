"""CSV: a line per rollout."""

import csv
import json
from pathlib import Path
from typing import Any

from charprobe_lite.eval.export import ExportFormat
from charprobe_lite.eval.export.records import COLUMNS, records
from charprobe_lite.eval.store.reader import Study


def write(study: Study, target: Path, _: Any = None) -> None:
    """RFC 4180 in UTF-8; lists are JSON, texts unchanged."""
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for record in records(study):
            lists = {name: json.dumps(v) for name, v in record.items() if isinstance(v, list)}
            writer.writerow({**record, **lists})


FORMAT = ExportFormat(write)
