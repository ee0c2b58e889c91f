"""GGUF files: fields that are copied from another file, and the end of every written file."""

from dataclasses import dataclass
from typing import Any

import gguf

EMPTY_ARRAY = 16
"""Bytes of an array's field without elements: its type, theirs, their number."""


@dataclass(frozen=True)
class _Copied:
    """A field's type and value as they are in a file."""

    data: memoryview


class GGUFWriter(gguf.GGUFWriter):  # type: ignore[misc]
    """gguf's writer, and fields that are copied as bytes: a vocabulary has 100,000s of items."""

    def copy_field(self, name: str, data: memoryview) -> None:
        """Write another file's field. An empty array is left out, as gguf does not write one."""
        kind = gguf.GGUFValueType(int.from_bytes(data[:4], "little"))
        if kind != gguf.GGUFValueType.ARRAY or len(data) > EMPTY_ARRAY:
            self.add_key_value(name, _Copied(data), kind)

    def _pack_val(self, val: Any, *args: Any, **options: Any) -> Any:
        return val.data if isinstance(val, _Copied) else super()._pack_val(val, *args, **options)


def finish_gguf(writer: gguf.GGUFWriter) -> None:
    """Write the header, the fields and the tensors that were added, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
