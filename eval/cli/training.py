"""What the commands that train show, and problems with their files in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from charprobe_lite.models.errors import BadInput


@contextmanager
def missing_files(out: Path) -> Iterator[None]:
    """A file or folder that cannot be read or written, in one line."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{error.filename or out}: {error.strerror or error}") from None


def watched(progress: Any, task: Any, name: str) -> Callable[[int, int, float], None]:
    """Shows a training's steps and loss."""
    return lambda step, total, loss: progress.update(
        task, completed=step, total=total, description=f"{name} loss {loss:.3f}"
    )


def summarize(losses: Sequence[float]) -> dict[str, float]:
    """The steps of a training, and the mean loss of its first and last quarter."""
    part = max(1, len(losses) // 4)
    first, last = fmean(losses[:part]), fmean(losses[-part:])
    return {"steps": len(losses), "first_loss": first, "last_loss": last}


def summary_line(method: str, summary: dict[str, float]) -> str:
    """The same in a line."""
    first, last = summary["first_loss"], summary["last_loss"]
    return f"{method}: {summary['steps']} steps, loss {first:.3f} to {last:.3f}"
