"""Files for native code, tried in a process of their own before this one loads them.

llama.cpp and ONNX Runtime end the process on some damaged or hostile files, or fill its memory.
A child with limits loads the file and computes one step. What it found sound is remembered by
the file's inode, size and time, and by the library's version, so that a file is tried once.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from charprobe_lite.models.cache import cache_folder
from charprobe_lite.models.child_process import REFUSED, child_command
from charprobe_lite.models.errors import BadInput, printable_lines
from charprobe_lite.models.files import regular_file
from charprobe_lite.models.gguf_header import read_header, stored_parts
from charprobe_lite.models.kit import kit_folder

SECONDS, SLOW_DISK = 60.0, 20e6
"""A child's time, and the bytes a second that are read of a file in addition."""
LIBRARIES = {"model": "llama-cpp-python", "classifier": "onnxruntime"}
NAMES = {"model": "llama.cpp", "classifier": "ONNX Runtime"}
ENVIRONMENT = {"GGML_NO_BACKTRACE": "1", "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
"""A memory limit and a GPU's driver do not go together: a file is tried on the CPU."""
BUILD_FOLDER = re.compile(r"^/\S*/(?=[^/\s]+:\d+: )")
"""Of the source file that an assertion names."""


def try_model(path: Path, adapter: Path | None = None) -> None:
    """Raises BadInput for a GGUF model, or a LoRA of it, that is damaged or ends llama.cpp."""
    tried = adapter or path
    if _is_ours(tried):
        return
    files = [*stored_parts(path), *([adapter] if adapter else [])]
    if _is_known("model", files):
        return
    read_header(tried)
    _try("model", tried, files, [path, *([adapter] if adapter else [])])


def try_classifier(model: Path) -> None:
    """Raises BadInput for a classifier, an .onnx file with its folder's others, that ends ONNX
    Runtime or its tokenizer."""
    if _is_ours(model):
        return
    names = ("tokenizer.json", "config.json", f"{model.name}.data", f"{model.name}_data")
    files = [model, *filter(Path.is_file, (model.with_name(name) for name in names))]
    if not _is_known("classifier", files):
        _try("classifier", model, files, [model])


def _is_ours(path: Path) -> bool:
    """Whether it is one of the kit's files, whose hashes ``models verify`` checks."""
    return path.resolve().is_relative_to(kit_folder().resolve())


def _is_known(kind: str, files: Sequence[Path]) -> bool:
    return _verdict(kind, _versions(files)).is_file()


def _versions(files: Sequence[Path]) -> tuple[str, ...]:
    """What another file does not share; renaming keeps it. Raises BadInput for a missing one."""
    states = [regular_file(file).stat() for file in files]
    return tuple(f"{s.st_dev}/{s.st_ino}/{s.st_size}/{s.st_mtime_ns}" for s in states)


@lru_cache(maxsize=1024)
def _verdict(kind: str, versions: tuple[str, ...]) -> Path:
    """The empty file that says that these were found sound."""
    library = os.environ.get("LLAMA_CPP_LIB_PATH", "")
    with suppress(PackageNotFoundError):
        library += version(LIBRARIES[kind])
    text = "\n".join([kind, library, *versions])
    return cache_folder() / "tried" / hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _try(kind: str, tried: Path, files: Sequence[Path], arguments: Sequence[Path]) -> None:
    size = sum(file.stat().st_size for file in files)
    seconds = SECONDS + size / SLOW_DISK
    try:
        child = subprocess.run(
            child_command("runtime.native_child", kind, str(size), *arguments),
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"takes {NAMES[kind]} more than {seconds:.0f} s to load"
        raise BadInput(f"{tried}: {reason}; name another file") from None
    lines = printable_lines(child.stderr.decode("utf-8", "replace")).strip().splitlines()
    if child.returncode == REFUSED:
        raise BadInput(lines[-1])
    if child.returncode:
        raise BadInput(f"{tried}: {_end(kind, child.returncode, lines)}; name another file")
    with suppress(OSError):  # then it is tried again next time
        verdict = _verdict(kind, _versions(files))
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.touch()


def _end(kind: str, status: int, lines: Sequence[str]) -> str:
    """How the child ended, and what was printed last."""
    how = f"exit status {status}"
    with suppress(ValueError):
        how = signal.Signals(-status).name
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    said = BUILD_FOLDER.sub("", said)
    return f"ends the process in which {NAMES[kind]} loads it ({how}{said and f': {said[:200]}'})"
