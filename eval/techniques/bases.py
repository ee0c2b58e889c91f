"""What adapters of a technique are trained on, and what they are evaluated on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from charprobe_lite.convert.cached import prepare_model
from charprobe_lite.convert.safetensors import open_checkpoint
from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.models.catalogue import EMBEDDED, load_catalogue
from charprobe_lite.models.defaults import QUANT, REFERENCE
from charprobe_lite.models.files import expanded
from charprobe_lite.models.hub import fetch

if TYPE_CHECKING:
    from charprobe_lite.convert.train.technique_training import TrainingBase


def technique_base(base: str) -> TrainingBase:
    """What adapters of a base are trained on: of the embedded one, the kit's with its tool use.

    ``base`` is a catalogue name, a checkpoint folder or a GGUF file. Raises BadInput.
    """
    from charprobe_lite.convert.train.technique_training import TrainingBase

    if base == EMBEDDED and not expanded(Path(base)).exists():
        return TrainingBase(base, kit_base(REFERENCE), is_kit=True)
    return TrainingBase(*training_files(base))


def training_files(base: str) -> tuple[str, Path, Path | None]:
    """The name of a base, its GGUF file, and the checkpoint folder to train on, if there is one.

    A folder's GGUF file is made once and cached. Of a multimodal one only the language model is
    trained, which the GGUF file has alone. Raises BadInput.
    """
    path = expanded(Path(base))
    if not path.exists():
        path = fetch(load_catalogue().base(base))
    if not path.is_dir():
        return base, path, None
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(base).name.lower()).strip("-._") or "base"
    gguf = prepare_model(name, path, [], REFERENCE, verify=False)
    is_multimodal = "text_config" in open_checkpoint(path).config
    return name, gguf, None if is_multimodal else path


def evaluation_model(base: str, quant: str | None) -> Path:
    """The GGUF file that adapters of a base are evaluated on: a file as it is, or made as a quant
    type. Raises BadInput."""
    path = expanded(Path(base))
    if not path.exists():
        if base == EMBEDDED:
            return kit_base(quant or QUANT)
        path, name = fetch(load_catalogue().base(base)), base
    else:
        name = technique_base(base).name if path.is_dir() else base
    return prepare_model(name, path, [], quant or QUANT) if path.is_dir() else path
