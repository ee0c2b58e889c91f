"""Converted files in the cache, under a key of what they were made from, each made once."""

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from charprobe_lite.convert.gguf_adapter import convert_adapter
from charprobe_lite.convert.gguf_model import Progress
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.onnx import export_in_child
from charprobe_lite.convert.quantize import ROW_TYPES, quantize_file
from charprobe_lite.convert.vocabulary import read_template
from charprobe_lite.models.atomic import FOREVER, new_file
from charprobe_lite.models.cache import cache_folder
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import read_header, stored_parts
from charprobe_lite.models.kit import sha256_file

CONVERTER = 2
"""Raised when the same input would give another file, so that old ones are not used."""
INPUT_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".gguf")
BLOB = re.compile(r"[0-9a-f]{64}")
Notify = Callable[[str], None]
ProgressBar = Callable[[str], AbstractContextManager[Progress | None]]


def model_file(
    name: str, base: Path, adapters: Sequence[Path], quant: str, verify: bool = True
) -> Path:
    """Where a base with adapters merged in is kept as a quant type; unchecked ones apart."""
    quantizer = "" if quant in ROW_TYPES else version("llama-cpp-python")
    hashes = map(content_hash, (base, *adapters))
    key = _key("model", quant, quantizer, "" if verify else "unchecked", *hashes)
    return cache_folder() / f"{name}-{quant}-{key}.gguf"


def prepare_model(
    name: str,
    base: Path,
    adapters: Sequence[Path],
    quant: str,
    *,
    verify: bool = True,
    note: Notify = lambda _: None,
    bar: ProgressBar = lambda _: nullcontext(),
) -> Path:
    """The cached model, made and checked when it is missing; a second process waits for it.

    A type of llama.cpp's quantizer is made from the cached F16 file, merged and checked already,
    if it exists: the same bytes as from the base and the adapters.
    """
    target = model_file(name, base, adapters, quant, verify)
    if target.is_file():
        return target
    note(f"preparing {name} as {quant} (once): {target}")
    exact = model_file(name, base, adapters, "F16", verify)
    if quant not in ROW_TYPES and exact.is_file():
        with new_file(target, FOREVER) as part:
            if not target.is_file():
                quantize_file(exact, part, quant)
        return target
    with bar(name) as progress:
        merge_lora(base, adapters, target, quant, verify=verify, progress=progress, shared=True)
    return target


def adapter_file(name: str, adapter: Path, base: Path) -> Path:
    """Where a PEFT folder of a base is kept as GGUF."""
    # of a base, an adapter's file depends on the configuration alone
    shapes = base / "config.json" if base.is_dir() else base
    key = _key("adapter", content_hash(adapter), content_hash(shapes))
    return cache_folder() / f"{name}-lora-{key}.gguf"


def classifier_folder(name: str, source: Path, verify: bool = True) -> Path:
    """A classifier as ONNX: its folder when it has one, else where its export is kept."""
    if list(source.glob("*.onnx")):
        return source
    key = _key("classifier", str(verify), content_hash(source))
    return cache_folder() / f"{name}-classifier-{key}"


def prepare_adapter(name: str, adapter: Path, base: Path, *, note: Notify = lambda _: None) -> Path:
    """An adapter as GGUF: itself when it is one, else the cached conversion of a PEFT folder."""
    if not adapter.is_dir():
        return adapter
    if read_template(adapter) not in (None, _base_template(base)):
        note(
            f"{adapter}: has a chat template of its own, which an adapter at run time does not "
            "bring along; --lora merged uses it"
        )
    target = adapter_file(name, adapter, base)
    if not target.is_file():
        note(f"preparing adapter {name} (once): {target}")
        convert_adapter(adapter, base, target, shared=True)
    return target


def _base_template(base: Path) -> str | None:
    if base.is_dir():
        return read_template(base)
    return read_header(base).fields.get("tokenizer.chat_template")


def prepare_classifier(
    name: str, source: Path, *, verify: bool = True, note: Notify = lambda _: None
) -> Path:
    """A classifier as ONNX: its folder when it has one, else the cached export, fp32.

    int8 is smaller and faster, but what a published classifier says of a text is its fp32 label.
    """
    target = classifier_folder(name, source, verify)
    if not target.is_dir():
        note(f"preparing classifier {name} (once): {target}")
        export_in_child(source, target, verify)
    return target


def content_hash(path: Path) -> str:
    """A hash of a file, or of the files in a folder that a conversion reads.

    A file of the hub's cache is a link to a blob that is named by its hash already. Raises
    BadInput when a file cannot be read.
    """
    try:
        if not path.is_dir():
            parts = [part.resolve() for part in stored_parts(path)]
            hashes = [_file_hash(part, part.stat().st_mtime_ns) for part in parts]
            return hashes[0] if len(hashes) == 1 else _key(*hashes)
        files = sorted(file for file in path.iterdir() if file.suffix in INPUT_SUFFIXES)
        return _key(*(f"{file.name}={content_hash(file)}" for file in files if file.is_file()))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None


@lru_cache(maxsize=256)
def _file_hash(path: Path, _modified: int) -> str:
    return path.name if BLOB.fullmatch(path.name) else sha256_file(path)


def _key(*parts: str) -> str:
    return hashlib.sha256("/".join([str(CONVERTER), *parts]).encode()).hexdigest()[:16]
