"""A GGUF file: its header's fields and tensors, the types of its weights, and their bytes.

Layout: the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import mmap
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput, first_problem, printable
from charprobe_lite.models.files import regular_file

COUNT, SHORT_COUNT = struct.Struct("<Q"), struct.Struct("<I")
# the types of numbers have the values 0 to 12 in this order; 8 is a string and 9 an array
SCALARS = {
    GGUFValueType(value): struct.Struct(f"<{code}")
    for value, code in enumerate("BbHhIif?--Qqd")
    if code != "-"
}
VERSIONS = (2, 3)
SPLIT_COUNT = "split.count"
MAX_PARTS = 10_000
PART_NAME = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
"""How llama.cpp ends the name of a part of a split model."""
MORE_END_TOKENS = "charprobe.end_token_ids"
"""Our field: ids, with commas, of tokens that end a turn beyond those that GGUF has a key for."""
MAX_DIMENSIONS = 4
MAX_STRINGS = 1 << 24  # of one array: 30 times the largest vocabulary's merges
MAX_STRING = 1 << 28  # bytes; some files carry their tokenizer as JSON


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor's place in the file: ``shape`` has the row's length first, as GGUF has it.

    ``offset`` is that of its first byte from the start of its file.
    """

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """The number of weights."""
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """The bytes that they take in the file."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return int(self.size // block * size)


@dataclass(frozen=True)
class Header:
    """The part of a GGUF file before its weights.

    ``fields`` has numbers, truth values and strings; an array is None, its contents are skipped.
    ``places`` is where each field's type and value are in the file.
    """

    fields: dict[str, Any]
    tensors: list[GGUFTensor]
    places: dict[str, slice]


@dataclass(frozen=True)
class MappedGGUF:
    """One GGUF file, mapped into memory: its header, and its bytes where they are needed."""

    header: Header
    data: NDArray[np.uint8]

    def field_bytes(self, name: str) -> memoryview:
        """A field's type and value as they are in the file."""
        return self.data[self.header.places[name]].data

    def rows(self, tensor: GGUFTensor) -> NDArray[np.uint8]:
        """A tensor's encoded rows, (..., bytes of a row); a vector's rows are its numbers."""
        shape = tensor.shape[::-1] or (1,)
        if len(shape) == 1 and gguf.GGML_QUANT_SIZES[tensor.kind][0] == 1:
            shape = (*shape, 1)
        data = self.data[tensor.offset : tensor.offset + tensor.n_bytes]
        return data.reshape(gguf.quant_shape_to_byte_shape(shape, tensor.kind))


@dataclass(frozen=True)
class WeightSummary:
    """A model file's weights.

    ``name`` is the quant type that the file gives itself ("unknown" if none), ``tensor_types``
    the number of weights stored as each real type, ``bits_per_weight`` the mean over all.
    """

    name: str
    tensor_types: dict[str, int]
    bits_per_weight: float

    @property
    def main_type(self) -> str:
        """The type of most weights."""
        return next(iter(self.tensor_types))


def read_gguf(path: Path) -> MappedGGUF:
    """Map a GGUF file, or one part of a split one, for its fields' and tensors' bytes.

    Raises BadInput when it is missing, no GGUF, or contradicts itself.
    """
    with _readable(path), regular_file(path).open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return MappedGGUF(_header(_Cursor(data)), np.frombuffer(data, np.uint8))


def gguf_parts(path: Path) -> list[Path]:
    """The files of a GGUF model in order: itself, or all parts of one that was split.

    llama.cpp is given the first part, and finds the others by their names. Raises BadInput for
    another part than the first, and for one that is missing.
    """
    return _parts(path, _read_part(path).fields)


def _parts(path: Path, fields: dict[str, Any]) -> list[Path]:
    """The same, with the fields of the file."""
    count, number = fields.get(SPLIT_COUNT, 1), fields.get("split.no", 0)
    if type(count) is not int or not 0 < count <= MAX_PARTS or count == 1:
        return [path]
    if type(number) is not int or not 0 <= number < count:
        raise BadInput(f"{path}: field split.no: {str(number)[:40]} is none of {count} parts")
    name = PART_NAME.search(path.name)
    if not name or name[0] != f"-{number + 1:05d}-of-{count:05d}.gguf":
        raise BadInput(
            f"{path}: is part {number + 1} of {count}; name it "
            f"NAME-{number + 1:05d}-of-{count:05d}.gguf, as llama.cpp does"
        )
    stem = path.name[: name.start()]
    parts = [
        path.with_name(f"{stem}-{part:05d}-of-{count:05d}.gguf") for part in range(1, count + 1)
    ]
    if number:
        raise BadInput(f"{path}: is part {number + 1} of {count}; name {parts[0].name}")
    for part in parts:
        if not part.is_file():
            raise BadInput(f"{part}: missing; it is one of the {count} parts of {path.name}")
    return parts


def stored_parts(path: Path) -> list[Path]:
    """All files that a file stands for: the parts of a split GGUF model, else itself."""
    return gguf_parts(path) if PART_NAME.search(path.name) else [path]


def read_header(path: Path) -> Header:
    """A GGUF model's fields and tensors, in a fraction of a second whatever its vocabulary.

    Those of all parts where it was split (see ``gguf_parts``). Raises BadInput when it is missing,
    no GGUF, or contradicts itself.
    """
    first = _read_part(path)
    others = map(_read_part, _parts(path, first.fields)[1:])
    tensors = [*first.tensors, *(tensor for other in others for tensor in other.tensors)]
    return replace(first, tensors=tensors)


def _read_part(path: Path) -> Header:
    with (
        _readable(path),
        regular_file(path).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return _header(_Cursor(data))


def weight_summary(path: Path) -> WeightSummary:
    """The weights of a GGUF model. Raises BadInput when it is no readable GGUF with tensors."""
    header, name = read_header(path), "unknown"
    types: Counter[str] = Counter()
    for tensor in header.tensors:
        types[tensor.kind.name] += tensor.size
    if not types.total():
        raise BadInput(f"{path}: holds no tensors; name a GGUF model")
    size = sum(tensor.n_bytes for tensor in header.tensors)
    with suppress(ValueError):
        name = gguf.LlamaFileType(header.fields.get("general.file_type")).name
        name = name.removeprefix("MOSTLY_").removeprefix("ALL_")
    return WeightSummary(name, dict(types.most_common()), 8 * size / types.total())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{error}; name a GGUF file") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); name a GGUF file") from None
    except Exception as error:  # wherever the file lies, be it in the number of a type
        problem = printable(first_problem(error))
        raise BadInput(f"{path}: not a readable GGUF file: {problem}") from None


class _Cursor:
    """Walks through a mapped file. Raises ValueError where it would go past the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self.size, self.offset = data, len(data), 0

    def skip(self, size: int) -> None:
        if size > self.size - self.offset:
            raise ValueError("it ends in the middle of a field")
        self.offset += size

    def number(self, layout: struct.Struct) -> Any:
        self.skip(layout.size)
        return layout.unpack_from(self._data, self.offset - layout.size)[0]

    def text(self) -> str:
        size = self.number(COUNT)
        if size > MAX_STRING:
            raise ValueError(f"a string of {size} bytes; at most {MAX_STRING} are read")
        self.skip(size)
        return self._data[self.offset - size : self.offset].decode("utf-8", "replace")

    def skip_strings(self, count: int) -> None:
        if count > MAX_STRINGS:
            raise ValueError(f"an array of {count} strings; at most {MAX_STRINGS} are read")
        data, offset, unpack = self._data, self.offset, COUNT.unpack_from
        try:
            for _ in range(count):  # a vocabulary has 100,000s: nothing more is done in here
                offset += 8 + unpack(data, offset)[0]
        except (struct.error, OverflowError):
            offset = self.size + 1
        self.skip(offset - self.offset)


def _header(cursor: _Cursor) -> Header:
    if cursor.number(SHORT_COUNT) != gguf.GGUF_MAGIC:
        raise ValueError("GGUF magic invalid")
    if (version := cursor.number(SHORT_COUNT)) not in VERSIONS:
        raise ValueError(f"version {version}; little-endian files of version 2 and 3 are read")
    n_tensors, n_fields = cursor.number(COUNT), cursor.number(COUNT)
    fields: dict[str, Any] = {}
    places: dict[str, slice] = {}
    for _ in range(n_fields):
        if (key := cursor.text()) in fields:
            raise ValueError(f"field {key} appears twice")
        start = cursor.offset
        fields[key] = _value(cursor)
        places[key] = slice(start, cursor.offset)
    tensors: dict[str, GGUFTensor] = {}
    for _ in range(n_tensors):
        if (tensor := _tensor(cursor)).name in tensors:
            raise ValueError(f"tensor {tensor.name} appears twice")
        tensors[tensor.name] = tensor
    placed = _placed(tensors.values(), fields.get("general.alignment", 32), cursor)
    return Header(fields, placed, places)


def _value(cursor: _Cursor) -> Any:
    kind = GGUFValueType(cursor.number(SHORT_COUNT))
    if kind == GGUFValueType.STRING:
        return cursor.text()
    if kind != GGUFValueType.ARRAY:
        return cursor.number(SCALARS[kind])
    kind, count = GGUFValueType(cursor.number(SHORT_COUNT)), cursor.number(COUNT)
    if kind == GGUFValueType.STRING:
        cursor.skip_strings(count)
    elif kind == GGUFValueType.ARRAY:
        raise ValueError("an array of arrays, which llama.cpp does not read")
    else:
        cursor.skip(count * SCALARS[kind].size)
    return None


def _tensor(cursor: _Cursor) -> GGUFTensor:
    name, dimensions = cursor.text(), cursor.number(SHORT_COUNT)
    if dimensions > MAX_DIMENSIONS:
        raise ValueError(f"tensor {name}: {dimensions} dimensions")
    shape = tuple(cursor.number(COUNT) for _ in range(dimensions))
    kind = GGMLQuantizationType(cursor.number(SHORT_COUNT))
    row = shape[0] if shape else 1
    if row % gguf.GGML_QUANT_SIZES[kind][0]:
        raise ValueError(f"tensor {name}: rows of {row} weights do not fit blocks of {kind.name}")
    return GGUFTensor(name, kind, shape, cursor.number(COUNT))


def _placed(tensors: Iterable[GGUFTensor], alignment: Any, cursor: _Cursor) -> list[GGUFTensor]:
    """The tensors with offsets from the start of the file; stored ones count from the header's end.

    Every tensor must be inside the file, at a multiple of its alignment after the header.
    """
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"field general.alignment: {alignment} is not a power of two")
    start = -(-cursor.offset // alignment) * alignment
    placed = []
    for tensor in tensors:
        if tensor.offset % alignment:
            raise ValueError(f"tensor {tensor.name}: its offset is not a multiple of {alignment}")
        if start + tensor.offset + tensor.n_bytes > cursor.size:
            raise ValueError(f"tensor {tensor.name}: ends after the file does; it was cut")
        placed.append(replace(tensor, offset=start + tensor.offset))
    return placed


def context_length(path: Path) -> int | None:
    """The tokens that a GGUF model was trained to read, from its metadata; None without them."""
    fields = read_header(path).fields
    length = fields.get(f"{fields.get('general.architecture')}.context_length")
    return length if isinstance(length, int) and length > 0 else None
