"""A Hugging Face checkpoint on disk: its configuration and its safetensors, memory-mapped.

Format: safetensors, https://github.com/huggingface/safetensors (8 bytes of header length, a JSON
header, raw little-endian tensors). Rows are read as float32 and the pages are returned, so that
a model of any size is read in the memory of a few rows.
"""

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.files import read_json, regular_file, sound_path

Array = NDArray[np.float32]
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}
"""I64 for the position ids (0, 1, ...) that older BERT checkpoints keep beside the weights."""
AROUND = 1 << 20  # bytes: the kernel maps pages around the one that is read, too
HEADER_LIMIT = 100_000_000  # the format's own limit
BROKEN = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class SafetensorsTensor:
    """One tensor of a safetensors file; rows are read when they are needed."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    source: mmap.mmap
    start: int

    def rows(self, first: int, end: int) -> Array:
        """Rows first..end of the first axis as float32, (end - first, *shape[1:])."""
        width = prod(self.shape[1:]) * np.dtype(DTYPES[self.dtype]).itemsize
        begin, stop = self.start + first * width, self.start + end * width
        raw = np.frombuffer(self.source, np.uint8, stop - begin, begin)
        values = raw.view(DTYPES[self.dtype])
        if self.dtype == "BF16":  # the upper half of a float32
            wide = values.astype(np.uint32)
            np.left_shift(wide, 16, out=wide)
            numbers = wide.view(np.float32)
        else:
            numbers = values.astype(np.float32)
        del raw, values
        if hasattr(mmap, "MADV_DONTNEED"):  # mapped pages that were read count as resident memory
            start = max(0, begin - begin % mmap.PAGESIZE - AROUND)
            size = min(len(self.source), stop + AROUND) - start
            self.source.madvise(mmap.MADV_DONTNEED, start, size)
        return numbers.reshape(end - first, *self.shape[1:])

    def read(self) -> Array:
        """All rows as float32."""
        if not self.shape:
            return replace(self, shape=(1,)).rows(0, 1).reshape(())
        return self.rows(0, self.shape[0])


def open_safetensors(path: Path) -> dict[str, SafetensorsTensor]:
    """The tensors of a safetensors file by name.

    Raises BadInput when the file is missing, broken, cut short, or has another dtype.
    """
    try:
        with regular_file(path).open("rb") as file:
            size = path.stat().st_size
            if size < 8:
                raise ValueError(f"{size} bytes")
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, HEADER_LIMIT):
                raise ValueError("its header does not fit into it")
            header = json.loads(file.read(length))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header.pop("__metadata__", None)
        return {
            name: _stored(name, entry, data, 8 + length, size) for name, entry in header.items()
        }
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None
    except BadInput as error:
        place = "" if str(error).startswith(str(path)) else f"{path}: "
        raise BadInput(f"{place}{error}") from None
    except BROKEN as error:
        raise BadInput(
            f"{path}: not a complete safetensors file ({error}); download it again"
        ) from None


def _stored(name: str, entry: Any, data: mmap.mmap, offset: int, size: int) -> SafetensorsTensor:
    dtype, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
    begin, stop = (int(n) for n in entry["data_offsets"])
    if dtype not in DTYPES:
        raise BadInput(
            f"tensor {name} has type {str(dtype)[:40]}, not one of {', '.join(DTYPES)}; "
            "name an unquantized checkpoint"
        )
    if min(shape, default=1) < 1:
        raise ValueError(f"tensor {name} has shape {shape}")
    if stop - begin != prod(shape) * np.dtype(DTYPES[dtype]).itemsize or begin < 0:
        raise ValueError(f"tensor {name}: {stop - begin} bytes do not hold {shape} {dtype}")
    if offset + stop > size:
        raise ValueError(f"it ends in tensor {name}")
    return SafetensorsTensor(name, shape, dtype, data, offset + begin)


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint folder: ``config`` is config.json, ``tensors`` are those of all shards."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, SafetensorsTensor]


def open_checkpoint(folder: Path) -> CheckpointFolder:
    """Open a checkpoint folder.

    Raises BadInput when config.json or a shard is missing or broken, when the weights are
    quantized, or when there are only pickled ones, which are never opened.
    """
    config = read_object(folder / "config.json")
    _refuse_quantized(config, folder / "config.json")
    tensors = (open_safetensors(shard).items() for shard in _shards(folder))
    return CheckpointFolder(folder, config, dict(chain.from_iterable(tensors)))


def _refuse_quantized(config: dict[str, Any], file: Path) -> None:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        if method := part.get("quantization_config"):
            name = method.get("quant_method") if isinstance(method, dict) else method
            raise BadInput(
                f"{file}: field quantization_config: {str(name)[:80]}; "
                "name the unquantized base that it was made from"
            )


def _shards(folder: Path) -> Iterator[Path]:
    """The files that transformers' ``from_pretrained`` reads: one file goes before an index."""
    single = folder / "model.safetensors"
    if single.is_file():
        yield single
    elif (folder / INDEX).is_file():
        index = read_object(folder / INDEX)
        names = index.get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise BadInput(f"{folder / INDEX}: field weight_map: missing; download it again")
        for name in sorted(set(names.values())):
            if Path(name).name != name:
                raise BadInput(f"{folder / INDEX}: field weight_map: {name[:60]!r} is no file name")
            with bad_input(f"{folder / INDEX}: field weight_map", ValueError):
                sound_path(folder / name)
            if not (folder / name).is_file():
                raise BadInput(f"{folder / name}: shard is missing; download it")
            yield folder / name
    elif pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt")]):
        raise BadInput(f"{pickled[0]}: pickled weights are never opened; convert to safetensors")
    else:
        raise BadInput(f"{single}: missing; name a checkpoint folder with safetensors")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises BadInput when the file does not have one."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise BadInput(f"{path}: not a JSON object")
    return document
