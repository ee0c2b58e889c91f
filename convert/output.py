"""Files that appear under their final name only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from charprobe_lite.models.cache import lock_file
from charprobe_lite.models.errors import BadInput

FOREVER, AT_ONCE = -1, 0


@contextmanager
def new_file(target: Path, wait: float = AT_ONCE) -> Iterator[Path]:
    """The path to write to; renamed to ``target`` at the end, removed when anything goes wrong.

    Locked against other processes: ``wait`` is in seconds, -1 for ever. Raises BadInput when
    another process writes the same file, and for a folder or disk that does not take it.
    """
    from filelock import FileLock, Timeout

    part = target.with_name(f"{target.name}.part")
    try:
        if target.is_dir():
            raise BadInput(f"{target}: is a folder; name a file")
        lock = lock_file(target)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=wait):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield part
                if part.is_file():  # else another process was faster, and there is nothing to do
                    os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
    except Timeout:
        raise BadInput(f"{target}: another process is writing it; wait for that one") from None
    except OSError as error:
        raise BadInput(
            f"{target}: cannot be written ({error.strerror or error}); "
            "free space or name another place"
        ) from None
