"""Architectures that are not built in: the merged checkpoint goes to llama.cpp's own converter.

The adapter is added to the checkpoint's tensors by their own names, a part of a gigabyte at a time,
and ``convert_hf_to_gguf.py`` makes the GGUF file of it. What it made is compared with
transformers and peft on the original files, as every merge is.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from charprobe_lite.convert.architectures import class_name, is_built_in
from charprobe_lite.convert.architectures.architecture import Architecture
from charprobe_lite.convert.gguf_model import Progress
from charprobe_lite.convert.lora import HEAD, Adapter, Matrix, Source, read_adapter, with_changes
from charprobe_lite.convert.quiet import quiet
from charprobe_lite.convert.safetensors import (
    DTYPES,
    INDEX,
    SafetensorsTensor,
    open_checkpoint,
    read_object,
)
from charprobe_lite.models.errors import BadInput, bad_input, printable
from charprobe_lite.models.gguf_header import read_header

SCRIPT = "convert_hf_to_gguf.py"
PART_BYTES = 1 << 30
IN_LAYER = re.compile(r"\.\d+\.")
"""In the names of a layer's tensors, which no tie concerns."""
COPIED = (".json", ".jinja", ".model", ".txt")
TORCH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64"}
"""torch's names of safetensors' types."""


@dataclass(frozen=True)
class _AsStored(Architecture):
    """Any architecture: tensors keep their names and the order of their rows."""

    name: ClassVar[str] = "as stored"

    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    tied: bool = False

    def tensor_name(self, name: str) -> str | None:
        return name


def find_converter(given: Path | None) -> Path | None:
    """The converter that was given, or the one on the PATH. Raises BadInput for one that is none.

    A folder stands for the script in it.
    """
    if given is None:
        found = shutil.which(SCRIPT)
        return Path(found) if found else None
    script = given / SCRIPT if given.is_dir() else given
    if not script.is_file():
        raise BadInput(f"--converter {given}: no such file; name llama.cpp's {SCRIPT}")
    return script


def needs_converter(base: Path) -> bool:
    """Whether a checkpoint folder is of an architecture that is not built in."""
    return base.is_dir() and not is_built_in(read_object(base / "config.json"))


def convert_by_script(
    converter: Path | None,
    base: Path,
    adapters: Sequence[Path],
    target: Path,
    progress: Progress | None = None,
) -> None:
    """Write the merged checkpoint to a temporary folder next to ``target``, and convert it to F16.

    Raises BadInput without a converter, for an adapter that does not fit, with the last thing that
    the converter said, and where it leaves out an output that is no longer the embedding.
    """
    if converter is None:
        config = base / "config.json"
        name = str(class_name(read_object(config)))[:80]
        raise BadInput(
            f"{config}: field architectures: {name} is not built in; give "
            f"--converter with llama.cpp's {SCRIPT} (vendor/llama.cpp in the sources of "
            "llama-cpp-python)"
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="merged-", suffix=".part") as name:
        folder = Path(name)
        untied = write_merged_checkpoint(base, adapters, folder, progress)
        command = [sys.executable, str(converter), str(folder), "--outtype", "f16"]
        done = subprocess.run(
            [*command, "--outfile", str(target), "--model-name", base.resolve().name],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    if done.returncode or not target.is_file():
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise BadInput(f"{base}: {converter.name} cannot convert it: {printable(lines[-1])[:300]}")
    if untied and HEAD not in {tensor.name for tensor in read_header(target).tensors}:
        raise BadInput(
            f"{', '.join(map(str, adapters))}: changes the embedding or the output, which "
            f"{converter.name} keeps as one for {base}; train it without them"
        )


def write_merged_checkpoint(
    base: Path, adapters: Sequence[Path], folder: Path, progress: Progress | None = None
) -> bool:
    """A checkpoint with LoRA adapters added, as transformers reads it.

    Changed tensors are float32, the others as they are. A tied output becomes a tensor of its own
    where an adapter changes the embedding or the output alone, as the trained model computed;
    whether it did is returned. Raises BadInput for an adapter that does not fit this base.
    """
    checkpoint, plain = open_checkpoint(base), _AsStored()
    read = [read_adapter(path, plain) for path in adapters]
    tensors: dict[str, Source] = dict(checkpoint.tensors)
    untied = _untie(base, tensors, read)
    for adapter in read:
        for name in adapter.changes:
            if name not in tensors:
                raise BadInput(f"{adapter.path}: tensor {name}: {base} does not have it")
    total = sum(prod(tensor.shape) for tensor in tensors.values())
    places: dict[str, str] = {}
    part: dict[str, Any] = {}
    done = 0
    for name, tensor in tensors.items():
        part[name] = _merged(name, tensor, [each for each in read if name in each.changes])
        if sum(each.nbytes for each in part.values()) >= PART_BYTES:
            _write_part(part, places, folder)
        done += prod(tensor.shape)
        if progress:
            progress(4 * done, 4 * total)
    _write_part(part, places, folder)
    _write_rest(base, places, folder, untied)
    return untied


def _untie(base: Path, tensors: dict[str, Source], adapters: Sequence[Adapter]) -> bool:
    """Put the adapters' own tensors of the base in place, and a tied output by itself if needed."""
    names = {name for adapter in adapters for name in (*adapter.changes, *adapter.base)}
    embedding, output = _tied_names(base) if not all(map(IN_LAYER.search, names)) else ("", "")
    for adapter in adapters:
        for name, own in adapter.base.items():
            if name == output and name not in tensors:
                continue  # a tied output, saved twice
            shape = tensors[name].shape if name in tensors else None
            if own.shape != shape:
                raise BadInput(
                    f"{adapter.path}: tensor {name}: shape {own.shape}, {base} has {shape}; "
                    "merge it with peft"
                )
            tensors[name] = own
    changed = {name for adapter in adapters for name in adapter.changes}
    untied = bool(changed & {embedding, output})
    shared = tensors.get(embedding, tensors.get(output))
    if untied and shared is not None:
        tensors.setdefault(embedding, shared)
        tensors.setdefault(output, shared)
    return untied


def _tied_names(base: Path) -> tuple[str, str]:
    """The names of the embedding's and the output's weight where they are one, else empty.

    Raises BadInput for a model that transformers does not know.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    # transformers' exceptions share no base class
    with bad_input(f"{base}: transformers cannot build it", Exception), quiet():
        config = AutoConfig.from_pretrained(
            str(base), local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    sides = model.get_input_embeddings(), model.get_output_embeddings()
    if sides[1] is None or sides[0].weight is not sides[1].weight:
        return "", ""
    names = {module: name for name, module in model.named_modules()}
    return f"{names[sides[0]]}.weight", f"{names[sides[1]]}.weight"


def _merged(name: str, tensor: Source, adapters: list[Adapter]) -> Any:
    """A tensor in torch, with the changes of these adapters."""
    import torch

    if adapters or not isinstance(tensor, SafetensorsTensor):
        merged = with_changes(Matrix(tensor.shape, tensor.rows), name, adapters, 0.0)
        return torch.from_numpy(np.ascontiguousarray(merged.rows(0, tensor.shape[0]), np.float32))
    size = prod(tensor.shape) * np.dtype(DTYPES[tensor.dtype]).itemsize
    data = bytearray(tensor.source[tensor.start : tensor.start + size])
    return torch.frombuffer(data, dtype=getattr(torch, TORCH[tensor.dtype])).reshape(tensor.shape)


def _write_part(part: dict[str, Any], places: dict[str, str], folder: Path) -> None:
    from safetensors.torch import save_file

    file = f"model-{len(set(places.values())):05d}.safetensors"
    places.update(dict.fromkeys(part, file))
    save_file(part, folder / file, {"format": "pt"})
    part.clear()


def _write_rest(base: Path, places: Mapping[str, str], folder: Path, untied: bool) -> None:
    """The index, and the files beside the weights; no code."""
    document = {"metadata": {}, "weight_map": dict(places)}
    (folder / INDEX).write_text(json.dumps(document), "utf-8")
    for file in base.iterdir():
        if file.suffix in COPIED and file.name != INDEX and file.is_file():
            shutil.copyfile(file, folder / file.name)
    if untied:
        config = read_object(base / "config.json")
        for part in (config, config.get("text_config")):
            if isinstance(part, dict):
                part["tie_word_embeddings"] = False
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
