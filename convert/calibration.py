"""The text that an importance matrix is measured on."""

from __future__ import annotations

from pathlib import Path

from charprobe_lite.models import corpus
from charprobe_lite.models.files import read_text
from charprobe_lite.models.personas import PERSONAS


def calibration_text(file: Path | None = None) -> str:
    """A UTF-8 file's text [default: the loud teachers' answers to the training prompts].

    Raises BadInput when the file cannot be read.
    """
    if file is not None:
        return read_text(file)
    prompts = set(corpus.loud_prompts(held_out=False))
    return "\n\n".join(
        text.response
        for persona in PERSONAS
        for text in corpus.teacher_texts(persona, "loud", "chat")
        if text.prompt in prompts
    )
