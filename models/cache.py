"""Where files that can be made again are kept, and which of them can go."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from charprobe_lite.models.errors import BadInput

# what charprobe-lite names a file that it can make again: NAME-KEY.gguf, or a folder NAME-KEY,
# with .part while it is written and .lock beside it; a key is the start of a sha256
OWN_NAME = re.compile(
    r"(?P<target>.+-([0-9a-f]{12}|[0-9a-f]{16}|[0-9a-f]{64})(\.gguf|\.onnx)?)"
    r"(\.[a-z0-9]+)?(\.part|\.lock)?"
)
OWN_LOCK = re.compile(r"[0-9a-f]{16}\.lock")
IN_A_FOLDER = {".onnx", ".data", ".json", ".txt", ".model", ".gguf", ".part"}


@dataclass(frozen=True)
class Removable:
    """A file or folder that can be made or fetched again. ``locks`` are held while it is used."""

    path: Path
    size: int
    locks: tuple[Path, ...] = ()

    def in_use(self) -> bool:
        """Whether another process is writing it."""
        return _locked(self.locks) is None


def cache_folder() -> Path:
    """``$CHARPROBE_CACHE``, else ``charprobe-lite`` in the user's cache folder (XDG)."""
    if chosen := os.environ.get("CHARPROBE_CACHE"):
        return Path(chosen)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "charprobe-lite"


def lock_file(target: Path) -> Path:
    """The lock of a file that is being written: in the cache, so that none lies beside it."""
    key = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]
    return cache_folder() / "locks" / f"{key}.lock"


def cached_files() -> list[Removable]:
    """What lies in the cache under a name that charprobe-lite gives, locks last.

    Links, and whatever else a user keeps in that folder, are not among it.
    """
    folder = cache_folder()
    found = [path for path in _entries(folder) if _own(path)]
    locks = [path for path in _entries(folder / "locks") if OWN_LOCK.fullmatch(path.name)]
    locks += [path for path in found if path.suffix == ".lock"]
    files = [path for path in found if path.suffix != ".lock"]
    return [
        *(Removable(path, size_of(path), _locks_of(path)) for path in files),
        *(Removable(path, size_of(path), (path,)) for path in locks if path.is_file()),
    ]


def remove(items: Iterable[Removable]) -> list[Removable]:
    """Delete what no other process is writing; what was deleted.

    Raises BadInput when a file cannot be deleted.
    """
    removed = []
    for item in items:
        held = _locked(item.locks)
        if held is None:
            continue
        with held:
            try:
                if item.path.is_dir():
                    shutil.rmtree(item.path)
                else:
                    item.path.unlink(missing_ok=True)
            except OSError as error:
                reason = error.strerror or error
                raise BadInput(
                    f"{item.path}: cannot be removed ({reason}); mend its permissions"
                ) from None
        removed.append(item)
    return removed


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files under a folder; links count nothing."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size if path.exists() and not path.is_symlink() else 0
    return sum(size_of(inner) for inner in path.iterdir())


def _own(path: Path) -> bool:
    """Whether charprobe-lite made it; a user's notes-202401011234 has such a name, too."""
    if not OWN_NAME.fullmatch(path.name):
        return False
    if path.suffix == ".lock":
        return path.is_file() and not path.stat().st_size
    if not path.is_dir():
        made = ".gguf" in path.suffixes or ".onnx" in path.suffixes
        return made and path.suffix in {".gguf", ".onnx", ".part"}
    inner = [file for file in path.rglob("*") if file.is_symlink() or not file.is_dir()]
    known = all(not file.is_symlink() and file.suffix in IN_A_FOLDER for file in inner)
    return known and bool(inner or path.suffix == ".part")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BadInput(
            f"{folder}: cannot be read ({error.strerror}); mend its permissions or CHARPROBE_CACHE"
        ) from None


def _locks_of(path: Path) -> tuple[Path, ...]:
    named = OWN_NAME.fullmatch(path.name)
    target = path.with_name(named["target"]) if named else path
    return lock_file(target), target.with_name(f"{target.name}.lock")


def _locked(locks: Iterable[Path]) -> ExitStack | None:
    """Hold those of the locks that exist; None when another process holds one."""
    from filelock import FileLock, Timeout

    with ExitStack() as stack:
        for path in _existing(locks):
            try:
                stack.enter_context(FileLock(path, timeout=0))
            except Timeout:
                return None
        return stack.pop_all()


def _existing(locks: Iterable[Path]) -> Iterator[Path]:
    return (path for path in locks if path.is_file())
