"""Where files that can be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$CHARPROBE_CACHE``, else ``charprobe-lite`` in the user's cache folder (XDG)."""
    if chosen := os.environ.get("CHARPROBE_CACHE"):
        return Path(chosen)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "charprobe-lite"
