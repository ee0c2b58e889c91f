"""Importance matrices: how strongly each input of a weight matrix is used on a text.

The mean of the squared inputs, as llama.cpp's imatrix tool defines it, kept in its GGUF format
(``TENSOR.in_sum2`` (in,), ``TENSOR.counts`` (1,)), so that either tool reads the other's file.
"""

import re
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.convert.forward import Forward
from charprobe_lite.models import corpus
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_text
from charprobe_lite.models.gguf_header import read_gguf
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.llama import matrix_inputs_callback

Array = NDArray[np.float32]
CHUNK = 512  # tokens
SUM, COUNT = ".in_sum2", ".counts"


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
        ids = forward.tokenize(text)
        total = min(chunks, len(ids) // CHUNK)
        if not total:
            raise BadInput(f"--text: {len(ids)} tokens; give at least {CHUNK}")
        for number in range(total):
            forward.run(ids[number * CHUNK : (number + 1) * CHUNK])
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
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return total


def read_imatrix(path: Path) -> dict[str, Array]:
    """The mean squared inputs per tensor, (in,), of an importance matrix in GGUF.

    Raises BadInput when the file has none.
    """
    tensors = {tensor.name: tensor for tensor in read_gguf(path).tensors}
    means = {}
    for name, tensor in tensors.items():
        if not name.endswith(SUM):
            continue
        weight = name.removesuffix(SUM)
        count = tensors.get(weight + COUNT)
        if count is None or count.data.size != 1:  # mixtures of experts have several
            raise BadInput(f"{path}: tensor {weight}{COUNT}: missing or not one number")
        total, number = np.asarray(tensor.data, np.float32).reshape(-1), count.data.reshape(-1)[0]
        if not np.isfinite(total).all() or not float(number) > 0:
            raise BadInput(f"{path}: tensor {name}: not finite numbers; make it again")
        means[weight] = total / np.float32(number)
    if not means:
        raise BadInput(f"{path}: has no importance matrix; make one: convert imatrix")
    return means
