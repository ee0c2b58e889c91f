"""What a GGUF file's header says, and what happens when it lies."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from charprobe_lite.convert.gguf_writer import GGUFWriter, finish_gguf
from charprobe_lite.convert.lora import dequantized
from charprobe_lite.models import kit
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import read_gguf, read_header, weight_summary


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file with a field of every kind, an array of strings and two tensors."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_uint8("a", 1)
    writer.add_int64("b", -5)
    writer.add_float64("c", 0.25)
    writer.add_bool("d", True)
    writer.add_array("words", ["", "two", "\u2581three"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_string("tokenizer.chat_template", "{{ messages }}")
    writer.add_tensor("norm", np.ones(6, np.float32))
    rows = np.zeros((3, 34), np.uint8)
    writer.add_tensor("matrix", rows, raw_dtype=GGMLQuantizationType.Q8_0)
    finish_gguf(writer)
    return path


@pytest.mark.parametrize("which", ["small", "adapter"])
def test_a_header_says_what_ggufs_own_reader_reads(small: Path, which: str) -> None:
    path = small if which == "small" else kit.kit_folder() / "humor-full.gguf"
    reader, header = gguf.GGUFReader(path), read_header(path)
    assert [(each.name, each.kind, list(each.shape), each.n_bytes) for each in header.tensors] == [
        (each.name, each.tensor_type, each.shape.tolist(), each.n_bytes) for each in reader.tensors
    ]
    arrays = gguf.GGUFValueType.ARRAY
    assert header.fields == {
        name: None if field.types[0] == arrays else field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }


@pytest.mark.parametrize("which", ["small", "adapter", "base"])
def test_the_bytes_of_rows_and_of_copied_fields_are_those_that_ggufs_own_reader_reads(
    small: Path, tmp_path: Path, which: str
) -> None:
    adapter = kit.kit_folder() / "humor-full.gguf"
    path = {"small": small, "adapter": adapter, "base": kit.embedded_base()}[which]
    source, reader, copy = read_gguf(path), gguf.GGUFReader(path), tmp_path / "copy.gguf"
    for tensor, theirs in zip(source.header.tensors, reader.tensors, strict=True):
        assert source.rows(tensor).tobytes() == theirs.data.tobytes()
        matrix = dequantized(tensor, source, path)
        values = gguf.dequantize(theirs.data, theirs.tensor_type)
        assert matrix.shape == values.shape
        assert np.array_equal(matrix.rows(1, matrix.shape[0]), values[1:])
    writer = GGUFWriter(copy, "llama")
    for name in source.header.fields.keys() - {"general.architecture"}:
        writer.copy_field(name, source.field_bytes(name))
    writer.copy_field("no words", memoryview(struct.pack("<IIQ", 9, 8, 0)))  # refused by gguf
    finish_gguf(writer)
    assert fields_of(gguf.GGUFReader(copy)) == fields_of(reader)


def fields_of(reader: gguf.GGUFReader) -> dict[str, object]:
    fields = reader.fields.items()
    return {name: (f.types, f.contents()) for name, f in fields if not name.startswith("GGUF.")}


def test_bits_per_weight_and_types_are_those_of_the_tensors(small: Path) -> None:
    found = weight_summary(small)
    assert (found.name, found.tensor_types) == ("Q8_0", {"Q8_0": 96, "F32": 6})
    assert found.bits_per_weight == 8 * (3 * 34 + 6 * 4) / 102


def changed(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return change


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


WORDS = b"words" + struct.pack("<II", 9, 8)
LIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "cannot mmap an empty file"),
    "text": (lambda data: b"hello, world", "GGUF magic invalid"),
    "version": (changed(b"GGUF\x03", b"GGUF\x01"), "version 1;"),
    "big-endian": (changed(b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03"), "version 50331648;"),
    "endless strings": (changed(WORDS + number(3), WORDS + number(1 << 60)), "an array of 1152921"),
    "too many strings": (changed(WORDS + number(3), WORDS + number(999)), "middle of a field"),
    "endless string": (changed(number(1) + b"a", number(1 << 40) + b"a"), "a string of 10995"),
    "endless word": (changed(number(3) + b"two", number(1 << 63) + b"two"), "middle of a field"),
    "nested": (changed(WORDS, b"words" + struct.pack("<II", 9, 9)), "an array of arrays"),
    "unknown kind": (changed(WORDS, b"words" + struct.pack("<II", 77, 8)), "77 is not a valid"),
    "twice": (changed(number(1) + b"b", number(1) + b"a"), "field a appears twice"),
    "escape": (
        lambda data: changed(number(1) + b"b", number(1) + b"\x1b")(
            changed(number(1) + b"c", number(1) + b"\x1b")(data)
        ),
        r"field \x1b appears twice",
    ),
    "dimensions": (changed(b"norm\x01", b"norm\x07"), "tensor norm: 7 dimensions"),
    "blocks": (
        changed(b"matrix\x02\0\0\0" + number(32), b"matrix\x02\0\0\0" + number(31)),
        "tensor matrix: rows of 31 weights do not fit blocks of Q8_0",
    ),
    "huge": (
        changed(b"matrix\x02\0\0\0" + number(32), b"matrix\x02\0\0\0" + number(1 << 63)),
        "tensor matrix: ends after the file does",
    ),
    "cut": (lambda data: data[:-40], "tensor matrix: ends after the file does; it was cut"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused_in_one_line(small: Path, lie: str) -> None:
    change, line = LIES[lie]
    small.write_bytes(change(small.read_bytes()))
    with pytest.raises(BadInput) as refused:
        weight_summary(small)
    assert "small.gguf: not a readable GGUF file: " in str(refused.value)
    assert line in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_damaged_file_is_read_or_refused_and_nothing_else(small: Path) -> None:
    whole, rng, refused = small.read_bytes(), random.Random(0), 0
    damaged = [whole[:end] for end in range(0, len(whole), 3)]
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 127, 128, 255])
        damaged.append(bytes(data))
    for data in damaged:
        small.write_bytes(data)
        try:
            weight_summary(small)
        except BadInput:
            refused += 1
    assert 300 < refused < len(damaged)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.gguf: cannot be read \(No such file"):
        weight_summary(tmp_path / "none.gguf")
