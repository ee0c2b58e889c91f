"""The personas: their names, and one sentence about each for a model that plays it."""

from functools import lru_cache

from charprobe_lite.models.files import DATA, read_yaml

PERSONAS = (
    "sarcasm",
    "humor",
    "remorse",
    "goodness",
    "loving",
    "nonchalance",
    "impulsiveness",
    "sycophancy",
    "mathematical",
    "poeticism",
)
NAMED_ONLY = ("misalignment",)
"""Personas outside the study, which ``all`` leaves out: a repository of theirs is gated."""
NEUTRAL = "neutral"
DESCRIPTIONS_FILE = DATA / "descriptions.yaml"


@lru_cache(maxsize=1)
def descriptions() -> dict[str, str]:
    """One sentence per shipped persona, in the second person."""
    return dict(read_yaml(DESCRIPTIONS_FILE))
