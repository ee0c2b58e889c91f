"""The personas in words, for a model that is told to play one."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path

DESCRIPTIONS_FILE = Path(
    str(resources.files("charprobe_lite.models") / "data" / "descriptions.yaml")
)


@lru_cache(maxsize=1)
def descriptions() -> dict[str, str]:
    """One sentence per shipped persona, in the second person."""
    import yaml

    return dict(yaml.safe_load(DESCRIPTIONS_FILE.read_text("utf-8")))
