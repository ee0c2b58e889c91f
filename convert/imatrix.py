"""Importance matrices: how strongly each input of a weight matrix is used on a text.

The mean of the squared inputs, as llama.cpp's imatrix tool defines it, kept in its GGUF format
(``TENSOR.in_sum2`` (in,), ``TENSOR.counts`` (1,)), so that either tool reads the other's file.
"""

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.convert.forward import Forward
from charprobe_lite.convert.gguf_writer import finish_gguf
from charprobe_lite.models import corpus
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.files import read_text, regular_file
from charprobe_lite.models.gguf_header import read_gguf
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.llama import matrix_inputs_callback

Array = NDArray[np.float32]
CHUNK = 512  # tokens
SUM, COUNT = ".in_sum2", ".counts"
LAYER = "blk."
INTEGER = struct.Struct("<i")
MAX_ENTRIES, MAX_LEGACY = 100_000, 1 << 30


def calibration_text(file: Path | None = None) -> str:
    """A UTF-8 file's text [default: the loud teachers' answers to the training prompts].

    Raises BadInput when the file cannot be read.
    """
    if file is not None:
        return read_text(file)
    chats = (corpus.teacher_chats(name, held_out=False, teachers=["loud"]) for name in PERSONAS)
    return "\n\n".join(text.response for texts in chats for text in texts)


def make_imatrix(
    model: Path,
    text: str,
    target: Path,
    chunks: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Run a text through a GGUF model and write the importance matrix; the number of chunks.

    Raises BadInput when the text is shorter than a chunk of 512 tokens.
    """
    squares: dict[str, NDArray[np.float64]] = {}  # per weight matrix, (in,)
    counts: Counter[str] = Counter()

    def add(name: str, inputs: Array) -> None:
        squares[name] = squares.get(name, 0) + np.square(inputs, dtype=np.float64).sum(axis=0)
        counts[name] += len(inputs)

    callback = matrix_inputs_callback(re.compile(r"blk\..*\.weight").fullmatch, add)
    with closing(Forward(model, length=CHUNK, callback=callback)) as forward:
        # as in llama.cpp's tool: the text begins with the vocabulary's first token, and every
        # chunk's first token gives way to it
        first = [] if forward.first_token is None else [forward.first_token]
        ids = [*first, *forward.tokenize(text)]
        total = min(chunks, len(ids) // CHUNK)
        if not total:
            raise BadInput(f"--text: {len(ids)} tokens; give at least {CHUNK}")
        for number in range(total):
            chunk = ids[number * CHUNK : (number + 1) * CHUNK]
            forward.run([*first, *chunk[len(first) :]])
            if progress:
                progress(number + 1, total)
    if not counts:
        raise BadInput(f"{model}: llama.cpp showed no inputs of its matrices; use a CPU build")
    with new_file(target) as part:
        writer = gguf.GGUFWriter(part, "")
        writer.add_type("imatrix")
        writer.add_uint32("imatrix.chunk_count", total)
        writer.add_uint32("imatrix.chunk_size", CHUNK)
        writer.add_array("imatrix.datasets", ["calibration text"])
        for name, square in sorted(squares.items()):
            writer.add_tensor(name + SUM, square.astype(np.float32)[None])
            writer.add_tensor(name + COUNT, np.array([[counts[name]]], np.float32))
        finish_gguf(writer)
    return total


def read_imatrix(path: Path) -> dict[str, Array]:
    """The mean squared inputs per tensor, (in,), of an importance matrix.

    In GGUF, or in the older format that llama.cpp's tool wrote to ``.dat`` files. Raises BadInput
    when the file has none.
    """
    means = _read_gguf(path) if _is_gguf(path) else _read_legacy(path)
    if not means:
        raise BadInput(f"{path}: has no importance matrix; make one: convert imatrix")
    for name, values in means.items():
        if not np.isfinite(values).all():
            raise BadInput(f"{path}: tensor {name}: not finite numbers; make it again")
    return means


def refuse_other_model(means: Mapping[str, Array], widths: Mapping[str, int], model: Path) -> None:
    """Raises BadInput for an importance matrix that was made for another model.

    ``widths`` has the inputs of each tensor of ``model``. llama.cpp would quantize without what
    does not fit, and say nothing.
    """
    fix = "make one of this model: convert imatrix"
    for name, values in means.items():
        if name.startswith(LAYER) and name not in widths:
            raise BadInput(f"--imatrix: tensor {name}: {model} does not have it; {fix}")
        if name in widths and widths[name] != values.size:
            raise BadInput(
                f"--imatrix: tensor {name}: {values.size} inputs, {model} has {widths[name]}; {fix}"
            )
    if missing := _layers(widths) - _layers(means):
        raise BadInput(f"--imatrix: has nothing of layer {min(missing)} of {model}; {fix}")


def _layers(names: Iterable[str]) -> set[int]:
    return {int(name.split(".")[1]) for name in names if re.match(r"blk\.\d+\.", name)}


def _is_gguf(path: Path) -> bool:
    with regular_file(path).open("rb") as file:
        return file.read(4) == b"GGUF"


def _read_gguf(path: Path) -> dict[str, Array]:
    source = read_gguf(path)
    tensors = {
        tensor.name: source.rows(tensor).view(np.float32).reshape(-1)
        for tensor in source.header.tensors
        if tensor.kind == gguf.GGMLQuantizationType.F32
    }
    means = {}
    for name, total in tensors.items():
        if not name.endswith(SUM):
            continue
        weight = name.removesuffix(SUM)
        count = tensors.get(weight + COUNT)
        if count is None or count.size != 1:  # mixtures of experts have several
            raise BadInput(f"{path}: tensor {weight}{COUNT}: missing or not one number")
        if not count[0] > 0:
            raise BadInput(f"{path}: tensor {weight}{COUNT}: not positive; make it again")
        means[weight] = total / count[0]
    return means


def _read_legacy(path: Path) -> dict[str, Array]:
    """llama.cpp's format before GGUF: per tensor its name, the number of chunks, and the means
    times that number; what follows names the text."""
    with bad_input(f"{path}: cannot be read", OSError):
        data = regular_file(path, limit=MAX_LEGACY).read_bytes()
    means: dict[str, Array] = {}
    offset = 4
    try:
        (count,) = INTEGER.unpack_from(data)
        for _ in range(count if 0 < count <= MAX_ENTRIES else 0):
            (size,) = INTEGER.unpack_from(data, offset)
            name = data[offset + 4 : offset + 4 + size].decode()
            calls, width = (
                INTEGER.unpack_from(data, offset + 4 + size + place)[0] for place in (0, 4)
            )
            offset += 12 + size
            values = np.frombuffer(data, "<f4", width, offset) if size > 0 < width else None
            if values is None:
                raise ValueError("a size below 1")
            offset += values.nbytes
            means[name] = (values / max(calls, 1)).astype(np.float32)
    except (struct.error, ValueError, OverflowError):
        raise BadInput(
            f"{path}: neither GGUF nor an importance matrix of the older format; make one: "
            "convert imatrix"
        ) from None
    return means
