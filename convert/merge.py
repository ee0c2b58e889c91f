"""A base and its LoRA adapters as one GGUF file, streamed.

Blocks of rows are read, changed in float32, encoded and written in order by a few threads, so
that the memory needed depends on neither the number of layers nor the size of a tensor.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from charprobe_lite.convert.architectures.architecture import (
    Architecture,
    architecture_of,
    architecture_of_gguf,
    rope_factors,
    write_hyperparameters,
)
from charprobe_lite.convert.config import read_config
from charprobe_lite.convert.lora import (
    Adapter,
    Delta,
    Dequantized,
    changed_rows,
    ordered,
    read_adapter,
)
from charprobe_lite.convert.quantize import (
    ROW_TYPES,
    Array,
    check_quant,
    file_type,
    quantize_file,
    tensor_type,
)
from charprobe_lite.convert.safetensors import CheckpointFolder, open_checkpoint
from charprobe_lite.convert.vocabulary import read_vocabulary, write_vocabulary
from charprobe_lite.models.atomic import AT_ONCE, new_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import read_gguf
from charprobe_lite.runtime.llama import quantize_rows

BLOCK = 4 * 1024**2  # numbers held as float32 per thread
MOST_WORKERS = 8  # each needs about 60 MB, and the disk is no faster for more
NOT_STORED = ".rotary_emb.inv_freq"  # older checkpoints carry it; it is computed
EMBEDDING, HEAD, ROPE = "token_embd.weight", "output.weight", "rope_freqs.weight"
Check = Callable[[Path], None]
"""Called with the file before it takes its final name; raises BadInput to refuse it."""
Progress = Callable[[int, int], None]
"""(bytes of float32 done, bytes in all)."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as it is to be written: ``rows(first, end)`` gives float32 rows in GGUF order."""

    name: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], Array]


@dataclass(frozen=True)
class SourceModel:
    """A base, opened: nothing is read before rows are asked for."""

    path: Path
    architecture: Architecture
    tensors: dict[str, Tensor]
    write_metadata: Callable[[gguf.GGUFWriter], None]


def merge(
    base: Path,
    adapters: Sequence[Path],
    target: Path,
    quant: str = "F16",
    *,
    imatrix: dict[str, Array] | None = None,
    check: Check | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    wait: float = AT_ONCE,
    keep: bool = False,
) -> None:
    """Write a base (checkpoint folder or GGUF) with adapters (PEFT folders or GGUF) as ``target``.

    F32, F16, BF16 and Q8_0 are written in one pass. The other types go through llama.cpp's
    quantizer from an F16 file beside the target, which is removed whatever happens; ``check``
    then sees that F16 file. ``wait`` seconds for another process that writes the target, and
    ``keep`` what it wrote. Raises BadInput for anything that does not fit, before or after.
    """
    check_quant(quant, imatrix)
    model = open_model(base)
    changes = [read_adapter(path, model.architecture) for path in adapters]
    tensors = _with_changes(model, changes)
    with new_file(target, wait) as part:
        if keep and target.is_file():
            return
        if quant in ROW_TYPES:
            _write(model, tensors, part, quant, progress, threads)
            if check:
                check(part)
            return
        whole = part.with_name(f"{target.name}.f16.part")
        try:
            _write(model, tensors, whole, "F16", progress, threads)
            if check:
                check(whole)
            quantize_file(whole, part, quant, imatrix, threads)
        finally:
            whole.unlink(missing_ok=True)


def open_model(base: Path) -> SourceModel:
    """Open a checkpoint folder or a GGUF model. Raises BadInput when it is neither."""
    if not base.exists():
        raise BadInput(f"{base}: does not exist; name a checkpoint folder or a GGUF file")
    return _open_checkpoint(open_checkpoint(base)) if base.is_dir() else _open_gguf(base)


def _open_checkpoint(checkpoint: CheckpointFolder) -> SourceModel:
    config = read_config(checkpoint.config, str(checkpoint.folder / "config.json"))
    architecture = architecture_of(config)
    tensors: dict[str, Tensor] = {}
    for name, stored in checkpoint.tensors.items():
        try:
            gguf_name = architecture.tensor_name(name)
        except KeyError:
            raise BadInput(
                f"{checkpoint.folder}: tensor {name}: not a part of {architecture.name}"
            ) from None
        if gguf_name is None or (gguf_name == HEAD and architecture.tied):
            continue
        if not stored.shape or name.endswith(NOT_STORED):
            continue
        order = architecture.row_order(gguf_name, stored.shape[0])
        rows = _shifted(ordered(stored, order).rows, architecture.shift(gguf_name))
        tensors[gguf_name] = Tensor(gguf_name, stored.shape, rows)
    _refuse_missing(architecture, tensors, checkpoint.folder)
    if (factors := rope_factors(config)) is not None:
        tensors[ROPE] = Tensor(ROPE, factors.shape, lambda first, end: factors[first:end])
    vocabulary = read_vocabulary(checkpoint.folder, tensors[EMBEDDING].shape[0])

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(checkpoint.folder.resolve().name)
        write_hyperparameters(writer, config)
        writer.add_vocab_size(tensors[EMBEDDING].shape[0])
        write_vocabulary(writer, vocabulary)

    return SourceModel(checkpoint.folder, architecture, tensors, write_metadata)


def _shifted(rows: Callable[[int, int], Array], shift: float) -> Callable[[int, int], Array]:
    return (lambda first, end: rows(first, end) + np.float32(shift)) if shift else rows


def _refuse_missing(architecture: Architecture, tensors: dict[str, Tensor], folder: Path) -> None:
    """A checkpoint that lacks a layer would load, in part, as something else."""
    kinds = {name.split(".", 2)[2] for name in tensors if name.startswith("blk.")}
    wanted = {f"blk.{n}.{kind}" for n in range(architecture.layers) for kind in kinds}
    wanted |= {EMBEDDING, "output_norm.weight"} | (set() if architecture.tied else {HEAD})
    if missing := sorted(wanted - set(tensors)) or (["blk.0"] if not kinds else []):
        raise BadInput(f"{folder}: tensor {missing[0]} is missing; download the checkpoint again")


def _open_gguf(path: Path) -> SourceModel:
    architecture, reader = architecture_of_gguf(path), read_gguf(path)
    tensors = {
        tensor.name: Tensor(
            tensor.name,
            Dequantized(tensor, path).shape,
            Dequantized(tensor, path).rows,
        )
        for tensor in reader.tensors
    }
    return SourceModel(path, architecture, tensors, partial(_copy_metadata, reader))


def _copy_metadata(source: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    own = (
        *("general.architecture", "general.file_type"),
        *("general.quantization_version", "general.alignment"),
    )
    for name, item in source.fields.items():
        if name.startswith("GGUF.") or name in own:
            continue
        if not len(item.data):
            continue  # an empty array, which the writer refuses
        kind = item.types[0]
        sub_type = item.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, item.contents(), kind, sub_type=sub_type)


def _with_changes(model: SourceModel, adapters: list[Adapter]) -> list[Tensor]:
    """The tensors with every adapter's changes.

    A tied output is written as a tensor of its own where an adapter changes the embedding or the
    output alone, because that is what the trained model computed.
    """
    tensors = dict(model.tensors)
    changed = {name for adapter in adapters for name in adapter.changes}
    if HEAD not in tensors and changed & {EMBEDDING, HEAD}:
        embedding = tensors[EMBEDDING]
        tensors[HEAD] = Tensor(HEAD, embedding.shape, embedding.rows)
    for adapter in adapters:
        if unknown := sorted(set(adapter.changes) - set(tensors)):
            raise BadInput(
                f"{adapter.path}: tensor {unknown[0]}: the base has none; "
                "name an adapter of this base"
            )
    shift = model.architecture.shift
    return [
        Tensor(
            each.name,
            each.shape,
            changed_rows(each.rows, each.name, each.shape, adapters, shift(each.name)),
        )
        for each in tensors.values()
    ]


def _write(
    model: SourceModel,
    tensors: list[Tensor],
    target: Path,
    quant: str,
    progress: Progress | None,
    threads: int | None,
) -> None:
    writer = gguf.GGUFWriter(target, model.architecture.name)
    model.write_metadata(writer)
    writer.add_file_type(file_type(quant))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    kinds = {each.name: tensor_type(each.shape, quant) for each in tensors}
    for each in tensors:
        raw_shape = gguf.quant_shape_to_byte_shape(each.shape, kinds[each.name])
        writer.add_tensor_info(
            each.name, raw_shape, np.dtype(np.uint8), int(prod(raw_shape)), kinds[each.name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    total, done = sum(4 * prod(each.shape) for each in tensors), 0
    workers = threads or min(os.cpu_count() or 1, MOST_WORKERS)
    with _single_threaded_blas(), ThreadPoolExecutor(workers) as pool:
        for each in tensors:
            size = 0
            for block in _encoded(each, kinds[each.name], pool, workers):
                file.write(block.data)
                size += block.nbytes
            writer.write_padding(file, size)
            done += 4 * prod(each.shape)
            if progress:
                progress(done, total)
    writer.close()


def _encoded(
    tensor: Tensor, kind: Any, pool: ThreadPoolExecutor, workers: int
) -> Iterator[NDArray[np.uint8]]:
    """A tensor's encoded blocks in order, at most one more in work than there are threads."""
    step = max(1, BLOCK // prod(tensor.shape[1:]))
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    for first in range(0, tensor.shape[0], step):
        end = min(first + step, tensor.shape[0])
        waiting.append(pool.submit(lambda a, b: quantize_rows(tensor.rows(a, b), kind), first, end))
        if len(waiting) > workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _single_threaded_blas() -> Iterator[None]:
    """The blocks are what runs side by side; BLAS threads under them would only get in the way."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


def deltas(adapter: Adapter) -> dict[str, Delta]:
    """An adapter's LoRA pairs. Raises BadInput when it also replaces whole tensors."""
    found = {}
    for name, change in adapter.changes.items():
        if not isinstance(change, Delta):
            raise BadInput(
                f"{adapter.path}: tensor {name}: saved whole (modules_to_save), which an adapter "
                "at run time cannot carry; use convert merge"
            )
        found[name] = change
    return found
