"""Parquet: a typed row per rollout."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import write_table

from charprobe_lite.eval.export import ExportFormat
from charprobe_lite.eval.export.records import COLUMNS, records
from charprobe_lite.eval.store.reader import Study


def write(study: Study, target: Path, _: Any = None) -> None:
    """The records as a table."""
    types = {name: pa.type_for_alias(kind.split()[0]) for name, kind in COLUMNS.items()}
    lists = {name: pa.list_(types[name]) for name, kind in COLUMNS.items() if kind.endswith("list")}
    schema = pa.schema(list({**types, **lists}.items()))
    write_table(pa.Table.from_pylist(records(study), schema), target)


FORMAT = ExportFormat(write)
