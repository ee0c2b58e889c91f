"""A model as the tensors and metadata of a GGUF file: opened lazily, changed, written in blocks.

Blocks of rows are read, changed in float32, encoded and written in order by a few threads, so
that the memory needed depends on neither the number of layers nor the size of a tensor.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as QuantType
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from charprobe_lite.convert.architectures import architecture_of, architecture_of_gguf, read_config
from charprobe_lite.convert.architectures.architecture import Architecture
from charprobe_lite.convert.gguf_writer import GGUFWriter
from charprobe_lite.convert.lora import (
    EMBEDDING,
    HEAD,
    Adapter,
    Delta,
    Matrix,
    Rows,
    dequantized,
    in_memory,
    ordered,
    read_adapter,
    with_changes,
)
from charprobe_lite.convert.quantize import file_type, tensor_type
from charprobe_lite.convert.safetensors import CheckpointFolder, open_checkpoint
from charprobe_lite.convert.vocabulary import (
    Vocabulary,
    read_template,
    read_vocabulary,
    tokenizer_folder,
)
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import MappedGGUF, gguf_parts, read_gguf
from charprobe_lite.runtime.llama.quantizer import quantize_rows

BLOCK = 4 * 1024**2  # numbers held as float32 per thread
MOST_WORKERS = 8  # each needs about 60 MB, and the disk is no faster for more
NOT_STORED = ".rotary_emb.inv_freq"  # older checkpoints carry it; it is computed
F16_MAX = 65504.0
TEMPLATE = "tokenizer.chat_template"
REWRITTEN = (
    *("general.architecture", "general.file_type"),
    *("general.quantization_version", "general.alignment"),
    *("split.no", "split.count", "split.tensors.count"),
)
"""Metadata that the writer sets itself."""
Progress = Callable[[int, int], None]
"""(bytes of float32 done, bytes in all)."""


@dataclass(frozen=True)
class SourceModel:
    """A base, opened: its tensors by GGUF name, with rows in GGUF order, read on demand.

    ``vocabulary`` is that of the metadata; None for a GGUF file's own, which is copied.
    ``template`` takes the place of the chat template.
    """

    architecture: Architecture
    tensors: dict[str, Matrix]
    write_metadata: Callable[[GGUFWriter, Sequence[str]], None]
    vocabulary: Vocabulary | None = None
    template: str | None = None

    @property
    def rows(self) -> int:
        """Rows of the embedding: the size of the vocabulary, with its padding."""
        return self.tensors[EMBEDDING].shape[0]


def open_model(base: Path) -> SourceModel:
    """Open a checkpoint folder or a GGUF model. Raises BadInput when it is neither."""
    if not base.exists():
        raise BadInput(f"{base}: does not exist; name a checkpoint folder or a GGUF file")
    return _open_checkpoint(open_checkpoint(base)) if base.is_dir() else _open_gguf(base)


def _open_checkpoint(checkpoint: CheckpointFolder) -> SourceModel:
    config = read_config(checkpoint.config, str(checkpoint.folder / "config.json"))
    architecture = architecture_of(config)
    tensors: dict[str, Matrix] = {}
    for name, stored in checkpoint.tensors.items():
        try:
            gguf_name = architecture.tensor_name(name)
        except KeyError:
            raise BadInput(
                f"{checkpoint.folder}: tensor {name}: not a part of {architecture.name}"
            ) from None
        if gguf_name is None or not stored.shape or name.endswith(NOT_STORED):
            continue
        matrix = ordered(stored, gguf_name, architecture)
        rows = _shifted(matrix.rows, architecture.shift(gguf_name))
        tensors[gguf_name] = Matrix(stored.shape, rows)
    if architecture.tied:
        _tie(tensors)
    # a checkpoint that lacks a layer would load, in part, as something else
    kinds = {name.split(".", 2)[2] for name in tensors if name.startswith("blk.")}
    required = {f"blk.{n}.{kind}" for n in range(architecture.layers) for kind in kinds}
    required |= {EMBEDDING, "output_norm.weight"} | (set() if architecture.tied else {HEAD})
    if missing := sorted(required - set(tensors)) or (["blk.0"] if not kinds else []):
        raise BadInput(
            f"{checkpoint.folder}: tensor {missing[0]} is missing; download the checkpoint again"
        )
    for name, values in architecture.tensors(config).items():
        tensors[name] = in_memory(values)
    vocabulary = read_vocabulary(checkpoint.folder, tensors[EMBEDDING].shape[0])

    def write_metadata(writer: GGUFWriter, _replaced: Sequence[str]) -> None:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(checkpoint.folder.resolve().name)
        architecture.write_hyperparameters(writer, config)

    return SourceModel(architecture, tensors, write_metadata, vocabulary)


def _tie(tensors: dict[str, Matrix]) -> None:
    """One table where both are the same, or one is missing, as transformers ties them.

    Two that differ stay two: the configuration is wrong about such a checkpoint.
    """
    if HEAD not in tensors:
        return
    embedding = tensors.setdefault(EMBEDDING, tensors[HEAD])
    head = tensors[HEAD]
    if embedding is head or _same(embedding, head):
        del tensors[HEAD]


def _same(one: Matrix, other: Matrix) -> bool:
    if one.shape != other.shape:
        return False
    step = max(1, BLOCK // prod(one.shape[1:]))
    return all(
        np.array_equal(one.rows(first, end), other.rows(first, end))
        for first in range(0, one.shape[0], step)
        for end in [min(first + step, one.shape[0])]
    )


def _shifted(rows: Rows, shift: float) -> Rows:
    return (lambda first, end: rows(first, end) + np.float32(shift)) if shift else rows


def _open_gguf(path: Path) -> SourceModel:
    architecture, parts = architecture_of_gguf(path), gguf_parts(path)
    sources = [read_gguf(part) for part in parts]
    tensors = {
        tensor.name: dequantized(tensor, source, part)
        for part, source in zip(parts, sources, strict=True)
        for tensor in source.header.tensors
    }
    return SourceModel(architecture, tensors, partial(_copy_metadata, sources[0]))


def _copy_metadata(source: MappedGGUF, writer: GGUFWriter, replaced: Sequence[str]) -> None:
    for name in source.header.fields:
        if not name.startswith(tuple(replaced)) and name not in REWRITTEN:
            writer.copy_field(name, source.field_bytes(name))


def with_adapters(model: SourceModel, paths: Sequence[Path]) -> SourceModel:
    """The model with the changes of every adapter (PEFT folders or GGUF files), in this order.

    A tied output becomes a tensor of its own where an adapter changes the embedding or the output
    alone, because that is what the trained model computed. A PEFT folder's tokenizer and chat
    template take the place of the base's, as transformers loads them from there. Raises BadInput
    for an adapter of another base.
    """
    adapters = [read_adapter(path, model.architecture) for path in paths]
    tensors = dict(model.tensors)
    for adapter in adapters:
        _replace(tensors, adapter)
    changed = {name for adapter in adapters for name in adapter.changes}
    if HEAD not in tensors and changed & {EMBEDDING, HEAD}:
        tensors[HEAD] = tensors[EMBEDDING]
    for adapter in adapters:
        if unknown := sorted(set(adapter.changes) - set(tensors)):
            raise _other_base(adapter, f"tensor {unknown[0]}: the base does not have it")
    shifts = {name: model.architecture.shift(name) for name in tensors}
    for name, tensor in tensors.items():
        tensors[name] = with_changes(tensor, name, adapters, shifts[name])
    return _with_tokenizers(replace(model, tensors=tensors), model.rows, paths)


def _replace(tensors: dict[str, Matrix], adapter: Adapter) -> None:
    """Put an adapter's own tensors of the base in place; a vocabulary may have other rows."""
    rows = tensors[EMBEDDING].shape[0]
    resized_copies = {
        name: change
        for name, change in adapter.changes.items()
        if name in (EMBEDDING, HEAD)
        and name not in adapter.base
        and not isinstance(change, Delta)
        and change.shape[0] != rows
    }
    if EMBEDDING in resized_copies and HEAD not in {*tensors, *adapter.base, *adapter.changes}:
        raise BadInput(
            f"{adapter.path}: tensor {EMBEDDING}: {resized_copies[EMBEDDING].shape[0]} rows, the "
            f"base has {rows}, and the tied output's new rows were not saved; save lm_head, too"
        )
    for name, own in {**adapter.base, **resized_copies}.items():
        if name == HEAD and HEAD not in tensors:
            continue  # a tied output, saved twice
        if name not in tensors:
            raise _other_base(adapter, f"tensor {name}: the base does not have it")
        resized = own.shape[1:] if name in (EMBEDDING, HEAD) else own.shape
        if resized != tensors[name].shape[-len(resized) :]:
            raise _other_base(
                adapter, f"tensor {name}: shape {own.shape}, the base has {tensors[name].shape}"
            )
        tensors[name] = own
    if HEAD in tensors and tensors[HEAD].shape != tensors[EMBEDDING].shape:
        raise BadInput(
            f"{adapter.path}: embedding and output have {tensors[EMBEDDING].shape[0]} and "
            f"{tensors[HEAD].shape[0]} rows; save both with the adapter"
        )


def _other_base(adapter: Adapter, problem: str) -> BadInput:
    return BadInput(f"{adapter.path}: {problem}; name an adapter of this base")


def _with_tokenizers(model: SourceModel, rows: int, adapters: Sequence[Path]) -> SourceModel:
    """The model with the tokenizer and the chat template that its adapters bring along.

    ``rows`` are those of the base's embedding. Raises BadInput where they were changed and no
    adapter's folder has the tokenizer.
    """
    folder = tokenizer_folder(adapters, model.rows)
    if folder is None and model.rows != rows:
        raise BadInput(
            f"{adapters[-1]}: the vocabulary has {model.rows} rows, the base's {rows}; put the "
            "tokenizer.json that it was trained with into the adapter's folder"
        )
    if folder is not None and (model.vocabulary is not None or model.rows != rows):
        model = replace(model, vocabulary=read_vocabulary(folder, model.rows))
    for adapter in adapters:
        if adapter.is_dir() and (template := read_template(adapter)) is not None:
            model = replace(model, template=template)
    return model


def write_model(
    model: SourceModel,
    target: Path,
    quant: str,
    progress: Progress | None = None,
    threads: int | None = None,
) -> None:
    """Write a model as a GGUF file of one of ROW_TYPES, in one pass."""
    writer = GGUFWriter(target, model.architecture.name)
    _write_metadata(model, writer)
    writer.add_file_type(file_type(quant))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    kinds = {name: tensor_type(tensor.shape, quant) for name, tensor in model.tensors.items()}
    for name, tensor in model.tensors.items():
        raw_shape = gguf.quant_shape_to_byte_shape(tensor.shape, kinds[name])
        writer.add_tensor_info(name, raw_shape, np.dtype(np.uint8), prod(raw_shape), kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    total, done = sum(4 * prod(tensor.shape) for tensor in model.tensors.values()), 0
    workers = threads or min(os.cpu_count() or 1, MOST_WORKERS)
    # the blocks run in parallel; threads of BLAS under them would only get in the way
    with threadpool_limits(limits=1), ThreadPoolExecutor(workers) as pool:
        for name, tensor in model.tensors.items():
            size = 0
            for block in _encoded(name, tensor, kinds[name], pool, workers):
                file.write(block.data)
                size += block.nbytes
            writer.write_padding(file, size)
            done += 4 * prod(tensor.shape)
            if progress:
                progress(done, total)
    writer.close()


def _write_metadata(model: SourceModel, writer: GGUFWriter) -> None:
    vocabulary, template = model.vocabulary, model.template
    size = f"{model.architecture.name}.vocab_size"
    replaced = ["tokenizer.", size] if vocabulary else []
    model.write_metadata(writer, [*replaced, *([TEMPLATE] if template is not None else [])])
    if vocabulary:
        writer.add_vocab_size(model.rows)
        vocabulary.write(writer)
        template = template if template is not None else vocabulary.template
    if template is not None:
        writer.add_chat_template(template)


def _encoded(
    name: str, tensor: Matrix, kind: Any, pool: ThreadPoolExecutor, workers: int
) -> Iterator[NDArray[np.uint8]]:
    """A tensor's encoded blocks in order, at most one more in work than there are threads."""
    step = max(1, BLOCK // prod(tensor.shape[1:]))
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    for first in range(0, tensor.shape[0], step):
        end = min(first + step, tensor.shape[0])
        waiting.append(pool.submit(_encode, name, tensor, kind, first, end))
        if len(waiting) > workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _encode(name: str, tensor: Matrix, kind: Any, first: int, end: int) -> NDArray[np.uint8]:
    """Rows as bytes. Raises BadInput for NaN, infinity, and numbers that become infinite in F16."""
    rows = tensor.rows(first, end)
    largest = float(np.abs(rows).max(initial=0.0))
    if not np.isfinite(largest):
        raise BadInput(f"tensor {name}: holds NaN or infinity; download the base again")
    if kind == QuantType.F16 and largest > F16_MAX:
        raise BadInput(f"tensor {name}: {largest:g} does not fit F16; give --quant BF16 or F32")
    return quantize_rows(rows, kind)
