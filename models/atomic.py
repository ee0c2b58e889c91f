"""Files and folders that appear under their final name only when they are complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from charprobe_lite.models.cache import lock_file
from charprobe_lite.models.errors import BadInput

FOREVER, AT_ONCE = -1, 0


@contextmanager
def new_file(target: Path, wait: float = AT_ONCE) -> Iterator[Path]:
    """The path to write to; renamed to ``target`` at the end, removed on any error.

    Locked against other processes: ``wait`` is in seconds, -1 for no limit. A link stays a link to
    the file. Raises BadInput when another process writes the same file, for a folder or disk that
    cannot be written, and for a device or a pipe, which the rename would remove.
    """
    if target.is_dir():
        raise BadInput(f"{target}: is a folder; name a file")
    place = target.resolve()
    if place.exists() and not place.is_file():
        raise BadInput(f"{target}: is no regular file; name another one")
    part = place.with_name(f"{place.name}.part")
    with _exclusive(place, wait):
        try:
            yield part
            if part.is_file():  # else another process was faster, and there is nothing to do
                os.replace(part, place)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path, wait: float = AT_ONCE) -> Iterator[Path]:
    """An empty folder to write to; ends and fails as ``new_file`` does.

    A ``target`` with files in it is never touched, and gives BadInput.
    """
    target = target.resolve()  # "." and ".." have no name to put .part behind
    part = target.parent / f"{target.name}.part"
    with _exclusive(target, wait):
        refuse_full(target)
        try:
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
            part.mkdir()
            yield part
            os.replace(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def refuse_full(target: Path) -> None:
    """Raises BadInput for a file, and for a folder with files in it, where a new one is to be."""
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise BadInput(f"{target}: exists already; name a new folder, or remove it")


@contextmanager
def _exclusive(target: Path, wait: float) -> Iterator[None]:
    """Hold the target's lock and make its parent folder. Raises BadInput when either fails."""
    from filelock import FileLock, Timeout

    try:
        lock = lock_file(target)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=wait):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield
    except Timeout:
        raise BadInput(f"{target}: another process is writing it; wait for that one") from None
    except OSError as error:
        raise BadInput(
            f"{target}: cannot be written ({error.strerror or error}); "
            "free space or name another place"
        ) from None
