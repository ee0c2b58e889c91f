"""Where files that can be made again are kept, and which of them can go."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from charprobe_lite.models.errors import BadInput

# how charprobe-lite names a file that it can make again: NAME-KEY.gguf, or a folder NAME-KEY,
# with .part while it is written and .lock next to it; a key is the start of a sha256
CACHED_NAME = re.compile(
    r"(?P<target>.+-([0-9a-f]{12}|[0-9a-f]{16}|[0-9a-f]{64})(\.gguf|\.onnx)?)"
    r"(\.[a-z0-9]+)?(\.part|\.lock)?\Z"
)
LOCK_NAME = re.compile(r"[0-9a-f]{16}\.lock")
MODEL_FILES = {".onnx", ".data", ".json", ".txt", ".model", ".gguf", ".part"}


@dataclass(frozen=True)
class Removable:
    """A file or folder that can be made or fetched again. ``locks`` are held while it is used."""

    path: Path
    size: int
    locks: tuple[Path, ...] = ()

    def in_use(self) -> bool:
        """Whether another process is writing it."""
        return _hold(self.locks) is None


def cache_folder() -> Path:
    """``$CHARPROBE_CACHE``, else ``charprobe-lite`` in the user's cache folder (XDG on Linux)."""
    if path := os.environ.get("CHARPROBE_CACHE"):
        return Path(path)
    return user_cache_path("charprobe-lite", appauthor=False)


def existing_folder(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists: the disk that it is or will be on."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def lock_file(target: Path) -> Path:
    """The lock of a file that is being written: in the cache, so that its folder stays clean."""
    key = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]
    return cache_folder() / "locks" / f"{key}.lock"


def cached_files() -> list[Removable]:
    """The files in the cache that charprobe-lite has named, locks last.

    Links, and the other files that a user keeps in that folder, are left out.
    """
    folder = cache_folder()
    files, locks = [], _entries(folder / "locks", LOCK_NAME)
    for path in filter(_is_cached_file, _entries(folder, CACHED_NAME)):
        if path.suffix == ".lock":
            locks.append(path)
            continue
        target = path.with_name(CACHED_NAME.sub(r"\g<target>", path.name))
        file_locks = (lock_file(target), target.with_name(f"{target.name}.lock"))
        files.append(Removable(path, disk_bytes(path), file_locks))
    return files + [Removable(p, disk_bytes(p), (p,)) for p in locks if p.is_file()]


def remove(items: Iterable[Removable]) -> list[Removable]:
    """Delete the items that no other process is writing, and return them.

    Raises BadInput when a file cannot be deleted.
    """
    deletions = []
    for item in items:
        locks = _hold(item.locks)
        if locks is None:
            continue
        with locks:
            try:
                if item.path.is_dir():
                    shutil.rmtree(item.path)
                else:
                    item.path.unlink(missing_ok=True)
            except OSError as error:
                reason = f"cannot be removed ({error.strerror or error}); fix its permissions"
                raise BadInput(f"{item.path}: {reason}") from None
        deletions.append(item)
    return deletions


def disk_bytes(path: Path) -> int:
    """Bytes of a file, or of the files under a folder; links do not count."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size if path.exists() and not path.is_symlink() else 0
    return sum(disk_bytes(inner) for inner in path.iterdir())


def _is_cached_file(path: Path) -> bool:
    """Whether charprobe-lite made it; a user's notes-202401011234 has such a name, too."""
    if path.suffix == ".lock":
        return path.is_file() and not path.stat().st_size
    if not path.is_dir():
        is_model = bool({".gguf", ".onnx"} & {*path.suffixes})
        return is_model and path.suffix in {".gguf", ".onnx", ".part"}
    files = [file for file in path.rglob("*") if file.is_symlink() or not file.is_dir()]
    all_models = all(not file.is_symlink() and file.suffix in MODEL_FILES for file in files)
    return all_models and bool(files or path.suffix == ".part")


def _entries(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """The entries of a folder with such a name, without links."""
    try:
        paths = [path for path in folder.iterdir() if name.fullmatch(path.name)]
        return sorted(path for path in paths if not path.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BadInput(
            f"{folder}: cannot be read ({error.strerror}); fix its permissions or CHARPROBE_CACHE"
        ) from None


def _hold(locks: Iterable[Path]) -> ExitStack | None:
    """Hold those of the locks that exist; None when another process holds one."""
    from filelock import FileLock, Timeout

    with ExitStack() as stack:
        for path in filter(Path.is_file, locks):
            try:
                stack.enter_context(FileLock(path, timeout=0))
            except Timeout:
                return None
        return stack.pop_all()
