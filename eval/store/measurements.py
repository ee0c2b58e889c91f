"""The tables of quantization studies: model files, and the texts that they read."""

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from charprobe_lite.eval.store.connection import Connection
from charprobe_lite.eval.store.records import ModelFile, RecordedText, TextKey
from charprobe_lite.eval.store.rollouts import columns


class MeasurementTables(Connection):
    """What was measured of model files."""

    def add_file(self, file: ModelFile) -> None:
        """Record what a file costs; what was measured of it before stays if this has nothing."""
        values = {
            **vars(file),
            "lora": file.lora or "",
            "tensor_types": json.dumps(file.tensor_types),
        }
        with self.transaction():
            self.database.execute(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (base, quant, lora, kv_type) DO UPDATE SET "
                "bits_per_weight = excluded.bits_per_weight, bytes = excluded.bytes, "
                "tensor_types = excluded.tensor_types, "
                "tokens_per_second = ifnull(excluded.tokens_per_second, tokens_per_second), "
                "peak_bytes = ifnull(excluded.peak_bytes, peak_bytes)",
                list(values.values()),
            )

    def files(self) -> list[ModelFile]:
        """The files, in the order in which they were recorded."""
        rows = self.select("SELECT * FROM files ORDER BY rowid")
        return [
            ModelFile(base, quant, lora or None, bits, size, json.loads(types), *measured)
            for base, quant, lora, bits, size, types, *measured in rows
        ]

    def add_texts(self, texts: Sequence[RecordedText]) -> None:
        """Record what texts are to files, in one transaction; what is there already stays."""
        with self.transaction():
            for text in texts:
                values = [*columns(text.key), text.nll, text.kl, text.same_top, text.left_out]
                self.insert("fidelity", values, "OR IGNORE")

    def texts(self) -> list[RecordedText]:
        """All that was recorded of texts, in the order in which it was."""
        rows = self.select("SELECT * FROM fidelity ORDER BY rowid")
        return [RecordedText(_key(row[:8]), *row[8:]) for row in rows]

    def texts_read(self) -> set[TextKey]:
        """Which texts were read by which file."""
        names = ", ".join(field.name for field in fields(TextKey))
        return {_key(row) for row in self.select(f"SELECT {names} FROM fidelity")}


def _key(row: Sequence[Any]) -> TextKey:
    base, stage, persona, quant, lora, *text = row
    return TextKey(base, stage, persona or None, quant, lora or None, *text)
