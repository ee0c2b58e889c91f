"""What a GGUF file says of itself and what it really holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from charprobe_lite.models.errors import BadInput, first_problem


class _BoundedReader(gguf.GGUFReader):  # type: ignore[misc]
    """gguf's reader slices past the end of a file in silence, which lets a file that claims
    2^60 array elements run it for ever; here that is an error."""

    def _get(self, offset: int, dtype: Any, count: int = 1, **rest: Any) -> Any:
        if int(offset) + int(np.dtype(dtype).itemsize) * int(count) > len(self.data):
            raise ValueError("it ends in the middle of a field")
        return super()._get(offset, dtype, count, **rest)


@dataclass(frozen=True)
class Weights:
    """A model file's weights.

    ``name`` is the quant type that the file gives itself ("unknown" if none), ``tensor_types``
    the number of weights stored as each real type, ``bits_per_weight`` the mean over all.
    """

    name: str
    tensor_types: dict[str, int]
    bits_per_weight: float


def read_gguf(path: Path) -> gguf.GGUFReader:
    """Open a GGUF file. Raises BadInput when it is missing or is no GGUF."""
    try:
        return _BoundedReader(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); name a GGUF file") from None
    except Exception as error:  # the reader trusts the file, and breaks wherever it lies
        raise BadInput(f"{path}: not a readable GGUF file: {first_problem(error)}") from None


def weights(path: Path) -> Weights:
    """The weights of a GGUF model. Raises BadInput when it is no readable GGUF with tensors."""
    try:
        state = path.stat()
    except OSError:
        return _weights(path, 0, 0)
    return _weights(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)  # reading a file's vocabulary takes seconds, and several callers ask
def _weights(path: Path, _written: int, _size: int) -> Weights:
    reader = read_gguf(path)
    types: Counter[str] = Counter()
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] += int(tensor.n_elements)
    if not types.total():
        raise BadInput(f"{path}: holds no tensors; name a GGUF model")
    size = sum(int(tensor.n_bytes) for tensor in reader.tensors)
    return Weights(_file_type(reader), dict(types.most_common()), 8 * size / types.total())


def _file_type(reader: gguf.GGUFReader) -> str:
    field = reader.fields.get("general.file_type")
    try:
        name = gguf.LlamaFileType(int(field.contents())).name if field else "unknown"
    except (ValueError, TypeError, OverflowError):
        return "unknown"
    return str(name).removeprefix("MOSTLY_").removeprefix("ALL_")
